"""Tissue parameters at 3 T and the two signal equations of the demo cohort.

Sources of the relaxation times: Wansapura et al., JMRI 1999 (GM, WM at 3 T); Stanisz et al., MRM 2005 (GM, WM,
muscle); Lin et al., ISMRM 2001 (CSF T1); Gelman et al., MRM 1999 (T2, T2'); de Bazelaire et al., Radiology 2004
(fat, marrow); Gach et al., 2008 (densities of scalp and marrow); Cocosco et al., BrainWeb 1997 (MS lesion, carried to 3 T). Proton densities are relative to CSF.
They are centre values of a published spread of 10 to 40 %, good for a picture, not for relaxometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in seconds, proton density relative to CSF, and the SD of its texture (fraction)."""

    t1: float
    t2: float
    t2_star: float
    pd: float
    texture: float = 0.0
    fat: bool = False


TISSUES: dict[str, Tissue] = {
    "csf": Tissue(4.200, 2.000, 0.500, 1.00),
    "gm": Tissue(1.450, 0.085, 0.056, 0.82, texture=0.02),
    "wm": Tissue(0.930, 0.065, 0.046, 0.70, texture=0.015),
    "lesion": Tissue(1.300, 0.130, 0.070, 0.82, texture=0.05),
    "fat": Tissue(0.375, 0.068, 0.030, 0.80, texture=0.12, fat=True),
    "muscle": Tissue(1.412, 0.040, 0.025, 0.90, texture=0.10),
    "marrow": Tissue(0.590, 0.049, 0.015, 0.30, texture=0.40, fat=True),
    "bone": Tissue(0.200, 0.0004, 0.0004, 0.20),
    "mucosa": Tissue(1.400, 0.100, 0.050, 0.90, texture=0.10),
    "vitreous": Tissue(4.000, 1.500, 0.400, 1.00),
    "lens": Tissue(1.000, 0.040, 0.025, 0.60),
    # Blood that moves leaves the slice between excitation and readout: nearly no signal.
    "flow": Tissue(1.650, 0.055, 0.020, 0.08),
    "air": Tissue(1.000, 1.000, 1.000, 0.00),
}


@dataclass(frozen=True)
class Mprage:
    """Magnetisation-prepared gradient echo train; times in seconds, flip angle in degrees."""

    repetition_time: float = 2.3
    inversion_time: float = 0.9
    echo_time: float = 0.00298
    echo_spacing: float = 0.0071
    flip_angle: float = 9.0
    echoes: int = 176
    inversion_efficiency: float = 0.96

    def signal(self, tissue: Tissue) -> float:
        """Magnitude at the centre of k-space: the model of Marques et al., NeuroImage 2010, with one train."""
        cos, sin = math.cos(math.radians(self.flip_angle)), math.sin(math.radians(self.flip_angle))
        train = self.echoes * self.echo_spacing
        before = self.inversion_time - train / 2
        after = self.repetition_time - self.inversion_time - train / 2
        if before < 0 or after < 0:
            raise ValueError(f"the echo train of {train:.3f} s does not fit TI and TR: {self}")
        decay_echo, decay_before, decay_after, decay_all = (
            math.exp(-t / tissue.t1) for t in (self.echo_spacing, before, after, self.repetition_time)
        )

        def readout(magnetisation: float, pulses: int) -> float:
            kept = (cos * decay_echo) ** pulses
            return magnetisation * kept + (1 - decay_echo) * (1 - kept) / (1 - cos * decay_echo)

        steady = readout(1 - decay_before, self.echoes) * decay_after + (1 - decay_after)
        steady /= 1 + self.inversion_efficiency * cos**self.echoes * decay_all
        centre = readout(
            -self.inversion_efficiency * steady * decay_before + (1 - decay_before), self.echoes // 2 - 1
        )
        return abs(centre * sin) * tissue.pd * math.exp(-self.echo_time / tissue.t2_star)


@dataclass(frozen=True)
class Flair:
    """Inversion recovery before a fast spin echo, fat suppressed; times in seconds."""

    repetition_time: float = 9.0
    inversion_time: float = 2.45
    echo_time: float = 0.090
    fat_remaining: float = 0.25

    def signal(self, tissue: Tissue) -> float:
        """Magnitude ``PD exp(-TE/T2) |1 - 2 exp(-TI/T1) + exp(-TR/T1)|`` (Hajnal et al., JCAT 1992)."""
        recovery = (
            1 - 2 * math.exp(-self.inversion_time / tissue.t1) + math.exp(-self.repetition_time / tissue.t1)
        )
        suppression = self.fat_remaining if tissue.fat else 1.0
        return suppression * tissue.pd * math.exp(-self.echo_time / tissue.t2) * abs(recovery)


Sequence = Mprage | Flair


def tissue_signals(sequence: Sequence) -> dict[str, float]:
    """Signal of every tissue, in units of the equilibrium magnetisation of CSF."""
    return {name: sequence.signal(tissue) for name, tissue in TISSUES.items()}
