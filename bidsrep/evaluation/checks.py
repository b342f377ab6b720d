"""What one scan tells of its own faults, as rows of the table; from which value on to warn is in the reports' table."""

from collections.abc import Iterator, Mapping

import numpy as np

from bidsrep.evaluation.rows import Row
from bidsrep.evaluation.synthesis import PEAK_PERCENTILE, fitted
from bidsrep.imaging.checks import check_scan
from bidsrep.imaging.checks_anatomy import check_anatomy
from bidsrep.imaging.checks_pairs import largest_disagreement
from bidsrep.imaging.volume import Volume

UNITS = {
    "orientation": "degree",
    "mask_excess": "cm3",
    "mask_missing": "cm3",
}  # ml would make them volumes of interest
T1W_FROM, FLAIR_TO = 0.08, 0.14
"""White less grey matter, in ranges of the brain (`fit_tissues`); what lies between may be either.

Measured on 48 scans: T1w 0.17 to 0.48, with gadolinium 0.19, FLAIR -0.18 to 0.07, T2w -0.29 to -0.09."""
PART_OF_A_BRAIN = 0.25
"""Part of the mask's surface on the border of the image from which on a scan shows a part of the brain."""
LEAST_ANATOMY = 0.2
"""Correlation with the average anatomy from which its tissues say anything; see ``anatomy``."""


def check_rows(key: str, suffix: str, scan: Volume, mask: np.ndarray) -> Iterator[Row]:
    """Check a scan on its own grid; `suffix` is the contrast its name claims, `mask` (bool) the brain."""
    anatomy, found = check_anatomy(scan, mask), check_scan(scan, mask)
    if found["mask_border"] > PART_OF_A_BRAIN:  # a slab can be laid into an average brain in many ways
        anatomy = dict.fromkeys(anatomy, float("nan")) | {"in_view": anatomy["in_view"]}
    found |= anatomy
    for metric, value in found.items():
        yield Row(key, metric, value, UNITS.get(metric, ""))
    if suffix in contrast_margins(0.0, 0.0):
        margin, other = contrast_of(suffix, anatomy)
        yield Row(key, "contrast", margin, "", other)


def contrast_of(suffix: str, anatomy: Mapping[str, float]) -> tuple[float, str]:
    """Return how far a scan is from being another contrast than its name says, and which one that is.

    Below 0 it looks more like the other one. NaN where the tissues were not found.
    """
    values = [anatomy.get(name, np.nan) for name in ("white_grey", "fluid_grey", "anatomy")]
    if not np.isfinite(values).all() or values[2] < LEAST_ANATOMY:
        return float("nan"), ""
    margins = contrast_margins(*values[:2])
    other = max((name for name in margins if name != suffix), key=lambda name: margins[name])
    return margins[suffix], other


def contrast_margins(white_grey: float, fluid_grey: float) -> dict[str, float]:
    """Return how well the order of the tissues fits each contrast: above 0 it does.

    T1w: white, grey, fluid from bright to dark. T2w: fluid brighter than grey matter. FLAIR: fluid darker,
    white matter no brighter than grey. Others, such as PDw, have no such order that scanners agree on.

    >>> margins = contrast_margins(white_grey=-0.1, fluid_grey=-0.5)
    >>> max(margins, key=margins.get)
    'FLAIR'
    """
    return {
        "T1w": min(white_grey - T1W_FROM, -fluid_grey),
        "T2w": fluid_grey,
        "FLAIR": min(FLAIR_TO - white_grey, -fluid_grey),
    }


def synthesis_disagreement(predicted: np.ndarray, acquired: Volume, mask: np.ndarray) -> float:
    """Return the volume of the largest piece in which a predicted contrast contradicts the acquired one, ml.

    Scaled as in `compare_synthesis`: the prediction by the best line, both by the scan's 99.5th percentile.
    """
    truth = acquired.data[mask].astype(np.float64)
    peak = float(np.percentile(truth, PEAK_PERCENTILE)) if truth.size else 0.0
    if peak <= 0:
        return float("nan")
    error = np.zeros(acquired.shape, dtype=np.float32)
    error[mask] = truth / peak - fitted(predicted[mask].astype(np.float64), truth / peak)
    return largest_disagreement(error, mask, acquired.spacing)
