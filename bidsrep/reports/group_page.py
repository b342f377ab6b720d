"""The cohort's page: one self-contained file with distributions, a table, and what needs a look."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.bids.names import report_path
from bidsrep.reports.distributions import Point, strip_plot
from bidsrep.reports.measures import SCAN, Measure, flags_of, in_short, known_order, measure_of
from bidsrep.reports.pages import fragment, page
from bidsrep.reports.results import Metric, ModelUse, ScanResult, SessionResult

TABLE_TEXTS = {
    "group_metrics.tsv": "every measurement, one a row",
    "group_volumes.tsv": "volumes, one session a row",
    "group_embedding_": "regional features, one region of one scan a row",
    "phenotype/bidsrep_volumes": "volumes, one participant a row",
    "phenotype/bidsrep_embedding": "mean feature of the brain, one participant a row",
}


@dataclass
class Cohort:
    """What the page needs of every session; a few numbers each."""

    sessions: list[SessionResult] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def warnings(self) -> dict[int, list[str]]:
        """Give the warnings of every session that has some, by its number."""
        short = {number: in_short(flags_of(session)) for number, session in enumerate(self.sessions)}
        return {number: lines for number, lines in short.items() if lines}


def render(out_dir: Path, cohort: Cohort, tables: Iterable[Path]) -> str:
    """Render the cohort's page."""
    from markupsafe import Markup

    links = _links(out_dir, cohort)
    warned = cohort.warnings()
    plots = list(_plots(cohort, links))
    for plot in plots:
        plot["svg"] = Markup(plot["svg"])  # noqa: S704 - built from escaped parts
    columns = _value_columns(cohort)
    return page(
        "group.html",
        tiles=_tiles(cohort, warned),
        problems=list(_problems(cohort, links, warned)),
        note=lambda problem: Markup(fragment("problem", problem)),  # noqa: S704 - escaped by the template
        plots=plots,
        contrasts=_contrasts(cohort),
        columns=[*_KEY_COLUMNS, *(column.head for column in columns)],
        rows=list(_rows(cohort, links, warned, columns)),
        models=_models(cohort),
        tables=[_table(path.relative_to(out_dir).as_posix()) for path in tables],
        version=__version__,
    )


def _links(out_dir: Path, cohort: Cohort) -> dict[str, str]:
    """Give the pages of the subjects that have one."""
    subjects = {session.subject for session in cohort.sessions}
    pages = {subject: report_path(out_dir, subject) for subject in subjects}
    return {subject: path.name for subject, path in pages.items() if path.is_file()}


def _tiles(cohort: Cohort, warned: dict[int, list[str]]) -> list[dict[str, Any]]:
    sessions = cohort.sessions
    states = [session.status for session in sessions]
    tiles: list[tuple[str, int, str]] = [
        ("subjects", len({session.subject for session in sessions}), ""),
        ("sessions", len(sessions), ""),
        ("scans", sum(len(session.scans) for session in sessions), ""),
        ("failed sessions", states.count("failed") + len(cohort.unreadable), "bad"),
        ("incomplete sessions", states.count("incomplete"), "warn"),
        ("sessions with warnings", len(warned), "warn"),
    ]
    return [{"name": name, "value": value, "css": css if value else ""} for name, value, css in tiles]


def _problems(
    cohort: Cohort, links: dict[str, str], warned: dict[int, list[str]]
) -> Iterator[dict[str, Any]]:
    """List what needs a look: failures first, then what is missing, then warnings."""
    for subject, text in cohort.unreadable:
        yield {"css": "bad", "who": f"sub-{subject}", "href": "", "texts": [text]}
    for session in cohort.sessions:
        if session.status == "failed":
            texts = [f"{crash.node.rpartition('.')[2]}: {crash.text}" for crash in session.crashes]
            yield _problem(session, links, "bad", texts or ["nothing was made of this session"])
    for session in cohort.sessions:
        if session.missing:
            yield _problem(session, links, "warn", [f"missing: {'; '.join(session.missing)}"])
    for number, texts in warned.items():
        yield _problem(cohort.sessions[number], links, "warn", texts)
    for subject in sorted({s.subject for s in cohort.sessions} - links.keys()):
        yield {
            "css": "warn",
            "who": f"sub-{subject}",
            "href": "",
            "texts": ["there is no page of this subject"],
        }


def _problem(session: SessionResult, links: dict[str, str], css: str, texts: list[str]) -> dict[str, Any]:
    return {"css": css, "who": session.label, "href": links.get(session.subject, ""), "texts": texts}


