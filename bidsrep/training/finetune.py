"""Fine-tune a representation network on a user's labelled BIDS dataset (``bidsrep-train finetune``).

The whole network is trained, as in both papers: the backbone from its pre-trained weights, the task's head
from random ones where the weights have none. A head with a view of the image is trained alone.
"""

from __future__ import annotations

import copy
import logging
import math
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from bidsrep.errors import InputError, UsageError
from bidsrep.models.lean import lean_features
from bidsrep.models.library import OTHER_MODEL, find_weights
from bidsrep.models.network import Network
from bidsrep.models.registry import model_class
from bidsrep.models.weights import load_strictly, read_weights
from bidsrep.settings import MODALITIES
from bidsrep.tasks.task import Task
from bidsrep.toml import dump_toml
from bidsrep.training.export import export_weights
from bidsrep.training.labelled import find_labelled
from bidsrep.training.labelled_objective import FIGURES, LabelledObjective, WholeScans, figures
from bidsrep.training.labelled_scans import Example, prepare_examples
from bidsrep.training.module import PretrainModule
from bidsrep.training.recipe import Recipe, Stage
from bidsrep.training.run import build_network, fit, freeze, network_state
from bidsrep.training.splits import read_or_write_splits
from bidsrep.training.trainer import LAST, Runtime, make_trainer

LOGGER = logging.getLogger("bidsrep.training")
BEST = "best.ckpt"
WHOLE_BRAIN = (144, 176, 144)
"""Voxels of 1 mm that most brains fit into, and that the views' levels halve evenly."""
MOST_OF_A_BRAIN = (96, 112, 96)

NO_SUCH_TASK = "--task {}: {} cannot be fine-tuned for it; it can for {}."
OTHER_RUN = "{}: this folder holds a run of another {} ({}, not {}). Give another folder with --out."
NOBODY = "{}: no subject is left to train on. Put `train` behind some of them."
ONE_SUBJECT = (
    "only one subject (sub-%s): nobody is held out, so nothing tells how good the network is on others; the "
    "last weights are kept"
)


@dataclass(frozen=True)
class LabelledData:
    """Where a user's scans and labels lie; see `bidsrep.training.labelled.find_labelled`."""

    bids_dir: Path
    labels_dir: Path | None
    name: str = ""
    participant_label: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES
    skip_bids_validation: bool = False


class FinetuneModule(PretrainModule):
    """Trains on crops, and looks at whole held-out scans now and then."""

    network: Network

    def __init__(
        self, network: Network, objective: LabelledObjective, recipe: Recipe, held_out: Sequence[Example]
    ) -> None:
        super().__init__(network, objective, recipe)
        self.task, self.held_out = objective.task, held_out
        self.seen: dict[str, list[float]] = defaultdict(list)

    def val_dataloader(self) -> Any:
        """The held-out scans, one at a time."""
        scans = WholeScans(self.held_out, 2 ** (self.network.backbone.num_levels - 1))
        return torch.utils.data.DataLoader(scans, batch_size=None, num_workers=0)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Figures of one scan."""
        features = lean_features(self.network.backbone, batch["image"])
        raw = self.network.head.stream(features, batch["image"], {self.task.head})[self.task.head]
        for name, value in figures(self.task, raw, batch).items():
            self.seen[name].append(value)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the scans."""
        means = {
            name: float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
            for name, values in self.seen.items()
        }
        self.seen.clear()
        self.log_dict({f"val/{name}": value for name, value in means.items()}, sync_dist=True)
        text = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        LOGGER.info("step %d, %d held-out scans: %s", self.global_step, len(self.held_out), text)


