"""Which values of a cohort lie far from the others: per number, whatever it measures."""

from collections.abc import Sequence

import numpy as np

SMALLEST = 5  # values: of fewer, none can be called unusual
MEDIAN_TO_SIGMA = 0.6745  # 0.75 quantile of the standard normal distribution
MEAN_TO_SIGMA = 1.253314  # sqrt(pi / 2)
THRESHOLD = 3.5
"""Modified z-scores above this are outliers, as Iglewicz and Hoaglin recommend."""


def robust_outliers(values: Sequence[float], threshold: float = THRESHOLD) -> list[float | None]:
    """Return the modified z-score of every outlier of a cohort, and None for all the others.

    z = 0.6745 (x - median) / MAD, with MAD the median of the absolute deviations from the median; an
    outlier has |z| > `threshold` (Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, ASQC 1993,
    chapter 3). Where more than half of the values are the same, MAD is zero and the mean absolute
    deviation takes its place: z = (x - median) / (1.253314 MeanAD), as IBM SPSS does.

    NaN and infinity are None and no part of the cohort. Of fewer than `SMALLEST` values none is an
    outlier: their spread is not known.

    >>> [score and round(score, 1) for score in robust_outliers([1.0, 2.0, 3.0, 4.0, 5.0, 60.0])]
    [None, None, None, None, None, 25.4]
    """
    return [
        None if score is None or abs(score) <= threshold else score for score in modified_z_scores(values)
    ]


def modified_z_scores(values: Sequence[float]) -> list[float | None]:
    """Return every value's modified z-score; None where there is none. See `robust_outliers`."""
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    if known.sum() < SMALLEST:
        return [None] * len(given)
    deviations = given - np.median(given[known])
    sigma = np.median(np.abs(deviations[known])) / MEDIAN_TO_SIGMA
    if sigma == 0:
        sigma = np.abs(deviations[known]).mean() * MEAN_TO_SIGMA
    if sigma == 0:  # all the same
        return [0.0 if here else None for here in known]
    return [float(score) if here else None for score, here in zip(deviations / sigma, known, strict=True)]
