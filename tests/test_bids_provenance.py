"""A session's provenance record, and what a later run does to it."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rdflib
from pyld import jsonld
from rdflib.namespace import PROV

from bidsrep.bids.files import sha256_file
from bidsrep.bids.hashes import geometry_hash, image_hashes
from bidsrep.bids.provenance import Step, provenance_dir, write_provenance
from bidsrep.bids.scans import Scan, Session
from bidsrep.bids.software import describe_code, source_hash
from bidsrep.bids.uris import DatasetRoots
from bidsrep.errors import ImageError
from bidsrep.settings import Settings

MakeBids = Callable[..., Path]
T1W = "sub-01/anat/sub-01_T1w.nii.gz"
PREPROC = "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"
MASK = "sub-01/anat/sub-01_desc-brain_mask.nii.gz"


class Bench:
    """A dataset of one scan, and runs that write text files in place of images."""

    def __init__(self, root: Path, raw: Path) -> None:
        self.settings = Settings(bids_dir=raw, out_dir=root / "out", nprocs=1, omp_nthreads=1, mem_gb=1.0)
        self.scan = Scan(raw / T1W, "01", None, "T1w", {}, raw)

    def path(self, name: str) -> Path:
        return self.settings.out_dir / name

    def write(self, name: str, text: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def prediction(self, model: str) -> str:
        return f"sub-01/anat/sub-01_desc-{model}FromT1w_FLAIR.nii.gz"

    def run(
        self, model: str, preproc: str = "brain", made: str = "", day: int = 1, **options: Any
    ) -> dict[str, dict[str, Any]]:
        """Make one scan's files and the record; give the record's entries by identifier."""
        prepared = [self.write(PREPROC, preproc), self.write(MASK, "mask")]
        predicted = self.write(self.prediction(model), made or f"flair by {model}")
        entry = {
            "Name": model,
            "Weights": f"{model}-1",
            "WeightsSHA256": model.encode().hex().ljust(64, "0"),
            "WeightsStatus": "random",
            "License": "CC0-1.0",
        }
        steps = [
            Step("preprocess T1w", "strip and resample", [self.scan.path], prepared),
            Step(f"{model} T1w", "predict", prepared, [predicted], entry),
        ]
        settings = replace(self.settings, models=(model,), **options)
        write_provenance(
            settings, Session("01", None, (self.scan,)), steps, started=f"2026-01-{day:02d}T00:00:00Z"
        )
        return self.record()

    def files(self) -> dict[str, bytes]:
        folder = provenance_dir(self.settings.out_dir, "01")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def record(self) -> dict[str, dict[str, Any]]:
        lists = [
            v for text in self.files().values() for v in json.loads(text).values() if isinstance(v, list)
        ]
        entries = [entry for entries in lists for entry in entries]
        assert len(entries) == len({entry["Id"] for entry in entries})
        return {entry["Id"]: entry for entry in entries}

    def maker(self, name: str) -> dict[str, Any]:
        """Give the activity that made a file."""
        record = self.record()
        (maker,) = record[f"bids::{name}"]["GeneratedBy"]
        return record[maker]

    def settings_of(self, name: str) -> dict[str, Any]:
        """Give the settings a file was made with."""
        record = self.record()
        (used,) = [x for x in self.maker(name)["Used"] if x.startswith("bids::prov#settings")]
        return record[used]["Value"]


@pytest.fixture
def bench(make_bids: MakeBids, tmp_path: Path) -> Bench:
    return Bench(tmp_path, make_bids([T1W]))


def dangling(record: dict[str, dict[str, Any]]) -> set[str]:
    keys = ("Used", "AssociatedWith", "GeneratedBy")
    return {name for entry in record.values() for key in keys for name in entry.get(key, ())} - record.keys()


def test_a_second_model_is_added_to_the_first(bench: Bench) -> None:
    bench.run("pepsi", day=1)
    record = bench.run("brainid", day=2)
    assert bench.settings_of(bench.prediction("pepsi"))["models"] == ["pepsi"]
    assert bench.settings_of(bench.prediction("brainid"))["models"] == ["brainid"]
    assert {x for x in record if "#weights" in x} == {
        "bids::prov#weights-pepsi-70657073",
        "bids::prov#weights-brainid-62726169",
    }
    # The second run wrote the same preprocessed image again: the first has made it.
    assert bench.maker(PREPROC)["StartedAtTime"] == "2026-01-01T00:00:00Z"
    assert sum(entry.get("Label") == "preprocess T1w" for entry in record.values()) == 1
    assert bench.maker(bench.prediction("brainid"))["StartedAtTime"] == "2026-01-02T00:00:00Z"
    assert not dangling(record)


def test_repeating_a_run_leaves_the_bytes_of_the_record(bench: Bench) -> None:
    bench.run("pepsi", day=1)
    bench.run("brainid", day=2)
    before = bench.files()
    bench.path(PREPROC).unlink()
    bench.run("pepsi", day=3)
    assert bench.files() == before


def test_a_changed_file_has_a_new_maker_and_the_former_one_stays_known(bench: Bench) -> None:
    first = bench.run("pepsi")
    record = bench.run("brainid", preproc="other brain", day=2, resolution=2.0)
    assert bench.settings_of(PREPROC)["resolution"] == 2.0
    assert bench.settings_of(MASK)["resolution"] == 1.0  # its bytes are those of the first run
    (used,) = [x for x in bench.maker(bench.prediction("pepsi"))["Used"] if PREPROC in x]
    assert used.startswith(f"bids::{PREPROC}#sha256-")
    assert record[used]["Checksum"] == first[f"bids::{PREPROC}"]["Checksum"]
    assert record[used]["GeneratedBy"] == first[f"bids::{PREPROC}"]["GeneratedBy"]
    assert "AtLocation" not in record[used]
    assert f"bids::{PREPROC}" in bench.maker(bench.prediction("brainid"))["Used"]
    assert not dangling(record)


def test_what_no_file_comes_from_is_dropped(bench: Bench) -> None:
    bench.run("pepsi", lesion_threshold=0.5)
    record = bench.run("pepsi", preproc="2", made="2", day=2, lesion_threshold=0.4)
    assert bench.settings_of(bench.prediction("pepsi"))["lesion_threshold"] == 0.4
    assert sum("#settings" in name for name in record) == 2  # the mask is still of the first run
    bench.path(MASK).unlink()
    bench.path(bench.prediction("pepsi")).unlink()
    record = bench.run("brainid", day=3)
    assert not any("pepsi" in name for name in record)


def test_a_replaced_scan_is_told_from_the_one_that_was_used(bench: Bench) -> None:
    bench.run("pepsi")
    bench.scan.path.write_bytes(b"another scan")
    record = bench.run("brainid", preproc="another brain", day=2)
    raw = {name: entry for name, entry in record.items() if name.startswith("bids:raw:")}
    assert len(raw) == 2
    (former,) = [name for name in raw if "#" in name]
    (earlier,) = [entry for entry in record.values() if former in entry.get("Used", ())]
    assert f"bids:raw:{T1W}" in bench.maker(PREPROC)["Used"]
    assert bench.maker(PREPROC)["Id"] != earlier["Id"]
    assert (
        bench.maker(MASK)["Id"] == bench.maker(PREPROC)["Id"]
    )  # the same bytes, of the scan that is there now


@pytest.mark.parametrize("damage", ["{", '{"BEP028Draft": "another"}', "[]"])
def test_a_damaged_record_is_replaced(bench: Bench, damage: str) -> None:
    bench.run("pepsi")
    fresh = bench.files()
    folder = provenance_dir(bench.settings.out_dir, "01")
    next(folder.glob("*_io.json")).write_text(damage)
    bench.run("pepsi")
    assert bench.files() == fresh


def test_an_entry_without_an_identifier_makes_a_record_useless(bench: Bench) -> None:
    bench.run("pepsi")
    fresh = bench.files()
    path = next(provenance_dir(bench.settings.out_dir, "01").glob("*_act.json"))
    content = json.loads(path.read_text())
    del content["Activities"][0]["Used"]
    path.write_text(json.dumps(content))
    bench.run("pepsi")
    assert bench.files() == fresh


def test_a_record_is_json_ld(bench: Bench) -> None:
    """Every relation of the record is a triple of its graph, and nothing it says is dropped."""
    record = bench.run("pepsi")
    graph = rdflib.Graph()
    for text in bench.files().values():
        graph.parse(data=text.decode(), format="json-ld")
    for relation, key in ((PROV.used, "Used"), (PROV.wasGeneratedBy, "GeneratedBy")):
        stated = {(name, other) for name, entry in record.items() for other in entry.get(key, ())}
        assert {(str(s), str(o)) for s, o in graph.subject_objects(relation)} == stated
    assert {str(x).rpartition("#")[2] for x in graph.predicates()} >= {
        "Size",
        "value",
        "checksumValue",
        "SourceSHA256",
    }


def test_no_value_of_a_record_is_dropped_by_a_json_ld_processor(bench: Bench) -> None:
    """JSON-LD drops keys that its context does not know, without a word."""
    bench.run("pepsi")
    for name, text in bench.files().items():
        content = json.loads(text)
        expanded = jsonld.expand(content)
        del content["@context"]
        kept = {_plain(value) for value in leaves(expanded)}
        for value in leaves(content):
            assert value is None or _plain(value) in kept, (name, value)
        entries = [entry for found in content.values() if isinstance(found, list) for entry in found]
        nodes = {node["@id"] for node in jsonld.flatten(json.loads(text))}
        assert nodes >= {entry["Id"] for entry in entries}


def leaves(value: Any) -> Iterator[Any]:
    """Numbers, texts and nulls anywhere in a JSON value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def _plain(value: Any) -> Any:
    """A prefixed name in full, as a processor writes it."""
    prefix = "spdx:"
    full = "http://spdx.org/rdf/terms#"
    return value.replace(prefix, full, 1) if isinstance(value, str) and value.startswith(prefix) else value


