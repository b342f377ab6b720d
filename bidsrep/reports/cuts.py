"""Flat cuts through volumes, as a radiology report shows them.

A cut is planned along the axes of one image (its *frame*) and may be taken from any other: each is
sampled where it lies, through its own affine, so nothing has to be resampled beforehand.
Neurological convention: the patient's left is on the left of axial and coronal cuts, anterior is up
on axial and right on sagittal ones. Tiles are (rows, columns), the first row on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np

from bidsrep.imaging.grids import Grid
from bidsrep.imaging.resample import resample
from bidsrep.imaging.volume import Volume

View = Literal["axial", "coronal", "sagittal"]
AXES: dict[View, tuple[int, int, int]] = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
"""For every view: the frame axis it cuts across, then those drawn to the right and up."""

LETTER: dict[View, str] = {"axial": "z", "coronal": "y", "sagittal": "x"}
SIDES: dict[View, tuple[str, str]] = {"axial": ("L", "R"), "coronal": ("L", "R"), "sagittal": ("P", "A")}


@dataclass(frozen=True)
class Frame:
    """The axes figures are cut along: those of an image, in RAS order, in mm from its first voxel.

    `affine` (4, 4) maps frame mm to RAS+ mm; `spacing` and `size` (3,) are the voxel size and the
    distance between the first and the last voxel centre, both in mm along the frame's axes.
    """

    affine: np.ndarray
    spacing: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, image: Volume | Grid) -> "Frame":
        """Make the frame of an image; its axes are reordered and flipped towards RAS."""
        ornt = nib.io_orientation(image.affine)
        affine = image.affine @ nib.orientations.inv_ornt_aff(ornt, image.shape)
        spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        shape = np.asarray(image.shape)[np.argsort(ornt[:, 0])]
        return cls(affine @ np.diag([*1 / spacing, 1.0]), spacing, (shape - 1) * spacing)

    def extent(self, inside: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Return the lowest and highest frame coordinates of a mask's voxel centres: (2, 3), mm.

        `inside` is a boolean (X, Y, Z) on the grid of `affine`; the whole frame if it is empty.
        """
        if not inside.any():
            return np.array([np.zeros(3), self.size])
        ranges = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
        corners = np.stack(np.meshgrid(*ranges, indexing="ij")).reshape(3, -1).T
        points = nib.affines.apply_affine(np.linalg.inv(self.affine) @ affine, corners)
        return np.array([points.min(axis=0), points.max(axis=0)])


@dataclass(frozen=True)
class Cut:
    """One cut: a view, where it lies along the frame's normal axis, and the window it shows (mm).

    `window` is (left, right, bottom, top) in the frame's coordinates.
    """

    frame: Frame
    view: View
    position: float
    window: tuple[float, float, float, float]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in mm."""
        left, right, bottom, top = self.window
        return right - left, top - bottom

    @property
    def world(self) -> float:
        """The RAS+ coordinate (mm) of the window's middle along the axis that is cut across."""
        normal, across, up = AXES[self.view]
        point = np.zeros(3)
        left, right, bottom, top = self.window
        point[[normal, across, up]] = self.position, (left + right) / 2, (bottom + top) / 2
        return float(nib.affines.apply_affine(self.frame.affine, point)[normal])

    def sample(
        self, volume: Volume, pixel: float, matrix: np.ndarray | None = None, order: int = 1
    ) -> np.ndarray:
        """Take the cut from a volume: (rows, columns) float32, 0 outside its field of view.

        Parameters
        ----------
        volume : Volume
            On any grid.
        pixel : float
            Size of a pixel, mm.
        matrix : ndarray, (4, 4), optional
            RAS+ mm of the frame's image to RAS+ mm of the volume, if they are not aligned.
        order : int
            0 nearest neighbour, 1 linear.
        """
        normal, across, up = AXES[self.view]
        width, height = (max(round(mm / pixel), 1) for mm in self.size)
        step = np.zeros((4, 4))
        step[across, 0] = step[up, 1] = pixel
        step[normal, 2] = min(volume.spacing)  # as thin as a voxel: no smoothing across the cut
        step[[normal, across, up], 3] = self.position, self.window[0] + pixel / 2, self.window[2] + pixel / 2
        step[3, 3] = 1
        plane = Grid((width, height, 1), self.frame.affine @ step)
        return resample(volume, plane, matrix, order=order).data[:, ::-1, 0].T


def plan(
    frame: Frame, view: View, count: int, box: np.ndarray, window_box: np.ndarray | None = None
) -> list[Cut]:
    """Spread `count` cuts of one view evenly through a box, each through the centres of voxels.

    Parameters
    ----------
    box : ndarray, (2, 3)
        What is to be cut (the brain): lowest and highest frame coordinates, mm.
    window_box : ndarray, (2, 3), optional
        What every cut shows; `box` where it is left out.
    """
    normal = AXES[view][0]
    low, high = box[:, normal]
    wanted = np.linspace(low, high, count + 2)[1:-1] if count > 1 else np.array([(low + high) / 2])
    return cuts_at(frame, view, wanted, box if window_box is None else window_box)


def cuts_at(frame: Frame, view: View, positions: Sequence[float] | np.ndarray, box: np.ndarray) -> list[Cut]:
    """Make cuts at given positions (mm along the normal axis), snapped to voxel centres; see `plan`."""
    normal, across, up = AXES[view]
    spacing = frame.spacing[normal]
    (left, bottom), (right, top) = box[0][[across, up]], box[1][[across, up]]
    window = (float(left), float(right), float(bottom), float(top))
    return [Cut(frame, view, float(np.round(p / spacing) * spacing), window) for p in positions]


def head_box(volume: Volume, frame: Frame, brain: np.ndarray, margin: float = 4.0) -> np.ndarray:
    """Find what a figure of a whole head should show: (2, 3), lowest and highest frame coordinates, mm.

    The head is where the image is brighter than a tenth of its 99th percentile, less the few voxels
    of noise and ghosts; `brain` is a box that is shown in any case. `margin` in mm.
    """
    bright = volume.data > 0.1 * np.percentile(volume.data[::2, ::2], 99)
    for axis in range(3):
        # a slice with less than 2 % of the fullest slice's bright voxels is air
        counts = bright.sum(axis=tuple({0, 1, 2} - {axis}))
        empty = np.flatnonzero(counts < 0.02 * counts.max(initial=1))
        index: list[slice | np.ndarray] = [slice(None)] * 3
        index[axis] = empty
        bright[tuple(index)] = False
    box = frame.extent(bright, volume.affine)
    low = np.minimum(box[0], brain[0]) - margin
    high = np.maximum(box[1], brain[1]) + margin
    return np.array([np.maximum(low, -frame.spacing / 2), np.minimum(high, frame.size + frame.spacing / 2)])