def finetune(
    model: str,
    task: str,
    recipe: Recipe,
    data: LabelledData,
    out: Path,
    *,
    initial: str | None = None,
    runtime: Runtime | None = None,
) -> tuple[Path, Path]:
    """Fine-tune and export; an interrupted run in ``out`` is continued. Returns weights and card.

    Raises
    ------
    InputError
        If there is nothing to learn from.
    UsageError
        If the model has no such task, or ``out`` holds another run.
    WeightsError
        If the initial weights cannot be used.
    """
    runtime = runtime or Runtime()
    wanted = find_task(model, task)
    path = find_weights(model, initial or recipe.initial)
    state, card = read_weights(path)
    if card["weights"]["model"] != model:
        raise UsageError(OTHER_MODEL.format(path=path, found=card["weights"]["model"], model=model))
    _claim(out, {"model": model, "task": task, "initial": card["weights"]["sha256"]})
    train, held_out = load_examples(data, task, recipe, out, runtime.device)
    recipe = replace(
        recipe, model=model, architecture=tuned_architecture(card["architecture"], wanted, recipe)
    )
    recipe = for_view(recipe, wanted)
    network, teacher = start_network(recipe, wanted, state)
    freeze(network, recipe.frozen)
    objective = LabelledObjective(train, wanted, recipe, teacher)
    module = FinetuneModule(network, objective, recipe, held_out)
    trainer = _trainer(recipe, wanted, out, runtime, validated=bool(held_out))
    last = fit(module, trainer, out)
    checkpoint, measured = _measure_best(module, trainer, out) if held_out else (last, {})
    if not trainer.is_global_zero:
        return out / f"{model}.safetensors", out / f"{model}.toml"
    start = card["weights"]
    recipe = replace(recipe, held_out=tuple(sorted({f"sub-{example.subject}" for example in held_out})))
    training = {
        "task": task,
        "data": "the labelled scans of a user",
        "subjects": len(objective.subjects),
        "scans": len(train),
        "initial": start["id"],
        "initial_sha256": start["sha256"],
    }
    return export_weights(
        checkpoint,
        recipe,
        out,
        edition=f"{task}-finetuned",
        training=training,
        inputs=card.get("input", {}),
        figures=_card_figures(measured, held_out),
        license=f"not stated; started from {start['id']} ({start.get('license', 'not stated')})",
    )


def find_task(model: str, name: str) -> Task:
    """The task of a model by its name.

    Raises
    ------
    UsageError
        If it has none of that name, or it cannot be learned from labelled scans.
    """
    tasks = {task.name: task for task in model_class(model).tasks if task.name in FIGURES}
    if name not in tasks:
        raise UsageError(NO_SUCH_TASK.format(name, model, ", ".join(tasks)))
    return tasks[name]


def load_examples(
    data: LabelledData, task: str, recipe: Recipe, out: Path, device: str
) -> tuple[list[Example], list[Example]]:
    """Prepared scans to train on and held-out ones; by subject, as ``splits.tsv`` in ``out`` says.

    Raises
    ------
    InputError
        If no label or scan can be used, or nobody is left to train on.
    """
    pairs = find_labelled(
        data.bids_dir,
        data.labels_dir,
        task,
        name=data.name,
        participant_label=data.participant_label,
        modalities=data.modalities,
        skip_bids_validation=data.skip_bids_validation,
    )
    examples = prepare_examples(pairs, data.labels_dir, task, out / "prepared", device)
    subjects = [example.subject for example in examples]
    share = float(recipe.validation.get("share", 0.2))
    splits = read_or_write_splits(out / "splits.tsv", subjects, share, recipe.seed)
    train = [example for example in examples if splits[example.subject] == "train"]
    held_out = [example for example in examples if splits[example.subject] == "validation"]
    if not train:
        raise InputError(NOBODY.format(out / "splits.tsv"))
    if len(splits) == 1:
        LOGGER.warning(ONE_SUBJECT, subjects[0])
    LOGGER.info("%d scans to train on, %d held out (%s)", len(train), len(held_out), out / "splits.tsv")
    return train, held_out


def tuned_architecture(architecture: dict[str, Any], task: Task, recipe: Recipe) -> dict[str, Any]:
    """The ``[architecture]`` with the task's head; other heads stay where the recipe keeps them."""
    heads = architecture["heads"]
    heads = dict.fromkeys(heads, 1) if isinstance(heads, list) else dict(heads)
    kept = heads if recipe.losses.get("keep") else {}
    with_image = [name for name in architecture.get("with_image", ()) if name in kept and name != task.head]
    tuned = {**architecture, "heads": {**kept, task.head: task.channels}}
    return {**tuned, "with_image": with_image} if with_image or "with_image" in architecture else tuned


