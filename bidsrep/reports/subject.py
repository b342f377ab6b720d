"""A subject's page: what was found and made, the images, warnings, measurements, methods and errors.

nireports finds the figures and puts them in order; the rest is rendered here and set around them. Only
the subject's own figures are indexed, links are relative, and nothing is loaded from elsewhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from bidsrep import __version__
from bidsrep.bids.files import write_text
from bidsrep.bids.names import natural, report_path
from bidsrep.reports.boilerplate import methods_bibtex, methods_html, methods_markdown
from bidsrep.reports.figures import mark_figures
from bidsrep.reports.matrices import invariance_matrices
from bidsrep.reports.measures import SCAN, Limits, Measure, by_measure, flags_of, known_order, measure_of
from bidsrep.reports.pages import data_file, fragment, to_script
from bidsrep.reports.results import Metric, ModelUse, ScanResult, SessionResult, read_subject
from bidsrep.reports.viewer import viewer_data
from bidsrep.reports.volumes import volume_tables

NO_SESSION = "Reports for: ."
"""Nireports' title of figures that have no session."""
SUMMARY_COLUMNS = ("brain_volume", "lesion_volume", "lesion_count")


@dataclass(frozen=True)
class _Table:
    """Measurements of one model in one session: `rows` of metrics, one column a scan."""

    title: str
    scans: list[str]
    rows: list[Any] = field(default_factory=list)


def write_subject_report(
    out_dir: Path,
    subject: str,
    run_uuid: str | None = None,
    notes: Sequence[str] = (),
    *,
    embed: bool = False,
    limits: Limits | None = None,
) -> Path:
    """Write ``sub-<label>.html`` from the subject's derivatives; give its path.

    Parameters
    ----------
    out_dir : Path
        The derivatives dataset.
    subject : str
        The subject's label, without ``sub-``.
    run_uuid : str, optional
        The run whose errors are shown; the newest one of every session where it is left out.
    notes : sequence of str
        Further warnings, in plain words, that the derivatives do not tell.
    embed : bool
        Put the figures into the page, which then can travel alone.
    limits : mapping, optional
        Thresholds of warnings that go before those of the package.
    """
    sessions = read_subject(out_dir, subject, run_uuid)
    html = _assemble(out_dir, subject, run_uuid, sessions, notes, embed, limits)
    path = report_path(out_dir, subject)
    write_text(path, html)
    return path


def _assemble(
    out_dir: Path,
    subject: str,
    run_uuid: str | None,
    sessions: Sequence[SessionResult],
    notes: Sequence[str],
    embed: bool,
    limits: Limits | None,
) -> str:
    """Let nireports find the figures, put our sections around them, and return the page."""
    figures = out_dir / f"sub-{subject}" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        made = Path(scratch) / "page.html"
        report = _report_class()(
            out_dir,
            run_uuid,
            bootstrap_file=data_file("subject.yml"),
            out_filename=str(made),
            reportlets_dir=figures,
            metadata={"template": str(data_file("subject.html"))},
            subject=subject,
        )
        warnings = [warning for session in sessions for warning in _warnings(session, limits)]
        warnings += [{"label": "", "text": note, "also": []} for note in notes]
        count = sum(1 + len(warning["also"]) for warning in warnings)
        report.header = [_header(subject, sessions, count)]
        viewers = [data for session in sessions if (data := viewer_data(out_dir, session)) is not None]
        report.footer = [fragment("footer", __version__), _scripts(subject, sessions, viewers)]
        for section in report.sections:
            for reportlet in section.reportlets:
                reportlet.title = {NO_SESSION: "Without a session."}.get(reportlet.title, reportlet.title)
        mark_figures(report.sections, out_dir, embed=embed)
        before, after = _sections(out_dir, sessions, warnings)
        if viewers:
            before.append(_section("Slices", fragment("viewer", [view["session"] for view in viewers])))
        report.sections = [*before, *report.sections, *after]
        report.generate_report()
        return made.read_text(encoding="utf-8")


def _report_class() -> type[Any]:
    """Nireports' report, which sorts sessions as people count, and has the figures without one where others have some."""
    from nireports.assembler.report import Report

    class Page(Report):
        @staticmethod
        def _process_orderings(orderings: list[str], hits: list[Any]) -> tuple[list[str], list[tuple[Any]]]:
            found = {hit.get_entities().get("session") for hit in hits}
            if found <= {None}:
                return [], []
            named = sorted((session for session in found if session is not None), key=natural)
            return orderings, [*([(None,)] if None in found else []), *((session,) for session in named)]

    return Page


def _scripts(subject: str, sessions: Sequence[SessionResult], viewers: list[dict[str, Any]]) -> str:
    """Give the scripts of the page, and what they work on: the scans to rate, and the viewers' images."""
    from markupsafe import Markup

    scans = [
        {"session": f"ses-{session.session}" if session.session is not None else "n/a", "scan": scan.key}
        for session in sessions
        for scan in session.scans
    ]
    data = {"version": __version__, "participant": f"sub-{subject}", "scans": scans, "viewers": viewers}
    return fragment("scripts", Markup(to_script(data)))  # noqa: S704 - no sign in it could end the element


