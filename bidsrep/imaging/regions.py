"""Regions of the brain, and the mean of every feature in each of them."""

from collections.abc import Mapping
from functools import reduce
from itertools import product

import numpy as np

TISSUES = {1: "csf", 2: "gm", 3: "wm"}
"""Labels of the tissue classes."""

_SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


def standard_regions(
    mask: np.ndarray, classes: np.ndarray | None = None, lesion: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the regions of the embedding while there is no segmentation: masks by name.

    brain, csf, gm, wm; each of them on the left and on the right (``left_gm``); eight octants
    (``left_posterior_inferior``); lesion where a mask is given. Without tissue classes the tissues are
    left out. Left and right, back and front, below
    and above are told apart at the median brain voxel, along the axes of the array, which must be in
    RAS order (the reference grid).

    Parameters
    ----------
    mask : ndarray of bool, (X, Y, Z)
        The brain.
    classes : ndarray, (X, Y, Z), optional
        Its tissues, numbered as in `TISSUES` (`bidsrep.imaging.tissues`).
    lesion : ndarray of bool, (X, Y, Z), optional
        The lesions.
    """
    mask = np.asarray(mask, dtype=bool)
    tissues = {} if classes is None else TISSUES
    regions = {"brain": mask, **{name: (classes == label) & mask for label, name in tissues.items()}}
    upper = _halves(mask)
    for side, name in product(_SIDES[0], ("brain", *tissues.values())):
        regions[f"{side}_{name}"] = regions[name] & (upper[0] == (side == "right"))
    for names in product(*_SIDES):
        octant = mask
        for axis, name in enumerate(names):
            octant = octant & (upper[axis] == (name == _SIDES[axis][1]))
        regions["_".join(names)] = octant
    if lesion is not None:
        regions["lesion"] = np.asarray(lesion, dtype=bool) & mask
    return regions


def label_regions(labels: np.ndarray, names: Mapping[int, str]) -> dict[str, np.ndarray]:
    """Return the regions of a label map (X, Y, Z) as masks by name; labels without a name are left out."""
    return {name: labels == label for label, name in names.items()}


def regional_means(features: np.ndarray, regions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Average features over regions, which may overlap.

    Parameters
    ----------
    features : ndarray, (C, X, Y, Z)
        Features on one grid with the regions.
    regions : mapping of str to ndarray of bool, (X, Y, Z)
        At most 63.

    Returns
    -------
    means : ndarray, (R, C), float64
        One row per region in the order given; NaN for an empty region.
    voxels : ndarray, (R,), int
        The size of each region.
    """
    masks = list(regions.values())
    covered = np.flatnonzero(reduce(np.logical_or, masks))
    code = np.zeros(len(covered), dtype=np.int64)
    for bit, mask in enumerate(masks):
        code |= np.ravel(mask)[covered].astype(np.int64) << bit
    # Cut the brain into the pieces that no region's border crosses; every region is a sum of pieces,
    # so each voxel is added up once however many regions hold it.
    present, piece = np.unique(code, return_inverse=True)
    member = (present[None, :] >> np.arange(len(masks))[:, None]) & 1
    voxels = member @ np.bincount(piece, minlength=len(present))
    sums = np.stack(
        [np.bincount(piece, weights=f.ravel()[covered], minlength=len(present)) for f in features], axis=1
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return (member @ sums) / voxels[:, None], voxels


def coarse_regional_means(
    features: np.ndarray, regions: Mapping[str, np.ndarray], stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average features of which each stands for a cube of voxels: the cube's share in a region is its weight.

    Parameters
    ----------
    features : ndarray, (C, X / stride, Y / stride, Z / stride)
        Features; sides are rounded up.
    regions : mapping of str to ndarray of bool, (X, Y, Z)
        Regions on the grid of the image.
    stride : int
        Side of the cube, voxels.

    Returns
    -------
    means, voxels
        As `regional_means` gives them.
    """
    shares = np.stack([block_means(mask, stride).ravel() for mask in regions.values()])
    voxels = np.array([np.count_nonzero(mask) for mask in regions.values()])
    with np.errstate(invalid="ignore", divide="ignore"):
        return shares @ features.reshape(len(features), -1).T / shares.sum(axis=1, keepdims=True), voxels


def block_means(volume: np.ndarray, stride: int) -> np.ndarray:
    """Average (X, Y, Z) over cubes of `stride` voxels; beyond the far ends lie zeros."""
    padded = np.pad(volume.astype(np.float64), [(0, -side % stride) for side in volume.shape])
    x, y, z = (side // stride for side in padded.shape)
    return padded.reshape(x, stride, y, stride, z, stride).mean(axis=(1, 3, 5))


def _halves(mask: np.ndarray) -> list[np.ndarray]:
    """Return, per axis, which indices lie above the median brain voxel; broadcastable to the mask."""
    halves = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        count = np.cumsum(mask.sum(axis=others))
        middle = int(np.searchsorted(count, count[-1] / 2)) if count[-1] else 0
        shape = [1, 1, 1]
        shape[axis] = -1
        halves.append((np.arange(mask.shape[axis]) > middle).reshape(shape))
    return halves
