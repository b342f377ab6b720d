"""Whether features tell people, not contrasts or scanners. Features are (N, C): one row a scan, or a place.

Arrays that do not fit raise ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bidsrep.evaluation.invariance import FeatureLattice, compare_features

NOT_ROWS = "features are rows (N, C), of the same N as what belongs to them, got {}"
NO_DISTANCE = "features have no {} distance: a value is not finite, or a row is zero"
UNKNOWN_DISTANCE = "the distance is 'cosine' or 'euclidean', got {!r}"
NOT_RATINGS = "ratings are finite (subjects, raters), at least 2 of each, got {}"
BAD_CONFIDENCE = "a confidence lies between 0 and 1, got {}"


@dataclass(frozen=True)
class Identification:
    """How far every scan is from the scans that it is confused with if contrast matters more than person.

    Parameters
    ----------
    own : ndarray, (N,)
        Distance to the nearest scan of the same person in another contrast; infinite if there is none.
    other : ndarray, (N,)
        Distance to the nearest scan of another person in the same contrast; infinite if there is none.
    """

    own: np.ndarray
    other: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """Which scans have both: bool (N,)."""
        return np.isfinite(self.own) & np.isfinite(self.other)

    @property
    def correct(self) -> np.ndarray:
        """Which scans are nearer to their person than to their contrast: bool (N,); a tie is not."""
        return self.scored & (self.own < self.other)

    @property
    def accuracy(self) -> float:
        """Share of the scored scans that are correct; NaN if there are none."""
        return float(self.correct.sum() / self.scored.sum()) if self.scored.any() else float("nan")


def identify(
    features: np.ndarray,
    people: Sequence[object],
    contrasts: Sequence[object],
    distance: Literal["cosine", "euclidean"] = "cosine",
) -> Identification:
    """Ask of every scan: is the same person in another contrast nearer than another person in this contrast?

    Scan i is correct if min over {j: same person, other contrast} of d(i, j) is less than min over {k: other
    person, contrast of i} of d(i, k). Scans for which one of the sets is empty are not scored. The other
    person's scan has the advantage that it looks alike, so contrast-bound features score 0, not chance.

    Parameters
    ----------
    features : ndarray, (N, C)
        One row a scan.
    people, contrasts : sequence, (N,)
        Whose it is, and what contrast it has.
    distance : str
        ``cosine`` (1 - cosine similarity) or ``euclidean``.
    """
    from scipy.spatial.distance import cdist

    if distance not in ("cosine", "euclidean"):
        raise ValueError(UNKNOWN_DISTANCE.format(distance))
    person, contrast = np.asarray(people), np.asarray(contrasts)
    shapes = (np.shape(features), person.shape, contrast.shape)
    if len(shapes[0]) != 2 or shapes[1:] != (shapes[0][:1],) * 2 or not shapes[0][0]:
        raise ValueError(NOT_ROWS.format(shapes))
    rows = np.asarray(features, dtype=np.float64)
    between = cdist(rows, rows, metric=distance)
    if not np.isfinite(between).all():
        raise ValueError(NO_DISTANCE.format(distance))
    same_person, same_contrast = (x[:, None] == x[None, :] for x in (person, contrast))
    return Identification(
        np.where(same_person & ~same_contrast, between, np.inf).min(axis=1),
        np.where(~same_person & same_contrast, between, np.inf).min(axis=1),
    )


def contrast_invariance(one: np.ndarray, two: np.ndarray) -> float:
    """Score how much the features (N, C) of N places agree between two scans of one head.

    `compare_features`: (cosine - chance) / (1 - chance), 1 for features that do not depend on the contrast.
    """
    if np.ndim(one) != 2 or np.shape(one) != np.shape(two):
        raise ValueError(NOT_ROWS.format((np.shape(one), np.shape(two))))
    lattices = (FeatureLattice(np.arange(len(rows)), np.asarray(rows)) for rows in (one, two))
    return compare_features(*lattices)["contrast_invariance"]


@dataclass(frozen=True)
class IntraclassCorrelation:
    """An intraclass correlation and its confidence interval; NaN where no subject differs from another."""

    value: float
    lower: float
    upper: float


def icc_2_1(ratings: np.ndarray, confidence: float = 0.95) -> IntraclassCorrelation:
    """ICC(2,1): absolute agreement of single ratings; raters are a sample of all raters.

    Shrout and Fleiss, Psychological Bulletin 1979; interval: McGraw and Wong, Psychological Methods 1996,
    table 7, ICC(A,1) (Satterthwaite's degrees of freedom).

    Parameters
    ----------
    ratings : ndarray, (subjects, raters)
        One number of each subject by each rater: scanner, contrast, session.
    confidence : float
        Of the two-sided interval.
    """
    from scipy.stats import f

    (n, k), (rows, columns, error) = _mean_squares(ratings, confidence)
    if not min(rows, columns) + error > 0:
        return _certain(rows)
    value = (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)
    # Degrees of freedom of what one subject's ratings differ by: raters and the rest, in `value`'s proportion.
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * columns + b * error) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )
    tail = 0.5 + confidence / 2
    within = k * columns + (k * n - k - n) * error
    low, high = f.ppf(tail, n - 1, freedom), f.ppf(tail, freedom, n - 1)
    lower = n * (rows - low * error) / (low * within + n * rows)
    upper = n * (high * rows - error) / (within + n * high * rows)
    return IntraclassCorrelation(float(value), float(lower), float(upper))


def icc_3_1(ratings: np.ndarray, confidence: float = 0.95) -> IntraclassCorrelation:
    """ICC(3,1): consistency of single ratings; raters are these ones, and their offsets do not count.

    Shrout and Fleiss 1979, with their interval; ICC(C,1) of McGraw and Wong 1996. Parameters as for `icc_2_1`.
    """
    from scipy.stats import f

    (n, k), (rows, _, error) = _mean_squares(ratings, confidence)
    if not error > 0:
        return _certain(rows)
    ratio, tail = rows / error, 0.5 + confidence / 2
    freedom = (n - 1, (n - 1) * (k - 1))
    low, high = ratio / f.ppf(tail, *freedom), ratio * f.ppf(tail, *reversed(freedom))
    return IntraclassCorrelation(*(float((x - 1) / (x + k - 1)) for x in (ratio, low, high)))


def _mean_squares(
    ratings: np.ndarray, confidence: float
) -> tuple[tuple[int, int], tuple[float, float, float]]:
    """Shape, and mean squares of a two-way analysis of variance: subjects, raters, the rest."""
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise ValueError(NOT_RATINGS.format(table.shape))
    if not 0 < confidence < 1:
        raise ValueError(BAD_CONFIDENCE.format(confidence))
    n, k = table.shape
    rounding = 1e-14 * n * k * np.abs(table).max()  # what is left of a difference that is none
    table = table - table.mean()
    subjects, raters = table.mean(axis=1, keepdims=True), table.mean(axis=0, keepdims=True)
    rest = table - subjects - raters
    squares = (
        k * float((subjects**2).sum()) / (n - 1),
        n * float((raters**2).sum()) / (k - 1),
        float((rest**2).sum()) / ((n - 1) * (k - 1)),
    )
    rows, columns, error = (x if x > rounding**2 else 0.0 for x in squares)
    return (n, k), (rows, columns, error)


def _certain(rows: float) -> IntraclassCorrelation:
    """Without any error: 1 if subjects differ, else NaN."""
    return IntraclassCorrelation(*[1.0 if rows > 0 else float("nan")] * 3)
