"""Images with many channels on disk."""

import nibabel as nib
import numpy as np

from bidsrep.imaging.channels import save_channels

AFFINE = np.array([[1.0, 0, 0, -3], [0, 2, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1]])
CHANNELS = np.random.default_rng(0).normal(0, 0.3, (5, 3, 4, 6)).astype(np.float32)


def test_values_come_back_to_a_part_in_thirty_thousand(tmp_path):
    image = nib.load(save_channels(tmp_path / "f.nii.gz", CHANNELS, AFFINE))
    again = np.moveaxis(image.get_fdata(), -1, 0)
    assert again.shape == CHANNELS.shape
    assert np.abs(again - CHANNELS).max() <= np.abs(CHANNELS).max() / 32767
    assert np.allclose(image.affine, AFFINE)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_zeros_are_zeros(tmp_path):
    image = nib.load(save_channels(tmp_path / "f.nii.gz", 0 * CHANNELS, AFFINE))
    assert not np.any(image.get_fdata())


def test_same_array_same_bytes(tmp_path):
    one, two = (save_channels(tmp_path / f"{n}.nii.gz", CHANNELS, AFFINE) for n in "ab")
    assert one.read_bytes() == two.read_bytes()
