"""Connected components of masks. A mask is a boolean array (X, Y, Z); voxels that share a corner touch."""

import numpy as np
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3), dtype=bool)


def component_sizes(mask: np.ndarray) -> np.ndarray:
    """Count the voxels of every component: (number of components,), int64."""
    labels, count = ndimage.label(mask, structure=TOUCHING)
    return np.bincount(labels.ravel(), minlength=count + 1)[1:]


def drop_small(mask: np.ndarray, voxel_ml: float, least_ml: float) -> np.ndarray:
    """Keep the components of at least `least_ml`; `voxel_ml` is the volume of one voxel. Both in ml."""
    labels, count = ndimage.label(mask, structure=TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml
    # Volumes are products of rounded voxel sizes: a lesion of just the limit is kept.
    keep = sizes >= least_ml * (1 - 1e-6)
    keep[0] = False
    return keep[labels]
