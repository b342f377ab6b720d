"""Inversion-prepared gradient-echo trains: MPRAGE and MP2RAGE.

The model of Marques et al. (NeuroImage 2010): an inversion with an efficiency, a delay, one or two trains of
``n`` small-angle excitations ``tx`` seconds apart, and a recovery; repeated until it is periodic. Magnetisation
is in units of the equilibrium, so voxels without protons cause no division by zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from bidsrep.synth.physics.maps import TissueMaps
from bidsrep.synth.physics.sequences import Field, Sequence, echo_faults, finite, flip, gain


@dataclass(frozen=True)
class MPRAGE(Sequence):
    """Magnetisation-prepared rapid gradient echo: one train per inversion, magnitude.

    Parameters
    ----------
    tr
        Time from inversion to inversion (s).
    ti
        Time from the inversion to the middle of the train (s).
    te
        Echo time (s).
    fa
        Flip angle (degrees).
    n
        Excitations per train.
    eff
        Share of the magnetisation that the pulse inverts.
    tx
        Time between excitations (s); ``None``: twice the echo time.
    """

    name: ClassVar[str] = "mprage"
    tr: float = 2.3
    ti: float = 0.9
    te: float = 0.003
    fa: float = 9.0
    n: float = 160
    eff: float = 0.96
    tx: float | None = None

    @property
    def spacing(self) -> float:
        """Time between excitations (s)."""
        return 2 * self.te if self.tx is None else self.tx

    @property
    def delays(self) -> tuple[float, float]:
        """Times before and after the train (s)."""
        train = self.n * self.spacing
        return self.ti - train / 2, self.tr - self.ti - train / 2

    def signal(self, maps: TissueMaps, transmit: Field = None, receive: Field = None) -> Tensor:
        """Magnitude at the train's middle, where the centre of k-space is read."""
        sin, cos = flip(self.fa, transmit)
        before, after = self.delays
        train = Train(maps.r1, cos, self.spacing)
        z = recover(train.after(recover(0.0, maps.r1, before), self.n), maps.r1, after)
        z = z / (1 + self.eff * cos**self.n * torch.exp(-maps.r1 * self.tr))
        z = train.after(recover(-self.eff * z, maps.r1, before), self.n // 2 - 1)
        image = maps.pd * (z * sin).abs() * torch.exp(-maps.r2s * self.te)
        return finite(image * gain(receive))

    def faults(self) -> tuple[str, ...]:
        """The train must fit between the inversions, and the echoes between the excitations."""
        faults = echo_faults(self.te, self.spacing) + train_faults(self.fa, self.n, self.eff)
        before, after = self.delays
        if before < 0 or after < 0:
            faults += (f"negative delay: {before:.4g} s before and {after:.4g} s after the train",)
        return faults


@dataclass(frozen=True)
class MP2RAGE(Sequence):
    """Two trains per inversion, combined to ``S1 S2 / (S1^2 + S2^2)``.

    Parameters
    ----------
    tr
        Time from inversion to inversion (s).
    ti1, ti2
        Times from the inversion to the middles of the two trains (s).
    tx, te
        Time between excitations, and echo time (s).
    fa1, fa2
        Flip angles (degrees).
    n
        Excitations per train.
    eff
        Share of the magnetisation that the pulse inverts.
    magnitude
        Combine magnitudes, which gives 0 to 0.5 and loses the polarity. Off, the image is what scanners
        store: the signed combination plus 0.5, from 0 to 1.
    beta
        Regularisation of O'Brien et al. (PLOS ONE 2014), squared p.u.: ``(S1 S2 - beta) / (S1^2 + S2^2 + 2 beta)``
        of the received signals, which darkens bone and air. 0: none.
    """

    name: ClassVar[str] = "mp2rage"
    tr: float = 6.25
    ti1: float = 0.8
    ti2: float = 2.2
    tx: float = 0.0058
    te: float = 0.0029
    fa1: float = 4.0
    fa2: float = 5.0
    n: int = 160
    eff: float = 0.96
    magnitude: bool = True
    beta: float = 0.0

    @property
    def delays(self) -> tuple[float, float, float]:
        """Times before, between and after the trains (s)."""
        train = self.n * self.tx
        return self.ti1 - train / 2, self.ti2 - self.ti1 - train, self.tr - self.ti2 - train / 2

    def signal(self, maps: TissueMaps, transmit: Field = None, receive: Field = None) -> Tensor:
        """The combined image; without ``beta``, T2*, PD and ``receive`` cancel."""
        if self.beta:
            first, second = self.inversions(maps, transmit, receive)
        else:
            first, second = self._longitudinal(maps, transmit)
        ratio = (first * second - self.beta) / (first**2 + second**2 + 2 * self.beta)
        ratio = ratio.abs() if self.magnitude else ratio + 0.5
        return torch.where(maps.pd > 0, finite(ratio), 0.0).to(maps.pd.dtype)

    def inversions(
        self, maps: TissueMaps, transmit: Field = None, receive: Field = None
    ) -> tuple[Tensor, Tensor]:
        """The signed images of the two trains, in the unit of ``maps.pd``."""
        decayed = maps.pd * torch.exp(-maps.r2s * self.te) * gain(receive)
        first, second = self._longitudinal(maps, transmit)
        return finite(first.to(decayed) * decayed), finite(second.to(decayed) * decayed)

    def faults(self) -> tuple[str, ...]:
        """The trains must fit between the inversions, and the echoes between the excitations."""
        faults = echo_faults(self.te, self.tx)
        for angle in (self.fa1, self.fa2):
            faults += train_faults(angle, self.n, self.eff)
        if min(self.delays) < 0:
            before, between, after = self.delays
            faults += (f"negative delay: {before:.4g} s, {between:.4g} s, {after:.4g} s",)
        return faults

    def _longitudinal(self, maps: TissueMaps, transmit: Field) -> tuple[Tensor, Tensor]:
        """Transverse magnetisation of both trains' middles, in units of the equilibrium (float64).

        The second one is carried forward from the first; solving it backwards from the end of the cycle, as
        published, divides by a small recovery and loses digits.
        """
        r1 = maps.r1.double()
        (sin1, cos1), (sin2, cos2) = flip(self.fa1, _double(transmit)), flip(self.fa2, _double(transmit))
        before, between, after = self.delays
        one, two = Train(r1, cos1, self.tx), Train(r1, cos2, self.tx)
        z = one.after(recover(0.0, r1, before), self.n)
        z = recover(two.after(recover(z, r1, between), self.n), r1, after)
        start = z / (1 + self.eff * (cos1 * cos2) ** self.n * torch.exp(-r1 * self.tr))
        start = recover(-self.eff * start, r1, before)
        middle = self.n // 2
        first = one.after(start, middle - 1)
        second = two.after(recover(one.after(start, self.n), r1, between), self.n - middle)
        return first * sin1, second * sin2


@dataclass(frozen=True)
class Train:
    """Equal excitations (cosine ``cos``), ``spacing`` s apart, of tissue with the rate ``r1`` (1/s)."""

    r1: Tensor
    cos: Tensor | float
    spacing: float

    @cached_property
    def driven(self) -> Tensor:
        """The magnetisation that an endless train tends to."""
        return -torch.expm1(-self.r1 * self.spacing) / (1 - self.cos * torch.exp(-self.r1 * self.spacing))

    def after(self, z: Tensor | float, pulses: float) -> Tensor:
        """Longitudinal magnetisation after a number of pulses, of what was ``z`` before them."""
        kept = self.cos**pulses * torch.exp(-self.r1 * (self.spacing * pulses))
        return self.driven + (z - self.driven) * kept


def recover(z: Tensor | float, r1: Tensor, seconds: float) -> Tensor:
    """Longitudinal magnetisation after free recovery (equilibrium 1)."""
    return 1 + (z - 1) * torch.exp(-r1 * seconds)


def train_faults(fa: float, n: float, eff: float) -> tuple[str, ...]:
    """What is wrong with a flip angle (degrees), a number of excitations and an inversion efficiency."""
    faults = []
    if not 0 < fa <= 90:
        faults.append(f"flip angle {fa:.4g} degrees")
    if n < 2:
        faults.append(f"{n:.4g} excitations per train")
    if not 0 < eff <= 1:
        faults.append(f"inversion efficiency {eff:.4g}")
    return tuple(faults)


def _double(transmit: Field) -> Field:
    return transmit.double() if isinstance(transmit, Tensor) else transmit
