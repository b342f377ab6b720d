"""Displacement fields: non-linear transforms on disk, composed with linear ones, and applied.

In memory a field adds to every voxel centre of the fixed image the way to the moving image, in RAS+ mm: the
direction in which images are resampled. On disk it is what ITK, ANTs, 3D Slicer and nitransforms read: a
NIfTI vector image ``(X, Y, Z, 1, 3)`` in LPS+ mm, BIDS suffix ``xfm`` with the extension ``.nii.gz``.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from bidsrep.errors import ImageError
from bidsrep.imaging._write import write_whole
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.volume import Volume, _compress

VECTOR_INTENT = "vector"  # NIFTI_INTENT_VECTOR, 1007
NOT_A_FIELD = "is not a displacement field: its shape is {}, not (X, Y, Z, 1, 3)"
NOT_FINITE = "holds displacements that are not finite"
UNREADABLE = "cannot be read ({})"
REMEDY = "Give a displacement field as ITK and ANTs write it (.nii.gz)"
_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class DisplacementField:
    """A map from positions in the fixed to positions in the moving image.

    Parameters
    ----------
    data : ndarray, (X, Y, Z, 3), float32
        What to add to the position of each voxel centre, RAS+ mm.
    affine : ndarray, (4, 4)
        Voxel indices of the field to RAS+ mm of the fixed image.
    """

    data: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        data = np.asarray(self.data, dtype=np.float32)
        if data.ndim != 4 or data.shape[3] != 3:
            msg = f"A displacement field is (X, Y, Z, 3), got {data.shape}"
            raise ValueError(msg)
        object.__setattr__(self, "data", data)

    @classmethod
    def along_axes(cls, displacement: np.ndarray, grid: Grid) -> DisplacementField:
        """Turn displacements along the axes of a grid, (3, X, Y, Z) in mm, to RAS+."""
        directions = grid.affine[:3, :3] / grid.spacing
        return cls(np.einsum("ij,jxyz->xyzi", directions, displacement), grid.affine)

    @property
    def grid(self) -> Grid:
        """Where the field is known."""
        x, y, z = self.data.shape[:3]
        return Grid((x, y, z), self.affine)

    def positions(self) -> np.ndarray:
        """Where each voxel centre goes: (X, Y, Z, 3), RAS+ mm of the moving image."""
        return _centers(self.grid) + self.data

    def then(self, matrix: np.ndarray) -> DisplacementField:
        """The field followed by a linear map (4, 4) of the moving image, as one field on the same grid."""
        moved = apply_affine(matrix, self.positions())
        return DisplacementField(moved - _centers(self.grid), self.affine)

    def after(self, matrix: np.ndarray, grid: Grid) -> DisplacementField:
        """The field preceded by a linear map (4, 4) from `grid` to the field's image, as one field on `grid`.

        Beyond its own grid the field counts as its nearest value.
        """
        centers = _centers(grid)
        start = apply_affine(matrix, centers)
        voxels = apply_affine(np.linalg.inv(self.affine), start)
        shift = [_at(self.data[..., axis], voxels, order=1) for axis in range(3)]
        return DisplacementField(start + np.stack(shift, axis=-1) - centers, grid.affine)

    def jacobian(self) -> np.ndarray:
        """Determinant of the map's Jacobian (X, Y, Z): the local change of volume; folded where it is not positive."""
        gradients = np.stack([np.stack(np.gradient(self.data[..., i]), axis=-1) for i in range(3)], axis=-2)
        local = np.eye(3) + gradients @ np.linalg.inv(self.affine[:3, :3])
        return np.linalg.det(local)

    def resample(self, source: Volume, order: int = 1) -> Volume:
        """Interpolate `source` where the field's voxels come from; 0 outside its field of view.

        ``order`` as in `bidsrep.imaging.resample.resample`; nothing is smoothed before.
        """
        voxels = apply_affine(np.linalg.inv(source.affine), self.positions())
        values = _at(source.data, voxels, order)
        inside = ((voxels >= -0.5) & (voxels <= np.asarray(source.shape) - 0.5)).all(axis=-1)
        return Volume(np.where(inside, values, 0.0), self.affine)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the field as ITK has it; the same field always gives the same bytes, whole or not at all."""
        image = nib.Nifti1Image((self.data * _LPS).astype(np.float32)[..., None, :], self.affine)
        image.header.set_intent(VECTOR_INTENT)
        image.header.set_xyzt_units("mm")
        image.set_sform(self.affine, code=1)
        image.set_qform(self.affine, code=1)
        path = Path(path)
        payload = image.to_bytes()
        write_whole(path, _compress(payload) if path.name.endswith(".gz") else payload)
        return path

    @classmethod
    def load(cls, path: str | PathLike[str]) -> DisplacementField:
        """Read a displacement field of ITK.

        Raises
        ------
        ImageError
            If the file cannot be read or is none.
        """
        try:
            image = nib.load(path)
            data = np.asanyarray(image.dataobj, dtype=np.float32)
        except Exception as error:  # whatever a broken file makes a decoder raise
            problem = UNREADABLE.format(" ".join(str(error).split()) or type(error).__name__)
            raise ImageError(path, problem, REMEDY) from error
        if data.ndim != 5 or data.shape[3:] != (1, 3):
            raise ImageError(path, NOT_A_FIELD.format(data.shape), REMEDY)
        if not np.isfinite(data).all():
            raise ImageError(path, NOT_FINITE, REMEDY)
        return cls(data[..., 0, :] * _LPS, image.affine)


def _centers(grid: Grid) -> np.ndarray:
    """Voxel centres of a grid: (X, Y, Z, 3), RAS+ mm."""
    return apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))


def _at(data: np.ndarray, voxels: np.ndarray, order: int) -> np.ndarray:
    """Interpolate (X, Y, Z) at voxel indices (..., 3); edge values are held."""
    return ndimage.map_coordinates(
        data, np.moveaxis(voxels, -1, 0), output=np.float32, order=order, mode="nearest"
    )
