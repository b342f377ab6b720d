"""What a scan's coarse resemblance to an average brain tells of faults: which way up, what is missing, which contrast.

The average is a 4 mm atlas of grey and white matter (ICBM 152 2009a, symmetric), made of the
maps that nilearn ships. Nothing finer is needed to tell top from bottom, and a scan is compared in a third of a
second. Arrays are (X, Y, Z); coordinates RAS+ mm; matrices (4, 4) map atlas to scan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations, product

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from bidsrep.imaging.checks import block_mean
from bidsrep.imaging.grids import Grid, bounding_box, crop, reference_grid
from bidsrep.imaging.mutual import Points, align
from bidsrep.imaging.quality import correlation, dice
from bidsrep.imaging.resample import coverage, resample
from bidsrep.imaging.transforms import rotation_deg
from bidsrep.imaging.volume import Volume

SPACING = 4.0  # mm, of the atlas
SMOOTH = 8.0  # mm FWHM at which intensities are compared
SPARSE = 2
ROOM = 8.0  # mm around the brain
FAR = 8.0  # mm from the atlas' surface; what people differ by after scaling stays below
TAILS = (2, 98)  # percentiles of a brain's intensities: their range is the unit of contrasts
CLEARLY = 0.015  # by so much another way up must score better than the header's
NOTHING = (float("nan"), float("nan"), 0.0)
FULL = 0.9  # of a voxel must be brain to count for the tissues


@dataclass(frozen=True)
class Atlas:
    """Grey and white matter of an average brain: parts of a voxel, (X, Y, Z), and the brain (bool)."""

    grey: np.ndarray
    white: np.ndarray
    brain: np.ndarray
    affine: np.ndarray

    @classmethod
    def make(cls) -> "Atlas":
        """Make it of the maps that nilearn ships."""
        from nilearn import datasets

        images = [
            load(resolution=1)
            for load in (
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
                datasets.load_mni152_brain_mask,
            )
        ]
        maps = [Volume(image.get_fdata(dtype=np.float32), image.affine) for image in images]
        grid = reference_grid(maps[2], maps[2].data > 0, spacing=SPACING, margin=ROOM)
        grey, white, brain = (np.clip(resample(one, grid).data, 0, 1) for one in maps)
        return cls(np.rint(grey * 255) / 255, np.rint(white * 255) / 255, brain > 0.5, grid.affine)

    @cached_property
    def image(self) -> Volume:
        """Something like a T1w: fluid 0.35, grey 0.7, white 1 (see `tissues`), 0 outside the brain."""
        fluid = np.clip(1 - self.grey - self.white, 0, 1)
        return Volume(np.where(self.brain, 0.35 * fluid + 0.7 * self.grey + self.white, 0), self.affine)

    @cached_property
    def sparse(self) -> np.ndarray:
        """Every second voxel of the brain along every axis: enough to compare places with."""
        chosen = np.zeros_like(self.brain)
        chosen[::SPARSE, ::SPARSE, ::SPARSE] = self.brain[::SPARSE, ::SPARSE, ::SPARSE]
        return chosen

    @cached_property
    def points(self) -> np.ndarray:
        """The middles of those voxels: (N, 3), RAS+ mm."""
        return apply_affine(self.affine, np.argwhere(self.sparse))

    @cached_property
    def depth(self) -> np.ndarray:
        """How far every voxel lies inside (positive) or outside the brain's surface, mm."""
        inside, outside = (ndimage.distance_transform_edt(mask) for mask in (self.brain, ~self.brain))
        return (inside - outside) * SPACING


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """The atlas, made once per process (two seconds)."""
    return Atlas.make()


@dataclass(frozen=True)
class Coarse:
    """A scan's brain on a 4 mm RAS grid: intensity (0 outside the mask), and the part that is brain."""

    image: Volume
    brain: Volume

    @classmethod
    def of(cls, scan: Volume, mask: np.ndarray) -> "Coarse":
        """Average over whole voxels, which is quick, then interpolate what little is left."""
        box = bounding_box(mask, margin=1)
        cut, inside = crop(scan, box), mask[box]
        x, y, z = (max(1, int(0.75 * SPACING / spacing + 0.01)) for spacing in scan.spacing)
        factor = (x, y, z)
        padding = [(0, -size % f) for size, f in zip(cut.shape, factor, strict=True)]
        affine = cut.affine.copy()
        affine[:3, :3] *= factor
        affine[:3, 3] += cut.affine[:3, :3] @ ((np.array(factor) - 1) / 2)
        blocks = [
            Volume(block_mean(np.pad(array, padding), factor), affine)
            for array in (np.where(inside, cut.data, 0), inside)
        ]
        grid = reference_grid(blocks[1], blocks[1].data > 0.5, spacing=SPACING, margin=ROOM)
        return cls(resample(blocks[0], grid), resample(blocks[1], grid))

    @property
    def mask(self) -> np.ndarray:
        """Where most of the voxel is brain."""
        return self.brain.data > 0.5


