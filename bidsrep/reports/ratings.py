"""People's ratings: the files they put into the output's ``ratings`` folder, merged, and how far raters agree.

The pages export such files, as TSV or JSON; any other of the same columns will do.
"""

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_json, write_text
from bidsrep.evaluation.cohort_agreement import cohen_kappa, fleiss_kappa, percent_agreement

LOGGER = logging.getLogger("bidsrep")
FOLDER = "ratings"
TABLE = "group_ratings.tsv"
RATINGS = ("pass", "unsure", "fail")
COLUMNS = ("participant_id", "session_id", "scan", "rating", "note", "rater", "bidsrep_version")
NEEDED = ("participant_id", "scan", "rating")
UNREADABLE_MSG = "{}: this file of ratings cannot be read and is left out ({})."
NO_COLUMNS_MSG = "{}: this is no file of ratings: it has no {}. It is left out."
BAD_ROWS_MSG = "{}: {} row(s) are left out: a rating is pass, fail or unsure, of a scan of a participant."
CONFLICT_MSG = "{}: {} rated {} {} {} before, and otherwise; this file counts."


@dataclass(frozen=True)
class Rating:
    """What one rater said of one scan; fields as in `COLUMNS`, ``session_id`` is n/a without sessions."""

    participant_id: str
    session_id: str
    scan: str
    rating: str
    note: str
    rater: str
    version: str

    @property
    def place(self) -> tuple[str, str, str]:
        """The scan that is rated."""
        return self.participant_id, self.session_id, self.scan


def read_ratings(out_dir: Path) -> list[Rating]:
    """Read and merge all files of ratings, sorted; of one rater's on one scan, the last file by name counts."""
    merged: dict[tuple[str, ...], Rating] = {}
    folder = out_dir / FOLDER
    paths = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    for path in paths:
        if path.suffix not in (".tsv", ".json") or path.name.startswith("."):
            continue
        for rating in _read(path):
            before = merged.get((*rating.place, rating.rater))
            if before is not None and before.rating != rating.rating:
                LOGGER.warning(CONFLICT_MSG.format(path, rating.rater, *rating.place))
            merged[*rating.place, rating.rater] = rating
    return sorted(merged.values(), key=lambda rating: (*rating.place, rating.rater))


def write_ratings(out_dir: Path, ratings: Sequence[Rating]) -> Path | None:
    """Write the merged ratings as one table; without any, remove that of an earlier run."""
    path = out_dir / TABLE
    if not ratings:
        path.unlink(missing_ok=True)
        return None
    rows = ["\t".join(_cell(value) for value in astuple(rating)) for rating in ratings]
    write_text(path, "\n".join(["\t".join(COLUMNS), *rows]) + "\n")
    return path


def agreement(ratings: Iterable[Rating]) -> dict[str, Any]:
    """Sum the raters up: each one's counts, every pair's agreement, and Fleiss' kappa of all.

    Only scans that both (for Fleiss' kappa, all) have rated count. Kappa is None where it is not defined.
    """
    given: dict[str, dict[tuple[str, str, str], str]] = {}
    for rating in ratings:
        given.setdefault(rating.rater, {})[rating.place] = rating.rating
    raters = [
        {"rater": rater, "count": len(own), **{kind: Counter(own.values())[kind] for kind in RATINGS}}
        for rater, own in sorted(given.items())
    ]
    pairs = []
    for one, two in combinations(sorted(given), 2):
        shared = sorted(given[one].keys() & given[two].keys())
        if shared:
            first, second = ([given[rater][place] for place in shared] for rater in (one, two))
            kappa = _known(cohen_kappa(first, second))
            same = percent_agreement(first, second)
            pairs.append({"raters": [one, two], "count": len(shared), "same": same, "kappa": kappa})
    common = sorted(set.intersection(*(set(own) for own in given.values()))) if len(given) > 1 else []
    fleiss = _known(fleiss_kappa([[own[place] for own in given.values()] for place in common]))
    return {"raters": raters, "pairs": pairs, "common": len(common), "fleiss": fleiss}


def _read(path: Path) -> list[Rating]:
    """Read one file; what cannot be used is told, and left out."""
    try:
        rows = list(_json_rows(path) if path.suffix == ".json" else _tsv_rows(path))
    except (OSError, ValueError, csv.Error) as error:
        LOGGER.warning(UNREADABLE_MSG.format(path, " ".join(str(error).split())))
        return []
    if rows and (lacking := [name for name in NEEDED if not any(name in row for row in rows)]):
        LOGGER.warning(NO_COLUMNS_MSG.format(path, ", ".join(lacking)))
        return []
    ratings = [_rating(row, path.stem) for row in rows]
    good = [rating for rating in ratings if rating is not None]
    if len(good) < len(ratings):
        LOGGER.warning(BAD_ROWS_MSG.format(path, len(ratings) - len(good)))
    return good


def _rating(row: dict[str, str], stem: str) -> Rating | None:
    values = {name: _plain(row.get(name)) for name in COLUMNS}
    rating = values["rating"].lower()
    if rating not in RATINGS or not values["participant_id"] or not values["scan"]:
        return None
    participant, session = values["participant_id"], values["session_id"]
    return Rating(
        participant if participant.startswith("sub-") else f"sub-{participant}",
        "n/a" if not session else session if session.startswith("ses-") else f"ses-{session}",
        values["scan"],
        rating,
        values["note"],
        values["rater"] or stem,  # of whom it is, the file's name may tell
        values["bidsrep_version"],
    )


def _tsv_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    """Read the rows of the pages' JSON (``Ratings``), or a plain list of them; a table's sidecar has none."""
    content = read_json(path)
    rows = content.get("Ratings", []) if isinstance(content, dict) else content
    yield from (row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()


def _plain(value: object) -> str:
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    return "" if text == "n/a" else text


def _cell(value: str) -> str:
    return " ".join(value.split()) or "n/a"


def _known(value: float) -> float | None:
    return value if value == value else None