def _plots(cohort: Cohort, links: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Draw the distribution of every metric the table of metrics marks for it, one plot per model."""
    values: dict[tuple[str, str], list[tuple[Point, Metric]]] = {}
    for number, session in enumerate(cohort.sessions):
        for metric in _distinct(session.metrics):
            measure = measure_of(metric.name)
            if measure.plot and metric.number is not None:
                model = "" if measure.scope == SCAN else metric.model
                point = _point(number, session, metric, measure, links)
                values.setdefault((metric.name, model), []).append((point, metric))
    names = known_order(name for name, _ in values)
    for name, model in sorted(values, key=lambda key: (names.index(key[0]), key[1])):
        measure = measure_of(name)
        points = sorted((point for point, _ in values[name, model]), key=lambda p: (_rank(p.contrast), p.row))
        unit = values[name, model][0][1].unit
        title = f"{measure.title}, {model}" if model else measure.title
        svg = strip_plot(points, title, (measure.low, measure.high))
        yield {
            "title": title,
            "unit": f"({unit})" if unit not in ("", "1") else "",
            "text": measure.text,
            "svg": svg,
        }


def _point(
    number: int, session: SessionResult, metric: Metric, measure: Measure, links: dict[str, str]
) -> Point:
    contrast = metric.scan.rpartition("_")[2]
    against = metric.reference.rpartition("_")[2] if "." not in metric.reference else ""
    row = f"{contrast} → {against}" if against else contrast
    label = f"{session.label} {metric.scan}: {measure.show(metric)}"
    label += f" (with {metric.reference})" if metric.reference else ""
    return Point(row or "all", contrast, metric.number or 0.0, label, links.get(session.subject, ""), number)


@dataclass(frozen=True)
class _Column:
    """One column of values of the table: a metric, of one model where models have their own."""

    measure: Measure
    model: str

    @property
    def head(self) -> dict[str, Any]:
        """What its heading says."""
        text = f"{self.measure.title}. {self.measure.text}".strip()
        return {
            "title": self.measure.short or self.measure.title,
            "sub": self.model,
            "text": text,
            "number": True,
        }

    def cell(self, session: SessionResult, scan: ScanResult | None) -> dict[str, str]:
        """Give the value of a scan; the mean where it was compared with several others."""
        found = [
            metric
            for metric in _distinct(session.metrics)
            if scan is not None and metric.scan == scan.key and metric.name == self.measure.name
            if metric.model == self.model or not self.model
        ]
        numbers = [metric.number for metric in found if metric.number is not None]
        if not numbers:
            return {"value": "", "text": "–"}
        mean = Metric(self.model, "", self.measure.name, repr(sum(numbers) / len(numbers)), found[0].unit)
        return {"value": f"{mean.number:.6g}", "text": self.measure.show(mean, unit=False)}


_KEY_COLUMNS = [
    {"title": title, "sub": "", "text": "Sort", "number": False}
    for title in ("Participant", "Session", "Scan", "Status")
]


def _value_columns(cohort: Cohort) -> list[_Column]:
    present = {
        (metric.name, "" if measure_of(metric.name).scope == SCAN else metric.model)
        for session in cohort.sessions
        for metric in session.metrics
        if measure_of(metric.name).plot
    }
    names = known_order(name for name, _ in present)
    return [
        _Column(measure_of(name), model)
        for name, model in sorted(present, key=lambda key: (names.index(key[0]), key[1]))
    ]


def _rows(
    cohort: Cohort, links: dict[str, str], warned: dict[int, list[str]], columns: list[_Column]
) -> Iterator[dict[str, Any]]:
    for number, session in enumerate(cohort.sessions):
        status = session.status
        if status == "complete" and number in warned:
            status = "warning"
        for scan in session.scans or [None]:
            yield {
                "subject": f"sub-{session.subject}",
                "session": f"ses-{session.session}" if session.session is not None else "–",
                "scan": scan.key if scan else "–",
                "status": status,
                "css": "warn" if status == "warning" else status,
                "href": links.get(session.subject, ""),
                "session_number": number,
                "cells": [column.cell(session, scan) for column in columns],
            }


def _models(cohort: Cohort) -> list[tuple[ModelUse, int]]:
    counts: dict[ModelUse, int] = {}
    for session in cohort.sessions:
        for model in session.models:
            counts[model] = counts.get(model, 0) + 1
    return sorted(counts.items(), key=lambda item: (item[0].name, item[0].sha256))


def _contrasts(cohort: Cohort) -> list[str]:
    found = {scan.suffix for session in cohort.sessions for scan in session.scans}
    return sorted(found, key=_rank)


def _rank(contrast: str) -> tuple[int, str]:
    order = ("T1w", "T2w", "PDw", "FLAIR")
    return (order.index(contrast) if contrast in order else len(order), contrast)


def _distinct(metrics: Iterable[Metric]) -> list[Metric]:
    """Drop what two models' tables both say of a scan."""
    seen: dict[tuple[str, ...], Metric] = {}
    for metric in metrics:
        model = "" if measure_of(metric.name).scope == SCAN else metric.model
        seen.setdefault((model, metric.scan, metric.name, metric.reference), metric)
    return list(seen.values())


def _table(name: str) -> dict[str, str]:
    text = next((text for start, text in TABLE_TEXTS.items() if name.startswith(start)), "")
    return {"href": name, "text": text}
