"""Lesions found and missed, lesion by lesion and voxel by voxel. Arrays are (X, Y, Z) on one grid.

Arrays that do not fit raise ValueError.
"""

from dataclasses import dataclass

import numpy as np

from bidsrep.evaluation.metrics._checks import check_positive, inside, masks
from bidsrep.imaging.lesions import MIN_VOLUME_ML, Lesions, find_lesions

BAD_SHARE = "a share of a lesion lies between 0 and 1, got {}"
NOT_FINITE = "a probability in the mask is not a finite number"


@dataclass(frozen=True)
class LesionDetection:
    """Which lesions were found, and which predicted ones are there.

    Parameters
    ----------
    true_ml : ndarray, (N,)
        Volumes of the true lesions in ml, the largest first.
    found : ndarray of bool, (N,)
        Whether each was found.
    predicted_ml : ndarray, (M,)
        Volumes of the predicted lesions in ml, the largest first.
    right : ndarray of bool, (M,)
        Whether each lies on a true lesion.
    """

    true_ml: np.ndarray
    found: np.ndarray
    predicted_ml: np.ndarray
    right: np.ndarray

    @property
    def sensitivity(self) -> float:
        """Share of the true lesions that were found; NaN if there are none."""
        return _share(self.found)

    @property
    def positive_predictive_value(self) -> float:
        """Share of the predicted lesions that are there; NaN if there are none."""
        return _share(self.right)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 0 if only one image has lesions, NaN if none has."""
        if not (self.found.any() and self.right.any()):
            return 0.0 if len(self.found) or len(self.right) else float("nan")
        return 2.0 / (1.0 / self.sensitivity + 1.0 / self.positive_predictive_value)

    @property
    def false_positives(self) -> int:
        """The number of predicted lesions that are not there."""
        return int((~self.right).sum())

    @property
    def false_positive_ml(self) -> float:
        """Their volume in ml."""
        return float(self.predicted_ml[~self.right].sum())

    def found_above(self, min_volume_ml: float) -> np.ndarray:
        """Tell of each true lesion of at least this volume, the largest first, whether it was found: bool."""
        return self.found[self.true_ml >= min_volume_ml]


def detect_lesions(
    predicted: np.ndarray,
    truth: np.ndarray,
    voxel_ml: float,
    min_volume_ml: float = MIN_VOLUME_ML,
    min_share: float = 0.0,
) -> LesionDetection:
    """Count lesions as the WMH challenge does (Kuijf et al., IEEE TMI 2019).

    A lesion is a connected component with voxels that touch by a face, an edge or a corner. A true lesion is
    found if the prediction covers some of it, a predicted lesion is right if it covers some of the truth; so
    the two images can change places, and sensitivity and positive predictive value with them.

    Parameters
    ----------
    predicted, truth : ndarray, (X, Y, Z)
        Lesion masks.
    voxel_ml : float
        Volume of a voxel in ml (`Volume.voxel_ml`).
    min_volume_ml : float
        Components below it are not counted, in either image (the challenge: 0). They still cover the
        other's lesions: a prediction on a lesion too small to count is no false alarm.
    min_share : float
        The share of a lesion's voxels that must be covered; 0: any voxel will do.
    """
    check_positive("voxel_ml", voxel_ml)
    if not 0 <= min_share <= 1:
        raise ValueError(BAD_SHARE.format(min_share))
    a, b = masks(predicted, truth)
    proposed = find_lesions(a, voxel_ml, min_volume_ml=min_volume_ml)
    actual = find_lesions(b, voxel_ml, min_volume_ml=min_volume_ml)
    found, right = (_is_covered(x, y, min_share) for x, y in ((actual, a), (proposed, b)))
    return LesionDetection(actual.volumes_ml, found, proposed.volumes_ml, right)


def roc_auc(probability: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Area under the ROC curve of a lesion map, voxel by voxel; NaN where the truth is all or nothing.

    The probability that a lesion voxel is ranked above another one, a tie counting one half: Mann and
    Whitney's U over the number of pairs (Hanley and McNeil, Radiology 1982), exact at once for millions of
    voxels, which MONAI goes through in a Python loop.

    Parameters
    ----------
    probability : ndarray, (X, Y, Z)
        Any scale that grows with the belief in a lesion.
    truth : ndarray, (X, Y, Z)
        Lesion mask.
    mask : ndarray, (X, Y, Z), optional
        The brain; everywhere without it.
    """
    from scipy.stats import rankdata

    values, lesion = _ranked(probability, truth, mask)
    ones, zeros = int(lesion.sum()), int((~lesion).sum())
    if not (ones and zeros):
        return float("nan")
    return float((rankdata(values)[lesion].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def average_precision(probability: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Area under the precision-recall curve, voxel by voxel; NaN where there is no lesion.

    The sum over the distinct probabilities, falling, of (recall - recall before) x precision: no straight
    lines between points, which this curve does not have (Davis and Goadrich, ICML 2006). Equal
    probabilities make one point. Parameters as for `roc_auc`; by chance it is the lesions' share of the mask.
    """
    values, lesion = _ranked(probability, truth, mask)
    if not lesion.any():
        return float("nan")
    order = np.argsort(-values)
    last = np.flatnonzero(np.diff(values[order], append=np.nan))  # the last voxel of each probability
    hits = np.cumsum(lesion[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])


def _is_covered(lesions: Lesions, other: np.ndarray, min_share: float) -> np.ndarray:
    """Tell of each lesion whether a mask (X, Y, Z) covers enough of it: bool (N,)."""
    covered, voxels = (
        np.bincount(labels, minlength=lesions.count + 1)[1:]
        for labels in (lesions.labels[other], lesions.labels.ravel())
    )
    return (covered > 0) & (covered >= min_share * voxels)


def _ranked(
    probability: np.ndarray, truth: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N,) and lesion flags (N,) in the mask."""
    values, lesion = inside(mask, (probability, truth))
    if not np.isfinite(values).all():
        raise ValueError(NOT_FINITE)
    return values, lesion > 0


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")
