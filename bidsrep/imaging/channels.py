"""Images with many channels on disk: a 4D NIfTI file of scaled 16-bit integers, written channel by channel."""

import gzip
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np

LARGEST = 32767


class Channels(Protocol):
    """Images of one grid, gone through twice: an array (C, X, Y, Z), or what makes one after the other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, and voxels along each axis."""

    def __iter__(self) -> Iterator[np.ndarray]: ...


def save_channels(path: str | PathLike[str], channels: Channels, affine: np.ndarray) -> Path:
    """Write channels (C, X, Y, Z) as ``.nii.gz`` with shape (X, Y, Z, C); the same array, the same bytes.

    NIfTI has no half precision, and full precision takes twice the room for digits that mean nothing:
    values are stored as integers with one scale factor, to 1/32767 of the largest.

    Parameters
    ----------
    path : path-like
        The target.
    channels : ndarray or Channels, (C, X, Y, Z), float
        What to write.
    affine : ndarray, (4, 4)
        Voxel indices to RAS+ mm.
    """
    path = Path(path)
    peak = max((float(np.abs(channel).max(initial=0)) for channel in channels), default=0.0)
    slope = peak / LARGEST if peak > 0 else 1.0
    image = nib.Nifti1Image(np.empty((*channels.shape[1:], 0), np.int16), affine)
    header = image.header
    header.set_data_shape((*channels.shape[1:], channels.shape[0]))
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_slope_inter(slope, 0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with path.open("wb") as raw, _open_gzip(raw) as stream:
        stream.write(header.binaryblock + bytes(4))
        for channel in channels:
            stream.write(np.rint(channel / slope).astype("<i2").tobytes(order="F"))
    return path


def _open_gzip(raw):  # noqa: ANN001, ANN202 (one of two classes of file objects)
    """Open a gzip stream without a name and time stamp, with ISA-L where it is installed."""
    try:
        from isal import igzip
    except ImportError:
        return gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0)
    return igzip.IGzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0)
