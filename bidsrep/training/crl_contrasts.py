"""The contrasts CRL is trained on: the paper's nine sequences, and draws of what scanners are set to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.synth.physics import FLAIR, FSE, Sequence, sample_parameters
from bidsrep.synth.random import coin, integer, uniform_scalar

PUBLISHED = {
    1: AcquisitionParameters(2.479, 0.00962, 1.055),  # T1-FLAIR
    2: AcquisitionParameters(2.479, 0.01042),
    3: AcquisitionParameters(6.777, 0.01042),
    4: AcquisitionParameters(6.777, 0.06252),
    5: AcquisitionParameters(8.0, 0.01042),  # PD
    6: AcquisitionParameters(8.0, 0.03992),
    7: AcquisitionParameters(8.142, 0.1042),  # T2
    8: AcquisitionParameters(8.0, 0.09998, 1.03),
    9: AcquisitionParameters(8.0, 0.09998, 2.025),  # T2-FLAIR; the paper prints TE 98.78 ms
}
"""The nine sequences, by their number in the released code; all of them (inversion-recovery) spin echoes."""
ECHO_S, REPETITION_S = (0.008, 0.13), (0.4, 9.0)
"""Echo and repetition times of spin echoes of any weighting."""
TRAINED = (1, 2, 3, 5, 7, 8, 9)
"""Those trained on; 4 and 6 are kept to test on."""


@dataclass(frozen=True)
class ContrastConfig:
    """Which contrasts an example shows.

    Parameters
    ----------
    published_only
        The paper's seven (or ``published``), at their exact parameters; ``count`` and the rest are not used.
    count
        Contrasts per example.
    published_share
        Share of the draws that are one of the seven, each parameter moved by up to ``jitter``. The others are
        ``sequences`` as scanners are set (``clinical`` of `bidsrep.synth.physics`).
    published
        Which of the paper's sequences, by their number.
    spin_echo_share
        Share of the draws that are spin echoes of any weighting: TE 8 to 130 ms, TR 0.4 to 9 s (log-uniform).
        Scanners are rarely set to TEs between those of PD and T2, but codes should not bend there.
    """

    published_only: bool = False
    count: int = 4
    published_share: float = 0.5
    jitter: float = 0.1
    sequences: tuple[str, ...] = ("fse", "flair", "mprage", "spgr")
    published: tuple[int, ...] = TRAINED
    spin_echo_share: float = 0.0

    @property
    def number(self) -> int:
        """Contrasts of an example."""
        return len(self.published) if self.published_only else self.count


def draw_sequences(generator: torch.Generator, config: ContrastConfig) -> list[Sequence]:
    """The sequences of one example."""
    if config.published_only:
        return [sequence_of(PUBLISHED[number]) for number in config.published]
    return [_draw(generator, config) for _ in range(config.count)]


def _draw(generator: torch.Generator, config: ContrastConfig) -> Sequence:
    if config.spin_echo_share and coin(generator, config.spin_echo_share):
        te, tr = (
            math.exp(uniform_scalar(generator, math.log(a), math.log(b))) for a, b in (ECHO_S, REPETITION_S)
        )
        return FSE(te=te, tr=tr)
    if not coin(generator, config.published_share):
        name = config.sequences[integer(generator, 0, len(config.sequences))]
        return sample_parameters(generator, name, "clinical")
    centre = PUBLISHED[config.published[integer(generator, 0, len(config.published))]]
    factors = [uniform_scalar(generator, 1 - config.jitter, 1 + config.jitter) for _ in range(3)]
    values = [factor * value for factor, value in zip(factors, dataclasses.astuple(centre), strict=True)]
    return sequence_of(AcquisitionParameters(*values))


def sequence_of(parameters: AcquisitionParameters) -> Sequence:
    """The spin echo with these parameters, after an inversion where there is an inversion time."""
    tr, te, ti = dataclasses.astuple(parameters)
    return FLAIR(te=te, tr=tr, ti=ti) if ti else FSE(te=te, tr=tr)


def parameters_of(sequence: Sequence) -> AcquisitionParameters:
    """What CRL is told of a sequence: TR, TE and TI, whatever else it has."""
    values = dataclasses.asdict(sequence)
    return AcquisitionParameters(values["tr"], values["te"], values.get("ti", 0.0))