def test_images_have_hashes_of_grid_and_voxels(bench: Bench) -> None:
    bench.write(MASK, "")
    shutil.copy(bench.scan.path, bench.path(MASK))
    step = Step("copy", "copy", [bench.scan.path], [bench.path(MASK)])
    before = {bench.scan.path.name: sha256_file(bench.scan.path)}
    write_provenance(
        bench.settings,
        Session("01", None, (bench.scan,)),
        [step],
        before=before,
        machine={"Numerics": {"a": 1}},
    )
    record = bench.record()
    read, made = record[f"bids:raw:{T1W}"], record[f"bids::{MASK}"]
    assert read["ChecksumBefore"] == read["Checksum"] == made["Checksum"]
    assert read["GeometrySHA256"] == made["GeometrySHA256"] == geometry_hash(bench.scan.path)
    assert made["VoxelSHA256"] == image_hashes(bench.scan.path).voxels
    assert "VoxelSHA256" not in read
    assert "ChecksumBefore" not in made
    (environment,) = [entry for name, entry in record.items() if "#env-" in name]
    assert environment["Numerics"] == {"a": 1}


def test_an_input_that_changes_meanwhile_is_refused(bench: Bench) -> None:
    output = bench.write(MASK, "mask")
    steps = [Step("strip", "strip", [bench.scan.path], [output])]
    with pytest.raises(ImageError, match="changed while it was being processed"):
        write_provenance(
            bench.settings, Session("01", None, (bench.scan,)), steps, before={bench.scan.path.name: "0" * 64}
        )
    assert not provenance_dir(bench.settings.out_dir, "01").exists()


