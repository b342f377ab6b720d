"""Training objective of the brain-mask network: L1 to the signed distance (SynthStrip, NeuroImage 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.heads import HeadConfig, brain_of, sample_head, signed_distance
from bidsrep.training.anatomies import Anatomy, LabelTable
from bidsrep.training.recipe import Recipe


class BrainMaskObjective:
    """Random heads, L1 loss on the distance clipped to +-15 mm, doubled within ``near_mm`` of the surface."""

    def __init__(self, anatomies: list[Anatomy], table: LabelTable, recipe: Recipe) -> None:
        self.anatomies, self.recipe = anatomies, recipe
        self.tissues = table.tissues
        self.brain = table.of_tissue("csf", "gm", "wm", "lesion")
        parenchyma = table.of_tissue("gm", "wm")
        self.distances = [
            signed_distance(brain_of(anatomy.labels[0], self.brain, parenchyma))[None]
            for anatomy in anatomies
            if anatomy.labels is not None
        ]
        self.config = head_config(recipe.generator)
        self.near_mm = float(recipe.losses.get("near_mm", 4.0))

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """One mini-batch: ``image`` and ``distance`` ``(B, 1, X, Y, Z)``."""
        stage = self.recipe.stage_at(step)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + index)
        pairs = []
        for _ in range(stage.samples):
            which = int(torch.randint(len(self.anatomies), (), generator=generator))
            labels = self.anatomies[which].labels
            assert labels is not None
            pairs.append(
                sample_head(
                    labels,
                    self.distances[which],
                    self.brain,
                    generator,
                    stage.shape,
                    stage.spacing,
                    self.config,
                    self.tissues,
                )
            )
        images, distances = zip(*pairs, strict=True)
        return {"image": torch.stack(images), "distance": torch.stack(distances)}

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Mean absolute error of the distance (mm); what is near the surface counts twice."""
        image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
        error = (network(image)["distance"].float() - batch["distance"]).abs()
        near = (batch["distance"].abs() < self.near_mm).float()
        return {"loss": (error * (1 + near)).mean(), "distance_mm": error.mean()}


def head_config(values: Mapping[str, Any]) -> HeadConfig:
    """`HeadConfig` from the ``[generator]`` table of a recipe."""
    values = dict(values)
    deformation = values.pop("deformation", None)
    if deformation is not None:
        values["deformation"] = DeformationConfig(**deformation)
    return HeadConfig(**values)
