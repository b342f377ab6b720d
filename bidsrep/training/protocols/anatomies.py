"""Whom the papers' protocols are measured on: prepared anatomies, best of persons that no training has seen."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from bidsrep.errors import InputError, UsageError
from bidsrep.models.model import Model
from bidsrep.training.anatomies import Anatomy, LabelTable, find_anatomies, load_anatomies

Scale = Literal["sloppy", "compact", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)
SEED = 20

NO_ANATOMIES = "--data {}: nobody is in it. Give folders that `bidsrep-train prepare` has made."
NOT_THERE = "--participant-label: there is no {} in {}"
NOBODY_ASIDE = (
    "the cards of the weights name no person that all of them were trained without. Say with --participant-label "
    "who is measured"
)
ASIDE_NOT_THERE = (
    "none of the persons that the weights were trained without ({}) is in {}. Say with --participant-label who is "
    "measured"
)


@dataclass(frozen=True)
class Anatomies:
    """Prepared anatomies, and how much is drawn of them.

    Parameters
    ----------
    folders
        Datasets made by ``bidsrep-train prepare``.
    persons
        Names as those of their folders, ``sub-01``.
    scale
        ``sloppy`` shows that everything runs, ``full`` has the paper's numbers.
    seed
        Of all draws.
    """

    folders: tuple[Path, ...]
    persons: tuple[str, ...]
    scale: Scale = "compact"
    seed: int = SEED

    def load(self) -> list[tuple[Anatomy, LabelTable | None]]:
        """The persons, in the folders' order, each with the table of its label map."""
        found = []
        for folder in self.folders:
            if names_in(folder) & set(self.persons):
                anatomies, table = load_anatomies(folder, persons=self.persons)
                found += [(anatomy, table) for anatomy in anatomies]
        return found

    def generator(self, person: str, number: int = 0) -> torch.Generator:
        """The draws of one sample: the same whoever else is measured."""
        text = f"{self.seed} {person} {number}"
        return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def names_in(folder: Path) -> set[str]:
    """The persons of a prepared dataset, ``sub-01``."""
    return {name for name, _, _ in find_anatomies(folder)}


def held_out(models: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """Whom the weights' recipes kept aside, as their cards say; empty where a card names nobody."""
    return {name: tuple(model.card.get("training", {}).get("held_out", ())) for name, model in models.items()}


def choose_persons(
    folders: Sequence[Path], wanted: Sequence[str], aside: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """Whom to measure: the ``wanted``, or else those that all weights of which it is known kept aside.

    Raises
    ------
    InputError
        If the folders hold nobody, or not the wanted.
    UsageError
        If nobody is wanted and nobody of the folders was kept aside.
    """
    where = ", ".join(map(str, folders))
    there = set().union(*map(names_in, folders))
    if not there:
        raise InputError(NO_ANATOMIES.format(where))
    if missing := sorted(set(wanted) - there):
        raise InputError(NOT_THERE.format(", ".join(missing), where))
    if wanted:
        return tuple(sorted(set(wanted)))
    known = [set(persons) for persons in aside.values() if persons]
    common = set.intersection(*known) if known else set()
    if not common:
        raise UsageError(NOBODY_ASIDE)
    if not common & there:
        raise UsageError(ASIDE_NOT_THERE.format(", ".join(sorted(common)), where))
    return tuple(sorted(common & there))


def describe(persons: Collection[str], aside: Mapping[str, Collection[str]]) -> str:
    """Say who is measured, and which weights may have been trained on whom.

    >>> describe(["sub-1", "sub-2"], {"pepsi": ["sub-1", "sub-2"], "cifl": ["sub-1"], "crl": []})
    'sub-1, sub-2 (kept aside in the training of pepsi; not so sub-2 of cifl; not known of crl)'
    """
    parts = []
    for name, kept in aside.items():
        seen = sorted(set(persons) - set(kept))
        if not kept:
            parts.append(f"not known of {name}")
        elif seen:
            parts.append(f"not so {', '.join(seen)} of {name}")
        else:
            parts.append(f"kept aside in the training of {name}")
    return ", ".join(sorted(persons)) + (f" ({'; '.join(parts)})" if parts else "")
