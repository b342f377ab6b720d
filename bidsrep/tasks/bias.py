"""Bias field (Brain-ID's ``bias_field_log`` head, which reads the image, too)."""

from __future__ import annotations

import torch

from bidsrep.tasks.task import Task

BIAS_FIELD = Task("bias", "bias_field_log", 1, torch.exp, "factor", with_image=True)
