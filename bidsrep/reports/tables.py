"""The cohort's tables, written while the subjects are read: none of them is ever held in memory.

``group_*.tsv`` have a row per measurement, session, or scan and region. The tables in ``phenotype/``
are the same for other BIDS software, which wants one row per participant: the first holds everyone's
first session, ``_visit2`` the second of those who have one, and so on.
"""

import csv
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from bidsrep import __version__
from bidsrep.bids.files import atomic_path, write_json
from bidsrep.reports.measures import MODEL, known_order, measure_of
from bidsrep.reports.results import Metric, ModelUse, SessionResult

LOGGER = logging.getLogger("bidsrep")
UNREADABLE_MSG = "%s: this table cannot be read and is left out (%s)."
METRICS = ("participant_id", "session_id", "model", "scan", "metric", "value", "unit", "reference")
CHANNEL = re.compile(r"[a-z]+_?\d+")
WHOLE_BRAIN = "brain"
ROW_KEYS = {
    "participant_id": {"Description": "The participant"},
    "session_id": {"Description": "The session the row is about; n/a in a dataset without sessions"},
}
Row = Sequence[str]


class GroupTables:
    """Writes every table of the group level; use it as a context. Tables appear when it ends without error."""

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir
        self.written: list[Path] = []
        self._stack = ExitStack()
        self._open: dict[Path, TextIO] = {}
        self._visits: dict[str, int] = {}
        self._volumes: list[tuple[int, Row, dict[str, str]]] = []
        self._volume_columns: dict[str, Metric] = {}
        self._channels: dict[str, list[str]] = {}
        self._weights: dict[str, set[ModelUse]] = {}

    def __enter__(self) -> Self:
        self._write(self.out_dir / "group_metrics.tsv", METRICS, [])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            for stream in self._open.values():
                stream.close()
            self._stack.__exit__(kind, error, trace)
        if error is None:
            self._remove_stale()

    def add(self, result: SessionResult) -> dict[tuple[str, str], list[float]]:
        """Add one session to all tables; give its embeddings of the whole brain, by model and scan."""
        whole: dict[tuple[str, str], list[float]] = {}
        visit = self._visits[result.subject] = self._visits.get(result.subject, 0) + 1
        if not result.scans:
            return whole  # it counts as a visit all the same
        keys = (f"sub-{result.subject}", f"ses-{result.session}" if result.session is not None else "n/a")
        rows = [
            (*keys, m.model, m.scan, m.name, m.value or "n/a", m.unit or "n/a", m.reference or "n/a")
            for m in result.metrics
        ]
        self._write(self.out_dir / "group_metrics.tsv", METRICS, rows)
        self._volumes.append((visit, keys, self._volumes_of(result.metrics)))
        for model in result.models:
            self._weights.setdefault(model.name, set()).add(model)
            for key, row in self._add_embeddings(result, model.name, keys, visit).items():
                whole[model.name, key] = row
        return whole

    def _volumes_of(self, metrics: Iterable[Metric]) -> dict[str, str]:
        values: dict[str, str] = {}
        for metric in metrics:
            measure = measure_of(metric.name)
            if measure.volume or metric.unit == "ml":
                column = _column(metric)
                self._volume_columns.setdefault(column, metric)
                values.setdefault(column, metric.value or "n/a")
        return values

    def _add_embeddings(
        self, result: SessionResult, model: str, keys: Row, visit: int
    ) -> dict[str, list[float]]:
        """Copy a session's embeddings, and average those of the whole brain over its scans; give these, too."""
        target = self.out_dir / f"group_embedding_{model}.tsv"
        scans, whole = [], []
        brains: dict[str, list[float]] = {}
        for scan in result.scans:
            if model not in scan.embeddings:
                continue
            try:
                header, rows = _read_table(scan.embeddings[model])
            except (OSError, UnicodeDecodeError, csv.Error) as error:
                LOGGER.warning(UNREADABLE_MSG, scan.embeddings[model], error)
                continue
            columns = self._channels.setdefault(model, header)
            if header != columns:
                continue  # of other weights: a table has one set of columns
            self._write(
                target,
                ("participant_id", "session_id", "scan", *header),
                [(*keys, scan.key, *row) for row in rows],
            )
            channels = [index for index, name in enumerate(header) if CHANNEL.fullmatch(name)]
            found = [[row[index] for index in channels] for row in rows if row[0] == WHOLE_BRAIN]
            whole += found
            if found:
                brains[scan.key] = [_float(cell) for cell in found[0]]
            scans.append(scan.key)
        means = _mean(whole)
        if means:
            names = [name for name in self._channels[model] if CHANNEL.fullmatch(name)]
            path = self._phenotype(f"embedding_{model}", visit)
            self._write(
                path, ("participant_id", "session_id", "scans", *names), [(*keys, ",".join(scans), *means)]
            )
        return brains

    def _finish(self) -> None:
        """Write what needs all sessions to be known: the volumes, and the descriptions of the columns."""
        columns = _sorted_columns(self._volume_columns)
        header = ("participant_id", "session_id", *columns)
        for visit, keys, values in self._volumes:
            row = [(*keys, *(values.get(column, "n/a") for column in columns))]
            self._write(self.out_dir / "group_volumes.tsv", header, row)
            self._write(self._phenotype("volumes", visit), header, row)
        for path in list(self._open):
            if path.parent.name == "phenotype":
                write_json(path.with_suffix(".json"), self._describe(path.stem, columns))
        self.written = sorted(self._open)

    def _describe(self, stem: str, columns: Iterable[str]) -> dict[str, Any]:
        """Describe a table of ``phenotype/``, as BIDS wants it."""
        if stem.startswith("bidsrep_volumes"):
            what, models = "Volumes of the brain and of lesions", sorted(self._weights)
            described = {name: _describe_volume(self._volume_columns[name]) for name in columns}
        else:
            model = stem.removeprefix("bidsrep_embedding_").partition("_visit")[0]
            what, models = f"Mean feature of {model} over the brain, averaged over a session's scans", [model]
            described = {"scans": {"Description": "The scans that were averaged over"}}
            for name in self._channels[model]:
                if CHANNEL.fullmatch(name):
                    text = f"Channel {name.lstrip('abcdefghijklmnopqrstuvwxyz_')} of the features of {model}"
                    described[name] = {"Description": text, "Units": "arbitrary"}
        weights = sorted(
            {f"{use.name} {use.weights}" for name in models for use in self._weights.get(name, ())}
        )
        tool = f"bidsrep {__version__}" + (f", weights: {', '.join(weights)}" if weights else "")
        return {
            "Description": f"{what}; one row per participant",
            "MeasurementToolMetadata": {"Description": tool},
            **ROW_KEYS,
            **described,
        }

    def _phenotype(self, name: str, visit: int) -> Path:
        ending = f"_visit{visit}" if visit > 1 else ""
        return self.out_dir / "phenotype" / f"bidsrep_{name}{ending}.tsv"

    def _write(self, path: Path, header: Row, rows: Iterable[Row]) -> None:
        """Add rows to a table; it is begun with its header."""
        stream = self._open.get(path)
        if stream is None:
            temporary = self._stack.enter_context(atomic_path(path))
            stream = self._open[path] = temporary.open("w", encoding="utf-8", newline="")
            stream.write("\t".join(header) + "\n")
        for row in rows:
            stream.write("\t".join(" ".join(cell.split()) or "n/a" for cell in row) + "\n")

    def _remove_stale(self) -> None:
        """Delete tables of an earlier run that no longer have a row."""
        kept = {*self.written, *(path.with_suffix(".json") for path in self.written)}
        ours = [*self.out_dir.glob("group_embedding_*.tsv"), *self.out_dir.glob("group_volumes.tsv")]
        pattern = re.compile(r"bidsrep_(volumes|embedding_[0-9a-zA-Z+]+)(_visit\d+)?\.(tsv|json)")
        ours += [p for p in self.out_dir.glob("phenotype/bidsrep_*") if pattern.fullmatch(p.name)]
        for path in ours:
            if path not in kept:
                path.unlink(missing_ok=True)


