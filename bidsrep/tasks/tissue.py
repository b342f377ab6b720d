"""Tissue segmentation (SeqInv's healthy-brain head): grey matter, white matter, cerebrospinal fluid."""

from __future__ import annotations

import torch
from torch import Tensor

from bidsrep.tasks.task import Task

CHANNELS = ("background", "gm", "wm", "csf")
"""Order of the head's channels: the reference's, after SPM's c1, c2, c3."""
LABELS = (0, 2, 3, 1)
"""The channels' labels in ``data/labels/tissue.tsv``: 1 fluid, 2 grey, 3 white, as in all our tissue maps."""
SMOOTH = 1e-5


def most_probable_tissue(raw: Tensor) -> Tensor:
    """Label ``(B, 1, X, Y, Z)`` int16 of the largest of the four raw outputs."""
    labels = torch.tensor(LABELS, dtype=torch.int16, device=raw.device)
    return labels[raw.argmax(dim=1, keepdim=True)]


TISSUE = Task("tissue", "tissue", len(CHANNELS), most_probable_tissue, "tissue label", "tissue")


def dice_cross_entropy(raw: Tensor, target: Tensor, positive: float = 1.0) -> Tensor:
    """Soft Dice without the background, plus cross-entropy: SeqInv's loss of both segmentation heads.

    Parameters
    ----------
    raw
        Raw outputs ``(B, C, X, Y, Z)``; the first channel is background.
    target
        Probabilities ``(B, C, X, Y, Z)``. Voxels that sum to 0 have no known class and do not count.
    positive
        How many times the cross-entropy counts voxels that are not background; published: 1. Where nothing is
        found yet, Dice has no slope, and a rare class needs more than 1 to be found at all.

    Returns
    -------
    Tensor
        One minus the Dice overlap, summed over the batch's voxels and averaged over the classes, plus
        the mean cross-entropy of the voxels that count.
    """
    weights = torch.full((raw.shape[1],), positive, device=raw.device)
    weights[0] = 1.0
    log_probability = raw.log_softmax(dim=1)
    known = target.sum(dim=1, keepdim=True)
    probability = (log_probability.exp() * known)[:, 1:]
    axes = (0, 2, 3, 4)
    overlap = (probability * target[:, 1:]).sum(axes)
    sizes = probability.sum(axes) + target[:, 1:].sum(axes)
    dice = 1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)
    entropy = -(target * log_probability).movedim(1, -1) @ weights
    return dice.mean() + entropy.sum() / known.sum().clamp(min=1)