def for_view(recipe: Recipe, task: Task) -> Recipe:
    """The recipe for a head that has a view of the image: it learns alone, all else stays as it is.

    The view was trained on whole brains, by whose statistics its layers normalise; so it is here where it reads no
    features. With a hidden layer, which needs the features of every voxel, nine tenths of the steps see most of a
    brain.
    """
    view = recipe.architecture.get("views", {}).get(task.head)
    if view is None:
        return recipe
    steps = recipe.iterations
    stages = [Stage(steps, WHOLE_BRAIN)]
    if view.get("hidden"):
        stages = [Stage(steps - steps // 10, MOST_OF_A_BRAIN), Stage(steps // 10, WHOLE_BRAIN)]
    others = (f"head.final_conv_{name}." for name in recipe.architecture["heads"] if name != task.head)
    return replace(
        recipe,
        stages=tuple(stage for stage in stages if stage.iterations),
        losses={**recipe.losses, "glance": not view.get("hidden"), "keep": 0.0},
        frozen=("backbone.", *others),
    )


def start_network(recipe: Recipe, task: Task, state: dict[str, Tensor]) -> tuple[Network, Network | None]:
    """The network to train, and a frozen copy of it where other heads are to be kept.

    Raises
    ------
    WeightsError
        If the state does not fit.
    """
    network = build_network(recipe)
    assert isinstance(network, Network)
    own = f"head.final_conv_{task.head}."
    random = {key: value for key, value in network.state_dict().items() if key.startswith(own)}
    wanted = network.state_dict().keys()
    given = {
        key: value
        for key, value in state.items()
        if key in wanted and (key not in random or value.shape == random[key].shape)
    }
    load_strictly(network, {**random, **given}, "the initial weights")
    others = set(recipe.architecture["heads"]) - {task.head} if recipe.losses.get("keep") else set()
    teacher = copy.deepcopy(network).eval().requires_grad_(False) if others else None
    return network, teacher


def scaled(recipe: Recipe, iterations: int) -> Recipe:
    """The recipe with so many steps in all; its stages keep their shares, each at least the last one."""
    done = [sum(stage.iterations for stage in recipe.stages[:n]) for n in range(len(recipe.stages) + 1)]
    ends = [round(iterations * steps / recipe.iterations) for steps in done]
    stages: list[Stage] = [
        replace(stage, iterations=end - start)
        for stage, start, end in zip(recipe.stages, ends[:-1], ends[1:], strict=True)
        if end > start
    ]
    return replace(recipe, stages=tuple(stages))


def _trainer(recipe: Recipe, task: Task, out: Path, runtime: Runtime, validated: bool) -> pl.Trainer:
    if not validated:
        return make_trainer(recipe, out, runtime, limit_val_batches=0, num_sanity_val_steps=0)
    figure, mode = FIGURES[task.name]
    best = ModelCheckpoint(
        dirpath=out,
        filename=Path(BEST).stem,
        monitor=f"val/{figure}",
        mode=mode,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    # A whole number of checks, the last one at the end.
    checks = max(1, round(recipe.iterations / float(recipe.validation.get("every", 50))))
    return make_trainer(
        recipe,
        out,
        runtime,
        [best],
        val_check_interval=max(1, recipe.iterations // checks) * recipe.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )


def _measure_best(module: FinetuneModule, trainer: pl.Trainer, out: Path) -> tuple[Path, dict[str, float]]:
    """The best checkpoint, and its figures."""
    best = out / BEST if (out / BEST).exists() else out / LAST
    module.network.load_state_dict(network_state(best))
    return best, dict(trainer.validate(module, verbose=False)[0])


def _card_figures(measured: dict[str, float], held_out: Sequence[Example]) -> dict[str, str]:
    if not held_out:
        return {"validation": "none: nobody was held out"}
    n = f"n = {len({e.subject for e in held_out})} held-out subjects, {len(held_out)} scans, by which the best "
    return {
        name.removeprefix("val/"): f"{value:.3f} ({n}checkpoint was chosen)"
        for name, value in measured.items()
        if not math.isnan(value)
    }


def _claim(out: Path, run: dict[str, str]) -> None:
    """Note what run the folder is of; refuse one of another run."""
    record = out / "finetune.toml"
    if record.is_file():
        found = tomllib.loads(record.read_text(encoding="utf-8"))
        for key, value in run.items():
            if found.get(key) != value:
                what = "start" if key == "initial" else key
                raise UsageError(OTHER_RUN.format(out, what, found.get(key), value))
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(dump_toml(run), encoding="utf-8")
