"""Run a recipe: build the network and objective, train with Lightning, export weights with a card."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from bidsrep.bids.files import read_object, write_json
from bidsrep.errors import UsageError, WeightsError
from bidsrep.models.library import find_weights
from bidsrep.models.network import Network
from bidsrep.models.views import ViewHead
from bidsrep.models.weights import card_path, read_card
from bidsrep.training.anatomies import load_anatomies
from bidsrep.training.module import Objective, PretrainModule
from bidsrep.training.recipe import Recipe
from bidsrep.training.representation import RepresentationObjective
from bidsrep.training.segmenter import reference_segmenters
from bidsrep.training.trainer import LAST, Runtime, make_trainer

LOGGER = logging.getLogger("bidsrep.training")
RECORD = "run.json"
SEEN_BEFORE = "%s, which this run starts from, may have been trained on persons that the recipe holds out: %s"
SYSTEMS = {name: f"bidsrep.training.{name}" for name in ("seqinv", "crl", "cifl")}
"""Systems with a network and an objective of their own: modules with `build_network` and `build_objective`."""
FROZEN_NOTHING = "frozen: no parameter of the network begins with {!r}"
NO_DATA = (
    "recipe {}: it is trained on anatomies. Give folders that `bidsrep-train prepare` has made, with --data."
)


def build_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe; seeded, so that two runs start alike."""
    torch.manual_seed(recipe.seed)
    if recipe.model in SYSTEMS:
        network: nn.Module = import_module(SYSTEMS[recipe.model]).build_network(recipe)
        return network
    architecture = dict(recipe.architecture)
    heads = {name: int(channels) for name, channels in architecture.pop("heads").items()}
    network = Network(heads, **architecture)
    head = network.head.get_submodule("final_conv_superres") if "superres" in heads else None
    if isinstance(head, nn.Conv3d) and "superres" in network.head.with_image:
        start_as_input(head)
    if "pathol" in network.head.views:
        start_without_lesions(network.head.views["pathol"])
    return network


def start_without_lesions(view: ViewHead) -> None:
    """Let an untrained view of lesions start at their share of a brain, about half a percent.

    Its bias moves by the learning rate a step; from even odds, a short run would spend itself on getting there.
    """
    nn.init.constant_(torch.as_tensor(view.coarse.bias), -5.0)


def start_as_input(convolution: nn.Module) -> None:
    """Let an untrained super-resolution hand the image on: what it learns is the detail that is missing.

    Drawn at random, the head of a short run stays worse than its own input.
    """
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.zero_()
        weight = convolution.get_parameter("weight")
        weight[:, -1] = 1  # the image follows the features


