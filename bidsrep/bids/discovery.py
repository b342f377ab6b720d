"""Find the scans to work on, by looking only into the folders of the wanted subjects.

Indexing a whole dataset takes minutes on a large one; a participant job needs one subject. Users who
keep a pybids database can have it used instead (``--bids-database-dir``).
"""

import difflib
import logging
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bidsrep.bids.filters import ScanFilter, scan_filters
from bidsrep.bids.scans import IMAGE_EXTENSIONS, KEPT, LABEL, Scan, Session, parse_name
from bidsrep.errors import ImageError, InputError
from bidsrep.settings import Settings

LOGGER = logging.getLogger("bidsrep")
_SUBJECT, _SESSION = re.compile(f"sub-({LABEL})"), re.compile(f"ses-({LABEL})")

NOT_BIDS_MSG = (
    "{}: this does not look like a BIDS dataset ({}). "
    "Give the folder that holds dataset_description.json and the sub-* folders"
)
NO_SCANS_MSG = "{}: nothing to process: no {} scan{} was found. Looked at {} subject(s)."
BAD_NAME = ("the name is not a BIDS name", "Rename it like sub-01[_ses-A][_acq-x][_run-1]_T1w.nii.gz")
BAD_FOLDER = (
    "the folder's label is not a BIDS label",
    "Rename it with letters and digits alone, and its files like it",
)
BAD_FOLDERS = "%s: %d folder(s) are left out, since a BIDS label has letters and digits alone: %s."
MISPLACED = ("the name and the folders it lies in disagree about the subject or session", "Rename or move it")
DANGLING = ("the file's content is not there (a dangling link)", "Fetch it, for example with 'datalad get'")
EVERYBODY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
LONGEST = 170
"""Bytes a scan's name may have: those of its results are longer by up to 70, and a file's may have 255."""
TOO_LONG = (
    f"the name is longer than {LONGEST} bytes, and those of its results would be too long",
    "Rename it",
)
EMPTY = ("the file is empty (0 bytes)", "Copy or convert it again")


def find_sessions(settings: Settings) -> list[Session]:
    """List the wanted sessions with their scans, sorted by subject and session.

    Files that cannot be used are in `Session.problems`; sessions without anything are left out.

    Raises
    ------
    InputError
        If the folder is no BIDS dataset, a wanted subject is not in it, or there is nothing to do.
    """
    check_dataset(settings.bids_dir, strict=not settings.skip_bids_validation)
    subjects = find_subjects(settings.bids_dir, settings.participant_label)
    filters = scan_filters(settings.modalities, settings.bids_filter_file)
    layout = _open_database(settings) if settings.bids_database_dir else None
    found = {subject: _subject_sessions(settings, subject, filters, layout) for subject in subjects}
    kinds = ", ".join(dict.fromkeys(suffix for f in filters for suffix in f.suffixes))
    if not any(found.values()):
        which = f" of session {', '.join(settings.session_label)}" if settings.session_label else ""
        raise InputError(NO_SCANS_MSG.format(settings.bids_dir, kinds, which, len(subjects)))
    for subject, sessions in found.items():
        if not sessions:
            LOGGER.warning("sub-%s: no scan to process.", subject)
        if not sessions and settings.participant_label:  # asked for by name: this must not pass as done
            folder = settings.bids_dir / f"sub-{subject}"
            sessions.append(Session(subject, None, problems=(ImageError(folder, f"it has no {kinds} scan"),)))
    return [session for sessions in found.values() for session in sessions]


def check_dataset(bids_dir: Path, strict: bool = True) -> None:
    """Refuse a folder that is not a readable BIDS dataset; `strict` wants a dataset_description.json."""
    if not bids_dir.is_dir():
        msg = f"{bids_dir}: there is no such folder."
        raise InputError(msg)
    if not os.access(bids_dir, os.R_OK | os.X_OK):
        msg = f"{bids_dir}: the folder may not be read by this user. Change its permissions."
        raise InputError(msg)
    if strict and not (bids_dir / "dataset_description.json").is_file():
        problem = NOT_BIDS_MSG.format(bids_dir, "it has no dataset_description.json")
        msg = f"{problem}, or pass --skip-bids-validation."
        raise InputError(msg)


def find_subjects(bids_dir: Path, wanted: Sequence[str] = ()) -> list[str]:
    """List the subjects of a dataset, or check that the wanted ones are there. Sorted, without ``sub-``."""
    if wanted:
        missing = [label for label in wanted if not (bids_dir / f"sub-{label}").is_dir()]
        if not missing:
            return sorted(set(wanted))
    folders = [name for name in _folders(bids_dir) if name.startswith("sub-")]
    there = sorted(m[1] for name in folders if (m := _SUBJECT.fullmatch(name)))
    if odd := sorted(name for name in folders if not _SUBJECT.fullmatch(name)):
        LOGGER.warning(BAD_FOLDERS, bids_dir, len(odd), ", ".join([*odd[:5], *(["..."] if odd[5:] else [])]))
    if not there:
        raise InputError(NOT_BIDS_MSG.format(bids_dir, "it has no sub-* folder") + ".")
    if wanted:
        close = difflib.get_close_matches(missing[0], there, n=5) or there[:5]
        msg = (
            f"{bids_dir}: no such subject: {', '.join(f'sub-{label}' for label in missing)}. "
            f"There are {len(there)} subjects, such as {', '.join(f'sub-{label}' for label in close)}."
        )
        raise InputError(msg)
    return there


