"""Brain segmentation (Brain-ID's ``seg`` head): 33 structures."""

from __future__ import annotations

import torch
from torch import Tensor

from bidsrep.tasks.task import Task

# Order of the channels (the reference's label list): neutral structures, left ones, right ones.
NEUTRAL = (0, 14, 15, 16, 24, 77, 85)
LEFT = (2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28)
RIGHT = (41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
LABELS = NEUTRAL + LEFT + RIGHT


def most_probable_label(raw: Tensor) -> Tensor:
    """FreeSurfer label ``(B, 1, X, Y, Z)`` int16 of the largest of the 33 raw outputs."""
    labels = torch.tensor(LABELS, dtype=torch.int16, device=raw.device)
    return labels[raw.argmax(dim=1, keepdim=True)]


SEGMENTATION = Task("seg", "seg", len(LABELS), most_probable_label, "FreeSurfer label", "dseg")
