"""A training recipe: everything a run depends on, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one grid: ``shape`` voxels of ``spacing`` mm for ``iterations`` steps."""

    iterations: int
    shape: tuple[int, int, int]
    spacing: float = 1.0
    samples: int = 1


@dataclass(frozen=True)
class Optimiser:
    """AdamW without weight decay (both papers); linear warm-up, then factors at fractions of the run.

    A ``head_lr`` above 0 is the rate of the heads, where it is not that of the backbone.

    A ``muon_lr`` above 0 gives the backbone's convolutions Muon's steps at that rate: on two cores a
    T1w came out of random contrasts with correlation 0.79 instead of 0.72 after 300 steps.
    """

    lr: float = 1e-4
    muon_lr: float = 0.0
    head_lr: float = 0.0
    warmup: int = 2000
    drops: tuple[float, ...] = ()
    cosine: bool = False
    clip_norm: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """What to train, on which grids, how long and with which draws.

    Parameters whose names begin with one of ``frozen`` stay as they are.

    ``accumulate`` mini-batches make one optimiser step; ``initial`` are weights to start from (a file, or an
    id that `bidsrep.models.library.find_weights` knows); ``validation`` is for fine-tuning (``share`` of the
    subjects that are held out, ``every`` so many steps).
    """

    model: str
    name: str
    architecture: dict[str, Any]
    stages: tuple[Stage, ...]
    optimiser: Optimiser = field(default_factory=Optimiser)
    generator: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    initial: str | None = None
    held_out: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    precision: str = "bf16-mixed"
    checkpoint_minutes: float = 5.0
    accumulate: int = 1
    validation: dict[str, float] = field(default_factory=dict)
    seed: int = 42

    @property
    def iterations(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.iterations for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that optimiser step ``step`` (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.iterations:
                return stage
            step -= stage.iterations
        return self.stages[-1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for logs and cards."""
        return asdict(self)


def read_recipe(path: Path, **changes: Any) -> Recipe:
    """Read a TOML recipe; ``changes`` override top-level keys that are not None.

    Raises
    ------
    ValueError
        If the file has a key that no recipe has.
    """
    with path.open("rb") as file:
        values = tomllib.load(file)
    try:
        recipe = make_recipe(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, as `Recipe.as_dict` gives them.

    Raises
    ------
    ValueError
        If there is a key that no recipe has.
    """
    values = dict(values)
    known = {item.name for item in fields(Recipe)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown key {unknown[0]!r}; a recipe has {', '.join(sorted(known))}")
    values["stages"] = tuple(Stage(**{**stage, "shape": tuple(stage["shape"])}) for stage in values["stages"])
    optimiser = values.get("optimiser", {})
    values["optimiser"] = Optimiser(**{**optimiser, "drops": tuple(optimiser.get("drops", ()))})
    for key in ("held_out", "frozen"):
        values[key] = tuple(values.get(key, ()))
    return Recipe(**values)
