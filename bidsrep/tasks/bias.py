"""Bias field (Brain-ID's ``bias_field_log`` head, which reads the image, too): its logarithm is predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from bidsrep.tasks.task import Task

BIAS_FIELD = Task("bias", "bias_field_log", 1, torch.exp, "factor", "bias", with_image=True)


def normalised_l2(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """normL2 of Brain-ID's evaluation: how much of a field is missed, whatever its scale.

    ``min_w |w estimate - truth| / |truth|`` with the released code's ``w = <estimate, truth> /
    (|estimate|^2 + 1e-7)``. An image says nothing of its field's scale, so none is asked for.

    Parameters
    ----------
    estimate, truth
        Multiplicative fields ``(B, 1, X, Y, Z)``.
    mask
        The brain, ``(B, 1, X, Y, Z)`` (the paper's domain); everywhere without it.

    Returns
    -------
    Tensor
        ``(B,)``, 0 for a perfect field.
    """
    if mask is not None:
        estimate, truth = estimate * mask, truth * mask
    estimate, truth = estimate.flatten(1), truth.flatten(1)
    scale = (estimate * truth).sum(1) / ((estimate**2).sum(1) + 1e-7)
    missed = ((scale[:, None] * estimate - truth) ** 2).sum(1)
    # The offset keeps the square root's slope finite where the field is met exactly.
    return torch.sqrt(missed / ((truth**2).sum(1) + 1e-7) + 1e-10)


def bias_loss(raw: Tensor, log_field: Tensor, brain: Tensor) -> Tensor:
    """`normalised_l2` of the fields, plus the reference's squared error of their logarithms.

    The true logarithm is shifted to mean 0 in the brain first: a mean the image does not show cannot be
    learned, and an output that is left free would drift. Tensors are ``(B, 1, X, Y, Z)``, ``brain`` is 0 or 1.
    """
    count = brain.sum((1, 2, 3, 4), keepdim=True).clamp(min=1)
    centred = log_field - (log_field * brain).sum((1, 2, 3, 4), keepdim=True) / count
    squared = ((raw - centred) ** 2 * brain).sum((1, 2, 3, 4)) / count.flatten()
    return (normalised_l2(torch.exp(raw), torch.exp(centred), brain) + squared).mean()
