"""Losses of Brain-ID and PEPSI pre-training. Tensors are ``(B, C, X, Y, Z)``."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Sum over the axes of the mean absolute difference of forward differences (Brain-ID, eq. 3).

    The last plane of each difference counts as 0, so means run over the full grid (as in the released code).
    """
    error, total = prediction - target, prediction.new_zeros(())
    for axis in (2, 3, 4):
        total = total + error.diff(dim=axis).abs().sum() / error.numel()
    return total


def reconstruction(
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gradient: float = 1.0,
    squared: float = 0.0,
) -> Tensor:
    """L1 plus `gradient_l1` (Brain-ID, eq. 3 with lambda 1).

    ``weight`` ``(B, 1, X, Y, Z)`` multiplies the voxel-wise error. ``gradient`` and ``squared`` scale the
    gradient term and an added squared error: while a network still predicts a flat brain, L1's optimum is
    flat too and the gradient term rewards it, so a short training starts without the one and with the other.
    """
    error = prediction - target
    voxelwise = error.abs() + squared * error**2
    loss = voxelwise.mean() if weight is None else (voxelwise * weight).mean()
    return loss + gradient * gradient_l1(prediction, target) if gradient else loss


def soft_dice(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice overlap, summed over the batch's voxels."""
    overlap = (probability * target).sum()
    return 1 - (2 * overlap + smooth) / (probability.sum() + target.sum() + smooth)


def lesion_loss(logits: Tensor, target: Tensor, positive_weight: float = 5.0) -> Tensor:
    """Cross-entropy (lesion voxels weigh more) plus soft Dice against a probability map."""
    weight = 1 + (positive_weight - 1) * target
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, weight=weight)
    return cross_entropy + soft_dice(torch.sigmoid(logits), target)


def implicit_pathology(predicted: Tensor, reference: Tensor) -> Tensor:
    """PEPSI, eq. 4: a frozen segmenter should see the same lesions in the synthetic as in the true image.

    Cross-entropy's positive term plus Dice, between two probability maps (the released code's pair).
    """
    cross_entropy = (-predicted.clamp(min=1e-5).log() * reference).mean()
    return cross_entropy + soft_dice(predicted, reference, smooth=1e-5)


def omega(step: int, switch: int) -> float:
    """Weight of the implicit term: 0.1 until ``switch`` steps, then 1 (PEPSI, section 2.3)."""
    return 0.1 if step < switch else 1.0
