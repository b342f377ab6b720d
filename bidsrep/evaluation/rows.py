"""The long table of measurements."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

NOTHING = "n/a"


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
        value = f"{row.value:.6g}" if np.isfinite(row.value) else NOTHING
        lines.append("\t".join((row.scan, row.metric, value, row.unit or NOTHING, row.reference or NOTHING)))
    return "\n".join(lines) + "\n"


def from_tsv(text: str) -> list[Row]:
    """Read what `to_tsv` wrote.

    >>> from_tsv(to_tsv([Row("T1w", "noise", 0.25)]))
    [Row(scan='T1w', metric='noise', value=0.25, unit='', reference='')]
    """
    table = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Row(
            row["scan"],
            row["metric"],
            float("nan") if row["value"] == NOTHING else float(row["value"]),
            *("" if row[column] == NOTHING else row[column] for column in ("unit", "reference")),
        )
        for row in table
    ]
