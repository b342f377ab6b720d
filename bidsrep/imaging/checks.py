"""What a scan and its brain mask tell of faults, on the scan's own grid: numbers, no verdicts.

Arrays are (X, Y, Z); `mask` is the brain (bool). Nothing here knows an anatomy: see `checks_anatomy`.
What cannot be told of a scan is NaN. Half a second for a whole head of 10 million voxels.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bidsrep.imaging.grids import bounding_box
from bidsrep.imaging.volume import Volume

BLOCK_MM = 3.0  # what coarse images are averaged to, where the scan is finer
NOISE_LAG_MM = 1.0  # scanners interpolate: neighbouring voxels share their noise
MAD_TO_SIGMA = 1.4826  # of a normal distribution
HEAD = 0.35  # of the brain's median: above all ghosts but those that nobody overlooks
HEAD_MM = 25.0  # around the brain are skull and scalp, however dark
AIR_MARGIN = 2  # blocks kept from what is bright
LEAST_AIR = 200  # blocks beside the head
UNTOUCHED_AIR = 0.2  # of the air has a signal at all; many scanners, and defacing, set it to 0


@dataclass(frozen=True)
class Blocks:
    """A scan averaged over blocks of whole voxels of about 3 mm, axes as they are.

    Parameters
    ----------
    image, brain : ndarray, (X', Y', Z')
        Mean intensity, and the part of the block that is brain.
    factor : tuple of int
        Voxels per block along each axis.
    """

    image: np.ndarray
    brain: np.ndarray
    factor: tuple[int, int, int]

    @classmethod
    def of(cls, scan: Volume, mask: np.ndarray, size_mm: float = BLOCK_MM) -> "Blocks":
        """Average a scan over its blocks; blocks that are not whole at the far ends are left out."""
        x, y, z = (max(1, round(size_mm / spacing)) for spacing in scan.spacing)
        return cls(block_mean(scan.data, (x, y, z)), block_mean(mask, (x, y, z)), (x, y, z))


def block_mean(array: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """Average over blocks of ``factor`` voxels: (X // fx, Y // fy, Z // fz), float32."""
    means = array
    for axis, (size, f) in enumerate(zip(array.shape, factor, strict=True)):
        ways = [(slice(None),) * axis + (slice(at, size // f * f, f),) for at in range(f)]
        total = means[ways[0]].astype(
            np.float32
        )  # planes added to planes: for cubes a quarter of the time of `mean`
        for way in ways[1:]:
            total += means[way]
        means = total / np.float32(f) if f > 1 else total
    return means


def check_scan(scan: Volume, mask: np.ndarray) -> dict[str, float]:
    """Measure what may be wrong with a scan or its mask; see the functions of this module.

    Returns
    -------
    dict
        ``mask_pieces``, ``mask_border``, ``flat``, ``noise``, ``ghosting``.
    """
    blocks = Blocks.of(scan, mask)
    box = bounding_box(mask, margin=1)
    data, inside = scan.data[box], mask[box]
    plane = in_plane(scan.spacing)
    contrast = tissue_contrast(blocks)
    return {
        "mask_pieces": loose_fraction(mask[box]),
        "mask_border": border_fraction(mask, scan.spacing),
        "flat": flat_fraction(data, inside, plane),
        "noise": noise_sd(data, inside, scan.spacing) / contrast if contrast > 0 else float("nan"),
        "ghosting": ghosting(scan, blocks),
    }


def in_plane(spacing: np.ndarray) -> tuple[int, int]:
    """Return the two axes with the smallest voxels: those of the slices, where there are slices."""
    first, second = sorted(np.argsort(np.round(spacing, 2), kind="stable")[:2])
    return int(first), int(second)


def loose_fraction(mask: np.ndarray) -> float:
    """Return the part of a mask that does not hang together with its largest piece by faces."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return 0.0
    sizes = np.bincount(labels.ravel())[1:]
    return 1.0 - float(sizes.max()) / float(sizes.sum())


def border_fraction(mask: np.ndarray, spacing: np.ndarray) -> float:
    """Return the part of a mask's surface that lies on the faces of the image: there it is cut off.

    The surface is that of the voxels: areas of faces between inside and outside, mm².
    """
    cut = total = 0.0
    for axis, area in enumerate(np.prod(spacing) / spacing):
        first, last = np.moveaxis(mask, axis, 0)[[0, -1]]
        ends = np.count_nonzero(first) + np.count_nonzero(last)
        lower = mask[(slice(None),) * axis + (slice(None, -1),)]
        upper = mask[(slice(None),) * axis + (slice(1, None),)]
        cut += area * ends
        total += area * (ends + np.count_nonzero(lower != upper))
    return cut / total if total else float("nan")


def flat_fraction(data: np.ndarray, mask: np.ndarray, plane: tuple[int, int]) -> float:
    """Return the part of the brain whose voxels equal all four neighbours in the slice exactly.

    Measured images have noise, so that this is rare in them; slices and slabs that were blanked, lost or
    painted are constant.
    """
    equal = mask.copy()
    for axis in plane:
        same = np.zeros(data.shape, dtype=bool)
        lower = (slice(None),) * axis + (slice(None, -1),)
        same[lower] = data[lower] == data[(slice(None),) * axis + (slice(1, None),)]
        equal &= same & _shifted(same, axis, 1)
    return float(equal.sum()) / max(float(mask.sum()), 1.0)


def noise_sd(data: np.ndarray, mask: np.ndarray, spacing: np.ndarray) -> float:
    """Estimate the standard deviation of the noise inside the brain, in units of intensity.

    The difference of two Laplacians (Immerkær, CVIU 1996, eq. 3), a 3x3 filter that is blind to planes
    and to edges along the axes, over the slices; voxels 1 mm apart, for scanners interpolate. Its median
    absolute value instead of its mean leaves the anatomy out.
    """
    first, second = in_plane(spacing)
    inside, values = mask, data
    for axis in (first, second):
        lag = max(1, round(NOISE_LAG_MM / spacing[axis]))
        if values.shape[axis] <= 2 * lag:
            return float("nan")
        before, here, after = (
            (slice(None),) * axis + (part,)
            for part in (slice(None, -2 * lag), slice(lag, -lag), slice(2 * lag, None))
        )
        values = values[before] - 2 * values[here] + values[after]
        inside = inside[before] & inside[here] & inside[after]
    if not inside.any():
        return float("nan")
    return MAD_TO_SIGMA * float(np.median(np.abs(values[inside]))) / 6.0


def tissue_contrast(blocks: Blocks) -> float:
    """Return the range of the brain's intensities (5th to 95th percentile), averaged over 3 mm blocks."""
    inside = blocks.image[blocks.brain > 0.95]
    return float(np.subtract(*np.percentile(inside, [95, 5]))) if inside.size else 0.0


def ghosting(scan: Volume, blocks: Blocks) -> float:
    """Return by how much the air beside the brain is brighter along one axis than along the other.

    As a fraction of the brain's median. Ghosts of a head that moved lie along the axis of phase encoding,
    noise everywhere: the idea of the ghost-to-signal ratio (Giannelli et al., JACMP 2010), for an axis
    that is not known. Looked at is the upper half of the brain, where there is no face, and the axes that
    are not the one nearest to head to foot. NaN where there is no air: it was cut off, or set to zero.
    """
    inside = blocks.brain > 0.5
    middle = float(np.median(blocks.image[inside])) if inside.any() else 0.0
    if middle <= 0:
        return float("nan")
    near = ndimage.distance_transform_edt(~inside, sampling=scan.spacing * blocks.factor) < HEAD_MM
    bright = ndimage.binary_dilation(blocks.image > HEAD * middle, iterations=AIR_MARGIN)
    upright = int(np.argmax(np.abs(scan.affine[2, :3] / scan.spacing)))
    air = ~near & ~bright & _upper_half(inside, upright, scan.affine[2, upright] > 0)
    if not _untouched(scan.data, air, blocks.factor):
        return float("nan")
    means = []
    for axis in {0, 1, 2} - {upright}:
        beside = air & np.expand_dims(inside.any(axis=axis), axis)
        if np.count_nonzero(beside) >= LEAST_AIR:
            means.append(float(blocks.image[beside].mean()))
    return (max(means) - min(means)) / middle if len(means) > 1 else float("nan")


def _upper_half(brain: np.ndarray, axis: int, rising: bool) -> np.ndarray:
    """Return the slices from the brain's middle to its top, along `axis`: shape (X, 1, 1) or like it."""
    others = tuple(a for a in range(3) if a != axis)
    slices = np.flatnonzero(brain.any(axis=others))
    middle = (slices[0] + slices[-1]) / 2
    index = np.arange(brain.shape[axis])
    upper = (index >= middle) & (index <= slices[-1]) if rising else (index <= middle) & (index >= slices[0])
    return np.expand_dims(upper, others)


def _untouched(data: np.ndarray, air: np.ndarray, factor: tuple[int, int, int]) -> bool:
    """Tell whether the air holds noise: one voxel of every block of it is looked at."""
    sampled = data[tuple(slice(f // 2, f * n, f) for f, n in zip(factor, air.shape, strict=True))]
    values = sampled[air]
    return bool(values.size) and float((values != 0).mean()) > UNTOUCHED_AIR


def _shifted(mask: np.ndarray, axis: int, steps: int) -> np.ndarray:
    """Move a mask along an axis; what comes in from outside is False."""
    moved = np.zeros_like(mask)
    size = mask.shape[axis]
    if abs(steps) < size:
        source = slice(max(-steps, 0), size - max(steps, 0))
        target = slice(max(steps, 0), size - max(-steps, 0))
        moved[(slice(None),) * axis + (target,)] = mask[(slice(None),) * axis + (source,)]
    return moved
