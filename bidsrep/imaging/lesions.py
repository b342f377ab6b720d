"""From a lesion probability to lesions: threshold, connected components, volumes."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bidsrep.imaging.grids import bounding_box, uncrop

THRESHOLD = 0.5
MIN_VOLUME_ML = 0.01  # 10 voxels of 1 mm: about 3 mm across, the smallest lesion raters agree on
# Voxels that touch by a face, an edge or a corner belong together.
_NEIGHBOURS = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Lesions:
    """The lesions of one image.

    Parameters
    ----------
    labels : ndarray, (X, Y, Z), int32
        0 background; 1 the largest lesion, and so on.
    volumes_ml : ndarray, (N,)
        Volume of lesion 1, 2, ..., N in ml.
    """

    labels: np.ndarray
    volumes_ml: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """All lesions as one mask: bool (X, Y, Z)."""
        return self.labels > 0

    @property
    def count(self) -> int:
        """The number of lesions."""
        return len(self.volumes_ml)

    @property
    def total_ml(self) -> float:
        """The lesion load in ml."""
        return float(self.volumes_ml.sum())


def find_lesions(
    probability: np.ndarray,
    voxel_ml: float,
    threshold: float = THRESHOLD,
    min_volume_ml: float = MIN_VOLUME_ML,
    within: np.ndarray | None = None,
) -> Lesions:
    """Cut a probability map and keep the components that are large enough.

    Parameters
    ----------
    probability : ndarray, (X, Y, Z)
        In [0, 1]; a mask works too.
    voxel_ml : float
        Volume of a voxel in ml (`Volume.voxel_ml`).
    threshold : float
        A voxel is lesion where the probability reaches it.
    min_volume_ml : float
        Components below it are dropped, ml.
    within : ndarray of bool, (X, Y, Z), optional
        Where lesions may be: the brain mask.
    """
    mask = np.asarray(probability) >= threshold
    if within is not None:
        mask &= within
    if not mask.any():
        return Lesions(np.zeros(mask.shape, dtype=np.int32), np.zeros(0))
    box = bounding_box(mask)  # labelling takes as long as the grid is large, and lesions are small
    labels, count = ndimage.label(mask[box], structure=_NEIGHBOURS)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    volumes = voxels * voxel_ml
    # Stable: equally large lesions stay in scan order. The slack keeps "exactly the minimum".
    order = [i for i in np.argsort(-volumes, kind="stable") if volumes[i] >= min_volume_ml * (1 - 1e-6)]
    renumber = np.zeros(count + 1, dtype=np.int32)
    renumber[[i + 1 for i in order]] = np.arange(1, len(order) + 1)
    return Lesions(uncrop(renumber[labels], box, mask.shape), volumes[order])
