"""Intensities made comparable: robust scaling, and N4 bias field correction."""

import numpy as np

from bidsrep.imaging.grids import reference_grid
from bidsrep.imaging.resample import resample, resample_mask
from bidsrep.imaging.volume import Volume

PERCENTILE = 99.5
CEILING = 2.0
EMPTY_BRAIN = "The brain mask holds no voxel with a positive intensity"

N4_SPACING = 4.0  # mm; N4's own "shrink" cannot make isotropic voxels of thick slices
N4_ITERATIONS = (25, 25, 25)
N4_SLOPPY_ITERATIONS = (5,)  # and so only the coarsest B-splines
_MAX_LOG_BIAS = np.log(8.0)  # a field that varies more is a failed fit


def normalise(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scale a brain to the input range of the networks: (X, Y, Z) float32, 0 to 2.

    0 outside the mask; divided by the 99.5th percentile inside it; clipped to [0, 2].

    Parameters
    ----------
    data : ndarray, (X, Y, Z)
        Intensities, on any scale.
    mask : ndarray of bool, (X, Y, Z)
        The brain.
    """
    mask = np.asarray(mask, dtype=bool)
    top = float(np.percentile(data[mask], PERCENTILE)) if mask.any() else 0.0
    if not top > 0:
        raise ValueError(EMPTY_BRAIN)
    scaled = np.clip(np.asarray(data, dtype=np.float32) / np.float32(top), 0.0, CEILING)
    return np.where(mask, scaled, np.float32(0.0)).astype(np.float32)


def normalise_head(data: np.ndarray) -> np.ndarray:
    """Scale a whole head to [0, 1]: clipped to [0, 99.5th percentile of its nonzero voxels].

    The input of the brain mask network; (X, Y, Z) float32.
    """
    inside = data[data > 0]
    top = float(np.percentile(inside, PERCENTILE)) if inside.size else 0.0
    if not top > 0:
        raise ValueError(EMPTY_BRAIN)
    return (np.clip(data, 0.0, top) / top).astype(np.float32)


def n4(volume: Volume, mask: np.ndarray, sloppy: bool = False) -> tuple[Volume, Volume]:
    """Correct the bias field with N4 (Tustison et al., IEEE TMI 2010, as in ANTs).

    The field is estimated on a 4 mm grid of the brain and interpolated to the volume's own grid in
    the log domain: it is smooth by construction (B-spline, 200 mm between knots, refined per level),
    so nothing is lost, and it costs six CPU seconds (3 x 25 iterations) instead of a minute.

    Parameters
    ----------
    volume : Volume
        The scan, on its native grid.
    mask : ndarray of bool, (X, Y, Z)
        The brain, on the same grid.
    sloppy : bool
        One level of five iterations instead: for tests of the rest.

    Returns
    -------
    corrected : Volume
        The scan divided by the field; the mean inside the mask is kept.
    field : Volume
        The multiplicative field on the same grid, 1 on average (geometric mean) inside the mask.
    """
    from bidsrep.imaging._ants import import_ants, to_ants

    ants = import_ants()
    grid = reference_grid(volume, mask, spacing=N4_SPACING, margin=3 * N4_SPACING)
    small, inside = resample(volume, grid), resample_mask(mask, volume, grid)
    # N4 works on logarithms: shift the few zero and negative voxels off the singularity.
    floor = 1e-3 * float(np.percentile(small.data[inside], PERCENTILE))
    if not floor > 0:
        raise ValueError(EMPTY_BRAIN)
    estimated = ants.n4_bias_field_correction(
        to_ants(small.replace(np.maximum(small.data, floor))),
        mask=to_ants(small.replace(inside)),
        shrink_factor=1,
        convergence={"iters": list(N4_SLOPPY_ITERATIONS if sloppy else N4_ITERATIONS), "tol": 1e-6},
        spline_param=200,
        return_bias_field=True,
    ).numpy()
    log_bias = np.log(np.clip(estimated, np.exp(-_MAX_LOG_BIAS), np.exp(_MAX_LOG_BIAS)))
    log_bias -= log_bias[inside].mean()
    # Beyond the small grid (air, neck) the field is held constant by padding before interpolation.
    field = _extended(Volume(log_bias, grid.affine), volume)
    corrected = volume.data / field.data
    corrected *= volume.data[mask].mean() / corrected[mask].mean()
    return volume.replace(corrected), field


def _extended(log_bias: Volume, like: Volume) -> Volume:
    """Interpolate a log field on the grid of `like`, held constant outside its own field of view."""
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.reshape(like.shape, (3, 1)) - 1)
    voxels = np.linalg.inv(log_bias.affine) @ like.affine
    indices = voxels[:3, :3] @ corners + voxels[:3, 3:]
    before = np.maximum(0, np.ceil(-indices.min(axis=1)) + 1).astype(int)
    after = np.maximum(0, np.ceil(indices.max(axis=1) - log_bias.shape) + 2).astype(int)
    padded = np.pad(log_bias.data, list(zip(before, after, strict=True)), mode="edge")
    affine = log_bias.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ before
    moved = resample(Volume(padded, affine), like, antialias=False)
    return moved.replace(np.exp(moved.data))
