"""Tissues of a T1w by its intensities: CSF, grey and white matter."""

import numpy as np

# Where the classes end on a T1w scaled to white matter = 1. Class means of k-means on real T1w (14 of
# ds002748, one MS patient, one stroke patient) are .34-.38 of white matter for CSF and .65-.71 for grey
# matter; the borders lie half-way.
BORDERS = (0.5, 0.84)
WHITE_PERCENTILE = 85  # of a brain's intensities: about the white matter's mean


def tissue_classes(t1w: np.ndarray, mask: np.ndarray, borders: tuple[float, float] = BORDERS) -> np.ndarray:
    """Classify a T1w: (X, Y, Z) uint8, 0 background, 1 CSF, 2 GM, 3 WM.

    Parameters
    ----------
    t1w : ndarray, (X, Y, Z)
        Intensities.
    mask : ndarray of bool, (X, Y, Z)
        The brain.
    borders : tuple of float
        Between CSF and grey, and grey and white matter; those of a T1w scaled to white matter = 1 unless
        given. `own_borders` finds those of another.
    """
    low, high = borders
    classes = 1 + (t1w >= low).astype(np.uint8) + (t1w >= high).astype(np.uint8)
    return np.where(mask, classes, 0).astype(np.uint8)


def own_borders(t1w: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Borders for a T1w (X, Y, Z) on a scale of its own: half-way between its own tissues' means."""
    values = t1w[mask]
    if not values.size or not np.percentile(values, WHITE_PERCENTILE) > 0:
        return BORDERS
    csf, grey, white = tissue_means(values)
    return float(csf + grey) / 2, float(grey + white) / 2


def tissue_means(values: np.ndarray, iterations: int = 60) -> np.ndarray:
    """Means of CSF, grey and white matter of a T1w image's brain intensities ``(N,)``, ascending.

    Expectation maximisation of three Gaussians on a histogram (256 bins): the standard intensity model of
    tissue segmentation (Wells et al., 1996) without its bias term. Extracted brains hold little CSF, which
    lets an unbounded mixture split grey matter in two, so its mean stays below 0.4 of white matter's, and
    grey matter's between 0.5 and 0.85: the range of MPRAGE at 1.5 and 3 T.
    """
    top = np.percentile(values, 99.8)
    counts, edges = np.histogram(values, bins=256, range=(0, top))
    centres, weights = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    white = np.percentile(values, WHITE_PERCENTILE)
    means = np.array([0.25, 0.65, 1.0]) * white
    stds, shares = np.full(3, top / 12), np.array([0.15, 0.45, 0.4])
    for _ in range(iterations):
        density = shares * np.exp(-0.5 * ((centres[:, None] - means) / stds) ** 2) / stds
        posterior = density / (density.sum(1, keepdims=True) + 1e-12) * weights[:, None]
        mass = posterior.sum(0) + 1e-9
        means = (posterior * centres[:, None]).sum(0) / mass
        means[0] = np.clip(means[0], 0.1 * means[2], 0.4 * means[2])
        means[1] = np.clip(means[1], 0.5 * means[2], 0.85 * means[2])
        spread = (posterior * (centres[:, None] - means) ** 2).sum(0) / mass
        stds, shares = np.minimum(np.sqrt(spread) + top / 200, top / 8), mass / mass.sum()
    return means
