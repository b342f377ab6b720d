"""What a network is fine-tuned for on labelled scans: augmented crops, the task's loss, and its figures.

One augmented example of a real image (both papers' fine-tuning): affine and non-linear deformation, gamma,
bias field, acquired resolution and noise. Tensors are ``(B, C, X, Y, Z)``, 1 mm RAS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.imaging.grids import pad_to_multiple
from bidsrep.imaging.quality import dice
from bidsrep.synth.corruption import corrupt, sample_corruption, undegraded
from bidsrep.synth.deformation import sample_deformation, source_coordinates, warp
from bidsrep.synth.generator import normalise
from bidsrep.synth.random import coin, integer, uniform
from bidsrep.tasks.bias import bias_loss
from bidsrep.tasks.segmentation import IGNORED, mirror_classes, segmentation_loss, to_classes
from bidsrep.tasks.task import Task
from bidsrep.training.glances import glance_losses
from bidsrep.training.labelled_scans import Example
from bidsrep.training.losses import lesion_loss, reconstruction
from bidsrep.training.recipe import Recipe
from bidsrep.training.representation import generator_config

PAINTED_TOP = 200.0  # the scale on which the generator's noise is given
FIGURES = {"lesion": ("dice", "max"), "seg": ("dice", "max"), "T1w": ("mae", "min"), "FLAIR": ("mae", "min")}
"""Per task the figure that tells the best network, and whether more or less of it is better."""


LABEL_OF_GLANCE = {"lesion": "lesion", "seg": "classes"}
"""What `bidsrep.training.glances` calls the labels of the tasks whose heads can have a view."""


class LabelledObjective:
    """Examples of labelled scans and the loss of one task.

    Super-resolution and the bias field need no label: theirs is what was done to the image.

    Parameters
    ----------
    examples
        The scans to train on.
    task
        What is learned; its head must be in the network.
    recipe
        Crops, augmentation, and in ``[losses]``: ``positive_share`` of the crops that are centred near a
        lesion, ``keep``, the weight of what the other heads should go on saying, and ``glance``, which trains
        the task's view alone.
    teacher
        The network as it was, frozen: the other heads' targets (learning without forgetting, Li and
        Hoiem, ECCV 2016). Without it they have no loss.
    """

    def __init__(
        self, examples: Sequence[Example], task: Task, recipe: Recipe, teacher: nn.Module | None = None
    ) -> None:
        self.task, self.recipe, self.teacher = task, recipe, teacher
        self.config = generator_config(recipe.generator)
        by_subject = defaultdict(list)
        for example in examples:
            by_subject[example.subject].append(example)
        self.subjects = list(by_subject.values())

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """A mini-batch of crops: ``image``, ``brain`` and ``label`` ``(B, 1, X, Y, Z)``."""
        stage = self.recipe.stage_at(step)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + index)
        drawn = []
        for _ in range(stage.samples):
            # Subjects first: one with many scans counts no more than others.
            scans = self.subjects[integer(generator, 0, len(self.subjects))]
            drawn.append(self._draw(scans[integer(generator, 0, len(scans))], generator, stage.shape))
        return {name: torch.stack([example[name] for example in drawn]) for name in drawn[0]}

    def _draw(
        self, example: Example, generator: torch.Generator, shape: tuple[int, int, int]
    ) -> dict[str, Tensor]:
        scan = example.load()
        size = torch.tensor(scan["image"].shape[1:])
        slack = ((size - torch.tensor(shape)) / 2).clamp(min=0)
        draw = sample_deformation(generator, tuple(map(float, shape)), slack, self.config.deformation)
        share = float(self.recipe.losses.get("positive_share", 0.5))
        if (
            self.task.name == "lesion"
            and coin(generator, share)
            and len(lesion := scan["label"][0].nonzero())
        ):
            near = lesion[integer(generator, 0, len(lesion))] - (size - 1) / 2
            near = near + uniform(generator, 3, -0.25, 0.25) * torch.tensor(shape)
            draw = replace(draw, shift=torch.maximum(torch.minimum(near, slack), -slack))
        coordinates = source_coordinates(draw, shape, 1.0, tuple(size.tolist()))
        image, mask = warp(torch.cat([scan["image"], scan["mask"]]), coordinates)
        label = warp(scan["label"], coordinates, "nearest" if self.task.name == "seg" else "bilinear")
        if self.task.name == "seg":
            label = to_classes(label.round().long())
            label = mirror_classes(label) if draw.flip else label
        brain = mask >= 0.5
        level = self.config.levels[integer(generator, 0, len(self.config.levels))]
        level = "none" if coin(generator, self.config.clean_probability) else level
        parameters = sample_corruption(
            generator, shape, 1.0, level, self.config.thick, order=self.config.order
        )
        acquired, log_bias = corrupt(PAINTED_TOP * image * brain, parameters, 1.0)
        if self.task.name == "bias":
            label = log_bias[None]
        elif self.task.name == "superres":
            fine, _ = corrupt(PAINTED_TOP * image * brain, undegraded(parameters, 1.0), 1.0)
            label = normalise(fine, brain)[None]
        return {"image": normalise(acquired, brain)[None], "brain": brain[None].float(), "label": label}

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Named losses of one mini-batch; ``loss`` is their sum."""
        if self.recipe.losses.get("glance"):
            known = {"image": batch["image"], LABEL_OF_GLANCE[self.task.name]: batch["label"]}
            losses = glance_losses(network.get_submodule("head"), known, {"heads": [self.task.head]})
            return {"loss": torch.stack(list(losses.values())).sum(), **losses}
        image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
        only = None if self.teacher is not None else [self.task.head]
        outputs = {name: value.float() for name, value in network(image, only).items()}
        losses = {self.task.name: task_loss(self.task.name, outputs[self.task.head], batch)}
        if self.teacher is not None:
            keep = float(self.recipe.losses.get("keep", 0.0))
            with torch.no_grad():
                before = self.teacher.to(image.device)(image)
            terms = [F.l1_loss(outputs[name], before[name].float()) for name in outputs
                     if name != self.task.head]  # fmt: skip
            losses["keep"] = keep * torch.stack(terms).sum()
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def task_loss(task: str, raw: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Loss of a head's raw output against ``batch["label"]``: of a bias field its logarithm."""
    if task == "lesion":
        return lesion_loss(raw, batch["label"])
    if task == "seg":
        return segmentation_loss(raw, batch["label"])
    if task == "bias":
        return bias_loss(raw, batch["label"], batch["brain"])
    return reconstruction(raw, batch["label"], 0.3 + 0.7 * batch["brain"])


class WholeScans(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Held-out scans as the app gives them to a network: whole, padded to a multiple of ``divisor``."""

    def __init__(self, examples: Sequence[Example], divisor: int) -> None:
        self.examples, self.divisor = examples, divisor

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        scan = self.examples[index].load()
        return {
            kind: torch.from_numpy(pad_to_multiple(value[0].numpy(), self.divisor)[0])[None, None]
            for kind, value in scan.items()
        }


def figures(task: Task, raw: Tensor, scan: dict[str, Tensor]) -> dict[str, float]:
    """How good the raw output ``(1, n, X, Y, Z)`` of one whole scan is, inside its brain.

    Lesions: ``dice`` and ``sensitivity`` of voxels (NaN without lesions); segmentation: ``dice``, the mean
    over the structures there are; synthesis: ``mae`` (white matter = 1).
    """
    brain = scan["mask"][0, 0].cpu().numpy() > 0
    label = scan["label"][0, 0].cpu().numpy()
    predicted = task.predict(raw.cpu())[0, 0].numpy()
    if task.name == "lesion":
        found, truth = predicted >= 0.5, label > 0.5
        hit = float((found & truth & brain).sum())
        inside = float((truth & brain).sum())
        return {"dice": dice(found, truth, brain), "sensitivity": hit / inside if inside else float("nan")}
    if task.name == "seg":
        classes = to_classes(torch.from_numpy(label)).numpy()
        named = to_classes(torch.from_numpy(predicted)).numpy()
        counted = brain & (classes != IGNORED)
        there = [number for number in np.unique(classes[counted]) if number]
        return {"dice": float(np.mean([dice(named == n, classes == n, counted) for n in there]))}
    return {"mae": float(np.abs(predicted - label)[brain].mean())}
