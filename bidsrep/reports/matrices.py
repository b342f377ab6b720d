"""How alike the features of a session's scans are: a matrix of scans for each model."""

from dataclasses import dataclass

from bidsrep.reports.results import SessionResult

METRIC = "contrast_invariance"


@dataclass(frozen=True)
class Cell:
    """One pair of scans: what is written, and how strongly it is coloured, from 0 to 1."""

    text: str
    strength: float


@dataclass(frozen=True)
class Matrix:
    """One model's matrix: `rows` of cells, in the order of `scans`."""

    model: str
    scans: list[str]
    rows: list[list[Cell]]


def invariance_matrices(result: SessionResult) -> list[Matrix]:
    """Lay out what was measured between the scans of a session; nothing for a session of one scan."""
    order = [scan.key for scan in result.scans]
    pairs: dict[str, dict[frozenset[str], float | None]] = {}
    for metric in result.metrics:
        if metric.name == METRIC and metric.reference:
            pair = frozenset((metric.scan, metric.reference))
            pairs.setdefault(metric.model, {})[pair] = metric.number
    matrices = []
    for model in sorted(pairs):
        compared = set().union(*pairs[model])
        scans = [key for key in order if key in compared]
        rows = [[_cell(one, two, pairs[model]) for two in scans] for one in scans]
        if len(scans) > 1:
            matrices.append(Matrix(model, scans, rows))
    return matrices


def _cell(one: str, two: str, pairs: dict[frozenset[str], float | None]) -> Cell:
    """Word one pair; a scan beside itself is no measurement."""
    if one == two:
        return Cell("–", 0.0)
    number = pairs.get(frozenset((one, two)))
    if number is None:
        return Cell("n/a", 0.0)
    return Cell(f"{number:.2f}".replace("-", "−"), round(min(max(number, 0.0), 1.0), 2))
