"""Hashes of grids and voxels: they depend on the content of an image and on nothing else."""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bidsrep.bids.hashes import geometry_hash, gzip_crc, image_hashes


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.nii.gz"
    data = np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32)
    nib.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0])).to_filename(path)
    return path


@pytest.mark.parametrize("name", ["b.nii", "b.nii.gz"])
def test_compression_does_not_matter(image: Path, name: str) -> None:
    content = gzip.decompress(image.read_bytes())
    other = image.with_name(name)
    other.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    assert image_hashes(other) == image_hashes(image)
    assert other.read_bytes() != image.read_bytes()


def test_a_voxel_and_the_grid_are_told_apart(image: Path) -> None:
    first = image_hashes(image)
    volume = nib.load(image)
    data = volume.get_fdata(dtype=np.float32)
    data[1, 2, 3] += 1e-6
    nib.Nifti1Image(data, volume.affine).to_filename(image)
    second = image_hashes(image)
    assert first.geometry == second.geometry == geometry_hash(image)
    assert first.voxels != second.voxels
    nib.Nifti1Image(data, volume.affine * np.diag([-1, 1, 1, 1])).to_filename(image)
    assert geometry_hash(image) != first.geometry


def test_both_kinds_of_nifti_and_channels_are_read(image: Path) -> None:
    data = np.zeros((3, 4, 5, 2), np.int16)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        kind(data, np.eye(4)).to_filename(image)
        assert geometry_hash(image) == image_hashes(image).geometry


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"no image", b"\x00" * 600])
def test_what_is_no_image_has_no_hash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    assert image_hashes(path) is None
    assert geometry_hash(path) is None


def test_a_truncated_image_has_a_grid_only(image: Path) -> None:
    whole = image_hashes(image)
    image.with_name("whole.nii.gz").write_bytes(image.read_bytes())
    image.write_bytes(image.read_bytes()[:-100])
    assert image_hashes(image) is None
    assert geometry_hash(image) == whole.geometry
    plain = image.with_name("b.nii")
    nib.load(image.with_name("whole.nii.gz")).to_filename(plain)
    plain.write_bytes(plain.read_bytes()[:-1])
    assert image_hashes(plain) is None


def test_the_checksum_in_a_gzip_file_is_that_of_its_content(image: Path) -> None:
    assert gzip_crc(image) == f"{zlib.crc32(gzip.decompress(image.read_bytes())):08x}"
    assert gzip_crc(Path(__file__)) is None
    image.write_bytes(b"1")
    assert gzip_crc(image) is None
