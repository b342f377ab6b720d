"""What the cohort's page keeps of every subject while they are read one after the other: a few numbers each."""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bidsrep.reports.measures import SCAN, Limits, flags_of, in_short, measure_of
from bidsrep.reports.results import Metric, ModelUse, ScanResult, SessionResult

ORDER = ("T1w", "T2w", "PDw", "FLAIR")
Embeddings = Mapping[tuple[str, str], list[float]]
"""Model and scan to the mean feature of the brain."""


@dataclass(frozen=True)
class SessionRow:
    """One session: where it stands in the list of subjects, how it went, and what to say of it."""

    subject: int
    session: str | None
    status: str
    problems: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class ScanRow:
    """One scan of a session; `key` is empty where a session has none."""

    session: int
    key: str
    suffix: str


@dataclass
class Values:
    """All values of one metric (of one model, where models have their own): the scan, what it was compared with."""

    unit: str = ""
    rows: "array[int]" = field(default_factory=lambda: array("l"))
    numbers: "array[float]" = field(default_factory=lambda: array("d"))
    references: list[str] = field(default_factory=list)


class Cohort:
    """Collects sessions; scans are numbered in the order they come, and everything else by those numbers.

    `limits` are the user's own thresholds of warnings, `levelled` the columns of `known` whose values are names.
    """

    def __init__(self, limits: Limits | None = None, levelled: Collection[str] = ()) -> None:
        self.limits, self.levelled = limits or {}, levelled
        self.subjects: list[str] = []
        self.sessions: list[SessionRow] = []
        self.scans: list[ScanRow] = []
        self.known: list[dict[str, str]] = []
        self.values: dict[tuple[str, str], Values] = {}
        self.models: Counter[ModelUse] = Counter()
        self.made: Counter[tuple[str, str, str]] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self._embeddings: dict[str, tuple[array[int], list[np.ndarray]]] = {}

    def add(
        self, result: SessionResult, embeddings: Embeddings, known: Mapping[str, dict[str, str]] | None = None
    ) -> None:
        """Keep what the page needs of one session; `known` holds what is known of each scan, by its key."""
        if not self.subjects or self.subjects[-1] != result.subject:
            self.subjects.append(result.subject)
        number = len(self.sessions)
        problems = tuple(_problems(result, self.limits))
        warned = any(kind == "warning" for kind, _ in problems)
        status = "warning" if result.status == "complete" and warned else result.status
        self.sessions.append(SessionRow(len(self.subjects) - 1, result.session, status, problems))
        rows: dict[str, int] = {}
        for scan in result.scans or (ScanResult("", ""),):
            rows[scan.key] = len(self.scans)
            self.scans.append(ScanRow(number, scan.key, scan.suffix))
            self.known.append((known or {}).get(scan.key, {}))
            for model, roles in scan.outputs.items():
                self.made.update((model, role, scan.suffix) for role in roles)
        self.models.update(result.models)
        self._add_metrics(result.metrics, rows)
        for (model, key), row in embeddings.items():
            numbers, vectors = self._embeddings.setdefault(model, (array("l"), []))
            vector = np.array(row, dtype=np.float32)
            if (
                key in rows
                and np.isfinite(vector).all()
                and (not vectors or vectors[0].shape == vector.shape)
            ):
                numbers.append(rows[key])
                vectors.append(vector)

    def embeddings(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Give the numbers of a model's scans (N,), and their features (N, C)."""
        numbers, vectors = self._embeddings[model]
        return np.array(numbers, dtype=np.intp), np.array(vectors, dtype=np.float64)

    @property
    def embedded(self) -> list[str]:
        """The models of which there are embeddings."""
        return sorted(self._embeddings)

    def subject_of(self, scan: int) -> str:
        """Give the label of the subject of a scan, by its number."""
        return self.subjects[self.sessions[self.scans[scan].session].subject]

    def name_of(self, session: int) -> str:
        """Give the name of a session: ``sub-01 ses-A``."""
        row = self.sessions[session]
        return f"sub-{self.subjects[row.subject]}" + (
            f" ses-{row.session}" if row.session is not None else ""
        )

    def _add_metrics(self, metrics: Iterable[Metric], rows: Mapping[str, int]) -> None:
        seen = set()
        for metric in metrics:
            measure = measure_of(metric.name)
            model = "" if measure.scope == SCAN else metric.model
            key = (metric.name, model, metric.scan, metric.reference)
            number = metric.number
            if number is None or abs(number) == float("inf") or key in seen or metric.scan not in rows:
                continue
            seen.add(key)  # what two models' tables both say of a scan counts once
            values = self.values.setdefault((metric.name, model), Values(metric.unit))
            values.rows.append(rows[metric.scan])
            values.numbers.append(number)
            reference = metric.reference
            values.references.append("" if "." in reference else reference.rpartition("_")[2])


def rank(contrast: str) -> tuple[int, str]:
    """Sort contrasts as people name them."""
    return (ORDER.index(contrast) if contrast in ORDER else len(ORDER), contrast)


def _problems(result: SessionResult, limits: Limits) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Say what of a session needs a look: that it failed, what is missing, what the metrics warn of."""
    if result.status == "failed":
        texts = tuple(f"{crash.node.rpartition('.')[2]}: {crash.text}" for crash in result.crashes)
        yield "failed", texts or ("nothing was made of this session",)
    if result.missing:
        yield "missing", ("; ".join(result.missing),)
    if lines := in_short(flags_of(result, limits)):
        yield "warning", tuple(lines)
