"""ITK transforms: the same map for us, nitransforms and ANTs."""

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat

from bidsrep.errors import InputError
from bidsrep.imaging.transforms import displacement_mm, read_itk, rotation_deg, write_itk

RIGID = from_matvec(euler2mat(0.1, -0.2, 0.3), [4, -5, 6])
AFFINE = RIGID @ np.array([[1.1, 0.05, 0, 0], [0, 0.9, 0.02, 0], [0, 0, 1.2, 0], [0, 0, 0, 1]])
POINTS = np.random.default_rng(0).uniform(-80, 80, (20, 3))
LPS = np.diag([-1, -1, 1])

FILE = """#Insight Transform File V1.0
#Transform 0
Transform: {}
Parameters: {}
FixedParameters: {}
"""


@pytest.mark.parametrize("matrix", [np.eye(4), RIGID, AFFINE])
def test_round_trip(tmp_path, matrix):
    path = write_itk(tmp_path / "sub" / "x.txt", matrix)
    assert np.array_equal(read_itk(path), matrix)
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


def test_nitransforms_maps_points_alike(tmp_path):
    nitransforms = pytest.importorskip("nitransforms")
    theirs = nitransforms.linear.load(write_itk(tmp_path / "x.txt", AFFINE), fmt="itk")
    assert np.allclose(theirs.map(POINTS), apply_affine(AFFINE, POINTS))


def test_we_read_what_nitransforms_writes(tmp_path):
    nitransforms = pytest.importorskip("nitransforms")
    nitransforms.linear.Affine(AFFINE).to_filename(tmp_path / "x.tfm", fmt="itk")
    assert np.allclose(read_itk(tmp_path / "x.tfm"), AFFINE, atol=1e-5)


def test_ants_maps_points_alike(tmp_path):
    ants = pytest.importorskip("ants")
    theirs = ants.read_transform(str(write_itk(tmp_path / "x.txt", AFFINE)))
    mapped = np.array([theirs.apply_to_point(list(p)) for p in POINTS @ LPS]) @ LPS
    assert np.allclose(mapped, apply_affine(AFFINE, POINTS), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("Euler3DTransform", [0.1, -0.2, 0.3, 1, 2, 3]),
        ("VersorRigid3DTransform", [0.1, -0.2, 0.3, 1, 2, 3]),
        ("Similarity3DTransform", [0.1, -0.2, 0.3, 1, 2, 3, 1.5]),
        ("AffineTransform", [*AFFINE[:3, :3].ravel(), 1, 2, 3]),
        ("MatrixOffsetTransformBase", [*AFFINE[:3, :3].ravel(), 1, 2, 3]),
    ],
)
def test_types_and_centre_mean_what_they_mean_to_itk(tmp_path, kind, parameters):
    ants = pytest.importorskip("ants")
    path = tmp_path / "x.txt"
    path.write_text(FILE.format(f"{kind}_double_3_3", " ".join(map(str, parameters)), "10 -20 30"))
    theirs = ants.read_transform(str(path))
    mapped = np.array([theirs.apply_to_point(list(p)) for p in POINTS @ LPS]) @ LPS
    assert np.allclose(mapped, apply_affine(read_itk(path), POINTS), atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a transform",
        FILE.format("BSplineTransform_double_3_3", "1 2 3", "0 0 0"),
        FILE.format("AffineTransform_double_3_3", "1 0 0", "0 0 0"),
        FILE.format("AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 x 0 0 0", "0 0 0"),
        FILE.format("AffineTransform_double_3_3", "0 0 0 0 0 0 0 0 0 0 0 0", "0 0 0"),
        FILE.format("AffineTransform_double_2_2", "1 0 0 1 0 0", "0 0"),
        FILE.format("TranslationTransform_double_3_3", "1 0 0", "") * 2,
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, text):
    path = tmp_path / "broken.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.txt: is not one linear ITK"):
        read_itk(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_itk(tmp_path / "none.txt")


def test_rotation_and_displacement():
    assert rotation_deg(from_matvec(euler2mat(0.3, 0, 0), [9, 9, 9])) == pytest.approx(np.degrees(0.3))
    shifted = from_matvec(np.eye(3), [3, 4, 0])
    assert np.allclose(displacement_mm(np.eye(4), shifted, POINTS), 5)
