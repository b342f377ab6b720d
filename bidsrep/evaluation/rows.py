"""The long table of measurements."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One measurement: of which scan's results, what, how much, in which unit, compared with what."""

    scan: str
    metric: str
    value: float
    unit: str = ""
    reference: str = ""


def to_tsv(rows: Iterable[Row]) -> str:
    """Give the long table: scan, metric, value, unit, reference; ``n/a`` where there is nothing."""
    lines = ["scan\tmetric\tvalue\tunit\treference"]
    for row in rows:
        value = f"{row.value:.6g}" if np.isfinite(row.value) else "n/a"
        lines.append("\t".join((row.scan, row.metric, value, row.unit or "n/a", row.reference or "n/a")))
    return "\n".join(lines) + "\n"
