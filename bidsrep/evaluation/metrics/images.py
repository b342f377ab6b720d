"""How near an image comes to the true one, intensity by intensity.

Images are (X, Y, Z) on one grid and one scale: no function here rescales (`compare_synthesis` does). Masks are
(X, Y, Z), above 0 where it counts; without one every voxel does. Arrays that do not fit raise ValueError.
PSNR and SSIM take slices (X, Y), too. MONAI and torchmetrics have these metrics without a mask.
"""

from collections.abc import Sequence

import numpy as np

from bidsrep.evaluation.metrics._checks import check_one_grid, check_positive, inside
from bidsrep.imaging.quality import correlation

__all__ = ["correlation", "mean_absolute_error", "ms_ssim", "psnr", "ssim"]

SLICES_TOO = (2, 3)
WINDOW = 11  # voxels across; with SIGMA, K1 and K2 the choice of Wang et al. (2004)
SIGMA = 1.5  # voxels
K1, K2 = 0.01, 0.03
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents from the finest to the coarsest scale (Wang et al., 2003, section 3.2)."""

TOO_SMALL = "{} scale(s) of an 11-voxel window need at least {} voxels along each axis, got {}"
NO_WINDOW = "no voxel of the mask has its whole 11-voxel window inside the volume"


def mean_absolute_error(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """L1 of the papers' tables: the mean of |predicted - truth|, in the images' unit."""
    a, b = inside(mask, (predicted, truth))
    return float(np.abs(a - b).mean())


def psnr(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None, *, peak: float) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(peak^2 / mean squared error); infinite for equal images.

    Parameters
    ----------
    peak : float
        The intensity that counts as full signal. Figures with another peak cannot be compared: Brain-ID's
        code takes the truth's maximum, CRL's 1 (the images' range), the sequence-invariant one 1 on z-scores.
    """
    check_positive("peak", peak)
    a, b = inside(mask, (predicted, truth), SLICES_TOO)
    mse = float(((a - b) ** 2).mean())
    return float(10.0 * np.log10(peak**2 / mse)) if mse > 0 else float("inf")


def ssim(
    predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None, *, data_range: float
) -> float:
    """Structural similarity: the mean of its map over the mask; 1 for equal images.

    Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004, eq. 13, in three dimensions, or, of slices, two. As
    there, only voxels whose window lies inside the volume count (5 voxels at each face do not). A window at
    the mask's rim sees what lies outside of the mask, too.

    Parameters
    ----------
    data_range : float
        What the intensities span (the paper's L), 1 for images in [0, 1].
    """
    similarity, _ = _similarity(predicted, truth, data_range)
    if mask is None:
        return float(similarity.mean())
    check_one_grid(predicted, mask, axes=SLICES_TOO)
    counted = similarity[_inner(np.asarray(mask)) > 0]
    if not counted.size:
        raise ValueError(NO_WINDOW)
    return float(counted.mean())


def ms_ssim(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    data_range: float,
    weights: Sequence[float] = MS_SSIM_WEIGHTS,
) -> float:
    """Structural similarity over several scales, the whole volume's; 1 for equal images.

    Wang, Simoncelli and Bovik, Asilomar 2003, eq. 7: contrast and structure at every scale, luminance at the
    coarsest. From scale to scale images are averaged over cubes of 2 x 2 x 2 voxels (an odd last plane is
    left out). A scale whose mean is negative counts as 0, as in pytorch_msssim, which Brain-ID uses on images
    that are each brought to [0, 1] by their own extremes.

    Parameters
    ----------
    data_range : float
        What the intensities span, 1 for images in [0, 1].
    weights : sequence of float
        Each scale's exponent, the finest first; their number is the number of scales.

    Raises
    ------
    ValueError
        Also where the coarsest scale would not hold a window: five scales need 176 voxels along each axis,
        as the authors' code asks. (pytorch_msssim pads odd sizes by zeros and so takes 161.)
    """
    # MONAI 1.6 and torchmetrics 1.9 ask for (scales - 1)^2 windows instead of 2^(scales - 1): the same for
    # three and five scales only. Their messages say 160 where they mean 176.
    check_one_grid(predicted, truth)
    least = WINDOW * 2 ** (len(weights) - 1)
    if min(np.shape(predicted)) < least:
        raise ValueError(TOO_SMALL.format(len(weights), least, np.shape(predicted)))
    value = 1.0
    for scale, weight in enumerate(weights):
        if scale:
            predicted, truth = _halve(predicted), _halve(truth)
        similarity, contrast = _similarity(predicted, truth, data_range)
        part = similarity if scale == len(weights) - 1 else contrast
        value *= max(float(part.mean()), 0.0) ** weight
    return value


def _similarity(one: np.ndarray, two: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    """Maps (X - 10, Y - 10, Z - 10) or (X - 10, Y - 10) of SSIM and of its contrast-structure part, where windows are whole.

    MONAI's map is the same but in float32 and with the window as one kernel of 11^3: some 15 times slower.
    """
    from scipy.ndimage import gaussian_filter

    check_positive("data_range", data_range)
    check_one_grid(one, two, axes=SLICES_TOO)
    if min(np.shape(one)) < WINDOW:
        raise ValueError(TOO_SMALL.format(1, WINDOW, np.shape(one)))
    # Double precision: a variance is a small difference of two large means.
    a, b = np.asarray(one, dtype=np.float64), np.asarray(two, dtype=np.float64)

    def local(image: np.ndarray) -> np.ndarray:
        return _inner(gaussian_filter(image, SIGMA, radius=WINDOW // 2))

    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    contrast = (2 * covariance + c2) / (variances + c2)
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast, contrast


def _inner(image: np.ndarray) -> np.ndarray:
    """The part of an image whose windows lie inside of it."""
    return image[(slice(WINDOW // 2, -(WINDOW // 2)),) * image.ndim]


def _halve(image: np.ndarray) -> np.ndarray:
    """Means (X // 2, Y // 2, Z // 2) of cubes of 2 x 2 x 2 voxels."""
    x, y, z = (size // 2 for size in image.shape)
    cubes = np.asarray(image, dtype=np.float64)[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2)
    return cubes.mean(axis=(1, 3, 5))
