"""Displacement fields: the same map for us, nitransforms and ANTs; composed, inverted, applied."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat

from bidsrep.errors import ImageError
from bidsrep.imaging.deformable import DisplacementField
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.resample import resample
from bidsrep.imaging.volume import Volume

SHAPE = (18, 20, 16)
# Oblique, anisotropic, the first axis mirrored: what LPS and RAS, axes and world can be mistaken in.
AFFINE = from_matvec(euler2mat(0.2, -0.1, 0.3) @ np.diag([-2.0, 2.5, 3.0]), [20.0, -30.0, -15.0])
GRID = Grid(SHAPE, AFFINE)
MATRIX = from_matvec(euler2mat(0.05, 0.1, -0.08) @ np.diag([1.05, 0.95, 1.1]), [3.0, -2.0, 4.0])


def smooth(seed: int, size: float = 3.0) -> np.ndarray:
    """Draw (X, Y, Z, 3) of slow waves of about `size` mm, small at the border."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(0, np.pi, n) for n in SHAPE]
    bump = np.einsum("i,j,k->ijk", *[np.sin(axis) for axis in axes])
    x, y, z = np.meshgrid(*axes, indexing="ij")
    phases = rng.uniform(0, 6, (3, 3))
    waves = [np.sin(x + a) + np.cos(y + b) + np.sin(z + c) for a, b, c in phases]
    return (size / 2 * bump[..., None] * np.stack(waves, axis=-1)).astype(np.float32)


def scan() -> Volume:
    """A blurred pattern on another grid, large enough for every position to be inside."""
    data = np.add.outer(
        np.add.outer(np.sin(np.arange(60) / 6), np.cos(np.arange(64) / 5)), np.arange(50) / 20
    )
    affine = from_matvec(euler2mat(0.0, 0.2, 0.1) @ np.diag([2.0, 2.0, 2.0]), [0.0, 0.0, 0.0])
    middle = GRID.center() - apply_affine(affine, (np.array(data.shape) - 1) / 2)
    affine[:3, 3] = middle
    return Volume(data, affine)


def test_round_trip_keeps_every_bit(tmp_path):
    field = DisplacementField(smooth(0), AFFINE)
    path = field.save(tmp_path / "sub" / "x_xfm.nii.gz")
    back = DisplacementField.load(path)
    assert np.array_equal(back.data, field.data)
    assert np.allclose(back.affine, AFFINE, atol=1e-5)
    assert [p.name for p in path.parent.iterdir()] == ["x_xfm.nii.gz"]


def test_the_file_is_a_vector_image_in_lps(tmp_path):
    data = np.zeros((*SHAPE, 3))
    data[..., :] = (1.0, 2.0, 3.0)  # right, anterior, superior
    image = nib.load(DisplacementField(data, AFFINE).save(tmp_path / "x.nii.gz"))
    assert image.shape == (*SHAPE, 1, 3)
    assert image.header.get_intent()[0] == "vector"
    assert np.array_equal(image.get_fdata()[0, 0, 0, 0], (-1.0, -2.0, 3.0))


def test_two_saves_give_the_same_bytes(tmp_path):
    field = DisplacementField(smooth(0), AFFINE)
    one, two = (field.save(tmp_path / f"{n}.nii.gz").read_bytes() for n in "ab")
    assert one == two


def test_nitransforms_maps_points_alike(tmp_path):
    nitransforms = pytest.importorskip("nitransforms")
    field = DisplacementField(smooth(1), AFFINE)
    theirs = nitransforms.nonlinear.load(field.save(tmp_path / "x.nii.gz"), fmt="itk")
    voxels = np.array([[3, 4, 5], [10, 9, 8], [14, 16, 11]])
    wanted = field.positions()[tuple(voxels.T)]
    assert np.abs(wanted - apply_affine(AFFINE, voxels)).max() > 1
    assert np.allclose(theirs.map(apply_affine(AFFINE, voxels)), wanted, atol=1e-3)


