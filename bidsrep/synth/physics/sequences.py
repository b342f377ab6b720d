"""Signal equations of spin echoes, gradient echoes and inversion recovery.

Every sequence is a frozen dataclass of its acquisition parameters (times in seconds, angles in degrees), so
that a draw can be logged and replayed; `Sequence.signal` applies it to tissue maps. ``transmit`` is the
relative B1+ field (1 = nominal flip angle), ``receive`` the coil sensitivity, a gain; both are scalars or
tensors of the maps' shape.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from bidsrep.synth.physics.maps import TissueMaps

Field: TypeAlias = Tensor | float | None


@dataclass(frozen=True)
class Sequence(ABC):
    """Acquisition parameters of one scan."""

    name: ClassVar[str]

    @abstractmethod
    def signal(self, maps: TissueMaps, transmit: Field = None, receive: Field = None) -> Tensor:
        """Signal of every voxel, in the unit and shape of ``maps.pd``."""

    @abstractmethod
    def faults(self) -> tuple[str, ...]:
        """Why no scanner could run this; empty when it could."""


def simulate(maps: TissueMaps, parameters: Sequence, transmit: Field = None, receive: Field = None) -> Tensor:
    """Noise-free image of ``maps``; the same as ``parameters.signal(maps, transmit, receive)``."""
    return parameters.signal(maps, transmit, receive)


@dataclass(frozen=True)
class FSE(Sequence):
    """Fast spin echo: ``PD (1 - exp(-R1 TR)) exp(-R2 TE)``.

    Parameters
    ----------
    te, tr
        Effective echo time and repetition time (s).
    """

    name: ClassVar[str] = "fse"
    te: float = 0.02
    tr: float = 5.0

    def signal(self, maps: TissueMaps, transmit: Field = None, receive: Field = None) -> Tensor:
        """Signal; a transmit field scales it by the Hahn echo's ``sin(90 b) sin(90 b)^2``."""
        recovered = -torch.expm1(-maps.r1 * self.tr)
        image = maps.pd * recovered * torch.exp(-maps.transverse_rate * self.te)
        return finite(image * spin_echo(transmit) * gain(receive))

    def faults(self) -> tuple[str, ...]:
        """TE must come before the next excitation."""
        return echo_faults(self.te, self.tr)


@dataclass(frozen=True)
class FLAIR(Sequence):
    """Fast spin echo after an inversion: ``PD (1 - 2 exp(-R1 TI) + exp(-R1 TR)) exp(-R2 TE)``.

    The inversion is taken to be adiabatic, that is, independent of the transmit field.

    Parameters
    ----------
    te, tr, ti
        Effective echo time, repetition time and inversion time (s).
    magnitude
        Drop the sign, as scanners do. Off, tissue that is still inverted is negative.
    """

    name: ClassVar[str] = "flair"
    te: float = 0.02
    tr: float = 5.0
    ti: float = 1.0
    magnitude: bool = False

    def signal(self, maps: TissueMaps, transmit: Field = None, receive: Field = None) -> Tensor:
        """Signal, signed unless ``magnitude``."""
        recovered = 1 - 2 * torch.exp(-maps.r1 * self.ti) + torch.exp(-maps.r1 * self.tr)
        image = maps.pd * recovered * torch.exp(-maps.transverse_rate * self.te)
        image = finite(image * spin_echo(transmit) * gain(receive))
        return image.abs() if self.magnitude else image

    def faults(self) -> tuple[str, ...]:
        """The inversion time and the readout after it must fit into TR."""
        faults = echo_faults(self.te, self.tr)
        if self.ti <= 0 or self.ti + self.te >= self.tr:
            faults += (f"TI {self.ti:.4g} s plus TE {self.te:.4g} s does not fit into TR {self.tr:.4g} s",)
        return faults


@dataclass(frozen=True)
class SPGR(Sequence):
    """Spoiled gradient echo, with the saturation of an MT pulse.

    ``PD sin a (1 - d) (1 - E1) / (1 - (1 - d) E1 cos a) exp(-R2* TE)`` with ``E1 = exp(-R1 TR)`` and ``d`` the
    MT saturation as a fraction (Helms et al., MRM 2008).

    Parameters
    ----------
    te, tr
        Echo time and repetition time (s).
    fa
        Flip angle (degrees).
    mt_pulse
        Whether an off-resonance pulse precedes every excitation.
    """

    name: ClassVar[str] = "spgr"
    te: float = 0.0
    tr: float = 0.025
    fa: float = 20.0
    mt_pulse: bool = True

    def signal(self, maps: TissueMaps, transmit: Field = None, receive: Field = None) -> Tensor:
        """Steady-state signal; the transmit field scales the flip angle."""
        sin, cos = flip(self.fa, transmit)
        kept = 1 - maps.mt_fraction if self.mt_pulse else 1.0
        decayed = torch.exp(-maps.r1 * self.tr)
        # expm1: 1 - E1 cancels in float32 where TR << T1.
        image = maps.pd * sin * kept * -torch.expm1(-maps.r1 * self.tr) / (1 - cos * kept * decayed)
        return finite(image * torch.exp(-maps.r2s * self.te) * gain(receive))

    def faults(self) -> tuple[str, ...]:
        """TE must come before the next excitation, which must tip the magnetisation."""
        faults = echo_faults(self.te, self.tr)
        return faults if 0 < self.fa <= 90 else (*faults, f"flip angle {self.fa:.4g} degrees")


@dataclass(frozen=True)
class GRE(SPGR):
    """Spoiled gradient echo without an MT pulse: from PD- and T1- to T2*-weighted."""

    name: ClassVar[str] = "gre"
    te: float = 0.02
    tr: float = 0.025
    fa: float = 6.0
    mt_pulse: bool = False


def flip(degrees: float, transmit: Field) -> tuple[Tensor | float, Tensor | float]:
    """Sine and cosine of the flip angle that the transmit field makes of the nominal one."""
    angle = math.radians(degrees)
    if isinstance(transmit, Tensor):
        return torch.sin(angle * transmit), torch.cos(angle * transmit)
    angle *= 1.0 if transmit is None else transmit
    return math.sin(angle), math.cos(angle)


def spin_echo(transmit: Field) -> Tensor | float:
    """Amplitude of an echo of a 90 and a 180 degree pulse, each scaled by the transmit field (Hahn, 1950)."""
    return flip(90, transmit)[0] ** 3


def gain(receive: Field) -> Tensor | float:
    """The receive field, or 1."""
    return 1.0 if receive is None else receive


def echo_faults(te: float, tr: float) -> tuple[str, ...]:
    """What is wrong with an echo time in a repetition time (s)."""
    return () if 0 <= te < tr else (f"TE {te:.4g} s is not within TR {tr:.4g} s",)


def finite(image: Tensor) -> Tensor:
    """0 where a signal is not a finite number, e.g. where the maps are not."""
    return torch.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
