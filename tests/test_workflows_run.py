"""The participant level from end to end: tiny stripped heads, random small weights, real registration."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from random_weights import HEADS, write_random_weights

from bidsrep.errors import ExitCode, InputError, WeightsError
from bidsrep.reports.measures import SCAN, measure_of
from bidsrep.reports.results import read_metrics
from bidsrep.resources import new_run_uuid
from bidsrep.settings import Settings
from bidsrep.workflows.run import run_participants

VOXEL_MM = 4.0
SCANS = (
    "sub-01/ses-A/anat/sub-01_ses-A_T1w",
    "sub-01/ses-A/anat/sub-01_ses-A_acq-tra_FLAIR",
    "sub-01/ses-B/anat/sub-01_ses-B_FLAIR",
    "sub-02/anat/sub-02_T1w",
    "sub-02/anat/sub-02_T2w",
)


def brain(contrast: str, seed: int = 0) -> nib.Nifti1Image:
    """Make a stripped brain: an ellipsoid of 1.1 l with three tissues, whose order the contrast decides."""
    shape = (36, 44, 34)
    grid = np.indices(shape) - np.array([17.5, 21.5, 16.5])[:, None, None, None]
    radius = np.sqrt(((grid * VOXEL_MM / np.array([66, 78, 52])[:, None, None, None]) ** 2).sum(axis=0))
    folds = 0.08 * np.sin(grid[0] / 2.1) * np.cos(grid[1] / 2.7 + 1) + 0.05 * np.sin(
        grid[2] / 1.9 + grid[0] / 4
    )
    level = {"T1w": (100, 70, 30), "T2w": (50, 75, 130), "FLAIR": (70, 85, 25)}[contrast]
    wm, gm, csf = level
    data = np.where(radius + folds < 0.75, wm, gm).astype(float)
    data[np.abs(grid[0] - 2) + np.abs(grid[1]) + np.abs(grid[2]) < 4] = csf
    data += np.random.default_rng(seed).normal(0, 2, shape)
    data = np.where(radius < 1, np.maximum(data, 1), 0).astype(np.int16)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = -VOXEL_MM * np.array([17.5, 21.5, 16.5])
    return nib.Nifti1Image(data, affine)


def make_cohort(root: Path) -> Path:
    """Write two subjects, one with two sessions; the T2w of the second is cut short."""
    for n, name in enumerate(SCANS):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        brain(name.rpartition("_")[2], n).to_filename(path)
    broken = root / f"{SCANS[-1]}.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    description = {"Name": "tiny", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


@dataclass
class Cohort:
    """A cohort, and its results once they are there."""

    settings: Settings
    code: int = -1
    times: dict[str, int] = field(default_factory=dict)

    def run(self, **changes: object) -> int:
        """Run as a new process would: every run has its own name."""
        changed = replace(self.settings, run_uuid=new_run_uuid(), **changes)  # type: ignore[arg-type]
        return run_participants(changed)

    def snapshot(self) -> dict[str, int]:
        """Map every file of the output to its modification time."""
        out = self.settings.out_dir
        return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in sorted(out.rglob("*")) if p.is_file()}

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.settings.out_dir / folder).glob("*"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Run the tiny cohort once, with two models, in line."""
    root = tmp_path_factory.mktemp("cohort")
    weights = {name: str(write_random_weights(root / "weights", name)) for name in ("pepsi", "brainid")}
    made = Cohort(
        Settings(
            bids_dir=make_cohort(root / "raw"),
            out_dir=root / "out",
            work_dir=root / "work",
            models=("pepsi", "brainid"),
            weights=weights,
            resolution=VOXEL_MM,
            lesion_threshold=0.4,
            nprocs=1,
            omp_nthreads=1,
            device="cpu",
        )
    )
    made.code = made.run()
    made.times = made.snapshot()
    return made


