"""Files in the folder that no record accounts for."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from bidsrep.bids.files import TEMP_PREFIX, sha256_file
from bidsrep.bids.provenance_merge import KINDS
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.records import Records

TOP = re.compile(
    r"dataset_description\.json|descriptions\.tsv|\.bidsignore|\.git\w*|participants\.(tsv|json)"
    r"|(README|CHANGES|LICENSE|CITATION)(\.\w+)?|group(_\w+)?\.(html|tsv|json|parquet)|ro-crate-metadata\.json"
)
"""Files of the dataset as a whole: they are made from the others, or by people."""
OPAQUE = frozenset(
    {".git", ".datalad", "logs", "work", "code", "docs", "sourcedata", "derivatives", "ratings"}
)
"""Top-level folders that are nobody's business here."""
LOGS = frozenset({"log"})
"""Folders of a subject or session that hold what runs said."""
PHENOTYPE = re.compile(r"phenotype/bidsrep_\w+\.(tsv|json|parquet)")
RECORD = re.compile(rf"prov/sub-[^/]+/prov-bidsrep\+.+_({'|'.join(KINDS)})\.json")

ASIDE = "Move it out of the dataset, or delete it if nobody needs it"
RENAME = "Give it its name back"
FINISH = "Run bidsrep again: it finishes what is not complete"


def check_strays(root: Path, records: Records) -> Iterator[Finding]:
    """Look for files that no run has recorded: one finding each, or one for a whole session without a record."""
    recorded = {uri for uri, file in records.files.items() if file.is_output}
    known = {session.place for session in records.sessions}
    unrecorded: dict[str, list[str]] = defaultdict(list)
    for name in _walk(root):
        uri = f"bids::{quote(os.fsencode(name), safe='/+')}"
        if uri in recorded or _is_expected(name, records, root):
            continue
        place = _place(name, known | records.unreadable.keys())
        if place in records.unreadable:
            continue  # that record is a finding itself
        if place is not None and place not in known:
            unrecorded[place].append(name)
        else:
            yield _stray(root, name, records)
    for place, names in unrecorded.items():
        problem = f"{len(names)} file(s) that no record accounts for, such as {names[0]}"
        yield Finding(place, "unaccounted", problem, FINISH)


def _walk(root: Path) -> Iterator[str]:
    """Go through every file below the dataset, hidden ones too; logs of the runs are left out."""
    for folder, folders, names in os.walk(root):
        inside = PurePosixPath(Path(folder).relative_to(root).as_posix())
        folders[:] = sorted(set(folders) - (LOGS if inside.parts else OPAQUE))
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        yield from ((inside / name).as_posix() for name in sorted([*names, *links]))


def _is_expected(name: str, records: Records, root: Path) -> bool:
    if "/" not in name:
        page = re.fullmatch(r"sub-(.+)\.html", name)
        if page:
            return page[1] in records.subjects or (root / f"sub-{page[1]}").is_dir()
        return TOP.fullmatch(name) is not None
    return bool(PHENOTYPE.fullmatch(name) or RECORD.fullmatch(name))


def _place(name: str, known: set[str]) -> str | None:
    """Give the session a file belongs to by its name; None if it belongs to none."""
    found = re.match(r"(sub-[^/_]+)/", name)
    if not found:
        return None
    session = re.search(r"[/_](ses-[^/_]+)[/_]", name)
    place = f"{found[1]}/{session[1]}" if session else found[1]
    # A stray without a session in its name, in a subject that has sessions, is a stray of its own.
    return None if not session and any(other.startswith(f"{place}/") for other in known) else place


def _stray(root: Path, name: str, records: Records) -> Finding:
    if PurePosixPath(name).name.startswith((TEMP_PREFIX, ".tmp")) or name.endswith(".part"):
        return Finding(name, "unaccounted", "was left half-written by a run that was killed", "Delete it")
    path = root / name
    try:
        moved = path.is_file() and path.stat().st_size in records.sizes  # only such can be a recorded one
        owners = records.owners.get(sha256_file(path), set()) if moved else set()
    except OSError:
        return Finding(name, "unaccounted", "no run has recorded it, and it cannot be read", ASIDE)
    if owners:
        owner = min(owners).removeprefix("bids::")
        return Finding(name, "unaccounted", f"no run has recorded it; it holds what {owner} was", RENAME)
    return Finding(name, "unaccounted", "no run has recorded it", ASIDE)
