"""The Lightning module all pre-trainings share: a network, an objective, AdamW with warm-up."""

from __future__ import annotations

import math
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from bidsrep.training.muon import MuonWithAdamW
from bidsrep.training.recipe import Optimiser, Recipe


class Objective(Protocol):
    """What a model is trained for: draws examples and scores the network on them."""

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """Example ``index`` of the stream, on the grid that optimiser step ``step`` asks for."""
        ...

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Named losses; ``loss`` is the total that is minimised."""
        ...


class GeneratedExamples(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """An endless stream of examples, each drawn from its own index, so that a resumed run sees the same.

    Parameters
    ----------
    objective
        Draws the examples.
    first
        Optimiser step to start at.
    stride, offset
        Number of processes and rank of this one: they interleave, so that two processes see in one step
        what one process sees with ``accumulate = 2``.
    accumulate
        Examples per optimiser step (of each process).
    """

    def __init__(
        self, objective: Objective, first: int, stride: int = 1, offset: int = 0, accumulate: int = 1
    ) -> None:
        self.objective, self.first = objective, first
        self.stride, self.offset, self.accumulate = stride, offset, accumulate

    def __iter__(self) -> Any:
        """Yield examples from step ``first`` on; of a loader's workers, each every so many."""
        worker = torch.utils.data.get_worker_info()
        number = self.first * self.accumulate + (worker.id if worker else 0)
        while True:
            yield self.objective.sample(number * self.stride + self.offset, number // self.accumulate)
            number += worker.num_workers if worker else 1


class PretrainModule(pl.LightningModule):
    """Trains ``network`` on an `Objective` under a `Recipe`; one mini-batch per training step.

    ``workers`` processes draw examples ahead, in the order in which one would.
    """

    def __init__(self, network: nn.Module, objective: Objective, recipe: Recipe, workers: int = 0) -> None:
        super().__init__()
        self.network = channels_last(network)
        self.objective, self.recipe, self.workers = objective, recipe, workers

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of one mini-batch; every named loss is logged."""
        losses = self.objective.loss(self.network, batch, self.global_step)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, prog_bar=True)
        return losses["loss"]

    def train_dataloader(self) -> Any:
        """The stream of generated examples, continued where the run stands."""
        stream = GeneratedExamples(
            self.objective,
            self.global_step,
            self.trainer.world_size,
            self.trainer.global_rank,
            self.recipe.accumulate,
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=self.workers)

    def configure_optimizers(self) -> Any:
        """AdamW and the per-step learning-rate schedule."""
        settings = self.recipe.optimiser
        optimiser: torch.optim.Optimizer
        if settings.muon_lr:
            optimiser = MuonWithAdamW(self.network, settings.lr, settings.muon_lr, head_lr=settings.head_lr)
        else:
            groups = parameter_groups(self.network, settings)
            optimiser = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        total = self.recipe.iterations
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, total, settings)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def channels_last(network: nn.Module) -> nn.Module:
    """The same network with its kernels in the order in which convolutions are fast: of 3D, else of 2D."""
    dimensions = max(parameter.ndim for parameter in network.parameters())
    return network.to(memory_format=torch.channels_last if dimensions == 4 else torch.channels_last_3d)


def parameter_groups(network: nn.Module, settings: Optimiser) -> list[dict[str, Any]]:
    """The trained parameters in one group, or in two where heads (``head.*``) have a rate of their own."""
    trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    if not settings.head_lr:
        return [{"params": [value for _, value in trained]}]
    heads = [value for name, value in trained if name.startswith("head.")]
    rest = [value for name, value in trained if not name.startswith("head.")]
    return [{"params": rest}, {"params": heads, "lr": settings.head_lr}]


def learning_rate_factor(step: int, total: int, settings: Optimiser) -> float:
    """Factor on the learning rate: linear warm-up, then x0.1 at each drop, or a cosine down to 1 %."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.cosine:
        progress = min(1.0, (step - settings.warmup) / max(1, total - settings.warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    return 0.1 ** sum(step >= drop * total for drop in settings.drops)
