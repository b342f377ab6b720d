"""A scan as networks are shown it: cut to the brain, scaled, and padded; and the way back to its grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bidsrep.imaging.grids import bounding_box, pad_to_multiple, uncrop
from bidsrep.imaging.normalise import normalise

MARGIN_VOXELS = 8
"""Kept around the brain. How much is around it decides what group normalisation makes of the image."""


@dataclass(frozen=True, eq=False)
class Framed:
    """A scan in the frame that networks see.

    Parameters
    ----------
    volume : Tensor
        What to give to a model, ``(1, 1, X', Y', Z')`` float32.
    brain : ndarray of bool
        The brain mask, cut to the frame.
    box, keep : slices
        The frame within the scan's grid; what of ``volume`` is not padding.
    shape : tuple of int
        Of the scan's grid.
    """

    volume: Tensor
    brain: np.ndarray
    box: tuple[slice, slice, slice]
    keep: tuple[slice, slice, slice]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, data: np.ndarray, brain: np.ndarray, divisor: int = 1) -> Framed:
        """Frame a scan ``(X, Y, Z)`` of 1 mm, RAS, for a network that halves and doubles sides (`Model.divisor`).

        ``brain`` is its mask, bool, on the same grid.

        Raises
        ------
        ValueError
            If the brain is empty, or constant.
        """
        box = bounding_box(brain, MARGIN_VOXELS)
        padded, keep = pad_to_multiple(normalise(data[box], brain[box]), divisor)
        return cls(torch.from_numpy(padded)[None, None], brain[box], box, keep, data.shape)

    def inside(self, predicted: Tensor) -> np.ndarray:
        """A prediction ``(1, 1, X', Y', Z')`` in the frame without padding, float32 ``(X'', Y'', Z'')``, 0 outside the brain."""
        found: np.ndarray = np.where(self.brain, predicted[0, 0].float().cpu().numpy()[self.keep], 0)
        return found

    def back(self, predicted: Tensor) -> np.ndarray:
        """A prediction ``(1, 1, X', Y', Z')`` on the scan's grid, float32 ``(X, Y, Z)``, 0 outside the brain."""
        return uncrop(self.inside(predicted), self.box, self.shape)
