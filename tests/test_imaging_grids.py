"""Grids and resampling: where voxels come to lie, and that values stay with their place in mm."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.processing import resample_from_to
from scipy import ndimage

from bidsrep.imaging.grids import Grid, bounding_box, crop, reference_grid, to_ras, uncrop
from bidsrep.imaging.resample import (
    _interpolate,
    antialias_sigma,
    coverage,
    resample,
    resample_brain,
    resample_labels,
    resample_mask,
    voxel_map,
)
from bidsrep.imaging.volume import Volume

SHAPE = (30, 26, 12)
# Axes P, S, R with 1, 1.5 and 3 mm, tilted by up to 10 degrees: a typical sagittal clinical scan.
PSR = np.array([[0, 0, 3.0], [-1.0, 0, 0], [0, 1.5, 0]])
OBLIQUE = from_matvec(euler2mat(0.1, -0.15, 0.17) @ PSR, [-20, 30, -10])
MOVE = from_matvec(euler2mat(0.05, 0.1, -0.07), [2.5, -1.0, 3.0])


def ramp(grid) -> Volume:
    """An image whose value is a linear function of the position in mm."""
    positions = apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))
    return Volume(positions @ [1.0, 2.0, 3.0] + 500, grid.affine)


@pytest.fixture
def scan() -> Volume:
    return ramp(Grid(SHAPE, OBLIQUE))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "AIL", "SLP"])
def test_to_ras_keeps_every_value_at_its_place(axes):
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), SHAPE)
    volume = to_ras(ramp(Grid(SHAPE, affine)))
    assert nib.aff2axcodes(volume.affine) == tuple("RAS")
    assert np.allclose(volume.data, ramp(volume).data)


@pytest.mark.parametrize("spacing", [1.0, 0.7, 2.0])
def test_reference_grid_is_ras_isotropic_and_perpendicular(scan, spacing):
    grid = reference_grid(scan, spacing=spacing)
    assert nib.aff2axcodes(grid.affine) == tuple("RAS")
    gram = grid.affine[:3, :3].T @ grid.affine[:3, :3]
    assert np.allclose(gram, np.eye(3) * spacing**2, atol=1e-10)


def test_reference_grid_holds_the_mask_and_its_margin(scan):
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 5:18, 4:9] = True
    tight, wide = reference_grid(scan, mask, margin=0), reference_grid(scan, mask, margin=10)
    assert resample_mask(mask, scan, tight).sum() * 1.0 == pytest.approx(mask.sum() * 4.5, rel=0.05)
    assert (np.array(wide.shape) - tight.shape >= 19).all()
    assert (np.array(wide.shape) - tight.shape <= 22).all()
    assert np.allclose(wide.center(), tight.center(), atol=1.0)


def test_reference_grid_of_a_1mm_scan_only_copies():
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt("LPS"), SHAPE)
    volume = Volume(np.random.default_rng(0).normal(size=SHAPE), affine @ from_matvec(np.eye(3), [0.3, 0, 0]))
    mask = np.zeros(SHAPE, bool)
    mask[5:20, 6:18, 3:8] = True
    moved = resample(volume, reference_grid(volume, mask, margin=3))
    assert np.array_equal(moved.data, to_ras(volume).data[7:28, 5:23, 0:11])


def test_shears_are_not_carried_into_the_grid():
    sheared = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    grid = reference_grid(Grid(SHAPE, sheared))
    assert np.allclose(grid.affine[:3, :3].T @ grid.affine[:3, :3], np.eye(3), atol=1e-10)
    inside = resample(ramp(Grid(SHAPE, sheared)), grid, antialias=False).data
    assert np.allclose(inside[4:-4, 4:-4, 3:-3], ramp(grid).data[4:-4, 4:-4, 3:-3], atol=1e-2)


def test_grid_round_trip_through_a_file(scan, tmp_path):
    grid = Grid.load(scan.save(tmp_path / "a.nii.gz"))
    assert grid.shape == SHAPE
    assert np.allclose(grid.affine, OBLIQUE, atol=1e-5)


def test_crop_and_uncrop():
    volume = ramp(Grid(SHAPE, OBLIQUE))
    mask = np.zeros(SHAPE, bool)
    mask[3:9, 20:25, 6] = True
    box = bounding_box(mask, margin=2)
    part = crop(volume, box)
    assert part.shape == (10, 8, 5)
    assert np.allclose(part.data, ramp(part).data)
    back = uncrop(part.data, box, SHAPE)
    assert back.shape == SHAPE
    assert np.array_equal(back[mask], volume.data[mask])


def test_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros(SHAPE, bool))


@pytest.mark.parametrize("spacing", [1.0, 2.5])
@pytest.mark.parametrize("matrix", [None, MOVE])
@pytest.mark.parametrize("order", [1, 3])
def test_resampling_keeps_values_at_their_place(scan, matrix, order, spacing):
    grid = reference_grid(scan, spacing=spacing)
    moved = resample(scan, grid, matrix, order=order)
    physical = np.eye(4) if matrix is None else matrix
    expected = ramp(Grid(grid.shape, physical @ grid.affine)).data
    # Away from the faces: there the edge value is held, and the spline rings.
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    index = apply_affine(voxel_map(scan, grid, matrix), index)
    inner = ((index > 4) & (index < np.array(SHAPE) - 5)).all(axis=-1)
    assert inner.sum() > 50
    assert np.allclose(moved.data[inner], expected[inner], atol=0.1 if order == 1 else 1.5)


@pytest.mark.parametrize("order", [0, 1])
def test_agrees_with_nibabel(order):
    volume = Volume(np.random.default_rng(1).normal(size=SHAPE), OBLIQUE)
    grid = reference_grid(volume)
    ours = resample(volume, grid, order=order, antialias=False).data
    theirs = resample_from_to(
        nib.Nifti1Image(volume.data, volume.affine), (grid.shape, grid.affine), order=order, cval=0.0
    ).get_fdata()
    both = theirs != 0  # nibabel ends at the outer voxels' centres, we at their faces
    assert both.sum() > 0.5 * both.size
    assert np.allclose(ours[both], theirs[both], atol=1e-4)


@pytest.mark.parametrize("matrix", [None, MOVE])
def test_some_voxels_are_those_of_the_whole(matrix):
    volume = Volume(np.random.default_rng(1).random(SHAPE), OBLIQUE)
    grid = reference_grid(volume)
    inside = np.random.default_rng(2).random(grid.shape) < 0.3
    for order in (1, 3):
        whole = resample(volume, grid, matrix, order=order).data
        some = resample(volume, grid, matrix, order=order, inside=inside).data
        assert np.array_equal(some, np.where(inside, whole, 0))
        assert whole.min() >= 0
        assert whole.max() <= volume.data.max() + 1e-6


def test_a_scan_on_its_own_grid_is_copied():
    volume = Volume(np.random.default_rng(1).random(SHAPE), OBLIQUE)
    assert np.array_equal(resample(volume, to_ras(volume), order=3).data, to_ras(volume).data)


def test_thick_slices_keep_more_of_a_curve_than_between_straight_lines():
    height = np.arange(48.0)
    fine = np.broadcast_to(2 + np.sin(2 * np.pi * height / 14), (6, 6, 48))
    thick = Volume(fine.reshape(6, 6, 16, 3).mean(-1), np.diag([1.0, 1, 3, 1]))
    grid = Grid((6, 6, 48), from_matvec(np.eye(3), [0, 0, -1]))
    mask = thick.replace(np.ones(thick.shape))
    moved, inside = resample_brain(thick, mask, grid)
    assert inside.all()
    straight = resample(thick, grid).data
    curved, straight = (np.abs(image - fine)[..., 6:-6].mean() for image in (moved.data, straight))
    assert curved < 0.7 * straight


def test_zero_outside_the_field_of_view(scan):
    far = from_matvec(np.eye(3), [500, 0, 0])
    assert not resample(scan, scan, far).data.any()
    assert coverage(scan, scan).all()
    assert not coverage(scan, scan, far).any()


def test_coverage_is_the_volume_of_the_box(scan):
    grid = reference_grid(scan, spacing=0.8)
    assert coverage(scan, grid).sum() * 0.8**3 == pytest.approx(np.prod(SHAPE) * 4.5, rel=0.03)


def test_no_filter_where_nothing_is_lost(scan):
    assert not antialias_sigma(np.diag([1.0, 0.5, 1 / 3, 1])).any()
    assert not antialias_sigma(from_matvec(euler2mat(0.3, 0.4, 0.5), [0, 0, 0])).any()


def test_filter_matches_the_point_spread_functions():
    sigma = antialias_sigma(np.diag([4.0, 1.0, 2.0, 1]))
    assert sigma == pytest.approx([np.sqrt(15) / 2.3548, 0, np.sqrt(3) / 2.3548], rel=1e-4)


def test_filter_removes_what_the_coarse_grid_cannot_hold():
    stripes = np.zeros((48, 48, 48), np.float32)
    stripes[::2] = 1
    fine = Volume(stripes, np.eye(4))
    coarse = Grid((12, 12, 12), np.diag([4.0, 4, 4, 1]))
    assert resample(fine, coarse, antialias=False).data.max() == 1
    inner = resample(fine, coarse).data[2:-2, 2:-2, 2:-2]
    assert np.allclose(inner, 0.5, atol=0.02)


def test_labels_stay_labels_and_masks_stay_masks(scan):
    labels = np.random.default_rng(0).choice([0, 4, 1002], SHAPE).astype(np.int16)
    grid = reference_grid(scan)
    moved = resample_labels(labels, scan, grid)
    assert moved.dtype == np.int16
    assert set(np.unique(moved)) == {0, 4, 1002}
    assert resample_mask(labels > 0, scan, grid).dtype == bool
    with pytest.raises(ValueError, match="float32"):
        resample_labels(labels.astype(np.int64) + 2**25, scan, grid)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_axis_by_axis_gives_what_the_general_way_gives(seed, order):
    rng = np.random.default_rng(seed)
    data = rng.random(tuple(rng.integers(1, 20, 3)), dtype=np.float32)
    shape = tuple(int(n) for n in rng.integers(1, 20, 3))
    voxels = np.eye(4)
    voxels[:3, :3] = np.diag(rng.choice([-1, 1], 3) * rng.uniform(0.3, 3, 3))[rng.permutation(3)]
    voxels[:3, 3] = rng.uniform(-3, 20, 3)
    general = {"output_shape": shape, "output": np.float32, "order": order, "mode": "nearest"}
    wanted = ndimage.affine_transform(data, voxels[:3, :3], voxels[:3, 3], **general)
    np.testing.assert_allclose(_interpolate(data, shape, voxels, order), wanted, atol=1e-6)


def test_a_grid_that_is_turned_by_rounding_errors_is_not_oblique_and_copies_values():
    data = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    voxels = np.eye(4) + 1e-12 * np.arange(16).reshape(4, 4) % 7e-12
    voxels[:3, 3] = np.round(voxels[:3, 3])
    voxels[0, 0] = voxels[1, 1] = voxels[2, 2] = 1
    assert (_interpolate(data, SHAPE, voxels, 1) == data).all()
