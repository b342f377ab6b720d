"""Stroke lesion segmentation (SeqInv's head for the ARC data): background and lesion."""

from __future__ import annotations

from torch import Tensor

from bidsrep.tasks.task import Task


def second_class_probability(raw: Tensor) -> Tensor:
    """Probability ``(B, 1, X, Y, Z)`` of the second of two raw outputs (softmax)."""
    return raw.softmax(dim=1)[:, 1:]


STROKE = Task("lesion", "stroke", 2, second_class_probability, "probability", "lesion_probability")
"""The head is ``stroke``; what it predicts is written as every other lesion map."""