def test_a_broken_scan_makes_the_run_fail_and_nothing_else(cohort):
    assert cohort.code == ExitCode.SOME_FAILED
    made = set(cohort.names("sub-02/anat"))
    assert "sub-02_desc-preproc_T1w.nii.gz" in made
    assert "sub-02_desc-pepsi_metrics.tsv" in made
    assert not any("T2w" in name for name in made)


def test_the_other_sessions_are_complete(cohort):
    plan_a = cohort.names("sub-01/ses-A/anat")
    assert "sub-01_ses-A_acq-tra_from-FLAIR_to-T1w_mode-image_xfm.txt" in plan_a
    assert "sub-01_ses-A_acq-tra_space-T1w_res-4mm_desc-pepsiFromFLAIR_T1w.nii.gz" in plan_a
    assert "sub-01_ses-B_desc-preproc_FLAIR.nii.gz" in cohort.names("sub-01/ses-B/anat")


def test_the_crash_is_kept_as_text_where_it_belongs(cohort):
    (log,) = (cohort.settings.out_dir / "sub-02/log").glob("2*")
    crashes = list(log.glob("crash*"))
    assert crashes
    assert all(path.suffix == ".txt" for path in crashes)
    assert "sub-02_T2w.nii.gz" in crashes[0].read_text()
    assert not list(cohort.settings.out_dir.glob("sub-01/**/crash*"))
    assert (log / "bidsrep.toml").is_file()


def test_the_page_of_the_failed_subject_names_the_scan(cohort):
    assert "sub-02_T2w.nii.gz" in (cohort.settings.out_dir / "sub-02.html").read_text()
    assert (cohort.settings.out_dir / "sub-01.html").is_file()