def check_anatomy(scan: Volume, mask: np.ndarray) -> dict[str, float]:
    """Compare a scan's brain with an average one.

    Returns
    -------
    dict
        ``orientation``, the angle between the header's axes and those of the head, degrees;
        ``anatomy``, the correlation of the scan with what the atlas explains of it (`fit_tissues`);
        ``mask_shape``, Dice's coefficient of mask and atlas;
        ``mask_excess`` and ``mask_missing``, the largest piece of the mask far outside the atlas, and of
        the atlas far outside the mask, ml;
        ``in_view``, the part of the atlas' brain inside the field of view;
        ``white_grey`` and ``fluid_grey``, how much brighter than grey matter white matter and fluid are,
        as a fraction of the range of the brain's intensities.
    """
    mean, coarse = atlas(), Coarse.of(scan, mask)
    if not coarse.mask.any():
        return {}
    matrix = place(coarse, mean)
    reshaped = _reshaped(coarse, mean, matrix)
    pulled = resample(coarse.brain, _grid(mean), reshaped, antialias=False).data
    white, fluid, explained = fit_tissues(coarse, mean, matrix)
    seen, should_see = (coverage(scan, _grid(mean), place) for place in (matrix, reshaped))
    return {
        "orientation": rotation_deg(from_matvec(nearest_rotation(matrix))),
        "anatomy": explained,
        "mask_shape": dice(pulled > 0.5, mean.brain),
        "mask_excess": _blob_ml((pulled > 0.5) & (mean.depth < -FAR)),
        "mask_missing": _blob_ml((pulled < 0.5) & (mean.depth > FAR) & should_see),
        "in_view": float(seen[mean.brain].mean()),
        "white_grey": white,
        "fluid_grey": fluid,
    }


def place(coarse: Coarse, mean: Atlas) -> np.ndarray:
    """Find where the atlas lies in a scan, whichever way up: (4, 4), atlas to scan, rotation and scale.

    First the best of the 24 ways to lay its axes along the scan's, by overlap of the brains and mutual
    information together, the header's own unless another is clearly better; then a search around it. Mirror images are no candidates: a brain resembles its
    own too much.
    """
    center = apply_affine(coarse.image.affine, np.argwhere(coarse.mask)).mean(axis=0)
    middle = mean.points.mean(axis=0)
    scale = float(np.cbrt(np.count_nonzero(coarse.mask) / np.count_nonzero(mean.brain)))
    points = Points.draw(mean.image, coarse.image, mean.sparse, SMOOTH, 0)

    def score(matrix: np.ndarray) -> float:
        return points.information(matrix)[1] + _overlap(coarse, mean, matrix)

    starts = [from_matvec(scale * turn, center - scale * turn @ middle) for turn in quarter_turns()]
    scores = [score(start) for start in starts]
    scores[0] += CLEARLY
    best = starts[int(np.argmax(scores))]
    found = align(mean.image, coarse.image, mean.sparse, best, (SMOOTH,), freedom=7)
    return max((best, found), key=lambda matrix: points.information(matrix)[1])


def quarter_turns() -> Iterator[np.ndarray]:
    """Give the 24 rotations (3, 3) that lay axes along axes, the identity first."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), order] = signs
            if np.linalg.det(turn) > 0:
                yield turn


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a matrix (4, 4): the orthogonal factor of its polar decomposition."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return left @ right


def fit_tissues(coarse: Coarse, mean: Atlas, matrix: np.ndarray) -> tuple[float, float, float]:
    """Return how much brighter than grey matter white matter and fluid are, in ranges of the brain.

    And the correlation of the intensities with the fit: 0 if nothing of them is anatomy.

    A voxel of 4 mm is a mixture: its intensity is the sum of the tissues' times their parts (the partial
    volume model, Choi, Haynor and Kim, IEEE TMI 1991), and the parts are the atlas'. Least squares over
    the brain give the three intensities. They are blurred by how much a person differs from the average,
    which makes contrasts smaller, but leaves their order.
    """
    grid = _grid(mean)
    part = resample(coarse.brain, grid, matrix, antialias=False).data
    values = resample(coarse.image, grid, matrix, antialias=False).data / np.maximum(part, 0.5)
    inside = mean.brain & (part > FULL)
    if np.count_nonzero(inside) < 100:
        return NOTHING
    low, high = np.percentile(values[inside], TAILS)
    if not high > low:
        return NOTHING
    grey, white = mean.grey[inside], mean.white[inside]
    tissues = np.stack([np.clip(1 - grey - white, 0, 1), grey, white], axis=1).astype(np.float64)
    wanted = (np.clip(values[inside], low, high) - low) / (high - low)
    found = np.linalg.lstsq(tissues, wanted, rcond=None)[0]
    fluid_is, grey_is, white_is = (float(value) for value in found)
    return white_is - grey_is, fluid_is - grey_is, correlation(tissues @ found, wanted)


def _grid(mean: Atlas) -> Grid:
    return Grid.of(mean.image)


def _overlap(coarse: Coarse, mean: Atlas, matrix: np.ndarray) -> float:
    """Return the overlap of the mask with the atlas' brain as it lies."""
    voxels = np.rint(apply_affine(np.linalg.inv(coarse.brain.affine) @ matrix, mean.points)).astype(int)
    met = ((voxels >= 0) & (voxels < coarse.brain.shape)).all(axis=1)
    shared = np.count_nonzero(coarse.mask[tuple(voxels[met].T)])
    volume = np.count_nonzero(coarse.mask) / abs(np.linalg.det(matrix[:3, :3]))
    return 2.0 * shared / (len(voxels) + volume / SPARSE**3)


def _reshaped(coarse: Coarse, mean: Atlas, matrix: np.ndarray) -> np.ndarray:
    """Give the atlas the mask's middle, and its extent along each of the atlas' axes.

    The extent is the standard deviation of the voxels: heads are long or broad, and that is no fault.
    """
    turn = nearest_rotation(matrix)
    mask = apply_affine(coarse.brain.affine, np.argwhere(coarse.mask)) @ turn
    scale = mask.std(axis=0) / mean.points.std(axis=0)
    linear = turn * scale
    return from_matvec(linear, turn @ mask.mean(axis=0) - linear @ mean.points.mean(axis=0))


def _blob_ml(mask: np.ndarray) -> float:
    """Return the volume of the largest piece of a mask on the atlas' grid, ml."""
    labels, count = ndimage.label(mask)
    return float(np.bincount(labels.ravel())[1:].max()) * SPACING**3 / 1000.0 if count else 0.0