def _sections(
    out_dir: Path, sessions: Sequence[SessionResult], warnings: list[dict[str, Any]]
) -> tuple[list[Any], list[Any]]:
    """Make the sections before and after the images."""
    models = _models(sessions)
    crashes = [crash for session in sessions for crash in session.crashes]
    repeated = [crash for session in sessions for crash in session.repeated]
    missing = [(f"{session.label}:", session.missing) for session in sessions if session.missing]
    before = [_section("Summary", _summary(sessions, models))]
    if warnings or missing:
        before.append(_section("Warnings", fragment("notes", warnings, missing)))
    if crashes:
        before.append(_section("Errors", fragment("errors", crashes, repeated)))
    after = []
    volumes = [{"session": s.session, "tables": volume_tables(out_dir, s)} for s in sessions]
    if measured := [session for session in volumes if session["tables"]]:
        after.append(_section("Volumes", fragment("volumes", measured)))
    if any(session.metrics for session in sessions):
        after.append(_section("Measurements", _measurements(sessions)))
    from markupsafe import Markup

    text = methods_markdown(out_dir, models)
    html = Markup(methods_html(text))  # noqa: S704 - built from escaped parts
    after.append(_section("Methods", fragment("methods", html, text, methods_bibtex(text))))
    if not crashes:
        after.append(_section("Errors", fragment("errors", crashes, repeated)))
    return before, after


def _warnings(session: SessionResult, limits: Limits | None) -> list[dict[str, Any]]:
    """Word a session's warnings: one of every kind in full, the others of that kind by their values."""
    visit = f"Session {session.session}, " if session.session is not None else ""
    return [
        {
            "label": f"{visit}{group[0].about}:",
            "text": group[0].text,
            "also": [f"{flag.about} {flag.shown}" for flag in group[1:]],
        }
        for group in by_measure(flags_of(session, limits)).values()
    ]


def _section(name: str, html: str) -> SimpleNamespace:
    """Make a section the template knows, of one piece of HTML."""
    piece = SimpleNamespace(title="", subtitle="", description="", components=[(html, "")])
    return SimpleNamespace(name=name, title=name, isnested=False, reportlets=[piece])


def _header(subject: str, sessions: Sequence[SessionResult], warnings: int) -> str:
    states = {session.status for session in sessions}
    if "failed" in states:
        status = SimpleNamespace(css="failed", text="a part failed")
    elif "incomplete" in states:
        status = SimpleNamespace(css="incomplete", text="incomplete")
    elif warnings:
        count = "1 warning" if warnings == 1 else f"{warnings} warnings"
        status = SimpleNamespace(css="warn", text=f"complete, {count}")
    else:
        status = SimpleNamespace(css="ok", text="complete")
    visits = [session for session in sessions if session.scans or session.session is not None] or sessions
    counts = [{"count": len(session.scans)} for session in visits]
    return fragment("header", subject, counts, status, __version__)


def _models(sessions: Iterable[SessionResult]) -> list[ModelUse]:
    """List the models of all sessions; one whose weights changed between sessions is there twice."""
    return sorted(
        {model for session in sessions for model in session.models}, key=lambda m: (m.name, m.sha256)
    )


def _summary(sessions: Sequence[SessionResult], models: Sequence[ModelUse]) -> str:
    names = {metric.name for session in sessions for metric in session.metrics}
    columns = [measure_of(name) for name in SUMMARY_COLUMNS if name in names]
    rows = []
    for session in sessions:
        scans = [vars(scan) | {"cells": _cells(session, scan, columns)} for scan in session.scans]
        rows.append({"session": session.session, "scans": scans})
    return fragment("summary", rows, models, [measure.title for measure in columns])


def _cells(session: SessionResult, scan: ScanResult, columns: Sequence[Measure]) -> list[list[str]]:
    """Give the summary's values of a scan; where models differ, each with its name."""
    cells = []
    for measure in columns:
        found = [m for m in session.metrics if m.scan == scan.key and m.name == measure.name]
        texts = dict.fromkeys(measure.show(metric) for metric in found)
        named = [f"{metric.model} {measure.show(metric)}" for metric in found]
        cells.append(list(texts) if len(texts) < 2 else named)
    return cells


def _measurements(sessions: Sequence[SessionResult]) -> str:
    rows = [
        {"session": s.session, "tables": _tables(s), "matrices": invariance_matrices(s)} for s in sessions
    ]
    names = known_order(metric.name for session in sessions for metric in session.metrics)
    return fragment("measurements", rows, [measure_of(name) for name in names])


def _tables(session: SessionResult) -> list[_Table]:
    """Lay a session's metrics out: first what was measured on the scans, then a table per model."""
    groups: dict[str, list[Metric]] = {}
    for metric in session.metrics:
        shared = measure_of(metric.name).scope == SCAN
        groups.setdefault("Scans" if shared else f"Results of {metric.model}", []).append(metric)
    order = [scan.key for scan in session.scans]
    tables = []
    for title in sorted(groups, key=lambda title: (title != "Scans", title)):
        metrics = groups[title]
        scans = sorted(
            {m.scan for m in metrics}, key=lambda s: (order.index(s) if s in order else len(order), s)
        )
        table = _Table(title, scans)
        for name in known_order(metric.name for metric in metrics):
            measure = measure_of(name)
            cells = [
                _entries(measure, [m for m in metrics if m.name == name and m.scan == scan]) for scan in scans
            ]
            table.rows.append({"measure": measure, "cells": cells})
        tables.append(table)
    return tables


def _entries(measure: Measure, metrics: Iterable[Metric]) -> list[dict[str, str]]:
    """Give a cell's entries, each once: two models measure the same of a scan."""
    entries = dict.fromkeys((measure.show(metric), metric.reference) for metric in metrics)
    return [
        {"text": text, "reference": f"{measure.relation} {reference}" if reference else ""}
        for text, reference in entries
    ]
