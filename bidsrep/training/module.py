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
    """An endless stream of examples, each drawn from its own index, so that a resumed run sees the same."""

    def __init__(self, objective: Objective, first: int, stride: int = 1, offset: int = 0) -> None:
        self.objective, self.first, self.stride, self.offset = objective, first, stride, offset

    def __iter__(self) -> Any:
        """Yield examples from step ``first`` on; several processes interleave by ``stride``."""
        step = self.first
        while True:
            yield self.objective.sample(step * self.stride + self.offset, step)
            step += 1


class PretrainModule(pl.LightningModule):
    """Trains ``network`` on an `Objective` under a `Recipe`; one optimiser step per drawn mini-batch."""

    def __init__(self, network: nn.Module, objective: Objective, recipe: Recipe) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last_3d)
        self.objective, self.recipe = objective, recipe

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of one mini-batch; every named loss is logged."""
        losses = self.objective.loss(self.network, batch, self.global_step)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()}, prog_bar=True)
        return losses["loss"]

    def train_dataloader(self) -> Any:
        """The stream of generated examples, continued where the run stands."""
        stream = GeneratedExamples(
            self.objective, self.global_step, self.trainer.world_size, self.trainer.global_rank
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=0)

    def configure_optimizers(self) -> Any:
        """AdamW and the per-step learning-rate schedule."""
        settings = self.recipe.optimiser
        optimiser: torch.optim.Optimizer
        if settings.muon_lr:
            optimiser = MuonWithAdamW(self.network, settings.lr, settings.muon_lr)
        else:
            trained = (p for p in self.network.parameters() if p.requires_grad)
            optimiser = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        total = self.recipe.iterations
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, total, settings)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(step: int, total: int, settings: Optimiser) -> float:
    """Factor on the learning rate: linear warm-up, then x0.1 at each drop, or a cosine down to 1 %."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.cosine:
        progress = min(1.0, (step - settings.warmup) / max(1, total - settings.warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    return 0.1 ** sum(step >= drop * total for drop in settings.drops)
