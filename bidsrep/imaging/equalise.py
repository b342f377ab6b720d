"""Intensities as SeqInv's networks know them: percentiles to [0, 1], equalised histogram, zero mean, unit spread.

Equalisation takes away every monotone change of contrast: what remains of a contrast is the order of the
tissues. Images are float32 tensors of any shape, background included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 256
PERCENTILES = (0.5, 99.5)


def percentile(image: Tensor, percent: float) -> float:
    """A percentile, interpolated linearly between order statistics; of images of any size."""
    values = image.flatten()
    position = percent / 100 * (values.numel() - 1)
    low = min(int(position), values.numel() - 1)
    below = values.kthvalue(low + 1).values
    if low + 1 == values.numel():
        return float(below)
    above = values.kthvalue(low + 2).values
    return float(torch.lerp(below.double(), above.double(), position - low))


def rescale(image: Tensor, low: float, high: float) -> Tensor:
    """Map ``low`` to 0 and ``high`` to 1, clip; zeros where the two are the same."""
    if not high > low:
        return torch.zeros_like(image)
    return ((image - low) / (high - low)).clamp(0, 1)


def cumulative(image: Tensor) -> Tensor:
    """Cumulative histogram ``(256,)`` of an image in [0, 1], from 0 in the first bin to 1 in the last."""
    index = (image.flatten() * BINS).long().clamp(0, BINS - 1)
    total = torch.bincount(index, minlength=BINS).cumsum(0).double()
    spread = (total[-1] - total[0]).clamp(min=1)
    return ((total - total[0]) / spread).float()


def equalise(image: Tensor, levels: Tensor | None = None) -> Tensor:
    """Replace intensities in [0, 1] by their cumulative histogram (or by ``levels``), linear between bin centres."""
    levels = cumulative(image) if levels is None else levels
    position = (image * BINS - 0.5).clamp(0, BINS - 1)
    below = position.long().clamp(max=BINS - 2)
    return torch.lerp(levels[below], levels[below + 1], position - below)


def standardise(image: Tensor) -> Tensor:
    """Subtract the mean of all voxels and divide by their standard deviation (if there is any)."""
    mean, spread = _moments(image)
    return (image - mean) / spread


def _moments(image: Tensor) -> tuple[float, float]:
    spread, mean = torch.std_mean(image.double(), correction=0)
    return float(mean), float(spread) or 1.0


@dataclass(frozen=True)
class Preparation:
    """How one image became the network's input, so that an output can be brought back to its intensities.

    `low` and `high` are the intensities mapped to 0 and 1, `levels` the equalisation ``(256,)`` (None for
    none), `mean` and `spread` what standardising took away.
    """

    low: float
    high: float
    levels: Tensor | None
    mean: float
    spread: float

    @classmethod
    def of(
        cls, image: Tensor, percentiles: tuple[float, float] = PERCENTILES, equalised: bool = True
    ) -> Preparation:
        """The preparation that fits an image."""
        low, high = (percentile(image, percent) for percent in percentiles)
        scaled = rescale(image, low, high)
        levels = cumulative(scaled) if equalised else None
        return cls(low, high, levels, *_moments(scaled if levels is None else equalise(scaled, levels)))

    def apply(self, image: Tensor) -> Tensor:
        """Intensities to the network's input."""
        scaled = rescale(image, self.low, self.high)
        return ((scaled if self.levels is None else equalise(scaled, self.levels)) - self.mean) / self.spread

    def invert(self, prepared: Tensor) -> Tensor:
        """The network's input to intensities; what was clipped stays at the limits."""
        scaled = (prepared * self.spread + self.mean).clamp(0, 1)
        if self.levels is not None:
            # Bins without a voxel make the curve flat: any intensity of theirs is as good, take the first.
            above = torch.searchsorted(self.levels, scaled.contiguous()).clamp(1, BINS - 1)
            low, high = self.levels[above - 1], self.levels[above]
            part = ((scaled - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
            scaled = (above - 1 + part + 0.5) / BINS
        return self.low + scaled * (self.high - self.low)
