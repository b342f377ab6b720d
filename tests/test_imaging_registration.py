"""Registration: recovers known motions across contrasts, repeats itself, and survives a failing ANTs."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage

from bidsrep.imaging import registration
from bidsrep.imaging.conform import conform
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.mutual import Points, align, motion
from bidsrep.imaging.registration import foreground, register_rigid
from bidsrep.imaging.resample import resample, resample_mask
from bidsrep.imaging.transforms import displacement_mm, read_itk
from bidsrep.imaging.volume import Volume

TRUE = motion(np.array([4.0, -6.0, 3.0, 5.0, -4.0, 6.0]), np.zeros(3))


@pytest.fixture(scope="module")
def head() -> tuple[Volume, np.ndarray]:
    """A blob of smooth random tissue in an ellipsoid, 3 mm: no symmetry, edges at every scale."""
    shape = (56, 64, 56)
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    tissue = np.digitize(texture, np.quantile(texture, [0.3, 0.65])) + 1.0
    positions = np.moveaxis(np.indices(shape), 0, -1) * 3.0 - np.array(shape) * 1.5
    mask = ((positions / [60, 75, 60]) ** 2).sum(axis=-1) < 1
    data = ndimage.gaussian_filter(tissue * mask, 0.5) * 100 + rng.normal(0, 4, shape)
    return Volume(data, from_matvec(np.eye(3) * 3.0, -np.array(shape) * 1.5)), mask


@pytest.fixture(scope="module")
def moved(head) -> tuple[Volume, np.ndarray]:
    """The same head after `TRUE`, in another contrast (the middle tissue brightest), 2x2x5 mm slices."""
    volume, mask = head
    grid = Grid((84, 96, 36), from_matvec(np.diag([-2.0, -2.0, 5.0]), [84, 96, -90]))
    image = resample(volume, grid, np.linalg.inv(TRUE))
    other = np.exp(-(((image.data - 200) / 80) ** 2)) * 500 * (image.data > 30)
    return image.replace(other), resample_mask(mask, volume, grid, np.linalg.inv(TRUE))


def error(matrix, head, true=TRUE) -> float:
    volume, mask = head
    return float(displacement_mm(matrix, true, apply_affine(volume.affine, np.argwhere(mask))).mean())


def test_motion_is_recovered_across_contrasts_and_repeated(head, moved):
    pytest.importorskip("ants")
    one = register_rigid(*_order(head, moved), seed=3)
    assert error(one.matrix, head) < 0.7
    assert one.quality["mutual_information_after"] > 1.2 * one.quality["mutual_information_before"]
    assert one.quality["rotation_deg"] == pytest.approx(8.8, abs=1.0)
    assert one.quality["warnings"] == []
    two = register_rigid(*_order(head, moved), seed=3)
    assert np.array_equal(one.matrix, two.matrix)


def test_result_is_rigid(head, moved, monkeypatch):
    monkeypatch.setattr(registration, "_ants_rigid", lambda *_: TRUE)
    rotation = register_rigid(*_order(head, moved)).matrix[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)


def test_centre_start_when_headers_share_nothing(head, moved, monkeypatch):
    monkeypatch.setattr(registration, "_ants_rigid", _fail)
    far = from_matvec(np.eye(3), [300, -200, 100])
    elsewhere = Volume(moved[0].data, far @ moved[0].affine)
    found = register_rigid(head[0], elsewhere, head[1], moved[1])
    assert found.quality["start"] == "centre"
    assert error(found.matrix, head, far @ TRUE) < 1.0


def test_headers_are_left_alone_when_nothing_moved(head, monkeypatch):
    monkeypatch.setattr(registration, "_ants_rigid", lambda *_: motion(np.full(6, 0.02), np.zeros(3)))
    volume, mask = head
    noisy = volume.replace(300 - volume.data + np.random.default_rng(5).normal(0, 5, volume.shape))
    found = register_rigid(volume, noisy, mask, mask)
    assert error(found.matrix, head, np.eye(4)) < 0.3


def test_search_stands_in_for_a_failing_ants(head, moved, monkeypatch):
    monkeypatch.setattr(registration, "ants_linear", _fail)
    found = register_rigid(*_order(head, moved))
    assert found.quality["method"] == "search"
    assert "out of luck" in found.quality["warnings"][0]
    assert error(found.matrix, head) < 1.0


@pytest.mark.parametrize(
    ("sloppy", "scales", "steps"), [(False, (8.0, 4.0), (100, 50)), (True, (8.0,), (10, 0))]
)
def test_sloppiness_reaches_the_search_and_ants(head, monkeypatch, sloppy, scales, steps):
    ants = pytest.importorskip("ants")
    searched, asked = [], []

    def search(*args):
        searched.append(args[4])
        return np.eye(4)

    monkeypatch.setattr(registration, "align", search)
    monkeypatch.setattr(ants, "registration", lambda *_, **options: asked.append(options) or _fail())
    register_rigid(head[0], head[0], head[1], head[1], sloppy=sloppy)
    assert searched[0] == scales
    assert asked[0]["aff_iterations"] == steps
    assert len(asked[0]["aff_shrink_factors"]) == len(steps)


def test_absurd_ants_results_lose(head, moved, monkeypatch):
    monkeypatch.setattr(registration, "_ants_rigid", lambda *_: from_matvec(np.eye(3), [40, 40, 40]))
    found = register_rigid(*_order(head, moved))
    assert found.quality["method"] == "search"


def test_scaled_results_are_refused_as_not_rigid(head, monkeypatch):
    monkeypatch.setattr(registration, "ants_linear", lambda *_: np.diag([1.2, 1, 1, 1]))
    with pytest.raises(ValueError, match="not rigid"):
        registration._ants_rigid(head[0], head[0], head[1], np.eye(4), 0, 1)


def test_without_masks_the_foreground_is_used(head):
    volume, mask = head
    found = foreground(volume.replace(np.where(mask, 200, 3)))
    assert np.array_equal(found, mask)


def test_normalised_information_is_highest_in_place(head):
    volume, mask = head
    points = Points.draw(volume, volume.replace(300 - volume.data), mask, 4.0, 0)
    scores = [points.information(motion(np.array([d, 0, 0, 0, 0, 0.0]), np.zeros(3)))[1] for d in (0, 3, 9)]
    assert scores == sorted(scores, reverse=True)
    assert points.information(from_matvec(np.eye(3), [150, 0, 0])) == (0.0, 0.0)


def test_scales_are_found_with_nine_parameters(head):
    volume, mask = head
    true = motion(np.array([2.0, 3.0, -2.0, 2.0, 1.0, -3.0, 8.0, -5.0, 3.0]), np.zeros(3))
    moving = resample(volume, volume, np.linalg.inv(true))
    found = align(volume, moving, mask, np.eye(4), (8.0, 4.0), freedom=9)
    assert error(found, head, true) < 1.0


def test_motion_is_about_its_center():
    matrix = motion(np.array([0, 0, 0, 10.0, 20.0, 30.0, 5.0]), np.array([10.0, 20.0, 30.0]))
    assert np.allclose(apply_affine(matrix, [10.0, 20.0, 30.0]), [10.0, 20.0, 30.0])
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(np.exp(0.15))
    shifted = motion(np.array([1, 2, 3, 0, 0, 10.0]), np.zeros(3))
    assert np.allclose(shifted, from_matvec(euler2mat(0, 0, np.pi / 18), [1, 2, 3]))


def test_real_movement_between_flair_and_t1w_is_found(test_data):
    pytest.importorskip("ants")
    root = test_data / "data" / "bids-ms"
    stem = "sub-long03_ses-02"
    flair, t1w = (
        conform(root / "sub-long03/ses-02/anat" / f"{stem}_{suffix}.nii.gz")[0] for suffix in ("FLAIR", "T1w")
    )
    lesions = root / "derivatives/lesions/sub-long03/anat"
    common = nib.load(lesions / "sub-long03_space-common_desc-brain_mask.nii.gz")
    to_common = read_itk(lesions / f"{stem}_from-FLAIR_to-common_mode-image_xfm.txt")
    given = read_itk(lesions / f"{stem}_from-T1w_to-FLAIR_mode-image_xfm.txt")
    source = Grid(common.shape, common.affine)
    brain = resample_mask(np.asarray(common.dataobj) > 0, source, flair, np.linalg.inv(to_common))
    found = register_rigid(flair, t1w, brain, resample_mask(brain, flair, t1w, np.linalg.inv(given)))
    apart = displacement_mm(found.matrix, given, apply_affine(flair.affine, np.argwhere(brain)))
    assert apart.mean() < 1.0  # the headers alone: 5.5 mm; the given transform is affine
    assert apart.max() < 2.0


def _order(head, moved) -> tuple:
    return head[0], moved[0], head[1], moved[1]


def _fail(*_args, **_kwargs):
    raise RuntimeError("out of luck")
