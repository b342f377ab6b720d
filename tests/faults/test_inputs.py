"""Everything that may be wrong with a file of the dataset, in one run: each is told by name, and the good ones go on."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from .conftest import Reference
from .lab import Lab, Run, brain, contents, leftovers, write_dataset

GOOD = "02"
Damage = Callable[[Path], object]


def fields(**values: object) -> Damage:
    """Overwrite fields of the header, past the checks of nibabel."""

    def damage(path: Path) -> None:
        payload = bytearray(gzip.decompress(path.read_bytes()))
        header = np.ndarray((), nib.Nifti1Header.template_dtype, payload)
        for name, value in values.items():
            header[name] = value
        path.write_bytes(gzip.compress(bytes(payload), 1))

    return damage


def data(change: Callable[[np.ndarray], np.ndarray], affine: object = None) -> Damage:
    """Store other voxels, or another affine."""

    def damage(path: Path) -> None:
        image = nib.load(path)
        values = change(np.asarray(image.dataobj))
        dtype = values.dtype if values.dtype != np.float64 else np.float32
        nib.Nifti1Image(values.astype(dtype), image.affine if affine is None else affine).to_filename(path)

    return damage


def holes(values: np.ndarray) -> np.ndarray:
    """Put NaN and infinity into a few voxels."""
    changed = values.astype(np.float32)
    changed[10, 10, 10:13] = np.nan, np.inf, -np.inf
    return changed


def colour(values: np.ndarray) -> np.ndarray:
    """Give every voxel three colours."""
    return np.zeros(values.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


def dangling(path: Path) -> None:
    """Leave a link to content that git-annex has not fetched."""
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/yy/MD5E-s1--0.nii.gz")


def folder(path: Path) -> None:
    """Leave a folder of the file's name."""
    path.unlink()
    path.mkdir()


def bomb(path: Path) -> None:
    """Leave two megabytes that unpack to two gigabytes."""
    header = gzip.decompress(path.read_bytes())[:352]
    piece = gzip.compress(bytes(64 << 20), 9)
    path.write_bytes(gzip.compress(header) + piece * 32)


