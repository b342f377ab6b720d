"""One scan and one session of a BIDS dataset, and the parsing of their file names."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_json
from bidsrep.errors import ImageError

LOGGER = logging.getLogger("bidsrep")
KEPT = ("acq", "ce", "rec", "run", "part")
"""Entities of a scan that survive into the names of its derivatives, in the order of BIDS."""

IMAGE_EXTENSIONS = (".nii.gz", ".nii")
LABEL = "[0-9a-zA-Z+]+"
_NAME = re.compile(rf"sub-{LABEL}(?:_[a-z]+-{LABEL})*_(?P<suffix>[0-9a-zA-Z]+)(?P<extension>\.[a-zA-Z0-9.]+)")


@dataclass(frozen=True)
class Scan:
    """One image file of a dataset: where it is and what its name says.

    `entities` holds those of `KEPT` that the name has; `root` is the dataset's top folder.
    """

    path: Path
    subject: str
    session: str | None
    suffix: str
    entities: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def name_parts(self) -> dict[str, str]:
        """The entities that name this scan, in the order of BIDS: sub, ses, then those kept."""
        return session_parts(self.subject, self.session) | {
            k: self.entities[k] for k in KEPT if k in self.entities
        }

    @property
    def key(self) -> str:
        """What tells this scan from the others of its session, for example ``acq-tra_FLAIR``."""
        return "_".join([*(f"{k}-{self.entities[k]}" for k in KEPT if k in self.entities), self.suffix])

    def metadata(self) -> dict[str, Any]:
        """Read the JSON sidecars that apply, the nearest last (BIDS inheritance); {} if there are none."""
        top = self.root or self.path.parent
        folders = [top]
        for part in self.path.parent.relative_to(top).parts:
            folders.append(folders[-1] / part)
        own = parse_name(self.path.name)
        merged: dict[str, Any] = {}
        for folder in folders:
            for name in _json_names(folder):
                if _applies(name, own):
                    merged |= _read_json_object(folder / name)
        return merged


@dataclass(frozen=True)
class Session:
    """The scans of one visit of one subject; `session` is None in a dataset without sessions.

    `problems` are the files that were found but cannot be used, as errors to report.
    """

    subject: str
    session: str | None
    scans: tuple[Scan, ...] = ()
    problems: tuple[ImageError, ...] = ()

    @property
    def name_parts(self) -> dict[str, str]:
        """The entities that name this session: sub and, if there are sessions, ses."""
        return session_parts(self.subject, self.session)

    @property
    def label(self) -> str:
        """The session's name: ``sub-01`` or ``sub-01_ses-A``."""
        return "_".join(f"{key}-{value}" for key, value in self.name_parts.items())


@dataclass(frozen=True)
class ParsedName:
    """A BIDS file name taken apart; `entities` in the order of the name."""

    entities: dict[str, str]
    suffix: str
    extension: str


def session_parts(subject: str, session: str | None) -> dict[str, str]:
    """Give the entities sub and ses, the latter only if there is one."""
    return {"sub": subject} | ({"ses": session} if session is not None else {})


def parse_name(name: str) -> ParsedName | None:
    """Take a file name apart; None if it is not a BIDS name.

    >>> parse_name("sub-01_ses-A_run-2_T1w.nii.gz").entities
    {'sub': '01', 'ses': 'A', 'run': '2'}
    >>> parse_name("sub-01_my_T1w.nii.gz") is None
    True
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parts = [part.partition("-") for part in name.split("_")[:-1]]
    entities = {key: value for key, _, value in parts}
    if len(entities) < len(parts):
        return None  # an entity given twice
    return ParsedName(entities, match["suffix"], match["extension"])


def _applies(name: str, scan: ParsedName | None) -> bool:
    """Tell whether a JSON file's name makes it a sidecar of `scan`: same suffix, no foreign entity."""
    stem = name.removesuffix(".json")
    parts = stem.split("_")
    if scan is None or parts[-1] != scan.suffix:
        return False
    return all(scan.entities.get(key) == value for key, _, value in (p.partition("-") for p in parts[:-1]))


@lru_cache(maxsize=256)
def _json_names(folder: Path) -> tuple[str, ...]:
    """List the JSON files of a folder, the most general name first. Cached: the top folder may be huge."""
    try:
        names = [p.name for p in folder.iterdir() if p.name.endswith(".json")]
    except OSError:
        return ()
    return tuple(sorted(names, key=lambda name: (name.count("_"), name)))


def _read_json_object(path: Path) -> dict[str, Any]:
    """Read a sidecar; a broken one costs its metadata and a warning, not the scan."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        LOGGER.warning("%s: the sidecar cannot be read and is ignored (%s).", path, error)
        return {}
    if not isinstance(content, dict):
        LOGGER.warning("%s: the sidecar is not a JSON object and is ignored.", path)
        return {}
    return content
