"""PEPSI: pathology-enhanced, pulse-sequence-invariant representations (MICCAI 2024, arXiv 2403.06227).

A `UNet3D` whose features have unit norm in each voxel, pre-trained under two guides at once: a T1w with
darkened and a FLAIR with brightened anomalies (eq. 3).
"""

from __future__ import annotations

from bidsrep.models.representation import RepresentationModel
from bidsrep.tasks.lesion import LESION
from bidsrep.tasks.synthesis import FLAIR, T1W


class Pepsi(RepresentationModel):
    """PEPSI; the authors' pre-training weights predict T1w and FLAIR, ours and fine-tuned ones lesions, too."""

    name = "pepsi"
    tasks = (T1W, FLAIR, LESION)
