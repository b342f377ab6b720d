"""What all representation models share: weights in, features and predictions out.

Images are ``(B, 1, X, Y, Z)`` float32 on a 1 mm RAS grid, cropped to the brain and normalised
(`bidsrep.imaging.normalise`); features ``(B, C, X, Y, Z)``. Whole volumes only: GroupNorm makes every
feature depend on all of the volume, so tiles would give other features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bidsrep.models.lean import lean_features
from bidsrep.models.model import Model, or_on_cpu
from bidsrep.models.network import Network
from bidsrep.tasks.segmentation import SEGMENTATION, follow_intensities

PLAIN_BELOW_BYTES = 256 * 2**20
"""Up to here the plain forward is used: the reference's numbers to the last bit, and nothing to save."""
BYTES_PER_VOXEL_AND_MAP = 48  # of a plain forward, measured with five levels


class RepresentationModel(Model):
    """A `Network` with its weights.

    Parameters
    ----------
    network
        Backbone and heads, with weights.
    card
        The weights' card.
    device
        Where to compute; a CUDA device that runs out of memory is replaced by the CPU, with a warning.
    dtype
        ``torch.float32`` or ``torch.bfloat16``: type of the multiplications; results are float32.
    """

    network: Network

    @classmethod
    def build(cls, architecture: Mapping[str, Any]) -> Network:
        """The untrained `Network` that a card's ``[architecture]`` describes."""
        from bidsrep.models.checkpoints import network_arguments

        return Network(**network_arguments(architecture))

    @classmethod
    def read_checkpoint(
        cls, paths: Sequence[Path]
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """State, ``[architecture]`` and notes of a pre-training file, or of a fine-tuned pair."""
        from bidsrep.models.checkpoints import read_representation

        return read_representation(cls.name, paths)

    @property
    def divisor(self) -> int:
        """Sides that are multiples of this pass the network's levels without a shift."""
        return int(2 ** (self.network.backbone.num_levels - 1))

    def features(self, volume: Tensor | np.ndarray) -> Tensor:
        """Features ``(B, C, X, Y, Z)`` float32 of images ``(B, 1, X, Y, Z)`` (or one, ``(X, Y, Z)``).

        Raises
        ------
        ValueError
            If the volume is not such an array, or too small for the network's depth.
        """
        return self._features(self.as_batch(volume)).float()

    def predict(self, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """Predict every output (or only ``tasks``), ``(B, 1, X, Y, Z)`` each; dense features are not kept."""
        batch = self.as_batch(volume)
        return self.predict_from(self._features(batch), batch, tasks)

    @or_on_cpu
    def predict_from(
        self, features: Tensor, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Predict from features ``(B, C, X, Y, Z)`` computed before, and the images they came from."""
        wanted = self.wanted(tasks)
        batch = self.as_batch(volume).to(features.device)
        head = self.network.head.to(features.device)
        with torch.no_grad():
            raw = head.stream(features, batch, {task.head for task in wanted})
            # The authors' heads are left as published.
            if SEGMENTATION.head in raw and head.is_coarse(SEGMENTATION.head):
                follow_intensities(raw[SEGMENTATION.head], batch)
            return {task.name: task.predict(raw[task.head]) for task in wanted}

    @or_on_cpu
    def _features(self, batch: Tensor) -> Tensor:
        return self._forward(batch.to(self.device))

    def _forward(self, batch: Tensor) -> Tensor:
        backbone = self.network.backbone
        plain = BYTES_PER_VOXEL_AND_MAP * backbone.f_maps * batch.numel()
        # cuDNN would round float32 to TF32; who asks for float32 gets it.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            if self.dtype == torch.float32 and plain <= PLAIN_BELOW_BYTES:
                return backbone(batch)
            return lean_features(backbone, batch, self.dtype)
