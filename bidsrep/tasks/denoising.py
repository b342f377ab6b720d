"""Denoising (SeqInv's head): the network predicts the noise, which is taken from its own input."""

from __future__ import annotations

from torch import Tensor

from bidsrep.tasks.task import Task, identity

NOISE_STD = 0.2
"""Standard deviation of the noise the head is trained with; the input of the network has 1."""


def denoising_loss(raw: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, both ``(B, 1, X, Y, Z)``."""
    return (raw - noise).square().mean()


def denoise(image: Tensor, noise: Tensor) -> Tensor:
    """The network's input less the noise it predicts, both ``(B, 1, X, Y, Z)``."""
    return image - noise


DENOISED = Task("denoised", "denoising", 1, identity, "as the input", "denoised")
"""`Task.predict` gives the noise in units of the network's input: `denoise`, then undo the preparation."""
