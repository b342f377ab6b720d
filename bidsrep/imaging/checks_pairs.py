"""What two images of one head on one grid tell of faults: a mirror image, and where they disagree.

Arrays are (X, Y, Z) on a RAS grid of about 1 mm; masks are bool.
"""

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from bidsrep.imaging.checks import block_mean
from bidsrep.imaging.mutual import Points, align
from bidsrep.imaging.volume import Volume

COARSE_MM = 2.0  # sulci tell left from right; they are seen at this size
SMOOTH = 4.0  # mm FWHM at which images are compared
STEP = 4  # every fourth coarse voxel along every axis is compared
BLOB_MM = 3.0  # what disagreement is averaged over: noise and the last millimetre of an edge are none
STRONG = 0.4  # of the acquired image's peak
ENOUGH = 0.95  # of a block must be brain: at the surface two masks differ


def mirror_gain(fixed: Volume, moving: Volume, mask: np.ndarray) -> float:
    """Return how well a scan fits another one once it is mirrored left to right, compared with as it is.

    Both are registered and on one grid; the mirror image is registered here, rigidly, from a reflection
    about the middle of the brain. The fit is normalised mutual information less 1. Below 1: not mirrored;
    above: one of the two is the mirror image of the head. Which one cannot be told, and two scans that
    are both mirrored look right.
    """
    brain, fixed, moving = _halved_mask(fixed, mask), _halved(fixed), _halved(moving)
    sparse = np.zeros_like(brain)
    sparse[::STEP, ::STEP, ::STEP] = brain[::STEP, ::STEP, ::STEP]
    if not sparse.any():
        return float("nan")
    center = apply_affine(fixed.affine, np.argwhere(brain)).mean(axis=0)
    across = fixed.affine[:3, 0] / np.linalg.norm(fixed.affine[:3, 0])
    reflection = np.eye(3) - 2 * np.outer(across, across)
    start = from_matvec(reflection, center - reflection @ center)
    points = Points.draw(fixed, moving, sparse, SMOOTH, 0)
    mirrored = align(fixed, moving, sparse, start, (SMOOTH,))
    as_is = points.information(np.eye(4))[1] - 1.0
    return (points.information(mirrored)[1] - 1.0) / as_is if as_is > 0 else float("nan")


def largest_disagreement(
    error: np.ndarray, mask: np.ndarray, spacing: Sequence[float] | np.ndarray, strong: float = STRONG
) -> float:
    """Return the volume of the largest piece of the brain in which two images differ strongly, ml.

    Parameters
    ----------
    error : ndarray, (X, Y, Z)
        Acquired less predicted, as a fraction of the acquired image's peak.
    mask : ndarray of bool, (X, Y, Z)
        Where to compare.
    spacing : 3 of float
        Voxel size, mm.
    strong : float
        What averages over 3 mm must differ by; too bright and too dark are pieces of their own.
    """
    x, y, z = (max(1, round(BLOB_MM / size)) for size in spacing)
    means = block_mean(np.where(mask, error, 0), (x, y, z))
    means[block_mean(mask, (x, y, z)) < ENOUGH] = 0
    pieces = [ndimage.label(sign * means > strong)[0] for sign in (1, -1)]
    largest = max(int(np.bincount(labels.ravel())[1:].max(initial=0)) for labels in pieces)
    return largest * float(np.prod(spacing)) * x * y * z / 1000.0


def _factor(volume: Volume) -> tuple[int, int, int]:
    x, y, z = (max(1, round(COARSE_MM / size)) for size in volume.spacing)
    return x, y, z


def _halved(volume: Volume) -> Volume:
    factor = _factor(volume)
    affine = volume.affine.copy()
    affine[:3, :3] *= factor
    affine[:3, 3] += volume.affine[:3, :3] @ ((np.array(factor) - 1) / 2)
    return Volume(block_mean(volume.data, factor), affine)


def _halved_mask(volume: Volume, mask: np.ndarray) -> np.ndarray:
    return block_mean(mask, _factor(volume)) > 0.5
