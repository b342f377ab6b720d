"""Where the brain is: already stripped images, a distance network, a template, or SynthStrip.

Every function takes a volume on its native grid and returns a mask (bool, same grid).
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from bidsrep.errors import InputError
from bidsrep.imaging.grids import bounding_box, reference_grid, uncrop
from bidsrep.imaging.normalise import normalise_head
from bidsrep.imaging.resample import resample, resample_mask
from bidsrep.imaging.volume import Volume

NO_BRAIN = "No brain was found in the image. Give a mask with --derivatives, or exclude the image"
WARN_VOLUME = "the brain mask holds {:.0f} ml; expected are {:.0f} to {:.0f}: look at it"

PLAUSIBLE_ML = (700.0, 2200.0)  # from a child to the largest adult; intracranial
MIN_NETWORK_VOXELS = 16

# What tells a stripped brain from a head, on a 3 mm grid. Measured on 44 scans of 6 sets: brains have
# 1,070 to 1,530 ml and at most 1 % dark voxels in the shell; heads at least 2,300 ml and 6 %.
_STRIPPED_SPACING = 3.0  # mm
_MAX_BRAIN_ML = 2100.0
_SHELL_MM = (3.0, 15.0)  # below the surface: scalp and skull of a head, cortex of a brain
_DARK = 0.25  # of the 60th percentile inside
_MAX_DARK_FRACTION = 0.04
_CLOSING_MM = 2.0
_AIR = 0.02  # of the 99.5th percentile: resampling leaves ripples around a stripped brain


def is_stripped(volume: Volume) -> bool:
    """Tell whether everything but the brain was already removed from an image.

    Two things must hold, for either alone can deceive (a defaced or cut head is small, a fat-free
    head has no bright rim): what is not background is no larger than a brain, and the first 15 mm
    below its surface hold no dark layer, which is what a skull is in every contrast.
    """
    magnitude = _above_background(volume)
    bright = magnitude > _AIR * _top(magnitude)
    grid = reference_grid(volume, None, spacing=_STRIPPED_SPACING)
    head = ndimage.binary_fill_holes(_largest(ndimage.binary_opening(resample_mask(bright, volume, grid))))
    if not head.any() or head.sum() * _STRIPPED_SPACING**3 / 1000.0 > _MAX_BRAIN_ML:
        return False
    values = resample(volume.replace(magnitude), grid).data
    # Padding: the faces of the field of view are surface too.
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1, 1:-1] * _STRIPPED_SPACING
    shell = (depth > _SHELL_MM[0]) & (depth < _SHELL_MM[1])
    if not shell.any():
        return False
    return float((values[shell] < _DARK * np.percentile(values[head], 60)).mean()) <= _MAX_DARK_FRACTION


def mask_from_nonzero(volume: Volume) -> np.ndarray:
    """Return the mask of an image that is already stripped: all that is not background, without holes."""
    magnitude = _above_background(volume)
    inside = _largest(magnitude > 0.5 * _AIR * _top(magnitude))
    if not inside.any():
        raise InputError(NO_BRAIN)
    # Close what dark fluid at the surface opened, 2 mm wide, along axes that are fine enough.
    radius = np.floor(_CLOSING_MM / volume.spacing).astype(int)
    box = bounding_box(inside)
    room = np.pad(inside[box], [(r, r) for r in radius]).astype(np.uint8)
    closed = ndimage.minimum_filter(ndimage.maximum_filter(room, size=2 * radius + 1), size=2 * radius + 1)
    trimmed = closed[tuple(slice(r, n - r) for r, n in zip(radius, room.shape, strict=True))]
    return uncrop(ndimage.binary_fill_holes(trimmed), box, volume.shape)


def network_input(volume: Volume, resolution: float) -> Volume:
    """Prepare a whole head for the distance network: RAS, `resolution` mm, intensities in [0, 1].

    At least 16 voxels along every axis; zeros are added at the far ends where the scan has fewer.
    """
    grid = reference_grid(volume, None, spacing=resolution)
    head = resample(volume, grid)
    missing = [(0, max(0, MIN_NETWORK_VOXELS - n)) for n in head.shape]
    return Volume(np.pad(normalise_head(head.data), missing), head.affine)


def mask_from_distance(distance: Volume, native: Volume, threshold: float = 0.0) -> np.ndarray:
    """Turn a map of distances to the brain's surface into a mask on the native grid.

    Parameters
    ----------
    distance : Volume
        Signed distance in mm, positive inside the brain, on the network's grid.
    native : Volume
        The scan.
    threshold : float
        The mask is where the distance exceeds it, mm: negative for a looser mask.
    """
    # Outside the network's grid the resampled distance is 0: shift, so that 0 means "outside".
    lifted = distance.replace(np.maximum(distance.data - threshold, -100.0) + 1000.0)
    moved = resample(lifted, native, antialias=False).data
    return _checked(ndimage.binary_fill_holes(_largest(moved > 1000.0)))


def network_mask(
    volume: Volume,
    distance_fn: Callable[[np.ndarray], np.ndarray],
    resolution: float,
    threshold: float = 0.0,
) -> np.ndarray:
    """Find the brain with a network: `distance_fn` maps (X, Y, Z) in [0, 1] to distances in mm.

    The distance is positive inside; `resolution` is the voxel size the network was trained at, mm.
    """
    head = network_input(volume, resolution)
    return mask_from_distance(head.replace(distance_fn(head.data)), volume, threshold)


def mask_warnings(mask: np.ndarray, volume: Volume) -> list[str]:
    """Say what is suspicious about a brain mask: an implausible size."""
    ml = float(mask.sum()) * volume.voxel_ml
    if PLAUSIBLE_ML[0] <= ml <= PLAUSIBLE_ML[1]:
        return []
    return [WARN_VOLUME.format(ml, *PLAUSIBLE_ML)]


def _checked(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        raise InputError(NO_BRAIN)
    return mask


def _largest(mask: np.ndarray) -> np.ndarray:
    """Keep the largest piece (voxels that share a face)."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def _above_background(volume: Volume) -> np.ndarray:
    """Return intensity minus background; the background is the most frequent value, if one stands out.

    What is darker counts as background: resampling leaves a dark halo around a stripped brain.
    """
    values, counts = np.unique(volume.data[::2, ::2, ::2], return_counts=True)
    frequent = counts.argmax()
    background = values[frequent] if counts[frequent] > 0.15 * counts.sum() else 0.0
    return np.maximum(volume.data - background, 0.0)


def _top(magnitude: np.ndarray) -> float:
    positive = magnitude[magnitude > 0]
    return float(np.percentile(positive, 99.5)) if positive.size else 0.0
