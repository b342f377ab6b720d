"""How a session's provenance record grows: what a later run adds, and what of the earlier record stays.

A run with another model, or with other settings, leaves files of the earlier run in place. The record then
says of every file on disk which activity made the bytes that lie there:

- a file whose bytes are as recorded keeps its maker, even if the later run has written it again, unless what it was
  made from has changed since;
- a file that changed has the later run's activity as its maker;
- what an activity used and has changed since is kept as an entity of its own, under the former checksum;
- whatever no file on disk comes from any more is dropped.

So a run that repeats what is there leaves the record's bytes as they were.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
Record = dict[str, list[Entry]]

KINDS = {
    "soft": ("Software",),
    "env": ("Environments",),
    "io": ("Files", "prov:Entity"),
    "act": ("Activities",),
}
"""The files of a record, and the lists in each."""

FORMER = "#sha256-"
"""In the identifier of a file that was replaced or removed since something was made from it."""
NEEDED = {"Files": {"Id", "Label", "Checksum"}, "Activities": {"Id", "Used"}}
"""What an entry must have to be of use; the others an identifier."""


def read_record(paths: Mapping[str, Path], draft: str) -> Record:
    """Read the files of a record by kind; empty lists if one is missing, damaged or of another draft."""
    try:
        return load_record(paths, draft)
    except (OSError, ValueError):
        return {name: [] for lists in KINDS.values() for name in lists}


def load_record(paths: Mapping[str, Path], draft: str) -> Record:
    """Read the files of a record by kind.

    Raises
    ------
    ValueError
        If one is damaged, or of another draft; ``OSError`` if one is missing.
    """
    found: Record = {}
    for kind, lists in KINDS.items():
        name = paths[kind].name
        try:
            content = json.loads(paths[kind].read_text(encoding="utf-8"))
            found_draft = content["BEP028Draft"]
            found |= {name: [dict(entry) for entry in content[name]] for name in lists}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{name} is damaged ({type(error).__name__})") from error
        if found_draft != draft:
            raise ValueError(f"{name} is of another draft")
    for name, entries in found.items():
        if not all(NEEDED.get(name, {"Id"}) <= entry.keys() for entry in entries):
            raise ValueError(f"an entry of {name} lacks what identifies it")
    return found


def merge(earlier: Record, now: Record, checksum_at: Callable[[str], Any]) -> Record:
    """Give the record of an earlier and a later run of one session.

    Parameters
    ----------
    earlier, now : Record
        The record on disk, and that of the run that has just ended, whose files are as they are on disk.
    checksum_at : callable
        Gives the ``Checksum`` of the file at a BIDS URI; an empty one if it is gone, None if nobody can tell.
    """
    files = _by_id(now["Files"])
    former: dict[str, Entry] = {}
    unchanged = set()
    same = []
    for entry in earlier["Files"]:
        uri = entry["Id"]
        there = files[uri]["Checksum"] if uri in files else checksum_at(uri)
        if there is None or there == entry["Checksum"]:
            same.append(entry)
        else:
            former[uri] = _former(entry)
    outdated = {
        activity["Id"]
        for activity in earlier["Activities"]
        if any(FORMER in name or name in former for name in activity["Used"])
    }
    for entry in same:
        uri = entry["Id"]
        if uri in files and outdated.intersection(_makers(entry)):
            continue  # it has come out the same from what is there now
        unchanged.add(uri)
        files[uri] = files.get(uri, {}) | entry
    fresh = {maker for uri in files.keys() - unchanged for maker in _makers(files[uri])}
    back = {_former_name(entry): uri for uri, entry in files.items()}
    activities = _by_id(_before(activity, former, back) for activity in earlier["Activities"])
    activities |= {name: entry for name, entry in _by_id(now["Activities"]).items() if name in fresh}
    entities = _by_id([*earlier["prov:Entity"], *now["prov:Entity"], *former.values()])
    return _reachable(
        files,
        activities,
        entities,
        software=_by_id([*earlier["Software"], *now["Software"]]),
        environments=_by_id([*earlier["Environments"], *now["Environments"]]),
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other jobs from changing what lies in a folder; without effect where files cannot be locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _reachable(
    files: dict[str, Entry],
    activities: dict[str, Entry],
    entities: dict[str, Entry],
    software: dict[str, Entry],
    environments: dict[str, Entry],
) -> Record:
    """Keep the files that were made, and all that they come from."""
    seen: set[str] = set()
    waiting = [uri for uri, entry in files.items() if _makers(entry)]
    nodes = files | activities | entities | software | environments
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        entry = nodes[name]
        waiting += [*_makers(entry), *entry.get("Used", ()), *entry.get("AssociatedWith", ())]
    kept = {
        "Software": software,
        "Environments": environments,
        "Files": dict(sorted(files.items())),
        "prov:Entity": entities,
        "Activities": activities,
    }
    return {kind: [e for name, e in entries.items() if name in seen] for kind, entries in kept.items()}


def _former(entry: Entry) -> Entry:
    """Turn the entry of a file into that of an entity that is no longer to be found."""
    label = f"{entry['Label']} (replaced or removed since)"
    return {"Id": _former_name(entry), "Label": label} | {
        key: entry[key] for key in ("GeneratedBy", "Size", "Checksum") if key in entry
    }


def _former_name(entry: Entry) -> str:
    """Name the content that an entry has, for when something else is in its place."""
    return f"{entry['Id']}{FORMER}{str(entry['Checksum'][0]['ChecksumValue'])[:8]}"


def _before(activity: Entry, former: Mapping[str, Entry], back: Mapping[str, str]) -> Entry:
    """Point an earlier activity to what it used, not to what has taken its place; ``back`` is what is there again."""
    used = [former[name]["Id"] if name in former else back.get(name, name) for name in activity["Used"]]
    return activity | {"Used": used}


def _makers(entry: Entry) -> list[str]:
    return list(entry.get("GeneratedBy", ()))


def _by_id(entries: Any) -> dict[str, Entry]:
    return {entry["Id"]: entry for entry in entries}
