"""Brain-ID: contrast-agnostic anatomical representations (ECCV 2024, arXiv 2311.16914).

A `UNet3D` pre-trained to give a subject's T1w from mild-to-severe corruptions of images of random
contrast (eq. 3), and fine-tuned for segmentation, super-resolution and bias fields.
"""

from __future__ import annotations

from bidsrep.models.representation import RepresentationModel
from bidsrep.tasks.bias import BIAS_FIELD
from bidsrep.tasks.segmentation import SEGMENTATION
from bidsrep.tasks.synthesis import SUPER_RESOLUTION, SUPER_RESOLUTION_BESIDE_T1W, T1W


class BrainID(RepresentationModel):
    """Brain-ID; pre-training weights predict T1w, fine-tuned ones what they were tuned for."""

    name = "brainid"
    tasks = (T1W, SEGMENTATION, SUPER_RESOLUTION, SUPER_RESOLUTION_BESIDE_T1W, BIAS_FIELD)
