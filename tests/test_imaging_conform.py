"""`conform`: what is repaired, what is refused and in which words, and that inputs stay untouched."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from bidsrep.errors import ImageError
from bidsrep.imaging import _geometry
from bidsrep.imaging import conform as module
from bidsrep.imaging.conform import conform

SHAPE = (40, 44, 36)
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, 0.3) * [2.0, 2.0, 2.0], [-40, 20, 5])


def head(shape=SHAPE, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 200, shape).astype(dtype)


def write(path, data=None, affine=None, **fields):
    """Write a NIfTI file and afterwards overwrite header fields without nibabel's consistency checks."""
    image = nib.Nifti1Image(
        head() if data is None else data, np.diag([2, 2, 2, 1]) if affine is None else affine
    )
    if "units" in fields:
        image.header.set_xyzt_units(fields.pop("units"))
    payload = bytearray(image.to_bytes())
    header = np.ndarray((), image.header.template_dtype, payload)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(bytes(payload), 1) if path.name.endswith(".gz") else bytes(payload))
    return path


def sform_rows(affine) -> dict:
    return dict(zip(("srow_x", "srow_y", "srow_z"), np.asarray(affine)[:3], strict=True))


def refusal(path) -> str:
    with pytest.raises(ImageError) as caught:
        conform(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_sane_image_passes_unchanged(tmp_path):
    volume, report = conform(write(tmp_path / "a.nii.gz", affine=OBLIQUE))
    assert np.array_equal(volume.data, head())
    assert np.allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert report["warnings"] == []
    assert report["affine_source"] == "sform"
    assert report["spacing_mm"] == [2, 2, 2]
    assert report["oblique_deg"] > 5


def test_input_is_not_written_to(tmp_path):
    path = write(tmp_path / "a.nii", np.where(head() > 190, np.nan, head()), units="meter")
    before = path.read_bytes()
    path.chmod(0o444)
    conform(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("factor", [0.5, 1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_scale_factors_are_applied(tmp_path, dtype, factor):
    volume, _ = conform(write(tmp_path / "a.nii", head(dtype=dtype), scl_slope=factor, scl_inter=7))
    assert np.allclose(volume.data, head(dtype=dtype).astype(float) * factor + 7, rtol=1e-6)


def test_nifti2_and_trailing_axes(tmp_path):
    nib.save(nib.Nifti2Image(head((*SHAPE, 1, 1)), OBLIQUE), tmp_path / "a.nii.gz")
    volume, report = conform(tmp_path / "a.nii.gz")
    assert volume.shape == SHAPE
    assert "reduced" in report["warnings"][0]


def test_nonfinite_voxels_become_zero_with_a_warning(tmp_path):
    data = head()
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    volume, report = conform(write(tmp_path / "a.nii", data))
    assert volume.data[0, 0, :3].tolist() == [0, 0, 0]
    assert report["warnings"] == [module.WARN_NONFINITE.format(3)]


@pytest.mark.parametrize("slope", [1e38, 1e-38])
def test_scale_factors_beyond_float32_are_divided_out(tmp_path, slope):
    volume, report = conform(write(tmp_path / "a.nii", head(dtype=np.int16), scl_slope=slope, scl_inter=0))
    assert volume.data.max() == pytest.approx(1000)
    assert np.corrcoef(volume.data.ravel(), head(dtype=np.int16).ravel())[0, 1] > 0.999
    assert "do not fit float32" in report["warnings"][0]


@pytest.mark.parametrize("slope", [np.nan, np.inf, 0])
def test_unusable_scale_factors_are_ignored(tmp_path, slope):
    volume, _ = conform(write(tmp_path / "a.nii", head(dtype=np.int16), scl_slope=slope, scl_inter=0))
    assert np.array_equal(volume.data, head(dtype=np.int16))


def test_unusable_intercept_is_refused(tmp_path):
    path = write(tmp_path / "a.nii", head(dtype=np.int16), scl_slope=1, scl_inter=np.nan)
    assert "invalid intercept" in refusal(path)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((40, 44), "not a 3D image"), ((40, 44, 1), "not a 3D image"), ((10, 10, 10, 3), "3 volumes")],
)
def test_other_dimensions_are_refused(tmp_path, shape, words):
    assert words in refusal(write(tmp_path / "a.nii", head(shape)))


def test_colour_and_complex_are_refused(tmp_path):
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "RGB" in refusal(write(tmp_path / "rgb.nii", colour))
    assert "complex" in refusal(write(tmp_path / "c.nii", head().astype(np.complex64)))


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_image_without_content_is_refused(tmp_path, value):
    words = "no finite value" if np.isnan(value) else f"is constant: every voxel is {value}"
    assert words in refusal(write(tmp_path / "a.nii", np.full(SHAPE, value, np.float32)))


def test_nearly_constant_image_is_refused(tmp_path):
    data = np.zeros(SHAPE, np.float32)
    data[3, 3, 3] = 1
    assert "nearly constant" in refusal(write(tmp_path / "a.nii", data))
    assert "nearly constant" in refusal(write(tmp_path / "a.nii", 1 - data))


def test_missing_empty_and_dangling_files_are_told_apart(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.nii.gz")
    assert "is not a file" in refusal(tmp_path)
    (tmp_path / "empty.nii.gz").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.nii.gz")
    (tmp_path / "annex.nii.gz").symlink_to(".git/annex/objects/nowhere")
    assert "datalad get" in refusal(tmp_path / "annex.nii.gz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "Git LFS pointer"),
        (b"/annex/objects/MD5E-s12--ab.nii.gz\n", "git-annex pointer"),
        (b"<html>not found</html>" * 100, "not a NIfTI image"),
    ],
)
def test_files_that_are_no_image(tmp_path, content, words):
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert words in refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("keep", [20, 5000, -8])
def test_truncated_gzip_is_refused_even_if_only_its_checksum_is_gone(tmp_path, keep):
    path = write(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:keep])
    assert "cut short" in refusal(path)


def test_damaged_gzip_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8:-4] = b"\0\0\0\0"
    path.write_bytes(content)
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_fewer_voxels_than_announced_is_refused(tmp_path, name):
    payload = write(tmp_path / "full.nii").read_bytes()[:-1000]
    (tmp_path / name).write_bytes(gzip.compress(payload) if name.endswith("gz") else payload)
    assert "cut short" in refusal(tmp_path / name)


