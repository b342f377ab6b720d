"""A user's labelled BIDS dataset: which label belongs to which scan, and the way from the one to the other.

Labels lie in a derivatives dataset, below the subject's folder. The label of a session serves every scan of
it, whatever its contrast. Spaces are told apart by the ``space`` entity; a label without one, or in the space
of a scan of the session, shares the scanner's coordinates.
"""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bidsrep.bids.derivatives import on_same_grid
from bidsrep.bids.discovery import find_sessions
from bidsrep.bids.scans import IMAGE_EXTENSIONS, KEPT, ParsedName, Scan, Session, parse_name
from bidsrep.errors import InputError
from bidsrep.imaging.transforms import read_itk
from bidsrep.settings import MODALITIES, Settings

LOGGER = logging.getLogger("bidsrep.training")
SYNTHESIS = ("T1w", "FLAIR")
SCANNER_SPACES = (None, "orig", "native", "individual", "scanner")
LINEAR = (".txt", ".tfm")
FREESURFER = ("aseg", "aparc", "muse", "dlmuse")

NO_FOLDER = "{}: there is no such folder of labels. Give a derivatives dataset with --labels."
NO_LABEL = (
    "{labels}: no label for the task {task} belongs to any of the {count} scans in {bids}. {wanted}; the file "
    "lies below the subject's folder{there}."
)
WANTED = {
    "lesion": "A lesion label is called like sub-01[_ses-A]_label-{name}_mask.nii.gz or _desc-{name}_mask, or "
    "is a _dseg whose table (.tsv) has a row with {name} in its name",
    "seg": "A segmentation is called like sub-01[_ses-A][_desc-aseg]_dseg.nii.gz and holds FreeSurfer's values",
}
OTHER_SPACE = (
    "%s: is in space-%s, on another grid than %s, and no linear transform (*_from-%s_to-%s_mode-image_xfm.txt) "
    "leads there: not used for this scan"
)
NO_TARGET = (
    "{bids}: no session has a {task} to learn from. The task {task} needs one, and a T1w, in the session of "
    "each scan."
)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A scan and its label.

    Parameters
    ----------
    scan
        The scan.
    label
        The label's image: a mask, a segmentation, or the scan to synthesise.
    values
        The label's values that count, where not all above 0 do.
    matrix
        RAS mm of the scan to RAS mm of the label.
    owner
        The scan of the session that the label was drawn on, where it is known and another one: what
        little the head moved in between is registered.
    white
        The session's T1w, which says where white matter is (for synthesis).
    """

    scan: Scan
    label: Path
    values: tuple[int, ...] = ()
    matrix: np.ndarray = field(default_factory=lambda: np.eye(4))
    owner: Scan | None = None
    white: Scan | None = None

    @property
    def name(self) -> str:
        """The scan's name without its extension, ``sub-01_ses-A_FLAIR``."""
        return self.scan.path.name.split(".")[0]


def find_labelled(
    bids_dir: Path,
    labels_dir: Path | None,
    task: str,
    *,
    name: str = "",
    participant_label: Sequence[str] = (),
    modalities: Sequence[str] = MODALITIES,
    skip_bids_validation: bool = False,
) -> list[Labelled]:
    """Pair every scan of a dataset with its label for ``task`` (lesion, seg, T1w or FLAIR).

    ``name`` is the ``label`` or ``desc`` of the masks, ``lesion`` where it is not given; of segmentations those
    of that ``desc`` or ``seg`` go first, else those that FreeSurfer's names announce.

    Raises
    ------
    InputError
        If there is no dataset, no folder of labels, or no label for any scan.
    """
    if task not in SYNTHESIS and (labels_dir is None or not labels_dir.is_dir()):
        raise InputError(NO_FOLDER.format(labels_dir))
    wanted = dict.fromkeys((*modalities, *(("T1w", task) if task in SYNTHESIS else ())))
    settings = Settings(
        bids_dir=bids_dir,
        out_dir=bids_dir,
        participant_label=tuple(participant_label),
        modalities=tuple(wanted),
        skip_bids_validation=skip_bids_validation,
    )
    sessions = find_sessions(settings)
    for problem in (problem for session in sessions for problem in session.problems):
        LOGGER.warning("%s", problem)
    if task in SYNTHESIS:
        pairs = [pair for session in sessions for pair in _targets(session, task, modalities)]
        if not pairs:
            raise InputError(NO_TARGET.format(bids=bids_dir, task=task))
        return pairs
    assert labels_dir is not None
    name = name or ("lesion" if task == "lesion" else "")
    pairs = [pair for session in sessions for pair in _session_pairs(labels_dir, session, task, name)]
    if not pairs:
        raise InputError(_no_label(bids_dir, labels_dir, sessions, task, name))
    return pairs


def _session_pairs(root: Path, session: Session, task: str, name: str) -> Iterator[Labelled]:
    files = list(_files(root, session))
    edges = [(n.entities["from"], n.entities["to"], path) for path, n in files if _is_transform(n)]
    found = [(path, n, rank, values) for path, n in files
             if n.extension in IMAGE_EXTENSIONS and (match := _matches(root, path, n, task, name))
             for rank, values in [match]]  # fmt: skip
    for scan in session.scans:
        ranked = sorted(
            found,
            key=lambda item: (item[2], not on_same_grid(item[0], scan.path), *_order(item[0], item[1], scan)),
        )
        for path, parsed, _, values in ranked:
            placed = _place(path, parsed, scan, session, edges)
            if placed is not None:
                yield Labelled(scan, path, values, *placed)
                break


