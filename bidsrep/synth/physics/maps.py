"""Quantitative tissue maps: what an MR signal is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# R2* -> R2 (1/s) at 3 T. Cortex, white matter and pallidum: Gelman et al., MRM 1999 (R2' 3.4, 3.9 and 12.0);
# the last slope goes on beyond them, so that R2 never exceeds R2*.
R2_OF_R2S = ((0.0, 0.0), (17.8, 14.4), (21.9, 18.0), (37.8, 25.8), (10_000.0, 4912.8))
CHANNELS = ("pd", "r1", "r2", "r2s", "mt")


@dataclass(frozen=True)
class TissueMaps:
    """Maps of one head; tensors of any, equal shape. No signal comes from where ``pd`` is 0.

    Parameters
    ----------
    pd
        Proton density in percent units (p.u.), fluid = 100.
    r1
        Longitudinal relaxation rate 1/T1 (1/s).
    r2
        Transverse relaxation rate 1/T2 (1/s); ``None``: estimated from ``r2s`` (see `r2_from_r2s`).
    r2s
        Effective transverse relaxation rate 1/T2* (1/s).
    mt
        Magnetisation transfer saturation MTsat in percent units (white matter about 1.5); ``None``: no
        saturation.
    """

    pd: Tensor
    r1: Tensor
    r2: Tensor | None
    r2s: Tensor
    mt: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(m.shape) for name in CHANNELS if (m := getattr(self, name)) is not None}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"tissue maps must have one shape, got {shapes}")

    @property
    def transverse_rate(self) -> Tensor:
        """R2 (1/s): the map, or what R2* implies."""
        return r2_from_r2s(self.r2s) if self.r2 is None else self.r2

    @property
    def mt_fraction(self) -> Tensor:
        """MTsat as the fraction of the longitudinal magnetisation that one pulse saturates: p.u. / 100."""
        return torch.zeros_like(self.pd) if self.mt is None else self.mt / 100

    def stack(self) -> Tensor:
        """All maps as one tensor ``(5, ...)`` in the order PD, R1, R2, R2*, MTsat; to crop, warp or move."""
        mt = torch.zeros_like(self.pd) if self.mt is None else self.mt
        return torch.stack([self.pd, self.r1, self.transverse_rate, self.r2s, mt])

    @classmethod
    def unstack(cls, maps: Tensor) -> TissueMaps:
        """Take apart what `stack` made: ``(5, ...)``."""
        return cls(*maps.unbind(0))


def r2_from_r2s(r2s: Tensor) -> Tensor:
    """R2 (1/s) from R2* (1/s) at 3 T, piecewise linear through measured tissues.

    R2* = R2 + R2', and R2' grows with iron: 19 % of R2* in cortex, 18 % in white matter, 32 % in the pallidum
    (Gelman et al., MRM 1999). Taking R2* for R2 would make iron-rich nuclei too dark in T2-weighted images.
    """
    knots, values = (torch.tensor(column).to(r2s) for column in zip(*R2_OF_R2S, strict=True))
    index = torch.bucketize(r2s.contiguous(), knots).clamp(1, len(knots) - 1)
    low, high = knots[index - 1], knots[index]
    return values[index - 1] + (r2s - low) / (high - low) * (values[index] - values[index - 1])
