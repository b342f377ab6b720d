"""Anatomies from acquired scans: what lies beside a T1w is found, prepared, and reaches the generator."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bidsrep.errors import ImageError, InputError
from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.generator import GeneratorConfig, deform_subject, sample_acquisition
from bidsrep.training.anatomies import load_anatomies
from bidsrep.training.prepare import prepare_label_maps, prepare_t1w
from bidsrep.training.representation import make_source
from bidsrep.training.seqinv import by_person
from bidsrep.training.seqinv_scans import load_people

STILL = DeformationConfig(
    rotation_degrees=0, shear=0, scaling=0, nonlinear_std_mm=0, flip_probability=0, shift_fraction=0
)
SIDE = 36
LESION = (slice(15, 20), slice(16, 21), slice(15, 20))
T1W, FLAIR, LESION_LEVELS = (0.0, 30.0, 65.0, 100.0), (0.0, 20.0, 110.0, 90.0), (70.0, 150.0)


def brain(levels: tuple[float, ...], lesion: float) -> np.ndarray:
    """Nested balls of fluid, cortex and white matter with a lesion that is stronger in its middle."""
    axes = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    image = np.array(levels)[(radius < 15).astype(int) + (radius < 13) + (radius < 10)]
    off_centre = np.max(np.abs(np.indices((5, 5, 5)) - 2), axis=0)
    image[LESION] += (lesion - image[LESION]) * (1 - 0.35 * off_centre)
    return image.astype(np.float32)


def save(path: Path, data: np.ndarray, shift: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def session(root: Path, label: str) -> Path:
    """A T1w and a FLAIR on one grid, a synthetic T1w, and a lesion mask in other derivatives."""
    anat, stem = root / "bids" / "sub-1" / f"ses-{label}" / "anat", f"sub-1_ses-{label}"
    t1w = save(anat / f"{stem}_desc-preproc_T1w.nii.gz", brain(T1W, LESION_LEVELS[0]))
    space = f"{stem}_space-T1w_res-1mm"
    save(anat / f"{space}_desc-preproc_FLAIR.nii.gz", brain(FLAIR, LESION_LEVELS[1]))
    save(anat / f"{space}_desc-pepsiFromFLAIR_T1w.nii.gz", brain(T1W, 0))
    save(anat / f"{space}_desc-pepsiFromT1w_FLAIR.nii.gz", brain(FLAIR, 0))
    mask = np.zeros((SIDE,) * 3, np.uint8)
    mask[LESION] = 1
    save(root / "masks" / "sub-1" / f"ses-{label}" / "anat" / f"{stem}_label-lesion_mask.nii.gz", mask)
    return t1w


def prepare(root: Path) -> dict[str, int]:
    sources = sorted((root / "bids").glob("sub-*/**/anat/*_T1w.nii.gz"))
    return dict(prepare_t1w(sources, root / "out", root / "masks"))


def test_flair_and_lesions_reach_the_generator(tmp_path: Path) -> None:
    session(tmp_path, "a")
    assert prepare(tmp_path) == {"T1w": 1, "FLAIR": 1, "lesions": 1}
    (anatomy,), _ = load_anatomies(tmp_path / "out")
    assert anatomy.flair is not None
    assert anatomy.lesion is not None
    assert (anatomy.lesion > 0).sum() == 125  # all of the mask, though eq. 1 is 0 at its dimmest voxel
    assert anatomy.lesion.max() == 1  # eq. 1: the brightest voxel of the FLAIR's mask
    assert anatomy.lesion.flatten().argmax() == anatomy.flair.flatten().argmax()
    source = make_source(anatomy, None, 1.0)
    config = GeneratorConfig(deformation=STILL, lesion_probability=0, rim_mm=0, levels=("mild",))
    generator = torch.Generator().manual_seed(0)
    subject = deform_subject(source, generator, (SIDE,) * 3, 1.0, config, [])
    assert subject.mixture is not None
    lesion, white = subject.lesion > 0.2, (subject.t1w > 0.9) & (subject.lesion == 0)
    assert lesion.sum() > 20
    assert subject.flair[lesion].mean() > 1.2 * subject.flair[white].mean()  # the person's own FLAIR
    assert subject.t1w[lesion].mean() < 0.95 * subject.t1w[white].mean()
    assert subject.mixture[lesion].min() >= 1  # contrasts are painted from white matter there
    for _ in range(6):
        drawn = sample_acquisition(subject, source, generator, 1.0, config)
        if drawn.contrast.lesion is not None and abs(drawn.contrast.lesion - drawn.contrast.means[2]) > 40:
            assert drawn.clean is not None
            change = drawn.clean[lesion].mean() - drawn.clean[white].mean()
            assert (change > 0) == (drawn.contrast.lesion > drawn.contrast.means[2])


def test_sessions_of_a_person_are_two_anatomies_of_one_name(tmp_path: Path) -> None:
    session(tmp_path, "a")
    session(tmp_path, "b")
    assert prepare(tmp_path) == {"T1w": 2, "FLAIR": 2, "lesions": 2}
    out = tmp_path / "out"
    assert [anatomy.name for anatomy in load_anatomies(out)[0]] == ["sub-1", "sub-1"]
    assert (out / "sub-1" / "ses-b" / "anat" / "sub-1_ses-b_desc-brain_T1w.nii.gz").is_file()
    assert load_anatomies(out, persons=("sub-1",))[0]
    with pytest.raises(InputError):
        load_people([out], ["sub-1"], [1.0])
    people = load_people([out], [], [1.0])[1.0]
    assert by_person(people) == [people]


def label_maps(root: Path, *names: str) -> list[Path]:
    labels = np.pad(np.full((6, 6, 6), 2, np.int16), 3)
    (root / "labels.tsv").write_text("value\tname\ttissue\n0\tbackground\tbackground\n2\twm\twm\n")
    return [save(root / f"{name}.nii.gz", labels) for name in names]


def test_label_maps_are_named_by_all_of_their_name(tmp_path: Path) -> None:
    names = ("training_seg_01", "training_seg_02", "seg-07_dseg", "sub-3_ses-x_seg-aseg_dseg")
    sources = label_maps(tmp_path, *names)
    assert prepare_label_maps(sources, tmp_path / "labels.tsv", tmp_path / "out") == 4
    found = [anatomy.name for anatomy in load_anatomies(tmp_path / "out")[0]]
    assert found == ["sub-3", "sub-seg07", "sub-trainingseg01", "sub-trainingseg02"]


def test_label_maps_of_one_name_are_refused(tmp_path: Path) -> None:
    sources = label_maps(tmp_path, "sub-3_acq-a_dseg", "sub-3_acq-b_dseg")
    with pytest.raises(InputError, match="sub-3: several label maps would have this name: sub-3_acq-a_dseg"):
        prepare_label_maps(sources, tmp_path / "labels.tsv", tmp_path / "out")


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    session(tmp_path, "a")
    (mask,) = (tmp_path / "masks").rglob("*_mask.nii.gz")
    save(mask, np.ones((SIDE,) * 3, np.uint8), shift=2)
    with pytest.raises(ImageError, match="sub-1_ses-a_label-lesion_mask"):
        prepare(tmp_path)


def test_synthetic_scans_alone_are_refused(tmp_path: Path) -> None:
    session(tmp_path, "a").unlink()
    with pytest.raises(InputError, match="acquired"):
        prepare(tmp_path)
