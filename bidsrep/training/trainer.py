"""The Lightning trainer that pre-training and fine-tuning share: devices, precision, logs, checkpoints."""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from bidsrep.errors import UsageError
from bidsrep.models.device import resolve_device, trains_in_bf16
from bidsrep.training.memory import keep_freed_memory
from bidsrep.training.recipe import Recipe

LOGGER = logging.getLogger("bidsrep.training")
NO_BF16 = "precision %s: this processor has no bfloat16 arithmetic; training in float32 instead"
LAST = "last.ckpt"
LOG_EVERY = 20  # optimiser steps


@dataclass(frozen=True)
class Runtime:
    """Where and how long a run computes; nothing here changes what it computes, but for ``devices``.

    ``devices`` and ``nodes`` are the processes per node and the nodes (None: all GPUs, or one processor;
    and what Slurm's ``srun`` started), ``max_minutes`` a time after which a run stops with a checkpoint,
    ``workers`` the processes that draw examples ahead (of each process that trains).
    """

    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    progress: bool = True
    max_minutes: float | None = None
    tensorboard: bool = True
    workers: int = 0


class StepCheckpoint(ModelCheckpoint):
    """Saves between optimiser steps only: gradients that are being accumulated are in no checkpoint."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time to, and a step is complete."""
        if between_steps(trainer, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class TimeLimit(Callback):
    """Stops a run after some minutes, between two optimiser steps; all processes at once."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask for the end when the time is over."""
        if between_steps(trainer, batch_idx):
            over = trainer.strategy.broadcast(time.monotonic() > self.end)
            trainer.should_stop = trainer.should_stop or over


def between_steps(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the mini-batch just done completed an optimiser step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def make_trainer(
    recipe: Recipe, out: Path, runtime: Runtime, callbacks: Sequence[Callback] = (), **options: Any
) -> pl.Trainer:
    """A trainer that logs to ``out`` (CSV, and TensorBoard where it is installed) and keeps ``last.ckpt``.

    ``options`` go to Lightning's ``Trainer``.
    """
    keep_freed_memory()
    checkpoint = StepCheckpoint(
        dirpath=out,
        filename=Path(LAST).stem,
        train_time_interval=timedelta(minutes=recipe.checkpoint_minutes),
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    limit = [TimeLimit(runtime.max_minutes)] if runtime.max_minutes else []
    devices, nodes = device_count(runtime), node_count(runtime)
    _, _, gpu = runtime.device.partition(":")
    settings: dict[str, Any] = {
        "accelerator": "gpu" if runtime.device.startswith("cuda") else runtime.device,
        "devices": [int(gpu)] if gpu else devices,
        "num_nodes": nodes,
        # A head without a target in a mini-batch gets no gradient in it.
        "strategy": "ddp_find_unused_parameters_true" if devices * nodes > 1 else "auto",
        "precision": training_precision(recipe.precision, runtime.device),
        "max_steps": recipe.iterations,
        "accumulate_grad_batches": recipe.accumulate,
        "gradient_clip_val": recipe.optimiser.clip_norm or None,
        "logger": loggers(out, runtime.tensorboard),
        "callbacks": [checkpoint, *limit, *callbacks],
        "enable_progress_bar": runtime.progress,
        "enable_model_summary": False,
        "log_every_n_steps": max(1, min(LOG_EVERY, recipe.iterations // 10)),
        "use_distributed_sampler": False,
    }
    try:
        return pl.Trainer(default_root_dir=out, **{**settings, **options})
    except (RuntimeError, ValueError) as error:
        if "SLURM" not in str(error):
            raise
        raise UsageError(f"The Slurm job does not fit the training: {error}") from error


def device_count(runtime: Runtime) -> int:
    """Processes on this node: as told, else one per GPU, else one."""
    if runtime.devices is not None:
        return runtime.devices
    if runtime.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return 1
    return torch.cuda.device_count()


def node_count(runtime: Runtime) -> int:
    """Nodes: as told, else those of the Slurm step this process belongs to (``srun`` sets the variable)."""
    return runtime.nodes or int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))


def loggers(out: Path, tensorboard: bool) -> list[Logger]:
    """CSV always; TensorBoard where it is wanted and installed."""
    made: list[Logger] = [CSVLogger(out, name="log")]
    if tensorboard and importlib.util.find_spec("tensorboard"):
        made.append(TensorBoardLogger(out, name="tensorboard"))
    return made


def training_precision(wanted: str, device: str) -> Any:
    """Lightning's name of the recipe's precision, or of float32 (with a warning) where bfloat16 is emulated."""
    if "bf16" in wanted and not trains_in_bf16(resolve_device(device)):
        LOGGER.warning(NO_BF16, wanted)
        return "32-true"
    return wanted