def _subject_sessions(
    settings: Settings, subject: str, filters: Iterable[ScanFilter], layout: Any
) -> list[Session]:
    """List one subject's sessions that have scans or problems."""
    folder = f"{settings.bids_dir}/sub-{subject}"  # tens of thousands of them: Paths are made of scans alone
    try:
        names = _folders(folder)
        candidates: list[str | None] = sorted(m[1] for name in names if (m := _SESSION.fullmatch(name)))
        if "anat" in names:
            candidates.insert(0, None)
        if settings.session_label:
            candidates = [label for label in candidates if label in settings.session_label]
        files = {
            label: _database_files(layout, subject, label) if layout else _anat_files(folder, label)
            for label in candidates
        }
    except OSError as error:
        problem = ImageError(
            Path(folder), f"the folder cannot be read ({error.strerror})", "Check its permissions"
        )
        return [Session(subject, None, problems=(problem,))]
    found = [make_session(settings.bids_dir, subject, label, files[label], filters) for label in candidates]
    odd = sorted(name for name in names if name.startswith("ses-") and not _SESSION.fullmatch(name))
    odd = [name for name in odd if os.path.isdir(f"{folder}/{name}/anat")]
    if odd and not settings.session_label:
        problems = tuple(ImageError(Path(folder, name), *BAD_FOLDER) for name in odd)
        if found and found[0].session is None:
            found[0] = replace(found[0], problems=found[0].problems + problems)
        else:
            found.insert(0, Session(subject, None, problems=problems))
    return [session for session in found if session.scans or session.problems]


def make_session(
    root: Path, subject: str, session: str | None, places: Iterable[str], filters: Iterable[ScanFilter]
) -> Session:
    """Sort the image files of one session into scans and problems.

    ``places`` are paths as text: in tens of thousands of sessions, a Path is made for what is kept alone.
    """
    filters = tuple(filters)
    by_name: dict[tuple[str, ...], list[Scan]] = defaultdict(list)
    problems: list[ImageError] = []
    for place in sorted(places):
        own = place.rpartition("/")[2]
        name = parse_name(own)
        suffix = name.suffix if name else own.split(".")[0].rpartition("_")[2]
        concerned = [scan_filter for scan_filter in filters if suffix in scan_filter.suffixes]
        if name is None:
            if concerned:
                problems.append(ImageError(Path(place), *BAD_NAME))
            continue
        if not any(scan_filter.accepts(name) for scan_filter in concerned):
            continue
        if (name.entities.get("sub"), name.entities.get("ses")) != (subject, session):
            problems.append(ImageError(Path(place), *MISPLACED))
            continue
        if len(own.encode(errors="surrogateescape")) > LONGEST:
            problems.append(ImageError(Path(place), *TOO_LONG))
            continue
        if trouble := _unusable(place):
            problems.append(ImageError(Path(place), *trouble))
            continue
        kept = {key: name.entities[key] for key in KEPT if key in name.entities}
        scan = Scan(Path(place), subject, session, name.suffix, kept, root)
        by_name[(scan.key,)].append(scan)
    for twins in by_name.values():
        if len(twins) > 1:
            others = ", ".join(scan.path.name for scan in twins[1:])
            what = f"these files would share their results' names: {twins[0].path.name}, {others}"
            problems.append(ImageError(twins[0].path, what, "Keep one, or choose with --bids-filter-file"))
    scans = tuple(twins[0] for _, twins in sorted(by_name.items()) if len(twins) == 1)
    return Session(subject, session, scans, tuple(problems))


def _unusable(place: str) -> tuple[str, str] | None:
    """Tell what makes a file unusable before it is opened, and what to do about it."""
    try:
        status = os.stat(place)
    except FileNotFoundError:
        return DANGLING
    except OSError as error:
        return f"the file cannot be read ({error.strerror})", "Check it and its permissions"
    if status.st_mode & EVERYBODY != EVERYBODY and not os.access(place, os.R_OK):
        return "the file may not be read by this user", "Change its permissions"
    return None if status.st_size else EMPTY


def _folders(path: Path | str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir()]


def _anat_files(subject_dir: str, session: str | None) -> list[str]:
    folder = f"{subject_dir}/anat" if session is None else f"{subject_dir}/ses-{session}/anat"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    wanted = [name for name in names if name.endswith(IMAGE_EXTENSIONS) and not name.startswith(".")]
    return [f"{folder}/{name}" for name in wanted]


def _open_database(settings: Settings) -> Any:
    """Open (or make) the pybids database the user named."""
    from bids import BIDSLayout

    try:
        return BIDSLayout(
            settings.bids_dir,
            database_path=settings.bids_database_dir,
            validate=not settings.skip_bids_validation,
        )
    except Exception as error:  # pybids and its database raise many kinds
        msg = f"--bids-database-dir {settings.bids_database_dir}: pybids cannot use it ({error})."
        raise InputError(msg) from error


def _database_files(layout: Any, subject: str, session: str | None) -> list[str]:
    from bids.layout import Query

    found = layout.get(
        subject=subject,
        session=session or Query.NONE,
        datatype="anat",
        extension=list(IMAGE_EXTENSIONS),
        return_type="filename",
    )
    return [str(Path(path)) for path in found]
