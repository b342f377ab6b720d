"""Run a recipe: build the network and objective, train with Lightning, export weights with a card."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from bidsrep.models.device import resolve_device, trains_in_bf16
from bidsrep.models.network import Network
from bidsrep.training.anatomies import load_anatomies
from bidsrep.training.module import Objective, PretrainModule
from bidsrep.training.recipe import Recipe
from bidsrep.training.representation import RepresentationObjective
from bidsrep.training.segmenter import reference_segmenters

SYSTEMS = {name: f"bidsrep.training.{name}" for name in ("seqinv", "crl", "cifl")}
"""Systems with a network and an objective of their own: modules with `build_network` and `build_objective`."""

LOGGER = logging.getLogger("bidsrep.training")
NO_BF16 = "precision %s: this processor has no bfloat16 arithmetic; training in float32 instead"


def build_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe; seeded, so that two runs start alike."""
    torch.manual_seed(recipe.seed)
    if recipe.model in SYSTEMS:
        network: nn.Module = import_module(SYSTEMS[recipe.model]).build_network(recipe)
        return network
    architecture = dict(recipe.architecture)
    heads = {name: int(channels) for name, channels in architecture.pop("heads").items()}
    return Network(heads, **architecture)


def build_objective(recipe: Recipe, data: list[Path]) -> Objective:
    """The objective of a recipe's model on the anatomies of the ``data`` folders, without held-out persons."""
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
    device: str = "auto",
    initial: Path | None = None,
    progress: bool = True,
    max_minutes: float | None = None,
) -> Path:
    """Train and return the last checkpoint; a folder with a checkpoint is continued from it.

    Parameters
    ----------
    recipe
        What to train.
    data
        Prepared anatomy datasets.
    out
        Folder for checkpoints and logs.
    device
        ``auto``, ``cpu`` or ``cuda``.
    initial
        Weights (safetensors) to start from; keys that the network lacks or misses are refused
        except heads, which start at random.
    progress
        Show a progress bar.
    max_minutes
        Stop (with a checkpoint) after this time.
    """
    network = build_network(recipe)
    if initial is not None:
        load_initial(network, initial)
    objective = build_objective(recipe, data)
    if isinstance(objective, RepresentationObjective) and "implicit" in recipe.losses:
        objective.segmenters = reference_segmenters(objective, out, recipe.losses["implicit"], recipe.seed)
    module = PretrainModule(network, objective, recipe)
    last = out / "last.ckpt"
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=out,
            filename="last",
            train_time_interval=timedelta(minutes=recipe.checkpoint_minutes),
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
    ]
    trainer = pl.Trainer(
        default_root_dir=out,
        accelerator="gpu" if device.startswith("cuda") else device,
        devices="auto" if device != "cpu" else 1,
        precision=training_precision(recipe.precision, device),
        max_steps=recipe.iterations,
        max_time=timedelta(minutes=max_minutes) if max_minutes else None,
        gradient_clip_val=recipe.optimiser.clip_norm or None,
        logger=CSVLogger(out, name="log"),
        callbacks=callbacks,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=20,
        use_distributed_sampler=False,
        num_nodes=int(os.environ.get("SLURM_NNODES", "1")),
    )
    trainer.fit(module, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    trainer.save_checkpoint(last)
    return last


def training_precision(wanted: str, device: str) -> Any:
    """Lightning's name of the recipe's precision, or of float32 (with a warning) where bfloat16 is emulated."""
    if "bf16" in wanted and not trains_in_bf16(resolve_device(device)):
        LOGGER.warning(NO_BF16, wanted)
        return "32-true"
    return wanted


def load_initial(network: nn.Module, path: Path) -> None:
    """Start from other weights of the same backbone; a head that they lack stays as it was drawn.

    Raises
    ------
    ValueError
        If the backbone does not fit exactly.
    """
    from safetensors.torch import load_file

    state = load_file(path)
    wanted = network.state_dict()
    usable = {
        key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape
    }
    missing = [key for key in wanted if key.startswith("backbone.") and key not in usable]
    if missing:
        raise ValueError(f"{path}: does not fit this architecture; first missing or different: {missing[0]}")
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
