"""Numbers that say how well two images agree. Arrays are (X, Y, Z) on one common grid."""

import numpy as np

BINS = 32  # per image in a joint histogram: ANTs' default for mutual information


def correlation(one: np.ndarray, two: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return Pearson's correlation inside `mask`; NaN where an image is constant there."""
    a, b = _inside(one, two, mask)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def mutual_information(
    one: np.ndarray, two: np.ndarray, mask: np.ndarray | None = None, bins: int = BINS
) -> float:
    """Return the mutual information of two images inside `mask`, in nats.

    From a joint histogram of `bins` x `bins` between each image's 0.5th and 99.5th percentile
    (Viola and Wells, IJCV 1997; histogram form of Collignon et al., 1995). It depends on the voxels
    that are compared: only values over one and the same mask can be ranked.
    """
    a, b = _inside(one, two, mask)
    return information_of(to_bins(a, bins), to_bins(b, bins), bins)


def to_bins(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the histogram bin of every value (N,), from its 0.5th to its 99.5th percentile."""
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        return np.zeros(values.shape, dtype=np.int64)
    scaled = (values - low) * (bins / (high - low))
    return np.clip(scaled, 0, bins - 1).astype(np.int64)


def information_of(one: np.ndarray, two: np.ndarray, bins: int = BINS) -> float:
    """Return the mutual information, in nats, of two arrays (N,) of bin numbers."""
    joint = np.bincount(one * bins + two, minlength=bins * bins).reshape(bins, bins) / len(one)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    present = joint > 0
    return float((joint[present] * np.log(joint[present] / independent[present])).sum())


def dice(one: np.ndarray, two: np.ndarray, within: np.ndarray | None = None) -> float:
    """Return Dice's coefficient of two masks, counted inside `within`; 1 where both are empty.

    2 |A and B| / (|A| + |B|) (Dice, Ecology 1945).
    """
    a, b = np.asarray(one, dtype=bool), np.asarray(two, dtype=bool)
    if within is not None:
        a, b = a & within, b & within
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def covered_fraction(mask: np.ndarray, field_of_view: np.ndarray) -> float:
    """Return which fraction of a mask (the brain) a field of view holds; see `resample.coverage`."""
    total = int(mask.sum())
    return int((mask & field_of_view).sum()) / total if total else 0.0


def _inside(one: np.ndarray, two: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if one.shape != two.shape:
        msg = f"Images on one grid are compared, got {one.shape} and {two.shape}"
        raise ValueError(msg)
    if mask is None:
        return one.ravel().astype(np.float64), two.ravel().astype(np.float64)
    if not mask.any():
        msg = "The mask is empty"
        raise ValueError(msg)
    return one[mask].astype(np.float64), two[mask].astype(np.float64)
