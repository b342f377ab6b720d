"""Lesion segmentation (PEPSI's ``pathol`` head)."""

from __future__ import annotations

import torch

from bidsrep.tasks.task import Task

LESION = Task("lesion", "pathol", 1, torch.sigmoid, "probability", "lesion_probability")
