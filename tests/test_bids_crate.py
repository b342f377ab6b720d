"""The RO-Crate of a dataset: what it lists, and what it does not tell."""

import json
import logging
from pathlib import Path

import pytest
from fake_derivatives import FakeRun

from bidsrep.bids.crate import CRATE, write_crate
from bidsrep.bids.provenance import DRAFT, provenance_dir
from bidsrep.reports.group import run_group
from bidsrep.settings import Settings

WEIGHTS = {
    "Id": "bids::prov#weights-pepsi-0a1b",
    "Label": "weights of pepsi",
    "Version": "pepsi-9",
    "License": "Apache-2.0",
    "Checksum": [{"ChecksumAlgorithm": "spdx:checksumAlgorithm_sha256", "ChecksumValue": "ab" * 32}],
}
PROGRAM = {"Id": "bids::prov#bidsrep-1", "Label": "bidsrep", "Version": "1"}


def entities(path: Path) -> dict[str, dict]:
    graph = json.loads(path.read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph), "an entity is described once"
    return found


def record(out_dir: Path, subject: str, ended: str) -> None:
    folder = provenance_dir(out_dir, subject)
    folder.mkdir(parents=True)
    for kind, content in (
        ("soft", {"Software": [PROGRAM, WEIGHTS]}),
        ("act", {"Activities": [{"EndedAtTime": ended}]}),
    ):
        (folder / f"prov-bidsrep+sub{subject}_{kind}.json").write_text(
            json.dumps({"BEP028Draft": DRAFT, **content})
        )


@pytest.fixture
def crate(tmp_path: Path) -> dict[str, dict]:
    description = {
        "Name": "derivatives",
        "SourceDatasets": [{"URL": "../raw"}, {"DOI": "doi:10.1/x"}, {"URL": "https://example.org/d"}],
    }
    (tmp_path / "dataset_description.json").write_text(json.dumps(description))
    record(tmp_path, "01", "2026-01-02T00:00:00+00:00")
    record(tmp_path, "02", "2026-01-03T00:00:00+00:00")
    return entities(write_crate(tmp_path, ["01", "02"], ["group_metrics.tsv", "group.html"]))


def test_it_describes_the_dataset(crate: dict[str, dict]) -> None:
    assert crate[CRATE]["about"] == {"@id": "./"}
    root = crate["./"]
    assert {part["@id"] for part in root["hasPart"]} == {
        "sub-01/",
        "sub-02/",
        "group_metrics.tsv",
        "group.html",
        "prov/",
    }
    assert root["datePublished"] == "2026-01-03T00:00:00+00:00"
    assert crate["group_metrics.tsv"]["encodingFormat"] == "text/tab-separated-values"


def test_every_reference_leads_somewhere(crate: dict[str, dict]) -> None:
    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["@id"]] if set(value) == {"@id"} else []
            return own + [name for item in value.values() for name in references(item)]
        if isinstance(value, list):
            return [name for item in value for name in references(item)]
        return []

    named = {name for entity in crate.values() for name in references(entity)}
    assert named - set(crate) == {"https://w3id.org/ro/crate/1.1"}


def test_weights_are_named_once_with_their_hash(crate: dict[str, dict]) -> None:
    (weights,) = [entity for name, entity in crate.items() if "weights" in name]
    assert weights["identifier"] == "sha256:" + "ab" * 32
    assert weights["license"] == "Apache-2.0"
    assert {"@id": weights["@id"]} in crate["#run"]["object"]


def test_it_tells_no_place_of_the_machine(crate: dict[str, dict]) -> None:
    assert "../raw" not in json.dumps(crate)
    assert {"#source-1", "https://doi.org/10.1/x", "https://example.org/d"} <= set(crate)


def test_damaged_records_are_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = provenance_dir(tmp_path, "01")
    folder.mkdir(parents=True)
    (folder / "prov-a_soft.json").write_text("{")
    (folder / "prov-a_act.json").write_text('{"Activities": [1, {"EndedAtTime": 3}]}')
    (tmp_path / "dataset_description.json").write_text("[]")
    with caplog.at_level(logging.WARNING, logger="bidsrep"):
        found = entities(write_crate(tmp_path, ["01"], []))
    assert "prov-a_soft.json" in caplog.text
    assert not [name for name in found if "weights" in name]
    assert "endTime" not in found["#run"]


def test_the_group_level_writes_it_when_asked(tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    FakeRun(out_dir).session("01")
    settings = {"bids_dir": tmp_path / "raw", "out_dir": out_dir, "analysis_level": ("group",)}
    run_group(Settings(**settings))
    assert not (out_dir / CRATE).exists()
    run_group(Settings(**settings, ro_crate=True))
    parts = {part["@id"] for part in entities(out_dir / CRATE)["./"]["hasPart"]}
    assert parts >= {"sub-01/", "group.html", "group_metrics.tsv"}
    assert all((out_dir / part).exists() for part in parts)
