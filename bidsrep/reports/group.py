"""The group level: collect what all subjects' derivatives say into tables and one page.

Only the derivatives are read, one subject at a time; of the raw dataset, if it is at hand, what is known of
the people and the scanners (`bidsrep.reports.people`).
"""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

from bidsrep.bids.crate import write_crate
from bidsrep.bids.files import write_text
from bidsrep.errors import LAST_LINE, ExitCode, InputError
from bidsrep.reports.cohort import Cohort
from bidsrep.reports.group_page import render
from bidsrep.reports.people import People
from bidsrep.reports.ratings import read_ratings, write_ratings
from bidsrep.reports.results import SessionResult, find_subjects, read_subject
from bidsrep.reports.tables import GroupTables
from bidsrep.settings import Settings

LOGGER = logging.getLogger("bidsrep")
NOTHING_MSG = "{}: there are no subjects' results (folders named sub-*). Run the participant level first, or check the path."
UNREADABLE_MSG = "sub-{}: its results cannot be read and are left out ({})."


def run_group(settings: Settings) -> int:
    """Write the cohort's tables and ``group.html``; give the exit code."""
    out_dir = settings.out_dir
    subjects = find_subjects(out_dir) if out_dir.is_dir() else []
    if settings.participant_label:
        subjects = [subject for subject in subjects if subject in settings.participant_label]
    if not subjects:
        raise InputError(NOTHING_MSG.format(out_dir))
    people, ratings = People(out_dir, settings.bids_dir), read_ratings(out_dir)
    cohort = Cohort(settings.quality_thresholds, people.levelled)
    with GroupTables(out_dir) as tables:
        for subject in subjects:
            for result in _read(out_dir, subject, settings.session_label, cohort):
                of_session = people.of_session(result)
                known = {scan.key: of_session | people.of_scan(result, scan) for scan in result.scans}
                known = known or {"": of_session}  # of a session without a scan, too
                cohort.add(result, tables.add(result), known)
    rated = write_ratings(out_dir, ratings)
    written = sorted([*tables.written, *([rated] if rated else [])])
    write_text(out_dir / "group.html", render(out_dir, cohort, written, people.described, ratings))
    if settings.ro_crate:
        made = [path.relative_to(out_dir).as_posix() for path in written]
        write_crate(out_dir, cohort.subjects, [*made, "group.html"])
    LOGGER.info(
        "group: %d subjects, %d sessions%s; see %s",
        len(cohort.subjects),
        len(cohort.sessions),
        f", {len(ratings)} ratings" if ratings else "",
        out_dir / "group.html",
        extra=LAST_LINE,
    )
    return ExitCode.OK


def _read(out_dir: Path, subject: str, wanted: tuple[str, ...], cohort: Cohort) -> Iterator[SessionResult]:
    """Read a subject's sessions; one that cannot be read is told, and the others go on."""
    try:
        results = read_subject(out_dir, subject)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        LOGGER.warning(UNREADABLE_MSG.format(subject, error))
        cohort.unreadable.append((subject, f"its results cannot be read ({type(error).__name__})"))
        return
    yield from (result for result in results if not wanted or result.session in wanted)