def _files(root: Path, session: Session) -> Iterator[tuple[Path, ParsedName]]:
    """Files of a session's subject that no entity assigns to another session."""
    for path in sorted((root / f"sub-{session.subject}").rglob("sub-*")):
        parsed = parse_name(path.name)
        if parsed is not None and parsed.entities.get("ses", session.session) == session.session:
            yield path, parsed


def _is_transform(parsed: ParsedName) -> bool:
    return parsed.suffix == "xfm" and parsed.extension in LINEAR and {"from", "to"} <= parsed.entities.keys()


def _matches(
    root: Path, path: Path, parsed: ParsedName, task: str, name: str
) -> tuple[int, tuple[int, ...]] | None:
    """How well a file fits the task (0 best) and which of its values count; None if it does not fit."""
    entities = {key: value.lower() for key, value in parsed.entities.items()}
    if task == "seg":
        kinds = {entities.get(key, "") for key in ("desc", "seg", "label")}
        known = name.lower() in kinds if name else any(kind.startswith(FREESURFER) for kind in kinds)
        return (0 if known else 1, ()) if parsed.suffix == "dseg" else None
    if parsed.suffix in ("mask", "roi"):
        for rank, key in enumerate(("label", "desc")):
            if entities.get(key) == name.lower():
                return rank, ()
    if parsed.suffix == "dseg" and (values := _table_values(root, path, parsed, name)):
        return 2, values
    return None


def _table_values(root: Path, path: Path, parsed: ParsedName, name: str) -> tuple[int, ...]:
    """Values of a segmentation whose names hold ``name``, by the table beside it or at the dataset's top."""
    stem = path.name.removesuffix(parsed.extension)
    general = [f"{key}-{parsed.entities[key]}_dseg.tsv" for key in ("desc", "seg") if key in parsed.entities]
    for table in (path.with_name(f"{stem}.tsv"), *(root / file for file in (*general, "dseg.tsv"))):
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream, delimiter="\t"))
            return tuple(
                int(row["index"]) for row in rows if name.lower() in str(row.get("name", "")).lower()
            )
    return ()


def _order(path: Path, parsed: ParsedName, scan: Scan) -> tuple[int, str]:
    """Labels whose entities are the scan's go first, then by name."""
    own = scan.name_parts
    foreign = sum(parsed.entities.get(key) != own.get(key) for key in ("ses", *KEPT))
    return foreign + (parsed.entities.get("space") != scan.suffix), path.name


def _place(
    path: Path, parsed: ParsedName, scan: Scan, session: Session, edges: list[tuple[str, str, Path]]
) -> tuple[np.ndarray, Scan | None] | None:
    """Matrix from the scan to the label, and the scan the label was drawn on if that is another one."""
    if on_same_grid(path, scan.path):
        return np.eye(4), None
    space = parsed.entities.get("space")
    if space is not None and (matrix := chain(edges, scan.suffix, space)) is not None:
        return matrix, None
    owners = [other for other in session.scans if other is not scan and other.suffix == space]
    owners += [other for other in session.scans if other is not scan and on_same_grid(path, other.path)]
    if owners or space in (*SCANNER_SPACES, scan.suffix):
        return np.eye(4), owners[0] if owners and space != scan.suffix else None
    LOGGER.warning(OTHER_SPACE, path, space, scan.path.name, scan.suffix, space)
    return None


def chain(edges: Sequence[tuple[str, str, Path]], start: str, goal: str) -> np.ndarray | None:
    """Matrix from RAS mm of the space ``start`` to RAS mm of ``goal``, along ITK transforms; None without a way.

    An edge ``(a, b, path)`` is a file ``from-a_to-b``, which maps points of ``b`` to points of ``a``.
    """
    waiting, seen = deque([(start, np.eye(4))]), {start}
    while waiting:
        space, matrix = waiting.popleft()
        if space == goal:
            return matrix
        for a, b, path in edges:
            if space in (a, b) and (other := b if space == a else a) not in seen:
                step = read_itk(path)
                seen.add(other)
                waiting.append((other, (np.linalg.inv(step) if space == a else step) @ matrix))
    return None


def _targets(session: Session, task: str, modalities: Sequence[str]) -> Iterator[Labelled]:
    """Every scan of a session, with the session's scan of the wanted contrast as its label."""

    def first(suffix: str) -> Scan | None:
        scans = [scan for scan in session.scans if scan.suffix == suffix]
        return min(scans, key=lambda scan: ("ce" in scan.entities, scan.key), default=None)

    target, white = first(task), first("T1w")
    if target is None or white is None:
        return
    for scan in session.scans:
        if scan.suffix in modalities:
            yield Labelled(scan, target.path, owner=target if scan is not target else None, white=white)


def _no_label(bids: Path, labels: Path, sessions: Sequence[Session], task: str, name: str) -> str:
    names = {
        f"{key}-{parsed.entities[key]}"
        for session in sessions
        for _, parsed in _files(labels, session)
        if parsed.suffix in ("mask", "roi")
        for key in ("label", "desc")
        if key in parsed.entities
    }
    there = f". There are masks with {', '.join(sorted(names))}: choose with --label" if names else ""
    count = sum(len(session.scans) for session in sessions)
    wanted = WANTED[task].format(name=name)
    return NO_LABEL.format(labels=labels, task=task, count=count, bids=bids, wanted=wanted, there=there)
