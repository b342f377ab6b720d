"""``--bids-filter-file``: which scans to take, by the entities in their names.

The file is JSON, ``{name: {entity: value}}``, as fMRIPrep reads it. A name is a modality in any
case (``t1w``, ``FLAIR``), or anything if its filter gives a ``suffix``. A value is a label, a list of
labels, null (the entity must be absent) or ``"*"`` (it must be there).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_json
from bidsrep.bids.scans import ParsedName
from bidsrep.errors import UsageError
from bidsrep.settings import MODALITIES

SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "sample": "sample",
    "direction": "dir",
    "inversion": "inv",
}
"""pybids' long names of entities, which filter files use, and the names in the files."""

ANY, NONE, OPTIONAL = "*", None, object()
_QUERIES = {"Query.ANY": ANY, "Query.NONE": NONE, "Query.OPTIONAL": OPTIONAL, "Query.REQUIRED": ANY}
ANATOMICAL = (*MODALITIES, "T2starw", "inplaneT1", "inplaneT2", "PDT2", "UNIT1", "angio", "MEGRE", "VFA")
"""What a filter file may ask for; what it says of other kinds (bold, fmap ...) is for other programs."""

DEFAULT_PART = ["mag", None]
"""Phase, real and imaginary parts are no anatomy; a filter on ``part`` brings them back."""


@dataclass(frozen=True)
class ScanFilter:
    """What the name of a scan of one kind must look like."""

    suffixes: tuple[str, ...]
    entities: Mapping[str, Any]

    def accepts(self, name: ParsedName) -> bool:
        """Tell whether a scan of this name is wanted."""
        if name.suffix not in self.suffixes:
            return False
        for key, value in self._wanted:
            found = name.entities.get(key)
            if found is None and isinstance(value, list) and NONE in value:
                continue  # the usual case, asked of every scan of a dataset
            if not _matches(key, found, value):
                return False
        return True

    @cached_property
    def _wanted(self) -> tuple[tuple[str, Any], ...]:
        return tuple({"part": DEFAULT_PART, **self.entities}.items())


def scan_filters(modalities: tuple[str, ...], filter_file: Path | None) -> tuple[ScanFilter, ...]:
    """Make one filter per modality, refined or added to by the filter file."""
    filters = {modality: ScanFilter((modality,), {}) for modality in modalities}
    for name, entities in (read_filter_file(filter_file) if filter_file else {}).items():
        canonical = {m.lower(): m for m in (*ANATOMICAL, *modalities)}.get(name.lower(), name)
        rest = {
            SHORT.get(key, key): _QUERIES.get(v, v) if isinstance(v, str) else v
            for key, v in entities.items()
        }
        suffix = rest.pop("suffix", canonical)
        for ignored in ("datatype", "extension", "scope"):
            rest.pop(ignored, None)
        suffixes = tuple(map(str, suffix)) if isinstance(suffix, list) else (str(suffix),)
        if canonical in MODALITIES and canonical not in modalities:
            continue  # a filter refines --modalities and adds kinds that option has no default for
        if not set(suffixes) <= {*ANATOMICAL, *modalities}:
            continue
        filters[canonical] = ScanFilter(suffixes, rest)
    return tuple(filters.values())


def read_filter_file(path: Path) -> dict[str, dict[str, Any]]:
    """Read and check a filter file."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        msg = f"--bids-filter-file {path}: cannot be read as JSON ({error})."
        raise UsageError(msg) from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        msg = (
            f"--bids-filter-file {path}: must be an object of objects, "
            'for example {"t1w": {"acquisition": "mprage", "ceagent": null}}.'
        )
        raise UsageError(msg)
    return content


def _matches(key: str, found: str | None, wanted: Any) -> bool:
    if wanted is OPTIONAL:
        return True
    if isinstance(wanted, list):
        return any(_matches(key, found, item) for item in wanted)
    if wanted is NONE or found is None:
        return found is None and wanted is NONE
    if wanted == ANY:
        return True
    text = str(wanted).removeprefix(f"{key}-")
    if key == "run" and text.isdigit() and found.isdigit():
        return int(text) == int(found)  # 1 and 01 are the same run
    return text == found
