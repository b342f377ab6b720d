"""The tables of structures' volumes on a subject's page, read from the segmentations of the derivatives.

Volumes of one scan say little alone. So the scans of the session stand side by side, since they show one brain, and
beside what the same weights give for an average brain (`bidsrep.evaluation.volumes`). That is no normal range.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from bidsrep.bids.names import session_dir
from bidsrep.bids.scans import Session
from bidsrep.errors import ImageError
from bidsrep.evaluation.volumes import GROUPS, label_volumes, structures, template_volumes
from bidsrep.imaging.volume import Volume
from bidsrep.labels import SEGMENTATIONS, load_labels
from bidsrep.reports.results import IMAGES, PREDICTED, SessionResult, named_files, scan_key

LOGGER = logging.getLogger("bidsrep")
ABSENT = "–"
DIGITS_BELOW = {1.0: 2, 100.0: 1}
"""Digits after the point of volumes below so many ml; larger ones have none."""


@dataclass(frozen=True)
class Cells:
    """The volumes of one structure in one segmentation, as they are shown: ml, and a share of all in percent."""

    left: str
    right: str
    total: str
    share: str


@dataclass(frozen=True)
class Line:
    """One structure, or a group of some: a cell for each scan, their mean and spread, and the average brain's."""

    name: str
    colors: tuple[str, ...]
    is_paired: bool
    scans: list[Cells]
    mean: str
    spread: str
    mean_share: str
    template: Cells | None


@dataclass(frozen=True)
class VolumeTable:
    """What one model found in the scans of a session: `groups` of structures, and every structure by itself."""

    model: str
    seg: str
    scans: list[str]
    has_template: bool
    groups: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def volume_tables(out_dir: Path, result: SessionResult) -> list[VolumeTable]:
    """Measure the segmentations of a session: a table for each model and kind of segmentation."""
    weights = {model.name: model.sha256 for model in result.models}
    tables = []
    for (model, seg), found in sorted(_segmentations(out_dir, result).items()):
        template = template_volumes(weights.get(model, ""), seg)
        of_scans = {scan.key: found[scan.key] for scan in result.scans if scan.key in found}
        everything = structures(load_labels(seg))
        seen = set(template).union(*of_scans.values())
        table = VolumeTable(model, seg, list(of_scans), bool(template))
        columns = list(of_scans.values())
        for structure in everything:
            if seen & set(structure.indices):
                sides = (structure.left, structure.right)
                table.lines.append(_line(structure.name, structure.colors, sides, columns, template))
        for name, indices in GROUPS.get(seg, {}).items():
            table.groups.append(_line(name, (), indices, columns, template, grouped=True))
        tables.append(table)
    return tables


def _segmentations(
    out_dir: Path, result: SessionResult
) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """Read ml by value, by scan, of every model and kind of segmentation; what cannot be read is left out."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for path, name in named_files(session_dir(out_dir, Session(result.subject, result.session))):
        match, seg = PREDICTED.fullmatch(name.entities.get("desc", "")), name.entities.get("seg", "")
        if match is None or name.suffix != "dseg" or name.extension not in IMAGES:
            continue
        if seg not in SEGMENTATIONS.values():
            continue
        try:
            volumes = label_volumes(Volume.load(path))
        except (ImageError, OSError) as error:
            LOGGER.debug("%s: its volumes are not shown (%s).", path, error)
            continue
        found.setdefault((match["model"], seg), {})[scan_key(name, match["suffix"])] = volumes
    return found


def _line(
    name: str,
    colors: tuple[str, ...],
    indices: tuple[int | None, ...],
    columns: Iterable[Mapping[int, float]],
    template: Mapping[int, float],
    *,
    grouped: bool = False,
) -> Line:
    """Word one line; `indices` are the left and the right value of a structure, or all values of a group."""
    paired = not grouped and indices[-1] is not None
    columns = list(columns)
    totals = [sum(column.get(i, 0.0) for i in indices if i is not None) for column in columns]
    spread = ABSENT if len(totals) < 2 else f"± {_ml(stdev(totals))}"
    sums = [sum(column.values()) for column in columns]
    shares = [100 * total / of for total, of in zip(totals, sums, strict=True) if of]
    return Line(
        name,
        colors,
        paired,
        [_cells(column, indices, paired) for column in columns],
        _ml(mean(totals)) if totals else ABSENT,
        spread,
        _percent(mean(shares)) if shares else ABSENT,
        _cells(template, indices, paired) if template else None,
    )


def _cells(volumes: Mapping[int, float], indices: tuple[int | None, ...], paired: bool) -> Cells:
    of = [volumes.get(index, 0.0) for index in indices if index is not None]
    everything = sum(volumes.values())
    share = _percent(100 * sum(of) / everything) if everything else ABSENT
    left, right = (_ml(of[0]), _ml(of[1])) if paired else ("", "")
    return Cells(left, right, _ml(sum(of)), share)


def _percent(share: float) -> str:
    return f"{share:.1f}" if share >= 1 else f"{share:.2f}"


def _ml(volume: float) -> str:
    """Write a volume with about three digits.

    >>> _ml(0.034), _ml(7.25), _ml(1234.5)
    ('0.03', '7.2', '1,234')
    """
    digits = next((digits for limit, digits in DIGITS_BELOW.items() if volume < limit), 0)
    return f"{volume:,.{digits}f}"
