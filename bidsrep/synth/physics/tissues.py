"""Tissue parameters at 1.5 and 3 T: the tables in ``bidsrep/data/tissues``, with the sources of every row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from bidsrep.errors import UsageError

FIELD_STRENGTHS = (1.5, 3.0)
UNKNOWN_STRENGTH = "there is no tissue table for {} T; there are: 1.5 and 3 T."
UNKNOWN_TISSUE = "there are no tissue parameters for {!r}. Known tissues: {}. Known structures: {}."
EXTRACEREBRAL = ("fat", "muscle", "marrow", "bone", "skin", "mucosa")
"""What a label that only says "outside the brain" may be."""
BRAIN = ("csf", "gm", "wm", "lesion")
"""Classes of the labels of a brain."""


@dataclass(frozen=True)
class Tissue:
    """Centre values of one tissue.

    Parameters
    ----------
    pd
        Proton density (p.u.; fluid 100).
    r1, r2, r2s
        Relaxation rates (1/s).
    mt
        MT saturation (p.u.) of the pulse of multi-parameter mapping; it depends on the pulse.
    spread
        Relative standard deviation of the rates between persons and methods of measurement.
    source, confidence
        Where the values are from; ``sure``, ``fair`` or ``guess``.
    """

    name: str
    pd: float
    r1: float
    r2: float
    r2s: float
    mt: float
    spread: float
    source: str = ""
    confidence: str = ""


class TissueTable(Mapping[str, Tissue]):
    """Tissues by name; structures of label tables (``Left-Thalamus``, ``gm``) find the tissue they consist of."""

    def __init__(self, tissues: Mapping[str, Tissue]) -> None:
        self._tissues = dict(tissues)

    def __getitem__(self, name: str) -> Tissue:
        if name in self._tissues:
            return self._tissues[name]
        structures = structure_tissues()
        tissue = structures.get(structure_key(name))
        if tissue is None:
            known = ", ".join(sorted(self._tissues)), ", ".join(sorted(structures))
            raise UsageError(UNKNOWN_TISSUE.format(name, *known))
        return self._tissues[tissue]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._tissues or structure_key(name) in structure_tissues())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tissues)

    def __len__(self) -> int:
        return len(self._tissues)


@cache
def tissue_table(field_strength: float = 3.0) -> TissueTable:
    """Tissue parameters at 1.5 or 3 T."""
    if field_strength not in FIELD_STRENGTHS:
        raise UsageError(UNKNOWN_STRENGTH.format(field_strength))
    return TissueTable({row["tissue"]: _tissue(row) for row in _rows(f"relaxation_{field_strength:g}T.tsv")})


@cache
def structure_tissues() -> Mapping[str, str]:
    """Tissue of every known structure; keys are those of `structure_key`."""
    return {row["structure"]: row["tissue"] for row in _rows("structures.tsv")}


def brain_structures(classes: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """What every label of a brain consists of: its structure where that is known, else its class.

    What lies outside the brain becomes background.

    >>> brain_structures(("gm", "gm", "bone"), ("Left-Putamen", "Left-Claustrum", "Skull"))
    ('Left-Putamen', 'gm', 'background')
    """
    known = tissue_table()
    return tuple(
        "background" if of not in BRAIN else name if name in known else of
        for of, name in zip(classes, names, strict=True)
    )


def structure_key(name: str) -> str:
    """Name of a structure without its side and part: ``Left-Inf-Lat-Vent-part2`` is ``inf-lat-vent``."""
    key = name.lower().removeprefix("left-").removeprefix("right-")
    return key.partition("-part")[0]


def _tissue(row: Mapping[str, str]) -> Tissue:
    return Tissue(
        name=row["tissue"],
        pd=float(row["pd_pu"]),
        r1=1000 / float(row["t1_ms"]),
        r2=1000 / float(row["t2_ms"]),
        r2s=1000 / float(row["t2s_ms"]),
        mt=float(row["mt_pu"]),
        spread=float(row["spread"]),
        source=row["source"],
        confidence=row["confidence"],
    )


def _rows(name: str) -> list[dict[str, str]]:
    path = files("bidsrep") / "data" / "tissues" / name
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
