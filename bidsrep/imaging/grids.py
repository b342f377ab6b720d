"""Grids: where the voxels of an image are to be, apart from what is in them.

A mask is a boolean array on the grid of its volume. Coordinates are RAS+ mm.
"""

from dataclasses import dataclass
from os import PathLike

import nibabel as nib
import numpy as np

from bidsrep.imaging.volume import Volume

EMPTY_MASK = "The mask is empty"


@dataclass(frozen=True)
class Grid:
    """The shape and affine of an image.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each axis.
    affine : ndarray, (4, 4)
        Voxel indices to RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @classmethod
    def of(cls, volume: "Volume | Grid") -> "Grid":
        """Return the grid a volume lies on."""
        return cls(volume.shape, volume.affine)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Grid":
        """Read the grid of a 3D image this package wrote, without its voxels."""
        image = nib.load(path)
        x, y, z = image.shape
        return cls((x, y, z), image.affine)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along each axis: (3,), mm."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))

    def center(self) -> np.ndarray:
        """Return the middle of the field of view: (3,), RAS+ mm."""
        return nib.affines.apply_affine(self.affine, (np.asarray(self.shape) - 1) / 2)


def to_ras(volume: Volume) -> Volume:
    """Flip and permute the axes so that indices grow towards right, anterior and superior.

    Exact: nothing is interpolated, and the affine follows.
    """
    ornt = nib.io_orientation(volume.affine)
    data = nib.apply_orientation(volume.data, ornt)
    return Volume(data, volume.affine @ nib.orientations.inv_ornt_aff(ornt, volume.shape))


def reference_grid(
    volume: Volume | Grid,
    mask: np.ndarray | None = None,
    spacing: float | tuple[float, float, float] = 1.0,
    margin: float = 10.0,
) -> Grid:
    """Return a RAS grid around the brain, aligned with the axes the scan was planned along.

    The axes are those of the scan, reordered and flipped to the nearest RAS order (scans are planned
    along the head; a scan's obliquity is thus kept in the affine, as in fMRIPrep's ``desc-preproc``),
    made exactly perpendicular where the affine has shears. Some voxel centres coincide with native
    ones, so that on an axis that already has the wanted spacing nothing is interpolated.

    Parameters
    ----------
    volume : Volume or Grid
        The reference scan.
    mask : ndarray of bool, (X, Y, Z), optional
        The brain on the scan's grid; without it the grid covers the whole field of view.
    spacing : float or 3 of them
        Voxel size along right, anterior, superior; mm.
    margin : float
        Kept around the mask on every side, mm. Outside the field of view there will be zeros.
    """
    # Low and high faces of the box, in native voxel indices (a voxel reaches from -0.5 to +0.5).
    if mask is None:
        low, high = np.full(3, -0.5), np.asarray(volume.shape) - 0.5
        margin = 0.0
    else:
        box = bounding_box(mask)
        low = np.array([s.start for s in box]) - 0.5
        high = np.array([s.stop for s in box]) - 0.5
    directions = _ras_directions(volume.affine)
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (high - low) + low
    # In the rotated frame: mm along each of the new axes.
    box_mm = nib.affines.apply_affine(volume.affine, corners) @ directions
    anchor = nib.affines.apply_affine(volume.affine, np.ceil(low)) @ directions
    step = np.broadcast_to(np.asarray(spacing, dtype=float), (3,))
    first = np.floor((box_mm.min(axis=0) - margin + step / 2 - anchor) / step + 1e-3).astype(int)
    last = np.ceil((box_mm.max(axis=0) + margin - step / 2 - anchor) / step - 1e-3).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = directions * step
    affine[:3, 3] = directions @ (anchor + first * step)
    x, y, z = (int(n) for n in last - first + 1)
    return Grid((x, y, z), affine)


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the slices that hold a mask, widened by `margin` voxels but not beyond the array."""
    if not mask.any():
        raise ValueError(EMPTY_MASK)
    slices = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        slices.append(slice(max(inside[0] - margin, 0), min(inside[-1] + 1 + margin, mask.shape[axis])))
    return slices[0], slices[1], slices[2]


def crop(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """Cut `box` out of a volume; every kept voxel stays where it is in mm."""
    start = [s.indices(n)[0] for s, n in zip(box, volume.shape, strict=True)]
    affine = volume.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(volume.affine, start)
    return Volume(volume.data[box], affine)


def uncrop(data: np.ndarray, box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> np.ndarray:
    """Put a cropped array (X', Y', Z', ...) back into zeros of the full `shape` (X, Y, Z)."""
    full = np.zeros((*shape[:3], *data.shape[3:]), dtype=data.dtype)
    full[box] = data
    return full


def pad_to_multiple(data: np.ndarray, multiple: int) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """Append zeros to (X, Y, Z) until every side is a multiple; also the slices that undo it.

    A UNet that halves odd sides and doubles them again shifts what its coarse levels see: on a side of
    79 voxels by two of them, on one of 80 not at all.
    """
    missing = [-side % multiple for side in data.shape]
    keep = (slice(data.shape[0]), slice(data.shape[1]), slice(data.shape[2]))
    return np.pad(data, [(0, extra) for extra in missing]), keep


def _ras_directions(affine: np.ndarray) -> np.ndarray:
    """Return the rotation whose columns are the scan's axes in RAS order, (3, 3).

    The nearest rotation to the direction cosines: the orthogonal factor of their polar decomposition.
    """
    ornt = nib.io_orientation(affine).astype(int)
    cosines = np.empty((3, 3))
    for voxel_axis, (world_axis, flip) in enumerate(ornt):
        column = affine[:3, voxel_axis]
        cosines[:, world_axis] = flip * column / np.linalg.norm(column)
    left, _, right = np.linalg.svd(cosines)
    rotation = left @ right
    rotation[np.abs(rotation) < 1e-7] = 0.0
    return rotation
