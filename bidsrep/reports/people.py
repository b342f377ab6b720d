"""What is known of the people of a cohort: the columns the group page groups and colours by.

Taken from the output's own ``participants.tsv``, or else from that of the raw dataset, where it is at hand:
the folder on the command line, or the one the output links to. With it come ``sub-*_sessions.tsv`` and, of
the scans' sidecars, the scanner. Nothing of this is needed.
"""

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_object
from bidsrep.bids.scans import Scan
from bidsrep.reports.results import ScanResult, SessionResult

LOGGER = logging.getLogger("bidsrep")
TABLE = "participants.tsv"
NOTHING = ("", "n/a", "na", "nan")
IDS = ("participant_id", "session_id")
UNREADABLE_MSG = "%s: this table cannot be read and is left out (%s)."
DESCRIPTIONS = {
    "Scanner": "Manufacturer, model and field strength, as the scans' sidecars tell.",
    "Institution": "Where the scan was made, as the scans' sidecars tell.",
}


class People:
    """Looks up what is known of a scan; `described` explains columns, as far as the datasets do.

    `levelled` are those whose values are said to be levels: names, even if they are numbers.
    """

    def __init__(self, out_dir: Path, bids_dir: Path) -> None:
        self.roots = [out_dir, *_raw_roots(out_dir, bids_dir)]
        self.raw = next((root for root in self.roots[1:] if root.is_dir()), None)
        self.described: dict[str, str] = dict(DESCRIPTIONS)
        self.levelled: set[str] = set()
        self._participants: dict[str, dict[str, str]] = {}
        for root in self.roots:
            if (root / TABLE).is_file():
                self._participants = {
                    str(row.get("participant_id")).removeprefix("sub-"): row for row in _rows(root / TABLE)
                }
                self._describe(root / "participants.json")
                break
        self._columns = {name.lower() for row in self._participants.values() for name in row if name}

    def of_session(self, result: SessionResult) -> dict[str, str]:
        """Give the columns of one session; what its own table says goes before what holds for the person."""
        values = dict(self._participants.get(result.subject, {}))
        for root in reversed(self.roots):
            folder = root / f"sub-{result.subject}"
            path = folder / f"sub-{result.subject}_sessions.tsv"
            if result.session is None or not path.is_file():
                continue
            for row in _rows(path):
                if str(row.get("session_id")).removeprefix("ses-") == result.session:
                    values |= row
            self._describe(path.with_suffix(".json"))
        return {
            name: value.strip()
            for name, value in values.items()
            if name and name not in IDS and isinstance(value, str) and value.strip().lower() not in NOTHING
        }

    def of_scan(self, result: SessionResult, scan: ScanResult) -> dict[str, str]:
        """Give what the raw scan's sidecars say of the scanner, unless the tables have such a column."""
        if self.raw is None or not scan.source or "/" in scan.source:
            return {}
        folder = self.raw / f"sub-{result.subject}"
        folder = folder / f"ses-{result.session}" if result.session is not None else folder
        path = folder / "anat" / scan.source
        found = Scan(path, result.subject, result.session, scan.suffix, root=self.raw).metadata()
        values = {"Scanner": _scanner(found), "Institution": _text(found, "InstitutionName")}
        return {k: v for k, v in values.items() if v and k.lower() not in self._columns}

    def _describe(self, path: Path) -> None:
        for name, block in read_object(path).items():
            if isinstance(block, dict):
                if isinstance(block.get("Levels"), dict):
                    self.levelled.add(name)
                words = [str(block[key]) for key in ("LongName", "Description", "Units") if block.get(key)]
                self.described.setdefault(name, ", ".join(words))


def _raw_roots(out_dir: Path, bids_dir: Path) -> Iterator[Path]:
    """Name where the raw dataset may be."""
    yield bids_dir
    links = read_object(out_dir / "dataset_description.json").get("DatasetLinks")
    link = links.get("raw") if isinstance(links, dict) else None
    if isinstance(link, str) and "://" not in link:
        yield out_dir / link


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        LOGGER.warning(UNREADABLE_MSG, path, error)
        return []


def _scanner(sidecar: Mapping[str, Any]) -> str:
    field = sidecar.get("MagneticFieldStrength")
    strength = f"{field:g} T" if isinstance(field, int | float) and not isinstance(field, bool) else ""
    names = (_text(sidecar, "Manufacturer"), _text(sidecar, "ManufacturersModelName"), strength)
    return " ".join(name for name in names if name)


def _text(sidecar: Mapping[str, Any], key: str) -> str:
    value = sidecar.get(key)
    return value.strip() if isinstance(value, str) else json.dumps(value) if value else ""
