"""One row of a comparison: a network trained from a known start, how fast it learned, and the model it became."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor, nn

from bidsrep.models.device import resolve_device
from bidsrep.models.model import Model
from bidsrep.models.registry import model_class
from bidsrep.tasks.task import Task
from bidsrep.training.labelled_objective import WholeScans, figures
from bidsrep.training.labelled_scans import Example
from bidsrep.training.module import Objective, PretrainModule
from bidsrep.training.protocols.comparison import Comparison
from bidsrep.training.recipe import Recipe, read_recipe
from bidsrep.training.run import build_network, fit, freeze, load_initial
from bidsrep.training.trainer import Runtime, between_steps, make_trainer

CONVERGED = 0.95
"""A training has converged where it has this share of its best figure for good."""
BACKBONES = ("backbone.", "encoder.")

Curve = list[tuple[int, float]]
Measure = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Row:
    """A trained network.

    Parameters
    ----------
    network
        With its last weights.
    recipe
        What it was trained with.
    curve
        Figures by optimiser step, where it was looked at.
    """

    network: nn.Module
    recipe: Recipe
    curve: Curve = field(default_factory=list)

    def model(self, device: str) -> Model:
        """The network as the app uses it."""
        card = {"weights": {"id": self.recipe.name}, "architecture": self.recipe.architecture}
        return model_class(self.recipe.model)(self.network, card, resolve_device(device))

    @property
    def backbone(self) -> dict[str, Tensor]:
        """What another training may start from."""
        return backbone_of(self.network)


def recipe_for(comparison: Comparison, compact: str, full: str) -> Recipe:
    """One of two recipes of ``data/recipes``: the paper's at the full scale."""
    name = full if comparison.anatomies.scale == "full" else compact
    return read_recipe(Path(str(files("bidsrep") / "data" / "recipes" / f"{name}.toml")))


def backbone_of(network: nn.Module) -> dict[str, Tensor]:
    """The parameters that are not a head's: a comparison never hands on a trained head."""
    state = network.state_dict()
    return {key: value.detach().clone() for key, value in state.items() if key.startswith(BACKBONES)}


def train(
    comparison: Comparison,
    recipe: Recipe,
    objective: Objective,
    persons: Collection[str],
    *,
    initial: Mapping[str, Tensor] | None = None,
    measure: Measure | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> Row:
    """Train a network, or take it from the folder of an earlier run that was exactly this one.

    Parameters
    ----------
    comparison
        Where to compute, and to keep the run: an interrupted one is continued.
    recipe, objective
        What is trained, on what; the objective's draws depend on the recipe's seed alone.
    persons
        Whom the objective shows, for the run's name.
    initial
        The start of backbone or encoder, which must fit; the recipe's seed draws the rest. Without it, all.
    measure
        A figure of the network that says how far it is; the higher, the better.
    adapt
        Changes the untrained network, before it starts from ``initial``.
    """
    network = build_network(recipe)
    if adapt is not None:
        adapt(network)
    start = {key: value.cpu().contiguous() for key, value in (initial or {}).items()}
    checks = comparison.size.checks if measure else 0
    name = f"{recipe.name}-{digest(comparison, recipe, persons, start, network, checks)}"
    folder = comparison.out / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    if start:
        save_file(start, folder / "initial.safetensors")
        load_initial(network, folder / "initial.safetensors")
    freeze(network, recipe.frozen)
    runtime = Runtime(comparison.device, devices=1, nodes=1, progress=False, tensorboard=False)
    watch = (
        Watch(measure, recipe.iterations, comparison.size.checks, folder / "curve.tsv") if measure else None
    )
    trainer = make_trainer(recipe, folder, runtime, [watch] if watch else [])
    module = PretrainModule(network, objective, recipe)
    fit(module, trainer, folder)
    return Row(module.network, recipe, watch.curve() if watch else [])


def digest(
    comparison: Comparison,
    recipe: Recipe,
    persons: Collection[str],
    start: Mapping[str, Tensor],
    network: nn.Module,
    checks: int,
) -> str:
    """Twelve characters that tell a run from every other one."""
    layout = [[name, value.requires_grad] for name, value in network.named_parameters()]
    where = [comparison.anatomies.folders, comparison.anatomies.seed, comparison.size.field, checks]
    said = [recipe.as_dict(), sorted(persons), layout, where]
    found = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for key, value in sorted(start.items()):
        found.update(key.encode() + value.float().numpy().tobytes())
    return found.hexdigest()[:12]


class Watch(Callback):
    """Looks at the network now and then, and notes the figure in ``curve.tsv``."""

    def __init__(self, measure: Measure, steps: int, checks: int, path: Path) -> None:
        self.measure, self.path = measure, path
        self.every = max(1, steps // checks)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after every so many optimiser steps, and after the last one."""
        step = trainer.global_step
        if not between_steps(trainer, batch_idx) or (step % self.every and step != trainer.max_steps):
            return
        assert isinstance(pl_module, PretrainModule)
        network = pl_module.network.eval()
        value = self.measure(network)
        network.train()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{step}\t{value:.6g}\n")

    def curve(self) -> Curve:
        """Step and figure; of a run that was continued, the later ones count."""
        with self.path.open(newline="", encoding="utf-8") as file:
            found = {int(step): float(value) for step, value in csv.reader(file, delimiter="\t")}
        return sorted(found.items())


def steps_to_convergence(curve: Sequence[tuple[int, float]], share: float = CONVERGED) -> float:
    """The first step from which on the figure stays at ``share`` of its best, or above; NaN if it has none.

    >>> steps_to_convergence([(10, 0.1), (20, 0.97), (30, 0.5), (40, 0.96), (50, 1.0)])
    40.0
    >>> steps_to_convergence([(10, 0.0), (20, 0.0)])
    nan
    """
    best = max((value for _, value in curve if not math.isnan(value)), default=0.0)
    found = math.nan
    for step, value in reversed(curve):
        if best <= 0 or not value >= share * best:
            break
        found = float(step)
    return found


def mean_figure(task: Task, examples: Sequence[Example], divisor: int, name: str = "dice") -> Measure:
    """The mean figure of whole scans (`bidsrep.training.labelled_objective.figures`) as a `Measure`."""
    scans = WholeScans(examples, divisor)

    @torch.no_grad()
    def measure(network: nn.Module) -> float:
        device = next(network.parameters()).device
        found = [
            figures(task, network(scan["image"].to(device))[task.head].float(), scan)[name]
            for scan in (scans[number] for number in range(len(scans)))
        ]
        return sum(found) / len(found)

    return measure


def tuned(recipe: Recipe, model: str, architecture: Mapping[str, Any], task: Task) -> Recipe:
    """A fine-tuning recipe for one task's head alone on the backbone of an ``[architecture]``."""
    backbone = {k: v for k, v in architecture.items() if k not in ("heads", "with_image", "views")}
    heads = {"heads": {task.head: task.channels}, "with_image": [task.head] if task.with_image else []}
    return replace(
        recipe, model=model, architecture={**backbone, **heads}, losses={**recipe.losses, "keep": 0.0}
    )