UNUSABLE: dict[str, tuple[Damage, str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:3000]), "is cut short"),
    "flipped": (lambda p: p.write_bytes(p.read_bytes()[:-8] + bytes(8)), "is damaged"),
    "empty": (lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
    "dangling": (dangling, "the file's content is not there (a dangling link). Fetch it"),
    "pointer": (lambda p: p.write_bytes(b"/annex/objects/MD5E-s1--0.nii.gz\n"), "is a git-annex pointer"),
    "text": (lambda p: p.write_bytes(b"<html>not found</html>" * 99), "is not a NIfTI image"),
    "folder": (folder, "is not a file"),
    "constant": (data(lambda v: np.full_like(v, 7)), "is constant: every voxel is 7"),
    "nan": (data(lambda v: np.full(v.shape, np.nan, np.float32)), "holds no finite value"),
    "fourD": (data(lambda v: np.stack([v, v], -1)), "holds 2 volumes"),
    "twoD": (data(lambda v: v[:, :, 20]), "is not a 3D image"),
    "rgb": (data(colour), "has colour (RGB) voxels"),
    "complex": (data(lambda v: v.astype(np.complex64)), "has complex voxels"),
    "singular": (fields(sform_code=1, qform_code=0, srow_x=0, srow_y=0, srow_z=0), "no usable affine"),
    "huge": (fields(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "is too large"),
    "voxel": (data(lambda v: v, np.diag([1, 1, 300, 1])), "impossible voxel sizes"),
    "bomb": (bomb, "unpacks to far more than its header announces"),
}
"""Damage that makes a scan unusable, and the words its message has."""

ODD: dict[str, tuple[Damage, str]] = {
    "holes": (data(holes), "3 voxels were NaN or infinite"),
    "metres": (fields(xyzt_units=1, pixdim=[1, 4e-3, 4e-3, 4e-3, 0, 0, 0, 0], qform_code=0,
                      srow_x=[4e-3, 0, 0, -0.07], srow_y=[0, 4e-3, 0, -0.086],
                      srow_z=[0, 0, 4e-3, -0.066]), "converted to mm"),
}  # fmt: skip
"""Damage that is mended, and the warning that tells."""


def label(name: str) -> str:
    return f"sub-{name}"


@pytest.fixture(scope="module")
def damaged(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """Run a cohort of one good subject and one for every damage."""
    root = tmp_path_factory.mktemp("damaged")
    names = [f"sub-{GOOD}/anat/sub-{GOOD}_T1w", *(f"{label(n)}/anat/{label(n)}_T1w" for n in UNUSABLE)]
    raw = write_dataset(root / "raw", names[:1])
    shutil.copy(lab.raw / "sub-02/anat/sub-02_T1w.nii.gz", raw / f"{names[0]}.nii.gz")
    good = brain("T1w")
    for name, (damage, _) in UNUSABLE.items():
        path = raw / label(name) / "anat" / f"{label(name)}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        good.to_filename(path)
        damage(path)
    (raw / "sub-nothing" / "anat").mkdir(parents=True)  # an empty session
    return lab.run(root / "out", raw=raw), root / "out"


def test_the_good_subject_is_complete(damaged: tuple[Run, Path], reference: Reference) -> None:
    run, out = damaged
    assert run.code == 1, run.said
    found = contents(out)
    assert {n: found.get(n) for n in reference.of(GOOD)} == reference.of(GOOD)
    failed = ", ".join(sorted(label(name) for name in UNUSABLE))
    assert f"1 ok, {len(UNUSABLE)} failed ({failed})" in run.said.splitlines()[-1]
    assert "sub-nothing: no scan to process" in run.said
    assert "Traceback" not in run.said


@pytest.mark.parametrize("name", list(UNUSABLE))
def test_an_unusable_scan_is_told_and_leaves_nothing(damaged: tuple[Run, Path], name: str) -> None:
    run, out = damaged
    lines = [line for line in run.said.splitlines() if f"ERROR {label(name)}:" in line]
    assert len(lines) == 1, run.said
    assert f"{label(name)}_T1w.nii.gz" in lines[0]
    assert UNUSABLE[name][1] in lines[0]
    assert not list((out / label(name)).glob("anat/*"))


def test_nothing_is_half_written(damaged: tuple[Run, Path]) -> None:
    assert not leftovers(damaged[1])


def test_odd_scans_are_used_with_a_warning(lab: Lab, place: Path) -> None:
    names = [f"{label(name)}/anat/{label(name)}_T1w" for name in ODD]
    raw = write_dataset(place / "raw", names)
    for name, scan in zip(ODD, names, strict=True):
        ODD[name][0](raw / f"{scan}.nii.gz")
    run = lab.run(place / "out", raw=raw)
    assert run.code == 0, run.said
    for name, (_, told) in ODD.items():
        sidecar = place / "out" / label(name) / "anat" / f"{label(name)}_desc-preproc_T1w.json"
        assert any(told in warning for warning in json.loads(sidecar.read_text())["Warnings"])


def test_a_scan_that_vanishes_meanwhile_is_told_and_the_others_go_on(
    lab: Lab, reference: Reference, place: Path
) -> None:
    raw = shutil.copytree(lab.raw, place / "raw")
    gone = raw / "sub-01/anat/sub-01_FLAIR.nii.gz"
    first = f"""
import os
from bidsrep.workflows import run
compute = run.compute
run.compute = lambda *given: (os.unlink({str(gone)!r}), compute(*given))
"""
    run = lab.run(place / "out", raw=raw, first=first)
    assert run.code == 1, run.said[-3000:]
    assert "sub-01_FLAIR.nii.gz: does not exist" in run.said
    found = contents(place / "out")
    of_t1w = {n: c for n, c in reference.of("01").items() if n.endswith("_T1w.nii.gz") and "FLAIR" not in n}
    assert {n: found.get(n) for n in of_t1w} == of_t1w
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")
    assert not [name for name in found if "FromFLAIR" in name or "preproc_FLAIR" in name]


def test_a_slow_disk_changes_nothing(lab: Lab, reference: Reference, place: Path) -> None:
    first = """
import time
from pathlib import Path
read = Path.read_bytes
Path.read_bytes = lambda path: (time.sleep(0.2) if path.name.endswith(".nii.gz") else None, read(path))[1]
"""
    run = lab.run(place / "out", "--participant-label", "02", first=first)
    assert run.code == 0, run.said
    found = contents(place / "out")
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")
