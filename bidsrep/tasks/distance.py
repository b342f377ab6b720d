"""Signed distance to the brain's surface (SynthStrip, NeuroImage 2022); ours is positive inside."""

from __future__ import annotations

from torch import Tensor

from bidsrep.tasks.task import Task

MAXIMUM_MM = 15.0


def clip_distance(raw: Tensor) -> Tensor:
    """Clip to the range the network was trained on, +-15 mm."""
    return raw.clamp(-MAXIMUM_MM, MAXIMUM_MM)


DISTANCE = Task("distance", "distance", 1, clip_distance, "mm")
