"""How near a predicted image comes to the acquired one. Arrays are (X, Y, Z) on one common grid."""

import numpy as np

from bidsrep.imaging.quality import correlation

PEAK_PERCENTILE = 99.5


def compare_synthesis(predicted: np.ndarray, acquired: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Compare a predicted contrast with an acquired one inside the brain.

    The intensities of a scan have no unit, so the prediction is first brought to the scan's scale by the
    line that fits best (least squares, slope not negative), and the scan is divided by its 99.5th
    percentile. A prediction of the wrong sign gets no credit: its best line is a constant.

    Parameters
    ----------
    predicted, acquired : ndarray, (X, Y, Z)
        Any scale.
    mask : ndarray of bool, (X, Y, Z)
        Where to compare: the brain, and both fields of view.

    Returns
    -------
    dict
        ``correlation`` (Pearson, before any fit), ``mae`` (mean absolute error, as a fraction of the
        scan's 99.5th percentile), ``psnr`` (dB; the peak is the scan's 99.5th percentile, here 1).
    """
    truth = acquired[mask].astype(np.float64)
    peak = float(np.percentile(truth, PEAK_PERCENTILE)) if truth.size else 0.0
    if peak <= 0:
        return {"correlation": float("nan"), "mae": float("nan"), "psnr": float("nan")}
    truth = truth / peak
    error = truth - fitted(predicted[mask].astype(np.float64), truth)
    mse = float(np.mean(error**2))
    return {
        "correlation": correlation(predicted, acquired, mask),
        "mae": float(np.mean(np.abs(error))),
        "psnr": 10.0 * np.log10(1.0 / mse) if mse > 0 else float("inf"),
    }


def fitted(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Scale `values` (N,) to `truth` (N,) by the least-squares line with a slope of at least 0."""
    centred = values - values.mean()
    spread = float(centred @ centred)
    slope = max(float(centred @ truth) / spread, 0.0) if spread > 0 else 0.0
    return slope * centred + truth.mean()
