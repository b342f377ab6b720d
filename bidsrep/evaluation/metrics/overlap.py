"""How far two segmentations agree: overlap, surfaces, volume. Arrays are (X, Y, Z) on one grid.

Arrays that do not fit raise ValueError.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bidsrep.evaluation.metrics._checks import check_one_grid, check_positive, masks
from bidsrep.imaging.quality import dice

PERCENTILE = 95
BAD_SPACING = "a spacing is three positive numbers in mm, got {}"
NO_CLASSES = "there are no classes to compare"


@dataclass(frozen=True)
class DiceScores:
    """Dice's coefficient of every class of a segmentation.

    Parameters
    ----------
    per_class : mapping of int to float
        A class in one of the two only has 0, a class in neither NaN.
    background : int
        The class that is the background.
    """

    per_class: Mapping[int, float]
    background: int = 0

    @property
    def n_absent(self) -> int:
        """How many classes are in neither segmentation; no mean but `mean_of_all` counts them."""
        return int(np.isnan(list(self.per_class.values())).sum())

    @property
    def mean(self) -> float:
        """The mean over the classes that are there, without the background; NaN if none is."""
        return _mean([score for label, score in self.per_class.items() if label != self.background])

    @property
    def mean_with_background(self) -> float:
        """The same with the background, where that was asked for: mostly a larger figure."""
        return _mean(list(self.per_class.values()))

    @property
    def mean_of_all(self) -> float:
        """The mean of Brain-ID's released evaluation: every class asked for, absent ones counted as 0."""
        return float(np.nan_to_num(list(self.per_class.values())).mean())


def dice_scores(
    predicted: np.ndarray, truth: np.ndarray, classes: Iterable[int], background: int = 0
) -> DiceScores:
    """Compare two label maps class by class: 2 |A and B| / (|A| + |B|) (Dice, Ecology 1945).

    Parameters
    ----------
    predicted, truth : ndarray, (X, Y, Z)
        Label maps.
    classes : iterable of int
        The labels to compare, the background among them if it shall count; others are ignored.
    background : int
        The label that `DiceScores.mean` leaves out.
    """
    # MONAI's Dice has no such choice: `ignore_empty` drops a class that is predicted but not in the truth as
    # well, and without it a class absent from both scores 1.
    check_one_grid(predicted, truth)
    scores = {}
    for label in classes:
        a, b = np.asarray(predicted) == label, np.asarray(truth) == label
        scores[label] = dice(a, b) if a.any() or b.any() else float("nan")
    if not scores:
        raise ValueError(NO_CLASSES)
    return DiceScores(scores, background)


def hausdorff_95(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Hausdorff distance of two masks' surfaces in mm, at the 95th percentile instead of the maximum.

    The larger of the two directed percentiles (Huttenlocher et al., IEEE TPAMI 1993, their ranked distance;
    MONAI, BraTS), not the percentile of both directions' distances together. A surface is the centres of the
    voxels with a face outside of the mask. NaN where a mask is empty: no distance says how wrong that is.

    Parameters
    ----------
    predicted, truth : ndarray, (X, Y, Z)
        Masks.
    spacing : sequence of 3 float
        Voxel size along each axis, mm.
    """
    from monai.metrics import compute_hausdorff_distance

    return _surface_distance(
        compute_hausdorff_distance, predicted, truth, spacing, percentile=float(PERCENTILE)
    )


def average_surface_distance(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance of two masks in mm (Heimann et al., IEEE TMI 2009).

    The mean over the voxels of both surfaces of the distance to the other surface; else as `hausdorff_95`.
    """
    from monai.metrics import compute_average_surface_distance

    return _surface_distance(compute_average_surface_distance, predicted, truth, spacing, symmetric=True)


@dataclass(frozen=True)
class VolumeError:
    """How much larger a predicted volume is than the true one: in ml, and in percent of the true one."""

    ml: float
    percent: float


def volume_error(predicted: np.ndarray, truth: np.ndarray, voxel_ml: float) -> VolumeError:
    """Compare the volumes of two masks; negative where too little was predicted.

    Parameters
    ----------
    predicted, truth : ndarray, (X, Y, Z)
        Masks. The percentage is NaN for an empty truth.
    voxel_ml : float
        Volume of a voxel in ml (`Volume.voxel_ml`).
    """
    check_positive("voxel_ml", voxel_ml)
    voxels, true_voxels = (int(mask.sum()) for mask in masks(predicted, truth))
    surplus = voxels - true_voxels
    return VolumeError(surplus * voxel_ml, 100.0 * surplus / true_voxels if true_voxels else float("nan"))


def _surface_distance(
    metric: Any, predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float], **options: Any
) -> float:
    """Give one of MONAI's metrics of two masks; NaN for empty ones, of which MONAI makes NaN or infinity."""
    import torch

    a, b = masks(predicted, truth)
    # MONAI refuses spacings of mixed and of NumPy's number types.
    mm = tuple(float(size) for size in spacing)
    if len(mm) != 3 or not all(size > 0 for size in mm):
        raise ValueError(BAD_SPACING.format(spacing))
    if not (a.any() and b.any()):
        return float("nan")
    pair = (torch.from_numpy(mask)[None, None] for mask in (a, b))
    return float(metric(*pair, include_background=True, spacing=mm, **options))


def _mean(scores: list[float]) -> float:
    there = [score for score in scores if not np.isnan(score)]
    return float(np.mean(there)) if there else float("nan")
