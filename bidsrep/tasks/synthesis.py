"""Synthesis of a T1w (Brain-ID, eq. 3; PEPSI's anatomy guidance) and a FLAIR (PEPSI's pathology guidance)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bidsrep.tasks.task import Task

UNITS = "median of the white matter = 1"


def first_channel_above_zero(raw: Tensor) -> Tensor:
    """Intensity ``(B, 1, X, Y, Z)`` of a raw output: its first channel, negative values set to zero.

    The networks are linear at the end and the targets never negative, so the reference clamps, too
    (``evaluate_path``). A second channel is the log-variance of a head trained with uncertainty.
    """
    return raw[:, :1].clamp(min=0)


T1W = Task("T1w", "image", 1, first_channel_above_zero, UNITS, "synthetic", "T1w")
FLAIR = Task("FLAIR", "aux_image", 1, first_channel_above_zero, UNITS, "synthetic", "FLAIR")
SUPER_RESOLUTION = Task(
    "superres", "image", 1, first_channel_above_zero, "as the input", "superres", with_image=True
)
"""Super-resolution in the authors' file: the input's own contrast; T1w's head name, but it reads the image."""

SUPER_RESOLUTION_BESIDE_T1W = replace(SUPER_RESOLUTION, head="superres")
"""The same where one network has this head and T1w's: a head of its own name."""