def test_the_validator_prints_no_error(cohort):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run(
        [validator, str(cohort.settings.out_dir), "--ignoreWarnings"],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_images_lie_on_the_reference_grid(cohort):
    folder = cohort.settings.out_dir / "sub-01/ses-A/anat"
    reference = nib.load(folder / "sub-01_ses-A_desc-preproc_T1w.nii.gz")
    for path in folder.glob("*space-T1w*.nii.gz"):
        image = nib.load(path)
        assert image.shape == reference.shape
        assert np.allclose(image.affine, reference.affine)
        assert image.header.get_zooms() == (VOXEL_MM,) * 3


def test_native_masks_lie_on_the_scans_own_grid(cohort):
    raw = nib.load(cohort.settings.bids_dir / f"{SCANS[1]}.nii.gz")
    mask = nib.load(
        cohort.settings.out_dir
        / "sub-01/ses-A/anat/sub-01_ses-A_acq-tra_label-lesion_desc-pepsiFromFLAIR_mask.nii.gz"
    )
    assert mask.shape == raw.shape
    assert np.allclose(mask.affine, raw.affine)
    assert mask.get_data_dtype() == np.uint8


def test_registration_finds_scans_that_lie_on_each_other(cohort):
    from bidsrep.imaging.transforms import read_itk

    matrix = read_itk(
        cohort.settings.out_dir
        / "sub-01/ses-A/anat/sub-01_ses-A_acq-tra_from-FLAIR_to-T1w_mode-image_xfm.txt"
    )
    assert np.abs(matrix[:3, 3]).max() < VOXEL_MM
    assert np.allclose(matrix[:3, :3], np.eye(3), atol=0.05)


def test_metrics_cover_both_scans(cohort):
    import pandas as pd

    table = pd.read_csv(
        cohort.settings.out_dir / "sub-01/ses-A/anat/sub-01_ses-A_desc-pepsi_metrics.tsv", sep="\t"
    )
    assert list(table.columns) == ["scan", "metric", "value", "unit", "reference"]
    volume = table[(table.metric == "brain_volume") & (table.scan == "T1w")].value.item()
    assert 1000 < volume < 1250
    assert set(table.scan) == {"T1w", "acq-tra_FLAIR"}
    assert {"mask_dice", "contrast_invariance", "correlation", "lesion_volume"} <= set(table.metric)


def test_embeddings_have_a_row_per_region_and_a_column_per_channel(cohort):
    import pandas as pd

    table = pd.read_csv(
        cohort.settings.out_dir / "sub-01/ses-A/anat/sub-01_ses-A_desc-pepsiFromT1w_embedding.tsv", sep="\t"
    )
    assert table.region.is_unique
    assert "brain" in set(table.region)
    assert sum(column.startswith("channel") for column in table.columns) >= 4


def test_sidecars_name_the_weights(cohort):
    folder = cohort.settings.out_dir / "sub-01/ses-B/anat"
    (path,) = folder.glob("*desc-brainidFromFLAIR_T1w.json")
    model = json.loads(path.read_text())["Model"]
    assert model["WeightsStatus"] == "random"
    assert len(model["WeightsSHA256"]) == 64


def test_provenance_is_written_for_every_session(cohort):
    prov = {path.name for path in (cohort.settings.out_dir / "prov/sub-01").glob("*_act.json")}
    assert len(prov) == 2


class TestSecondRun:
    """What a run does in a folder where everything, or something, is done. In this order."""

    def test_finished_work_is_left_alone_without_the_work_folder(self, cohort, tmp_path):
        code = cohort.run(work_dir=tmp_path / "other", participant_label=("01",))
        assert code == ExitCode.OK
        assert cohort.snapshot() == cohort.times
        assert not (tmp_path / "other").exists()

    def test_a_dry_run_writes_nothing_and_says_why(self, cohort, capsys):
        assert cohort.run(dry_run=True, bias_correct=True) == ExitCode.OK
        said = capsys.readouterr().out
        assert "setting bias_correct changed" in said
        assert "T2w failed before" in said
        assert "sub-01_ses-A_desc-preproc_T1w.nii.gz" in said
        assert cohort.snapshot() == cohort.times

    def test_a_lost_file_comes_back_as_it_was(self, cohort, tmp_path):
        path = cohort.settings.out_dir / "sub-01/ses-B/anat/sub-01_ses-B_desc-preproc_FLAIR.nii.gz"
        before = {p: p.read_bytes() for p in path.parent.glob("*")}
        path.unlink()
        assert cohort.run(work_dir=tmp_path / "fresh", participant_label=("01",)) == ExitCode.OK
        assert {p: p.read_bytes() for p in path.parent.glob("*")} == before

    def test_a_repaired_scan_is_taken_up(self, cohort):
        brain("T2w", 4).to_filename(cohort.settings.bids_dir / f"{SCANS[-1]}.nii.gz")
        assert cohort.run() == ExitCode.OK
        assert "sub-02_space-T1w_res-4mm_desc-preproc_T2w.nii.gz" in cohort.names("sub-02/anat")
        page = (cohort.settings.out_dir / "sub-02.html").read_text()
        assert "ImageError" not in page

    def test_reports_can_be_made_alone(self, cohort):
        page = cohort.settings.out_dir / "sub-02.html"
        before = page.read_bytes()
        page.unlink()
        assert cohort.run(reports_only=True, participant_label=("02",)) == ExitCode.OK
        assert page.read_bytes() == before


def test_a_run_with_another_model_keeps_the_provenance_of_the_first(cohort, tmp_path):
    one = {"participant_label": ("01",), "session_label": ("B",), "out_dir": tmp_path / "out"}

    def run(model: str) -> dict[str, bytes]:
        assert cohort.run(models=(model,), work_dir=tmp_path / model, **one) == ExitCode.OK
        return {path.name: path.read_bytes() for path in (tmp_path / "out/prov/sub-01").iterdir()}

    run("brainid")
    both = run("pepsi")
    lists = {k: v for text in both.values() for k, v in json.loads(text).items() if isinstance(v, list)}
    made = {e["AtLocation"]: e["GeneratedBy"] for e in lists["Files"] if "GeneratedBy" in e}
    written = (tmp_path / "out/sub-01/ses-B/anat").iterdir()
    figures = (tmp_path / "out/sub-01/figures").iterdir()
    names = {f"sub-01/ses-B/anat/{path.name}" for path in written}
    assert names | {f"sub-01/figures/{path.name}" for path in figures} == set(made)
    names = {activity["Id"]: activity["Label"] for activity in lists["Activities"]}
    assert sorted(names.values()) == [
        "brainid FLAIR", "brainid metrics", "pepsi FLAIR", "pepsi metrics", "preprocess FLAIR"
    ]  # fmt: skip
    folder = "sub-01/ses-B/anat/sub-01_ses-B"
    for model in ("brainid", "pepsi"):
        (maker,) = made[f"{folder}_space-FLAIR_res-4mm_desc-{model}FromFLAIR_T1w.nii.gz"]
        assert names[maker] == f"{model} FLAIR"
    (tmp_path / f"out/{folder}_desc-pepsi_metrics.tsv").unlink()
    assert run("pepsi") == both  # the same bytes came back: there is nothing new to say


def test_what_a_network_gives_decides_which_figures_there_are(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "brainid", {"image": 1, "superres": 1, "seg": 33, "bias_field_log": 1})
    with_image = ["superres", "bias_field_log"]
    weights = write_random_weights(tmp_path / "weights", "brainid", with_image=with_image)
    one = {"participant_label": ("01",), "session_label": ("B",), "models": ("brainid",)}
    out = tmp_path / "out"
    assert cohort.run(out_dir=out, work_dir=tmp_path / "work", weights={"brainid": weights}, **one) == 0
    assert (
        out / "sub-01/ses-B/anat/sub-01_ses-B_space-FLAIR_res-4mm_desc-brainidSuperresFromFLAIR_FLAIR.nii.gz"
    ).is_file()
    figures, page = cohort.settings.out_dir / "sub-01/figures", (out / "sub-01.html").read_text()
    added = [(kind, False) for kind in ("Superres", "Segmentation", "Bias")]
    for kind, before in (("Components", True), *added):
        name = f"sub-01_ses-B_desc-brainid{kind}_FLAIR.svg"
        assert (out / "sub-01/figures" / name).is_file()
        assert name in page
        assert (figures / name).is_file() == before


def test_the_scans_are_measured_once_for_all_models(cohort):
    folder = cohort.settings.out_dir / "sub-01/ses-A/anat"
    pepsi, brainid = (
        read_metrics(folder / f"sub-01_ses-A_desc-{m}_metrics.tsv", "") for m in cohort.settings.models
    )
    of_scans = [row for row in pepsi if measure_of(row.name).scope == SCAN]
    assert len(of_scans) > 30
    assert of_scans == [row for row in brainid if measure_of(row.name).scope == SCAN]
    nodes = list(cohort.settings.work_dir.glob("*/sub_01_wf/ses_A_wf/measure_scans/metrics.tsv"))
    assert len(nodes) == 1


def test_a_broken_reference_hands_over_to_another_scan(cohort, tmp_path):
    root = make_cohort(tmp_path / "raw")
    t1w = root / f"{SCANS[0]}.nii.gz"
    t1w.write_bytes(gzip.compress(b"no image"))
    settings = replace(cohort.settings, bids_dir=root, out_dir=tmp_path / "out", work_dir=tmp_path / "work")
    code = run_participants(
        replace(settings, participant_label=("01",), session_label=("A",), models=("brainid",))
    )
    assert code == ExitCode.SOME_FAILED
    made = {path.name for path in (tmp_path / "out/sub-01/ses-A/anat").glob("*")}
    assert "sub-01_ses-A_acq-tra_desc-preproc_FLAIR.nii.gz" in made
    assert "sub-01_ses-A_desc-brainid_metrics.tsv" in made


def test_missing_weights_are_told_before_anything_is_written(cohort, tmp_path):
    with pytest.raises(WeightsError):
        cohort.run(weights={"pepsi": str(tmp_path / "none.safetensors")}, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_dataset_is_told(cohort, tmp_path):
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(InputError):
        cohort.run(bids_dir=tmp_path, skip_bids_validation=True)
