"""Comparisons of trainings: who is trained on and who is measured, how much, and where it is written.

Every protocol of the papers that trains something is a comparison: networks that differ in one thing, trained
on the same persons for the same number of steps with the same seed, measured on the same other persons.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from bidsrep.bids.files import write_text
from bidsrep.errors import InputError
from bidsrep.evaluation.results import Published, Result
from bidsrep.models.device import resolve_device, trains_in_bf16
from bidsrep.models.model import Model
from bidsrep.synth.generator import Source
from bidsrep.training.anatomies import find_anatomies, load_anatomies
from bidsrep.training.protocols.anatomies import Anatomies, Scale, choose_persons, names_in
from bidsrep.training.recipe import Recipe, Stage
from bidsrep.training.representation import RepresentationObjective
from bidsrep.training.seqinv_scans import Person, make_person
from bidsrep.training.splits import split_subjects

TEST_SHARE = 0.2
"""Of the persons, where no weights say whom they were trained without."""
SPACING_MM = 1.0

NOBODY_TO_TRAIN = (
    "nobody is left to train on, or nobody to be measured: {} persons in {}. Name others with --participant-label, "
    "or more folders with --data"
)


@dataclass(frozen=True)
class Size:
    """How much is trained and measured at one scale.

    Parameters
    ----------
    steps, pretraining
        Optimiser steps of every row, and before it of the rows that are pre-trained here. 0: the recipe's.
    shape
        Sides of the crops in voxels, where the recipe does not say.
    field
        Longest side of the images that are measured and fine-tuned on, voxels; 0 for whole brains.
    persons
        So many are trained on at most; 0 for all.
    seeds
        Trainings that differ in nothing but the seed, where the protocol asks for several.
    checks
        How often a training is looked at, where a protocol asks how fast it was.
    """

    steps: int = 0
    pretraining: int = 0
    shape: tuple[int, int, int] = (64, 80, 64)
    field: int = 0
    persons: int = 0
    seeds: int = 1
    checks: int = 20


class Population:
    """The persons of prepared folders, by name; each is read when first asked for.

    Equal names in two folders are one person.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._known: dict[str, list[Person]] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Everybody, sorted."""
        return tuple(sorted(set().union(*map(names_in, self.folders))))

    @cached_property
    def priors(self) -> list[Tensor]:
        """Lesion shapes of the folders that hold nothing else."""
        nobody = Recipe("pepsi", "priors", {"heads": {}}, ())
        folders = [folder for folder in self.folders if not names_in(folder)]
        return RepresentationObjective.from_folders(folders, nobody).priors

    @cached_property
    def labelled(self) -> frozenset[str]:
        """Those who have a label map."""
        found = (one for folder in self.folders for one in find_anatomies(folder))
        return frozenset(name for name, kind, _ in found if kind == "labels")

    def people(self, names: Collection[str]) -> list[Person]:
        """Anatomies of 1 mm of the named persons, with what their labels consist of."""
        return [one for name in names for one in self._of(name)]

    def sources(self, names: Collection[str]) -> list[Source]:
        """Anatomies of 1 mm of the named persons."""
        return [person.source for person in self.people(names)]

    def _of(self, name: str) -> list[Person]:
        if name not in self._known:
            self._known[name] = []
            for folder in self.folders:
                if name not in names_in(folder):
                    continue
                anatomies, table = load_anatomies(folder, persons=(name,))
                self._known[name] += [make_person(a, table, SPACING_MM) for a in anatomies]
        return self._known[name]


@dataclass(frozen=True)
class Comparison:
    """What every row of a comparison shares.

    Parameters
    ----------
    anatomies
        Folders, who is measured, scale and seed.
    train
        Who may be trained on, ``sub-01``, in the order in which fractions take them.
    size
        How much is done.
    models
        Trained weights that rows start from.
    out
        Where trainings and prepared images are kept.
    device
        Where to compute.
    """

    anatomies: Anatomies
    train: tuple[str, ...]
    size: Size
    models: Mapping[str, Model]
    out: Path
    device: str = "cpu"
    population: Population = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "population", Population(self.anatomies.folders))

    @property
    def test(self) -> tuple[str, ...]:
        """Who is measured."""
        return self.anatomies.persons

    @property
    def seeds(self) -> range:
        """Of the repetitions."""
        return range(self.anatomies.seed, self.anatomies.seed + self.size.seeds)

    def share(self, percent: float) -> tuple[str, ...]:
        """The first so many percent of the persons to train on, at least one."""
        return self.train[: max(1, int(len(self.train) * percent / 100))]

    def sized(self, recipe: Recipe, steps: int, seed: int, samples: int = 1) -> Recipe:
        """A recipe for this comparison: ``steps`` on crops of the size's shape, or as it is for 0."""
        if steps:
            optimiser = replace(recipe.optimiser, warmup=min(recipe.optimiser.warmup, steps // 10))
            stages = (Stage(steps, self.size.shape, SPACING_MM, samples),)
            recipe = replace(recipe, stages=stages, optimiser=optimiser)
        slow = "bf16" in recipe.precision and not trains_in_bf16(resolve_device(self.device))
        precision = "32-true" if slow else recipe.precision
        return replace(recipe, seed=seed, held_out=self.test, initial=None, precision=precision)


@dataclass(frozen=True)
class ComparisonProtocol:
    """How a table that needs trainings is made.

    Parameters
    ----------
    measure
        From a comparison to results.
    sizes
        By scale.
    published
        The paper's figures by group and metric.
    shares
        Percentages of the persons that rows are trained on.
    note
        What differs from the paper, or is left out.
    labelled
        Only persons with label maps can be used.
    """

    measure: Callable[[Comparison], Iterator[Result]]
    sizes: Mapping[Scale, Size]
    published: Published
    note: str
    shares: tuple[float, ...] = (100,)
    labelled: bool = False


def split_persons(
    folders: Sequence[Path],
    wanted: Sequence[str],
    aside: Mapping[str, Collection[str]],
    seed: int,
    *,
    labelled: bool = False,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who is trained on, in a random order, and who is measured: different persons.

    The measured are the ``wanted``, else those that the weights kept ``aside``; where there are no weights, a
    draw of every fifth. ``labelled``: train on those with label maps alone.

    Raises
    ------
    InputError
        If nobody is left to train on.
    """
    names = Population(folders).names
    if wanted or aside or not names:
        test = choose_persons(folders, wanted, aside)
    else:
        drawn = split_subjects(names, TEST_SHARE, seed)
        test = tuple(name for name in names if drawn[name] == "validation")
    of = Population(folders).labelled if labelled else names
    rest = [name for name in names if name in of and name not in test]
    if not rest or not test:
        raise InputError(NOBODY_TO_TRAIN.format(len(names), ", ".join(map(str, folders))))
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
    return tuple(rest[i] for i in order.tolist()), test


def repeated(results: Iterator[Result], seed: int, rows: Collection[str], first: bool) -> Iterator[Result]:
    """Results of one seed's rows; the answers that need no training are told with the ``first`` seed alone."""
    for result in results:
        if result.system in rows:
            yield replace(result, seed=seed)
        elif first:
            yield result


def write_split(path: Path, comparison: Comparison, shares: Sequence[float]) -> None:
    """Write who is trained on (and from which share of the persons on) and who is measured."""
    lines = ["participant_id\tsplit\tfrom_percent"]
    for name in sorted((*comparison.train, *comparison.test)):
        least = [f"{share:g}" for share in sorted(shares) if name in comparison.share(share)]
        split = "test" if name in comparison.test else "train"
        lines.append(f"{name}\t{split}\t{least[0] if least else 'n/a'}")
    write_text(path, "\n".join(lines) + "\n")


def describe_training(comparison: Comparison, protocol: ComparisonProtocol, split: Path) -> dict[str, str]:
    """What the summary says of the trainings."""
    size, scale = comparison.size, comparison.anatomies.scale
    grid = "x".join(map(str, size.shape))
    steps = f"{size.steps} steps on crops of {grid} voxels" if size.steps else "the published recipes' steps"
    if size.pretraining:
        steps += f", after {size.pretraining} of pre-training"
    too_short = (
        ": far too few to learn anything, it only shows that everything runs" if scale == "sloppy" else ""
    )
    field_of_view = f"{size.field} voxels a side of each brain" if size.field else "whole brains"
    return {
        "trained on": f"{len(comparison.train)} persons ({split.name})",
        "scale": f"{scale} ({steps}{too_short}; measured on {field_of_view})",
        "seeds": ", ".join(map(str, comparison.seeds)),
        "images": "made from the anatomies, as docs/evaluation.md says; not acquired, where the folders have no scan",
        "note": protocol.note,
    }
