"""How near dense features come to those they should equal: Brain-ID's measures of robustness (Table 1)."""

import numpy as np

from bidsrep.evaluation.metrics.images import MS_SSIM_WEIGHTS, WINDOW, correlation, ms_ssim, ssim

PERCENTILES = (0.5, 99.5)
MS_SSIM_SIDE = WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
"""Voxels that five scales need along each axis."""


def compare_channels(
    found: np.ndarray, expected: np.ndarray, brain: np.ndarray, *, ssim_step: int = 1, scales: bool = False
) -> dict[str, float]:
    """L1, SSIM, MS-SSIM and correlation of features inside a brain: means over the channels.

    Features have no unit. So each channel is scaled, in both by the same line, such that the 0.5th to 99.5th
    percentile of the two together, inside the brain, becomes 0 to 1; a shift between them thus counts.
    Channels that are constant are left out: what tells no voxel from another agrees for nothing.

    Parameters
    ----------
    found, expected : ndarray, (C, X, Y, Z)
        Features on one grid.
    brain : ndarray of bool, (X, Y, Z)
        Where they are compared. Around it both count as 0, and five voxels of the grid should be left.
    ssim_step : int
        SSIM and MS-SSIM of every so many channels alone.
    scales : bool
        Also MS-SSIM, which is of the whole volume, filled up with zeros to `MS_SSIM_SIDE` voxels.

    Returns
    -------
    dict
        ``l1`` (in units of the range), ``ssim``, ``correlation``, and with ``scales`` ``ms_ssim``; NaN where
        no channel can be compared.
    """
    values: dict[str, list[float]] = {name: [] for name in ("l1", "ssim", "ms_ssim", "correlation")}
    for one, other in zip(found, expected, strict=True):
        a, b = one[brain], other[brain]
        low, high = np.percentile(np.concatenate([a, b]), PERCENTILES)
        if not high - low > 1e-6 * max(abs(low), abs(high)):
            continue
        if len(values["l1"]) % ssim_step == 0:
            x, y = (np.where(brain, (channel - low) / (high - low), 0) for channel in (one, other))
            values["ssim"].append(ssim(x, y, brain, data_range=1.0))
            if scales:
                values["ms_ssim"].append(ms_ssim(_filled_up(x), _filled_up(y), data_range=1.0))
        values["l1"].append(float(np.abs(a - b).mean(dtype=np.float64)) / (high - low))
        values["correlation"].append(float(np.nan_to_num(correlation(a, b))))  # one of them constant: none
    if not scales:
        del values["ms_ssim"]
    return {name: float(np.mean(of)) if of else float("nan") for name, of in values.items()}


def _filled_up(image: np.ndarray) -> np.ndarray:
    return np.pad(image, [(0, max(0, MS_SSIM_SIDE - side)) for side in image.shape])
