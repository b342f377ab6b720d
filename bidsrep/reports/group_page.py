"""The cohort's page: one self-contained file with distributions, maps, a table, and what needs a look.

The frame is rendered here; what is drawn, sorted and filtered comes from `group_data`, by the scripts in
``data/reports``. These write nothing but text into the page.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.bids.names import report_path
from bidsrep.reports.cohort import Cohort
from bidsrep.reports.group_data import group_data
from bidsrep.reports.pages import page, to_script
from bidsrep.reports.ratings import Rating

TABLE_TEXTS = {
    "group_metrics.tsv": "every measurement, one a row",
    "group_ratings.tsv": "what raters said, one rating a row",
    "group_volumes.tsv": "volumes, one session a row",
    "group_embedding_": "regional features, one region of one scan a row",
    "phenotype/bidsrep_volumes": "volumes, one participant a row",
    "phenotype/bidsrep_embedding": "mean feature of the brain, one participant a row",
}


def render(
    out_dir: Path,
    cohort: Cohort,
    tables: Iterable[Path],
    described: dict[str, str] | None = None,
    ratings: Sequence[Rating] = (),
) -> str:
    """Render the cohort's page."""
    from markupsafe import Markup

    data = group_data(cohort, described or {}, _links(out_dir, cohort), ratings)
    return page(
        "group.html",
        data=Markup(to_script(data)),  # noqa: S704 - it has no sign that could end the element
        tiles=_tiles(cohort),
        sections=_sections(data),
        outputs=data["outputs"],
        models=sorted(cohort.models.items(), key=lambda item: (item[0].name, item[0].sha256)),
        tables=[_table(path.relative_to(out_dir).as_posix()) for path in tables],
        version=__version__,
    )


def _links(out_dir: Path, cohort: Cohort) -> dict[str, str]:
    """Give the pages of the subjects that have one."""
    pages = {subject: report_path(out_dir, subject) for subject in cohort.subjects}
    return {subject: path.name for subject, path in pages.items() if path.is_file()}


def _sections(data: dict[str, Any]) -> dict[str, bool]:
    """Say which sections have something to show."""
    names = ("measures", "maps", "effects", "repeats", "problems")
    return {name: bool(data[name]) for name in names} | {"outputs": bool(data["outputs"]["rows"])}


def _tiles(cohort: Cohort) -> list[dict[str, Any]]:
    states = [session.status for session in cohort.sessions]
    tiles: list[tuple[str, int, str]] = [
        ("subjects", len(cohort.subjects), ""),
        ("sessions", len(cohort.sessions), ""),
        ("scans", sum(bool(scan.key) for scan in cohort.scans), ""),
        ("failed sessions", states.count("failed") + len(cohort.unreadable), "bad"),
        ("incomplete sessions", states.count("incomplete"), "warn"),
        (
            "sessions with warnings",
            sum(any(kind == "warning" for kind, _ in session.problems) for session in cohort.sessions),
            "warn",
        ),
    ]
    return [{"name": name, "value": value, "css": css if value else ""} for name, value, css in tiles]


def _table(name: str) -> dict[str, str]:
    text = next((text for start, text in TABLE_TEXTS.items() if name.startswith(start)), "")
    return {"href": name, "text": text}