def test_a_record_names_no_place_of_the_machine(bench: Bench, tmp_path: Path) -> None:
    defaults = tmp_path / "defaults.toml"
    defaults.write_text("[T1w]\nEchoTime = 0.003\n")
    bench.run("pepsi", bids_defaults=defaults, derivatives={"masks": tmp_path}, participant_label=("01",))
    assert not any(str(tmp_path).encode() in text for text in bench.files().values())
    values = bench.settings_of(PREPROC)
    assert values["bids_defaults"] == defaults.read_text()
    assert values["derivatives"] == ["masks"]
    assert "participant_label" not in values


def test_the_code_is_named_by_its_source_and_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDSREP_COMMIT", "abc")
    monkeypatch.setenv("BIDSREP_IMAGE_DIGEST", "registry/bidsrep@sha256:" + "0" * 64)
    code = describe_code.__wrapped__()
    assert code["Commit"] == "abc"
    assert code["ImageDigest"] == "sha256:" + "0" * 64
    assert code["SourceSHA256"] == source_hash()
    monkeypatch.setenv("BIDSREP_IMAGE_DIGEST", "latest")
    assert "ImageDigest" not in describe_code.__wrapped__()


def test_a_uri_leads_back_to_its_file(tmp_path: Path) -> None:
    roots = DatasetRoots(tmp_path / "out", tmp_path / "raw", {"masks": tmp_path / "m"})
    for path in (tmp_path / "out/a b+c.nii", tmp_path / "raw/sub-01/x.nii", tmp_path / "m/y.nii"):
        assert roots.path(roots.uri(path)) == path
    assert roots.path("bids:others:x.nii") is None