def _column(metric: Metric) -> str:
    """Name the column of a volume: ``brain_volume_T1w``, ``pepsi_lesion_volume_acqtra_FLAIR``."""
    parts = [metric.name, metric.scan.replace("-", "")]
    if measure_of(metric.name).scope == MODEL:
        parts.insert(0, metric.model)
    return "_".join(part for part in parts if part)


def _sorted_columns(columns: Mapping[str, Metric]) -> list[str]:
    order = {name: index for index, name in enumerate(known_order(m.name for m in columns.values()))}
    return sorted(columns, key=lambda column: (order[columns[column].name], column))


def _describe_volume(metric: Metric) -> dict[str, str]:
    measure = measure_of(metric.name)
    of = f"from the {metric.scan} scan" if metric.scan else "of the session"
    by = f", by {metric.model}" if measure.scope == MODEL else ""
    unit = {"ml": "mL", "": "", "1": ""}.get(metric.unit, metric.unit)
    text = {"LongName": measure.title, "Description": f"{measure.text or measure.title} {of}{by}".strip()}
    return text | ({"Units": unit} if unit else {})


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    header = rows[0] if rows else []
    return header, [row for row in rows[1:] if len(row) == len(header)]


def _mean(rows: Sequence[Row]) -> list[str]:
    """Average rows of numbers column by column; a column with a value that is no number is n/a."""
    means = []
    for column in zip(*rows, strict=True):
        try:
            means.append(f"{sum(map(float, column)) / len(column):.6g}")
        except ValueError:
            means.append("n/a")
    return means


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
