"""The files at the top of the output, and that the whole passes the BIDS validator."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bidsrep.bids.dataset import IGNORED, descriptions, descriptions_tsv, write_dataset_files
from bidsrep.bids.methods import (
    CITED,
    MODEL_SENTENCES,
    STRIP_SENTENCES,
    bibliography,
    methods_text,
)
from bidsrep.bids.names import log_dir, output_path
from bidsrep.bids.outputs import Output, brain_mask, output, preproc
from bidsrep.bids.provenance import Step, write_provenance
from bidsrep.bids.scans import Scan, Session
from bidsrep.bids.sidecars import build_sidecar, model_entry, write_sidecar
from bidsrep.bids.uris import DatasetRoots
from bidsrep.errors import UsageError
from bidsrep.labels import load_labels
from bidsrep.models import registry
from bidsrep.reports.boilerplate import read_bibtex
from bidsrep.settings import MODELS, Settings

MakeBids = Callable[..., Path]
CARD = {"id": "pepsi-small-1", "sha256": "ab" * 32, "status": "self-trained", "licence": "CC-BY-4.0"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def settings(make_bids: MakeBids, tmp_path: Path) -> Settings:
    raw = make_bids(
        ["sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz", "sub-01/ses-A/anat/sub-01_ses-A_FLAIR.nii.gz"]
    )
    return Settings(bids_dir=raw, out_dir=tmp_path / "out", models=("pepsi", "brainid"))


def test_two_runs_write_identical_bytes_and_the_second_none(settings: Settings) -> None:
    write_dataset_files(settings)
    first = tree(settings.out_dir)
    times = {p: p.stat().st_mtime_ns for p in settings.out_dir.rglob("*")}
    write_dataset_files(settings)
    assert tree(settings.out_dir) == first
    assert {p: p.stat().st_mtime_ns for p in settings.out_dir.rglob("*")} == times
    expected = (
        "dataset_description.json descriptions.tsv README.md .bidsignore logs/CITATION.md logs/CITATION.bib"
    )
    assert set(first) == set(expected.split())


def test_no_path_of_this_machine_is_written(settings: Settings, tmp_path: Path) -> None:
    write_dataset_files(settings)
    for name, content in tree(settings.out_dir).items():
        assert str(tmp_path).encode() not in content, name


def test_a_later_run_adds_its_links_and_labels(settings: Settings, tmp_path: Path) -> None:
    def run(**options: object) -> None:
        write_dataset_files(
            Settings(bids_dir=settings.bids_dir, out_dir=settings.out_dir, **options),  # type: ignore[arg-type]
            ["T2starw"],
        )

    run(models=("pepsi",), derivatives={"masks": tmp_path / "masks"})
    run(models=("brainid",))
    description = json.loads((settings.out_dir / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"masks": "../masks", "raw": "../raw"}
    description["DatasetLinks"] |= {"odd": float("nan"), "odder": []}
    (settings.out_dir / "dataset_description.json").write_text(json.dumps(description))
    run(models=("brainid",))
    description = json.loads((settings.out_dir / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"masks": "../masks", "raw": "../raw"}
    labels = (settings.out_dir / "descriptions.tsv").read_text()
    assert "desc-pepsiFromT2starw\t" in labels
    assert "desc-brainidFromT2starw\t" in labels


def test_every_label_of_a_model_is_described(settings: Settings) -> None:
    crl = replace(settings, models=("brainid", "crl"), target_contrast=("TR=2.3,TE=0.003,TI=0.9",))
    rows = descriptions(
        crl, ["FLAIR"], {"brainid": ["superres", "dseg", "synthetic", ""], "crl": ["synthetic"]}
    )
    assert rows["desc-brainidSuperresFromFLAIR"] == "The FLAIR scan at 1 mm, its slices sharpened by brainid"
    assert "TR" in rows["desc-crlTR2300TE3TI900FromFLAIR"]
    assert {label for label in rows if "brainid" in label} == {
        "desc-brainid",
        "desc-brainidFromFLAIR",
        "desc-brainidSuperresFromFLAIR",
    }


def test_models_of_earlier_runs_stay_cited(settings: Settings) -> None:
    for name in ("pepsi", "brainid"):
        write_dataset_files(replace(settings, models=(name,)))
    for name in ("CITATION.md", "CITATION.bib"):
        text = (settings.out_dir / "logs" / name).read_text()
        assert all(model in text for model in ("pepsi", "brainid"))
        assert "seqinv" not in text


def test_broken_earlier_files_are_replaced(settings: Settings) -> None:
    settings.out_dir.mkdir()
    (settings.out_dir / "dataset_description.json").write_text("{")
    (settings.out_dir / "descriptions.tsv").write_bytes(b"\xff\xfe")
    write_dataset_files(settings)
    assert (
        json.loads((settings.out_dir / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    )


def test_results_never_go_into_the_input_itself(settings: Settings) -> None:
    with pytest.raises(UsageError, match="may not be the input dataset"):
        write_dataset_files(Settings(bids_dir=settings.bids_dir, out_dir=settings.bids_dir))


def test_desc_labels_have_the_form_the_validator_wants(settings: Settings) -> None:
    lines = descriptions_tsv(settings, ["FLAIR"]).splitlines()
    assert lines[0] == "desc_id\tdescription"
    assert all(line.startswith("desc-") and line.count("\t") == 1 for line in lines[1:])


def test_ignored_names_carry_no_trailing_slash() -> None:
    assert not [name for name in IGNORED if name.endswith("/")]


def test_methods_cite_what_was_used_and_nothing_else(settings: Settings) -> None:
    plain = methods_text(settings)
    assert "N4" not in plain
    assert "[@brainid]" in plain
    assert {bibliography(plain).count(f"{{{key},") for key in ("pepsi", "brainid", "ants", "bids")} == {1}
    other = Settings(
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        models=("brainid",),
        bias_correct=True,
        skull_strip_method="template",
        anatomical_reference="finest",
    )
    text = methods_text(other)
    assert "[@n4]" in text
    assert "[@mni152]" in text
    assert "finest voxels" in text
    assert "[@pepsi]" not in text
    cited = {part.split("]")[0] for part in text.split("[@")[1:]}
    assert all(f"{{{key}," in bibliography(text) for key in cited)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_of_one_system_cites_that_system_alone(settings: Settings, name: str) -> None:
    text = methods_text(replace(settings, models=(name,)))
    cited = set(CITED.findall(text))
    assert cited & set(MODELS) == {name}
    (entry,) = (entry for entry in read_bibtex(bibliography(text)) if entry.key == name)
    assert entry.fields["title"]
    assert entry.fields["year"].isdigit()
    assert 'href="https://' in entry.to_html()


def test_every_registered_model_has_a_sentence() -> None:
    """The network of the brain mask has that of the skull strip, which cites whose idea it is."""
    assert {*MODEL_SENTENCES, "brainmask"} == set(registry.MODELS)
    assert "[@synthstrip]" in STRIP_SENTENCES["bidsrep"]


class TestWholeTree:
    """Everything a session writes, made of tiny images."""

    def write(
        self, made: Output, settings: Settings, sources: list[Path], reference: Path, model: str = ""
    ) -> Path:
        made.path.parent.mkdir(parents=True, exist_ok=True)
        if made.path.name.endswith(".nii.gz"):
            dtype = np.uint8 if made.path.name.endswith(("mask.nii.gz", "dseg.nii.gz")) else np.float32
            nib.Nifti1Image(np.ones((4, 4, 4), dtype), np.eye(4)).to_filename(made.path)
        else:
            made.path.write_text("a\tb\n1\t2\n")
        if made.fixed:
            content = build_sidecar(
                made,
                DatasetRoots.of(settings),
                sources,
                reference_image=reference,
                model=model_entry(model, CARD) if model else None,
            )
            write_sidecar(made.path, content)
        return made.path

    @pytest.fixture
    def written(self, settings: Settings) -> Path:
        out = settings.out_dir
        anat = settings.bids_dir / "sub-01" / "ses-A" / "anat"
        t1w = Scan(anat / "sub-01_ses-A_T1w.nii.gz", "01", "A", "T1w", {}, settings.bids_dir)
        flair = Scan(anat / "sub-01_ses-A_FLAIR.nii.gz", "01", "A", "FLAIR", {}, settings.bids_dir)
        session = Session("01", "A", (flair, t1w))
        write_dataset_files(settings)
        reference = preproc(out, t1w, t1w).path
        steps = []
        for scan in (t1w, flair):
            made = preproc(out, scan, t1w)
            prepared = [
                self.write(x, settings, [scan.path], reference) for x in (made, brain_mask(out, scan, t1w))
            ]
            steps.append(Step("preprocess", "strip and resample", [scan.path], prepared))
            outputs = [
                output(kind, out, scan, reference=t1w, model="pepsi", target=target)
                for kind, target in (
                    ("synthetic", "T1w"),
                    ("synthetic", "FLAIR"),
                    ("lesion_probability", ""),
                    ("lesion_mask", ""),
                    ("lesion_mask_native", ""),
                    ("dseg", ""),
                    ("features", ""),
                    ("embedding", ""),
                )
            ]
            paths = [self.write(x, settings, [made.path], reference, "pepsi") for x in outputs]
            output("dseg_table", out, scan, reference=t1w, model="pepsi").path.write_text(
                load_labels("aseg").to_tsv()
            )
            steps.append(Step("represent", "run PEPSI", [made.path], paths, model_entry("pepsi", CARD)))
        self.write(output("xfm", out, flair, reference=t1w), settings, [flair.path], reference)
        self.write(output("metrics", out, session, model="pepsi"), settings, [reference], reference)
        figure = output_path(out, flair, desc="mask", suffix="FLAIR", extension=".svg", datatype="figures")
        for path in (
            figure,
            log_dir(out, session, "uuid") / "crash-x.txt",
            out / "sub-01.html",
            out / "group.html",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x\n")
        write_provenance(settings, session, steps, started="2026-01-01T00:00:00Z")
        return out

    def test_the_validator_finds_no_error(self, written: Path) -> None:
        validator = Path(sys.executable).with_name("bids-validator-deno")
        if not validator.exists() and not shutil.which(validator.name):
            pytest.skip("bids-validator-deno is not installed")
        command = [str(validator) if validator.exists() else validator.name, str(written), "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        issues = json.loads(ran.stdout)["issues"]["issues"]
        errors = {(i["code"], i.get("location", "")) for i in issues if i["severity"] == "error"}
        assert not errors
        assert ran.returncode == 0

    def test_provenance_holds_checksums_and_no_place_of_this_machine(
        self, written: Path, settings: Settings, tmp_path: Path
    ) -> None:
        import getpass
        import hashlib
        import platform

        folder = written / "prov" / "sub-01"
        kinds = {path.stem.rpartition("_")[2]: json.loads(path.read_text()) for path in folder.iterdir()}
        assert set(kinds) == {"act", "soft", "env", "io"}
        assert all("draft" in content["BEP028Draft"] for content in kinds.values())
        text = "".join(path.read_text() for path in folder.iterdir())
        for private in (str(tmp_path), platform.node(), settings.run_uuid, f'"{getpass.getuser()}"'):
            assert private not in text
        by_id = {entry["Id"]: entry for entry in kinds["io"]["Files"]}
        raw = by_id["bids:raw:sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz"]
        source = settings.bids_dir / raw["AtLocation"]
        assert raw["Checksum"][0]["ChecksumValue"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert "GeneratedBy" not in raw

    def test_every_identifier_in_the_provenance_is_defined(self, written: Path) -> None:
        folder = written / "prov" / "sub-01"
        content: dict[str, list] = {}
        for path in folder.iterdir():
            content |= {k: v for k, v in json.loads(path.read_text()).items() if isinstance(v, list)}
        defined = {entry["Id"] for entries in content.values() for entry in entries}
        used = {x for a in content["Activities"] for x in (*a["Used"], *a["AssociatedWith"])}
        used |= {x for entry in content["Files"] for x in entry.get("GeneratedBy", [])}
        assert used <= defined
        assert len(content["Activities"]) == len({a["Id"] for a in content["Activities"]}) == 4
        assert [w["Checksum"][0]["ChecksumValue"] for w in content["Software"][1:]] == ["ab" * 32]