def test_ants_resamples_alike(tmp_path):
    ants = pytest.importorskip("ants")
    from bidsrep.imaging._ants import to_ants

    field, moving = DisplacementField(smooth(2), AFFINE).then(MATRIX), scan()
    path = str(field.save(tmp_path / "x.nii.gz"))
    fixed = Volume(np.zeros(SHAPE), AFFINE)
    theirs = ants.apply_transforms(to_ants(fixed), to_ants(moving), [path], interpolator="linear").numpy()
    ours = field.resample(moving).data
    assert ours.std() > 0.3
    assert np.abs(theirs - ours).max() < 1e-3
    assert np.abs(resample(moving, GRID).data - ours).max() > 0.1


def test_displacements_along_the_axes_are_turned_to_the_world():
    along = np.zeros((3, *SHAPE))
    along[1] = 5.0  # mm along the second axis: two voxels
    field = DisplacementField.along_axes(along, GRID)
    voxels = apply_affine(np.linalg.inv(AFFINE), field.positions()[4, 5, 6])
    assert np.allclose(voxels, (4, 7, 6), atol=1e-4)


def test_a_field_of_zeros_resamples_as_the_identity():
    field, moving = DisplacementField(np.zeros((*SHAPE, 3)), AFFINE), scan()
    still = resample(moving, GRID, antialias=False)
    assert np.allclose(field.resample(moving).data, still.data, atol=1e-3)


def test_labels_are_kept_by_nearest_neighbour():
    labels = Volume((np.indices((60, 64, 50)).sum(axis=0) // 9 % 4).astype(float), scan().affine)
    moved = DisplacementField(smooth(3), AFFINE).resample(labels, order=0)
    assert set(np.unique(moved.data)) == {0, 1, 2, 3}


def test_outside_the_field_of_view_is_zero():
    far = DisplacementField(np.full((*SHAPE, 3), 500.0), AFFINE)
    assert not far.resample(scan()).data.any()


def test_a_linear_map_before_and_after_is_that_of_points():
    field = DisplacementField(smooth(4), AFFINE)
    voxel = (7, 8, 9)
    assert np.allclose(field.then(MATRIX).positions()[voxel], apply_affine(MATRIX, field.positions()[voxel]))
    before = from_matvec(np.eye(3), AFFINE[:3, :3] @ (1, 0, 0))  # one voxel along the first axis
    assert np.allclose(field.after(before, GRID).positions()[6, 8, 9], field.positions()[voxel], atol=1e-3)


def test_jacobian_of_a_linear_map_is_its_determinant():
    field = DisplacementField(np.zeros((*SHAPE, 3)), AFFINE).then(MATRIX)
    assert np.allclose(field.jacobian(), np.linalg.det(MATRIX[:3, :3]), atol=1e-3)


def test_jacobian_finds_folds():
    data = np.zeros((*SHAPE, 3))
    data[9:, ..., :] = 3 * AFFINE[:3, 0] * -1  # the far half jumps back by three voxels
    folded = DisplacementField(data, AFFINE).jacobian() <= 0
    assert folded[8:10].all()
    assert not folded[:7].any()


@pytest.mark.parametrize("shape", [(*SHAPE, 2), SHAPE])
def test_data_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(X, Y, Z, 3\)"):
        DisplacementField(np.zeros(shape), AFFINE)


def _scalar(path):
    nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE).to_filename(path)


def _series(path):
    nib.Nifti1Image(np.zeros((*SHAPE, 3), np.float32), AFFINE).to_filename(path)


def _infinite(path):
    data = np.zeros((*SHAPE, 1, 3), np.float32)
    data[3, 3, 3] = np.nan
    nib.Nifti1Image(data, AFFINE).to_filename(path)


def _truncated(path):
    whole = DisplacementField(smooth(0), AFFINE).save(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_scalar, "not a displacement field"),
        (_series, "not a displacement field"),
        (_infinite, "not finite"),
        (_truncated, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, make, problem):
    path = tmp_path / "bad_xfm.nii.gz"
    make(path)
    with pytest.raises(ImageError, match=rf"bad_xfm\.nii\.gz.*{problem}"):
        DisplacementField.load(path)