def test_compression_is_recognised_by_content(tmp_path):
    plain = write(tmp_path / "plain.nii").read_bytes()
    (tmp_path / "wrong.nii.gz").write_bytes(plain)
    (tmp_path / "wrong.nii").write_bytes(gzip.compress(plain))
    for name in ("wrong.nii.gz", "wrong.nii"):
        volume, report = conform(tmp_path / name)
        assert np.array_equal(volume.data, head())
        assert len(report["warnings"]) == 1


@pytest.mark.parametrize(
    "matrix", [np.zeros((4, 4)), np.diag([2, 2, 0, 1]), np.full((4, 4), np.nan), np.ones((4, 4))]
)
def test_unusable_affine_is_refused(tmp_path, matrix):
    path = write(tmp_path / "a.nii", qform_code=0, sform_code=1, **sform_rows(matrix))
    assert "no usable affine" in refusal(path)


def test_qform_stands_in_for_a_broken_sform(tmp_path):
    path = write(tmp_path / "a.nii", affine=OBLIQUE, qform_code=1, **sform_rows(np.zeros((4, 4))))
    volume, report = conform(path)
    assert report["affine_source"] == "qform"
    assert np.allclose(volume.affine, OBLIQUE, atol=1e-4)
    assert "sform is not usable" in report["warnings"][0]


def test_invalid_quaternion_leaves_the_sform(tmp_path):
    path = write(tmp_path / "a.nii", qform_code=1, quatern_b=3.0)
    _, report = conform(path)
    assert report["affine_source"] == "sform"
    assert "quaternion" in report["warnings"][0]


def test_conflicting_forms_say_which_is_used(tmp_path):
    shifted = np.diag([2.0, 2, 2, 1])
    shifted[0, 3] = 30
    volume, report = conform(write(tmp_path / "a.nii", qform_code=1, **sform_rows(shifted)))
    assert report["warnings"] == [_geometry.WARN_CONFLICT.format(30, "sform", "")]
    assert np.array_equal(volume.affine, shifted)


def test_sform_that_contradicts_the_voxel_size_loses(tmp_path):
    _, report = conform(write(tmp_path / "a.nii", qform_code=1, **sform_rows(np.eye(4))))
    assert report["affine_source"] == "qform"
    assert report["spacing_mm"] == [2, 2, 2]
    assert "voxel sizes are not those of pixdim" in report["warnings"][0]


def test_no_form_at_all_is_used_with_a_warning(tmp_path):
    _, report = conform(write(tmp_path / "a.nii", sform_code=0, qform_code=0))
    assert report["affine_source"] == "pixdim"
    assert "left and right" in report["warnings"][0]


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e3), ("micron", 1e-3)])
@pytest.mark.parametrize("declared", [True, False])
def test_other_units_become_millimetres(tmp_path, unit, factor, declared):
    affine = np.diag([1 / factor, 1 / factor, 1 / factor, 1]) @ OBLIQUE
    path = write(tmp_path / "a.nii", affine=affine, units=unit if declared else "mm")
    volume, report = conform(path)
    assert np.allclose(volume.affine, OBLIQUE, rtol=1e-4, atol=1e-4)
    assert report["units"] == unit
    assert len(report["warnings"]) == 1


def test_wrong_unit_code_is_overruled(tmp_path):
    volume, report = conform(write(tmp_path / "a.nii", units="meter"))
    assert np.allclose(volume.spacing, 2)
    assert "make sense only in mm" in report["warnings"][0]


def test_impossible_voxel_size_is_refused(tmp_path):
    assert "impossible voxel sizes" in refusal(write(tmp_path / "a.nii", affine=np.diag([1, 1, 300, 1])))


@pytest.mark.parametrize("flips", [(-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_mirrored_axes_are_kept_as_they_are(tmp_path, flips):
    affine = OBLIQUE @ np.diag([*flips, 1])
    volume, report = conform(write(tmp_path / "a.nii.gz", affine=affine))
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert report["warnings"] == []


def test_unusual_fields_of_view_are_reported(tmp_path):
    _, slab = conform(write(tmp_path / "slab.nii", head((40, 44, 5))))
    assert "part of a head" in slab["warnings"][0]
    _, far = conform(write(tmp_path / "far.nii", head((40, 44, 36)), affine=np.diag([2, 2, 18, 1])))
    assert "far more than a head" in far["warnings"][0]


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.nii")
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    assert "Permission denied" in refusal(path)
