"""Training of the views alone, on their own grids and without features: `bidsrep.models.views`.

A view of 3 mm voxels learns in hours what a full-size network would learn in days, since it sees a whole brain
in every step. What the features add is learned afterwards, with the views frozen or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.models.heads import Heads
from bidsrep.models.views import class_shares
from bidsrep.tasks.bias import bias_loss

SMOOTH = 1e-5
LESION = 0.3
"""From this anomaly probability on (PEPSI, eq. 1), a voxel is lesion to a head that is asked where lesions are."""
ERROR_FLOOR = 1e-4
"""Squared error of a hundredth of the intensity range, which noise alone may make."""


def glance_losses(
    heads: nn.Module, batch: Mapping[str, Tensor], weights: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Losses of the views of segmentation, lesions, bias field and super-resolution, by the head's name.

    Parameters
    ----------
    heads
        `Heads` with views.
    batch
        A mini-batch of `bidsrep.training.representation`.
    weights
        The recipe's ``[losses]``: ``seg``, ``lesion``, ``bias`` and ``superres``; ``heads`` as for the whole network.
    """
    assert isinstance(heads, Heads)
    losses = {}
    image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
    only = weights.get("heads", heads.views)
    wanted = [name for name in heads.views if name in only and (name != "seg" or "classes" in batch)]
    for name, glanced in heads.glance(image, wanted).items():
        view, raw = heads.views[name], glanced.float()
        if name == "seg":
            shares = class_shares(batch["classes"], view.channels, view.factor)
            losses[name] = float(weights.get("seg", 1.0)) * share_loss(raw, shares)
        elif name == "pathol":
            lesion = _means((batch["lesion"] > LESION).float(), view.factor)
            losses[name] = float(weights.get("lesion", 1.0)) * lesion_share_loss(raw, lesion)
        elif name == "bias_field_log":
            field, brain = (_means(batch[key], view.factor) for key in ("log_bias", "brain"))
            losses[name] = float(weights.get("bias", 1.0)) * bias_loss(raw, field, (brain > 0.5).float())
        elif name == "superres":
            weight, brain = float(weights.get("superres", 1.0)), batch["brain"]
            clean, inside = _means(batch["target_superres"], view.factor), _means(brain, view.factor)
            losses[name] = weight * squared_share(raw, _means(image, view.factor), clean, inside).log().mean()
    if not losses:  # an anatomy without labels
        losses["none"] = next(iter(heads.views.values())).glance(image).sum() * 0
    return losses


def share_loss(raw: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice overlap, with voxels that hold several classes.

    Parameters
    ----------
    raw
        Raw outputs ``(B, C, X, Y, Z)``.
    shares
        Share of every class in a voxel, of the same shape; what is missing to 1 is unknown and does not count.

    Returns
    -------
    Tensor
        The overlap is averaged over the classes there are.
    """
    log_probability = raw.log_softmax(1)
    known = shares.sum(1, keepdim=True)
    probability = log_probability.exp() * known
    axes = (0, 2, 3, 4)
    sizes = shares.sum(axes)
    dice = (2 * (probability * shares).sum(axes) + SMOOTH) / (
        probability.square().sum(axes) + shares.square().sum(axes) + SMOOTH
    )
    cross_entropy = -(shares * log_probability).sum() / known.sum().clamp(min=1)
    return cross_entropy + (1 - dice)[sizes > 0].mean()


def lesion_share_loss(raw: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy, times ten, plus one minus the soft Dice overlap where there is a lesion.

    No voxel weighs more than another: probabilities stay those of the generated images, and a brain without lesions
    asks for an empty map. Dice alone would not punish what is found in it.

    Parameters
    ----------
    raw
        Raw outputs ``(B, 1, X, Y, Z)``.
    share
        Share of lesion in a voxel, of the same shape.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(raw, share)
    axes = (1, 2, 3, 4)
    probability, sizes = raw.sigmoid(), share.sum(axes)
    sums = probability.square().sum(axes) + share.square().sum(axes)
    dice = (2 * (probability * share).sum(axes) + SMOOTH) / (sums + SMOOTH)
    return 10 * cross_entropy + ((1 - dice) * (sizes > 0)).mean()


def squared_share(raw: Tensor, image: Tensor, clean: Tensor, brain: Tensor) -> Tensor:
    """Squared error of a restored image over that of the image itself, in the brain: 1 where nothing was gained.

    All ``(B, 1, X, Y, Z)``; returns ``(B,)``, whose logarithm counts decibels. An image that lost little weighs as
    much as one that lost a lot; an error of a hundredth of the intensity range is added to both, so that noise
    alone does not.
    """
    error, before = (((value - clean).square() * brain).sum((1, 2, 3, 4)) for value in (raw, image))
    voxels = brain.sum((1, 2, 3, 4)).clamp(min=1)
    return (error / voxels + ERROR_FLOOR) / (before / voxels + ERROR_FLOOR)


def _means(volume: Tensor, factor: int) -> Tensor:
    """Means over a view's voxels, those at the far rim over the voxels there are."""
    return F.avg_pool3d(volume, factor, ceil_mode=True)
