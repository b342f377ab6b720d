"""`Volume`: geometry, and files that are whole, repeatable and unscaled."""

import nibabel as nib
import numpy as np
import pytest

from bidsrep.errors import ImageError
from bidsrep.imaging.volume import Volume


@pytest.fixture
def volume() -> Volume:
    affine = np.array([[0, 2.0, 0, -5], [-1.5, 0, 0, 7], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    return Volume(np.random.default_rng(0).normal(100, 20, (6, 7, 8)), affine)


def test_geometry(volume):
    assert volume.shape == (6, 7, 8)
    assert np.allclose(volume.spacing, [1.5, 2.0, 3.0])
    assert volume.voxel_ml == pytest.approx(0.009)
    assert volume.data.dtype == np.float32


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 1)])
def test_other_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="3D array"):
        Volume(np.zeros(shape), np.eye(4))


def test_replace_keeps_the_grid(volume):
    assert np.array_equal(volume.replace(volume.data * 2).affine, volume.affine)
    with pytest.raises(ValueError, match="grid"):
        volume.replace(np.zeros((2, 2, 2)))


@pytest.mark.parametrize("name", ["a.nii", "deep/folder/a.nii.gz"])
def test_float_round_trip_is_exact(volume, tmp_path, name):
    again = Volume.load(volume.save(tmp_path / name))
    assert np.array_equal(again.data, volume.data)
    assert np.allclose(again.affine, volume.affine)


def test_integers_are_rounded_and_clipped_without_scale_factors(tmp_path):
    volume = Volume(np.array([-3.0, 0.6, 254.4, 900.0]).reshape(4, 1, 1), np.eye(4))
    image = nib.load(volume.save(tmp_path / "m.nii.gz", np.uint8))
    assert image.get_data_dtype() == np.uint8
    assert image.dataobj.slope == 1
    assert np.asarray(image.dataobj).ravel().tolist() == [0, 1, 254, 255]


def test_header_says_millimetres_and_both_forms_agree(volume, tmp_path):
    image = nib.load(volume.save(tmp_path / "a.nii.gz"))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(image.get_qform(coded=True)[0], image.get_sform(coded=True)[0], atol=1e-5)


def test_same_volume_gives_same_bytes(volume, tmp_path):
    one, two = volume.save(tmp_path / "one.nii.gz"), volume.save(tmp_path / "two.nii.gz")
    assert one.read_bytes() == two.read_bytes()


def test_failed_write_leaves_the_old_file_and_no_rubbish(volume, tmp_path, monkeypatch):
    path = volume.save(tmp_path / "a.nii.gz")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        volume.replace(volume.data + 1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_unreadable_file_is_named(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"sub-01_T1w.nii.gz: cannot be read .*\. Fetch"):
        Volume.load(path)


def test_4d_file_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="not a 3D image"):
        Volume.load(tmp_path / "a.nii")
