"""CIFL's pre-training on pairs of contrasts of one geometry, and the training of a head on one contrast.

Pre-training follows the paper: two images of the same random shapes in two random contrasts, and a
contrastive loss over the channels of their features. A recipe may draw a share of its pairs from
anatomies instead (``[generator] anatomy_share``). The second phase (``[losses] phase = "heads"``) freezes
the features and trains the tissue head on T1w images alone, as the paper does: what it can do on other
contrasts it owes to the features. Tensors are ``(B, C, X, Y, Z)``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.errors import InputError, UsageError
from bidsrep.models.cifl import CIFL, CIFLNetwork
from bidsrep.synth.contrast import Contrast, paint_labels, sample_contrast
from bidsrep.synth.corruption import corrupt, sample_corruption
from bidsrep.synth.generator import (
    GeneratorConfig,
    Source,
    Subject,
    deform_subject,
    normalise,
    sample_image,
)
from bidsrep.synth.random import coin, integer, uniform_scalar
from bidsrep.synth.shapes import ShapesConfig, sample_shape_pair
from bidsrep.tasks.segmentation import segmentation_loss
from bidsrep.tasks.tissue import CHANNELS
from bidsrep.training.recipe import Recipe, Stage
from bidsrep.training.representation import RepresentationObjective

Normalisation = Literal["channel", "voxel", "correlation"]
PAINTED_T1W = 200.0  # white matter of a painted T1w, on the 0 to 255 scale that artefacts are drawn for

BLACK_SHARE = 0.25  # of the images whose surroundings are left black

NO_ANATOMIES = "cifl: {} needs anatomies; name prepared datasets with --data"
BAD_PHASE = "phase is 'pretrain' or 'heads', not {!r}"
BAD_NORMALISATION = "normalisation is 'channel', 'voxel' or 'correlation', not {!r}"


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    normalisation: Normalisation = "channel",
    tau_alpha: float = 1.0,
    tau_beta: float = 1.0,
    tau_gamma: float = 0.1,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """The paper's loss of features ``(B, C, X, Y, Z)`` of two contrasts of the same geometry.

    ``-log( sum_c exp(s_c / alpha) / ( sum_c exp(s_c / beta) + sum_{c != c'} exp(g_cc' / gamma) ) )``, a mean
    over the pairs, where ``s_c`` is the product of channel ``c`` in both images and ``g_cc'`` that of two
    channels of the first. No pair of voxels enters, so that all voxels are used and memory stays ``O(CN)``.

    Parameters
    ----------
    first, second
        Features of the two images.
    normalisation
        What a product of two channel maps is. ``channel``: their cosine over the voxels (the channel maps
        have unit length); ``voxel``: the mean over the voxels of features of unit length in each voxel (the
        paper's sum would grow with the image, and the loss with it vanish).
    tau_alpha, tau_beta, tau_gamma
        Temperatures of positives above and below the fraction line, and of the negatives.
    weight
        Which voxels count, 0 or 1, ``(B, 1, X, Y, Z)``; all without it.

    Returns
    -------
    dict
        ``loss``; ``similarity``, the mean of ``s``; ``redundancy``, the mean of ``|g|``.
    """
    one, two = first.flatten(2), second.flatten(2)
    counted = torch.ones_like(one[:, :1]) if weight is None else weight.flatten(2).to(one)
    if normalisation == "correlation":
        share = counted / counted.sum(2, keepdim=True).clamp(min=1)
        one, two = (maps - (maps * share).sum(2, keepdim=True) for maps in (one, two))
    if normalisation in ("channel", "correlation"):
        one, two = F.normalize(one * counted, dim=2), F.normalize(two * counted, dim=2)
        voxels = torch.ones_like(counted[:, 0, :1])
    elif normalisation == "voxel":
        one, two = F.normalize(one, dim=1) * counted, F.normalize(two, dim=1) * counted
        voxels = counted.sum(2).clamp(min=1)
    else:
        raise ValueError(BAD_NORMALISATION.format(normalisation))
    positive = (one * two).sum(2) / voxels
    different = ~torch.eye(one.shape[1], dtype=torch.bool, device=one.device)
    negative = (one @ one.transpose(1, 2) / voxels[:, None])[:, different]
    below = torch.cat([positive / tau_beta, negative / tau_gamma], dim=1)
    loss = torch.logsumexp(below, 1) - torch.logsumexp(positive / tau_alpha, 1)
    return {"loss": loss.mean(), "similarity": positive.mean(), "redundancy": negative.abs().mean()}


def build_network(recipe: Recipe) -> CIFLNetwork:
    """The untrained network of a recipe; what its phase does not train is frozen."""
    network = CIFL.build(recipe.architecture)
    frozen = network.backbone if _phase(recipe) == "heads" else network.head
    frozen.requires_grad_(False)
    return network


def build_objective(recipe: Recipe, folders: list[Path]) -> PairObjective | TissueObjective:
    """The objective of a recipe's phase on the anatomies of ``folders``, without held-out persons.

    Shapes need no anatomies: with ``anatomy_share = 0`` the folders may be empty.
    """
    heads = _phase(recipe) == "heads"
    table = dict(recipe.generator)
    shapes, share = table.pop("shapes", {}), float(table.pop("anatomy_share", 0.0))
    anatomies = RepresentationObjective.from_folders(
        folders if heads or share else [], replace(recipe, generator=table)
    )
    if (heads or share) and not all(anatomies.sources.values()):
        raise InputError(NO_ANATOMIES.format("the head" if heads else f"anatomy_share = {share}"))
    if heads:
        return TissueObjective(anatomies.sources, anatomies.config, recipe)
    return PairObjective(anatomies.sources, anatomies.config, recipe, shapes_config(shapes), share)


def shapes_config(values: dict[str, Any]) -> ShapesConfig:
    """`ShapesConfig` from the ``[generator.shapes]`` table of a recipe."""
    ready: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return ShapesConfig(**ready)


class PairObjective:
    """Pre-training: two contrasts of random shapes, or of a deformed anatomy; `contrastive_loss`."""

    def __init__(
        self,
        sources: dict[float, list[Source]],
        anatomies: GeneratorConfig,
        recipe: Recipe,
        shapes: ShapesConfig,
        share: float,
    ) -> None:
        self.sources, self.anatomies, self.recipe = sources, anatomies, recipe
        self.shapes, self.share = shapes, share

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """One mini-batch: ``first`` and ``second`` ``(B, 1, X, Y, Z)``, two contrasts of each geometry.

        ``weight`` tells which voxels count.
        """
        stage = self.recipe.stage_at(step)
        pairs = [self.pair(generator, stage) for generator in _generators(self.recipe, index, stage)]
        first, second, weight = (torch.stack(volumes)[:, None] for volumes in zip(*pairs, strict=True))
        return {"first": first, "second": second, "weight": weight}

    def pair(self, generator: torch.Generator, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
        """Two images of one geometry and the voxels that count, ``(X, Y, Z)`` each.

        Of an anatomy these are the brain's voxels: what is outside is 0 in every contrast, and says nothing.
        """
        if not coin(generator, self.share):
            first, second = sample_shape_pair(generator, stage.shape, stage.spacing, self.shapes)[:2]
            return first, second, torch.ones(stage.shape)
        sources = self.sources[stage.spacing]
        source = sources[integer(generator, 0, len(sources))]
        subject = deform_subject(source, generator, _slab(stage.shape), stage.spacing, self.anatomies, [])
        one, two = (
            sample_image(subject, source, generator, stage.spacing, self.anatomies)[0] for _ in range(2)
        )
        one, two = (_surrounded(image, subject.brain, generator) for image in (one, two))
        one, two, weight = (_cut(volume, stage.shape) for volume in (one, two, subject.brain.float()))
        return one, two, weight

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The contrastive loss of one mini-batch; both images pass the same network at once."""
        images = torch.cat([batch["first"], batch["second"]])
        features = network.get_submodule("backbone")(_channels_last(images)).float()
        first, second = features.chunk(2)
        terms = {k: v for k, v in self.recipe.losses.items() if k.startswith("tau_") or k == "normalisation"}
        return contrastive_loss(first, second, **terms, weight=batch["weight"])


class TissueObjective:
    """The tissue head on frozen features of T1w images: painted on label maps, or real ones.

    The tissues of a real T1w, which has no labels, are those whose mean intensity is nearest.
    """

    def __init__(self, sources: dict[float, list[Source]], config: GeneratorConfig, recipe: Recipe) -> None:
        self.sources, self.config, self.recipe = sources, config, recipe

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """One mini-batch: ``image`` and ``classes`` (channels of the head), ``(B, 1, X, Y, Z)`` each."""
        stage = self.recipe.stage_at(step)
        pairs = [self.example(generator, stage) for generator in _generators(self.recipe, index, stage)]
        images, classes = (torch.stack(volumes)[:, None] for volumes in zip(*pairs, strict=True))
        return {"image": images, "classes": classes}

    def example(self, generator: torch.Generator, stage: Stage) -> tuple[Tensor, Tensor]:
        """A T1w and its tissues, ``(X, Y, Z)`` each."""
        sources = self.sources[stage.spacing]
        source = sources[integer(generator, 0, len(sources))]
        subject = deform_subject(source, generator, stage.shape, stage.spacing, self.config, [])
        if subject.labels is not None:
            contrast = sample_t1w(generator, source.tissues)
            noise = torch.randn(subject.brain.shape, generator=generator)
            image = paint_labels(subject.labels, contrast, noise)
        else:
            image = PAINTED_T1W * subject.t1w
        level = self.config.levels[integer(generator, 0, len(self.config.levels))]
        artefacts = sample_corruption(generator, stage.shape, stage.spacing, level, self.config.thick)
        image, _ = corrupt(image * subject.brain, artefacts, stage.spacing)
        return normalise(image, subject.brain), tissue_channels(subject, source.tissues)

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Cross-entropy and soft Dice of the tissues; no gradient reaches the features."""
        with torch.no_grad():
            features = network.get_submodule("backbone")(_channels_last(batch["image"]))
        logits = network.get_submodule("head")(features)["tissue"].float()
        return {"loss": segmentation_loss(logits, batch["classes"])}


def sample_t1w(generator: torch.Generator, tissues: tuple[str, ...]) -> Contrast:
    """Draw clinical contrasts until one is a T1w."""
    while True:
        contrast = sample_contrast(generator, 1.0, tissues)
        if contrast.name == "T1w":
            return contrast


def tissue_channels(subject: Subject, tissues: tuple[str, ...]) -> Tensor:
    """Channel of the tissue head for every voxel of a subject, ``(X, Y, Z)`` int64."""
    if subject.labels is not None:
        kinds = ["wm" if tissue == "lesion" else tissue for tissue in tissues]
        table = torch.tensor([CHANNELS.index(kind) if kind in CHANNELS else 0 for kind in kinds])
        return table[subject.labels.long()]
    assert subject.mixture is not None
    csf, gm, wm = subject.tissue_means
    middles = torch.tensor([(csf + gm) / 2, (gm + wm) / 2])
    order = torch.tensor([CHANNELS.index(name) for name in ("csf", "gm", "wm")])
    return torch.where(subject.brain, order[torch.bucketize(subject.mixture, middles)], 0)


def _surrounded(image: Tensor, brain: Tensor, generator: torch.Generator) -> Tensor:
    """The image with a random grey around the brain, or black as it is.

    Were it always black, the brain's outline would be the same edge in every contrast, and its echoes the
    features that the loss likes best.
    """
    grey = 0.0 if coin(generator, BLACK_SHARE) else uniform_scalar(generator, 0, 1.2)
    return torch.where(brain, image, grey)


def _phase(recipe: Recipe) -> str:
    phase = str(recipe.losses.get("phase", "pretrain"))
    if phase not in ("pretrain", "heads"):
        raise UsageError(BAD_PHASE.format(phase))
    return phase


def _generators(recipe: Recipe, index: int, stage: Stage) -> list[torch.Generator]:
    """One per example of a mini-batch: the same examples however many processes share them."""
    first = recipe.seed * 1_000_003 + index * stage.samples
    return [torch.Generator().manual_seed(first + number) for number in range(stage.samples)]


def _slab(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape with two voxels where it has one: a deformation needs an extent along every axis."""
    x, y, z = (max(n, 2) for n in shape)
    return x, y, z


def _cut(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    x, y, z = shape
    return volume[:x, :y, :z]


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last_3d)
