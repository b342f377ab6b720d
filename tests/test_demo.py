"""``bidsrep-demo`` writes two valid BIDS datasets, resumes, and refuses foreign folders."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bidsrep.bids.derivatives import find_brain_mask
from bidsrep.bids.scans import Scan
from bidsrep.cli.demo import main
from bidsrep.cli.demo_files import TRUTH, session_paths
from bidsrep.imaging.transforms import read_itk, rotation_deg
from bidsrep.synth.phantom.cohort import visits


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "bids"
    assert main([str(folder), "--sloppy"]) == 0
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_layout_is_two_subjects_one_with_two_sessions(demo):
    images = sorted(str(p.relative_to(demo)) for p in demo.glob("sub-*/**/*.nii.gz"))
    assert images == sorted(
        f"sub-{s}/ses-{e}/anat/sub-{s}_ses-{e}_{suffix}.nii.gz"
        for s, e in (("01", "A"), ("01", "B"), ("02", "A"))
        for suffix in ("T1w", "FLAIR")
    )
    for visit in visits(2):
        assert all(path.exists() for path in session_paths(demo, visit))


@pytest.mark.parametrize("dataset", [".", TRUTH])
def test_the_validator_has_no_error(demo, dataset):
    beside = Path(sys.executable).parent / "bids-validator-deno"
    validator = str(beside) if beside.exists() else shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, "--format", "json", demo / dataset], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue.get("severity") == "error"]
    assert errors == []
    assert done.returncode == 0


def test_sidecars_have_bids_units(demo):
    t1w, flair = (
        json.loads((demo / f"sub-01/ses-A/anat/sub-01_ses-A_{s}.json").read_text()) for s in ("T1w", "FLAIR")
    )
    for sidecar in (t1w, flair):
        assert sidecar["MagneticFieldStrength"] == 3
        assert 0 < sidecar["EchoTime"] < sidecar["InversionTime"] < sidecar["RepetitionTime"] < 20  # seconds
    assert flair["EchoTime"] > 10 * t1w["EchoTime"]


def test_flair_is_anisotropic_and_t1w_is_not(demo):
    zooms = {
        s: nib.load(demo / f"sub-01/ses-A/anat/sub-01_ses-A_{s}.nii.gz").header.get_zooms()
        for s in ("T1w", "FLAIR")
    }
    assert max(zooms["T1w"]) == pytest.approx(min(zooms["T1w"]))
    assert max(zooms["FLAIR"]) > 2.5 * min(zooms["FLAIR"])


def test_the_truth_is_found_as_a_given_mask_of_every_scan(demo):
    for suffix in ("T1w", "FLAIR"):
        path = demo / f"sub-02/ses-A/anat/sub-02_ses-A_{suffix}.nii.gz"
        given = find_brain_mask({"truth": demo / TRUTH}, Scan(path, "02", "A", suffix, root=demo))
        assert given is not None
        assert given.same_grid
        assert f"space-{suffix}" in given.path.name


def test_the_true_transform_is_a_small_rigid_motion(demo):
    matrix = read_itk(demo / TRUTH / "sub-01/ses-A/anat/sub-01_ses-A_from-FLAIR_to-T1w_mode-image_xfm.txt")
    assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)
    assert 0.1 < rotation_deg(matrix) < 6
    assert np.linalg.norm(matrix[:3, 3]) < 10


def test_a_missing_session_is_made_again_with_the_same_bytes(demo, capsys):
    before = digests(demo)
    shutil.rmtree(demo / "sub-02")
    (demo / "sub-01/ses-A/anat/.tmp-0123456789ab_half.nii.gz").write_bytes(b"left by a killed run")
    assert main([str(demo), "--sloppy"]) == 0
    assert digests(demo) == before
    assert capsys.readouterr().out.count("is there already") == 2


def test_another_seed_into_the_same_folder_is_refused(demo, capsys):
    assert main([str(demo), "--sloppy", "--seed", "1"]) == 2
    assert "another demo (--subjects 2 --seed 0 --sloppy" in capsys.readouterr().err


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_wrong_options_are_wrong_usage():
    for arguments in (["--subjects", "0"], ["--seed", "-1"], ["--seed", "x"]):
        with pytest.raises(SystemExit) as exit_info:
            main(["somewhere", *arguments])
        assert exit_info.value.code == 2