def freeze(network: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Keep the parameters as they are whose names begin with one of ``prefixes``.

    Raises
    ------
    UsageError
        If a prefix fits no parameter: what was meant to be kept would be trained.
    """
    names = dict(network.named_parameters())
    for prefix in prefixes:
        chosen = [value for name, value in names.items() if name.startswith(prefix)]
        if not chosen:
            raise UsageError(FROZEN_NOTHING.format(prefix))
        for value in chosen:
            value.requires_grad_(False)


def needs_anatomies(recipe: Recipe) -> bool:
    """Whether a recipe is trained on anatomies: all are but CIFL's features where shapes make every pair."""
    features = recipe.model == "cifl" and recipe.losses.get("phase", "pretrain") == "pretrain"
    return not features or float(recipe.generator.get("anatomy_share", 0)) > 0


def build_objective(recipe: Recipe, data: list[Path]) -> Objective:
    """The objective of a recipe's model on the anatomies of the ``data`` folders, without held-out persons.

    Raises
    ------
    UsageError
        If there are no folders, and the recipe needs some.
    """
    if not data and needs_anatomies(recipe):
        raise UsageError(NO_DATA.format(recipe.name))
    if recipe.model in SYSTEMS:
        objective: Objective = import_module(SYSTEMS[recipe.model]).build_objective(recipe, data)
        return objective
    if recipe.model == "brainmask":
        from bidsrep.training.brainmask import BrainMaskObjective

        anatomies, table = load_anatomies(data[0], "labels")
        kept = [anatomy for anatomy in anatomies if anatomy.name not in recipe.held_out]
        if table is None:
            raise FileNotFoundError(f"{data[0]}: no dseg.tsv")
        return BrainMaskObjective(kept, table, recipe)
    return RepresentationObjective.from_folders(data, recipe)


def pretrain(
    recipe: Recipe,
    data: list[Path],
    out: Path,
    *,
    initial: str | Path | None = None,
    runtime: Runtime | None = None,
    **settings: Any,
) -> Path:
    """Train and return the last checkpoint; a folder with a checkpoint is continued from it.

    Parameters
    ----------
    recipe
        What to train.
    data
        Prepared anatomy datasets; may be empty where the recipe needs none.
    out
        Folder for checkpoints and logs.
    initial
        Weights to start from instead of the recipe's: a safetensors file, or an id. Of the backbone all
        must fit; heads that they lack start at random.
    runtime
        Devices, time and logs; or give its fields as ``settings``.
    """
    runtime = runtime or Runtime(**settings)
    network = build_network(recipe)
    started: Mapping[str, Any] = {}
    if start := initial or recipe.initial:
        path = find_weights(recipe.model, start)
        load_initial(network, path)
        started = _card_of(path)
        _warn_of_seen(recipe, path, started)
    freeze(network, recipe.frozen)
    objective = build_objective(recipe, data)
    if isinstance(objective, RepresentationObjective) and "implicit" in recipe.losses:
        objective.segmenters = reference_segmenters(objective, out, recipe.losses["implicit"], recipe.seed)
    module = PretrainModule(network, objective, recipe, runtime.workers)
    trainer = make_trainer(recipe, out, runtime)
    if trainer.is_global_zero:
        write_record(out, recipe, started)
    return fit(module, trainer, out)


def fit(module: PretrainModule, trainer: pl.Trainer, out: Path) -> Path:
    """Train, from the folder's checkpoint if it has one, and leave the last one there."""
    last = out / LAST
    trainer.fit(module, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    trainer.save_checkpoint(last)
    return last


def _card_of(weights: Path) -> dict[str, Any]:
    """The card of weights to start from; of those that have none, their name alone is known."""
    return read_card(weights) if card_path(weights).is_file() else {"weights": {"id": weights.name}}


def _warn_of_seen(recipe: Recipe, initial: Path, card: Mapping[str, Any]) -> None:
    """Tell whom a run holds out in vain: the weights it starts from may have been trained on them."""
    aside = card.get("training", {}).get("held_out", ())
    if seen := [name for name in recipe.held_out if name not in aside]:
        LOGGER.warning(SEEN_BEFORE, initial.name, ", ".join(seen))


def write_record(out: Path, recipe: Recipe, started: Mapping[str, Any]) -> Path:
    """Keep in a run's folder what it follows, and of the card of the weights it ``started`` from what counts.

    A run that is continued keeps the start that it had.
    """
    start = {
        **{key: started["weights"].get(key) for key in ("id", "sha256", "license")},
        "held_out": list(started.get("training", {}).get("held_out", ())),
    } if started else read_object(out / RECORD).get("initial")  # fmt: skip
    write_json(out / RECORD, {"recipe": recipe.as_dict(), "initial": start})
    return out / RECORD


def load_initial(network: nn.Module, path: Path) -> None:
    """Start from other weights of the same backbone; a head that they lack stays as it was drawn.

    Raises
    ------
    WeightsError
        If the file cannot be read, or the backbone does not fit exactly.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as a safetensors file ({error}).") from error
    wanted = network.state_dict()
    usable = {
        key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape
    }
    missing = [key for key in wanted if key.startswith(("backbone.", "encoder.")) and key not in usable]
    if missing:
        raise WeightsError(
            f"{path}: does not fit this architecture; first missing or different: {missing[0]}"
        )
    network.load_state_dict({**wanted, **{key: value.float() for key, value in usable.items()}})


def network_state(checkpoint: Path) -> dict[str, Any]:
    """The network's tensors out of a training checkpoint (read without executing pickled code)."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    prefix = "network."
    return {
        key.removeprefix(prefix): value
        for key, value in content["state_dict"].items()
        if key.startswith(prefix)
    }


def steps_taken(checkpoint: Path) -> int:
    """Optimiser steps that lie behind a training checkpoint."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
