"""A three-dimensional image in memory: an array and the affine that says where its voxels are."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np

from bidsrep.errors import ImageError
from bidsrep.imaging._write import write_whole

NOT_3D = "is not a 3D image (shape {})"
UNREADABLE = "cannot be read ({})"
REMEDY_3D = "Give one 3D image per file"
REMEDY_UNREADABLE = "Fetch or copy the file again"


@dataclass(frozen=True)
class Volume:
    """One 3D image.

    Parameters
    ----------
    data : ndarray, (X, Y, Z), float32
        Intensities; axis order and direction are those of `affine`.
    affine : ndarray, (4, 4), float64
        Maps voxel indices to RAS+ mm.
    """

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        data = np.asarray(self.data, dtype=np.float32)
        affine = np.asarray(self.affine, dtype=np.float64)
        if data.ndim != 3 or affine.shape != (4, 4):
            msg = f"A volume is a 3D array with a (4, 4) affine, got {data.shape} with {affine.shape}"
            raise ValueError(msg)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of voxels along each axis."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along each axis: (3,), mm."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in ml (volume of the parallelepiped, so shears count)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def replace(self, data: np.ndarray) -> "Volume":
        """Return other values on the same grid; `data` is (X, Y, Z) of the same shape."""
        if np.shape(data) != self.shape:
            msg = f"The grid has {self.shape} voxels, the array {np.shape(data)}"
            raise ValueError(msg)
        return Volume(data, self.affine)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Volume":
        """Read a sane 3D image (or of one volume), e.g. one this package wrote; `conform` is for everything else."""
        try:
            image = nib.load(path)
            data = np.asanyarray(image.dataobj, dtype=np.float32)
            affine = image.affine
        except Exception as error:  # whatever a broken file makes a decoder raise
            problem = UNREADABLE.format(" ".join(str(error).split()) or type(error).__name__)
            raise ImageError(path, problem, REMEDY_UNREADABLE) from error
        if data.ndim > 3 and all(length == 1 for length in data.shape[3:]):
            data = data.reshape(data.shape[:3])
        if data.ndim != 3:
            raise ImageError(path, NOT_3D.format(data.shape), REMEDY_3D)
        return cls(data, affine)

    def save(
        self, path: str | PathLike[str], dtype: type | np.dtype | str = np.float32, atomic: bool = True
    ) -> Path:
        """Write NIfTI (``.nii`` or ``.nii.gz``); the same volume always gives the same bytes.

        Parameters
        ----------
        path : path-like
            The target; its folder is made where it is missing.
        dtype : dtype
            Type on disk. Integers are rounded and clipped to the type's range, and stored
            without scale factors.
        atomic : bool
            Write beside the target and rename, so that nobody ever sees half a file.
        """
        path = Path(path)
        payload = self.to_bytes(dtype)
        if path.name.endswith(".gz"):
            payload = _compress(payload)
        if atomic:
            write_whole(path, payload)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload)
        return path

    def to_bytes(self, dtype: type | np.dtype | str = np.float32) -> bytes:
        """Return the uncompressed NIfTI file as bytes."""
        dtype = np.dtype(dtype)
        data = self.data
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            data = np.clip(np.rint(data), limits.min, limits.max)
        image = nib.Nifti1Image(data.astype(dtype), self.affine, dtype=dtype)
        image.header.set_xyzt_units("mm")
        image.set_sform(self.affine, code=1)
        image.set_qform(self.affine, code=1)
        return image.to_bytes()


def _compress(payload: bytes) -> bytes:
    """Gzip without a time stamp; ISA-L is 15 times faster than zlib at about the same size."""
    compress: Callable[..., bytes]
    try:
        from isal.igzip import compress
    except ImportError:
        return gzip.compress(payload, compresslevel=1, mtime=0)
    return compress(payload, compresslevel=2, mtime=0)
