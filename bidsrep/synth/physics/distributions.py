"""Draws of acquisition parameters: what the paper states, what its code draws, and what scanners are set to.

``paper`` and ``code`` are those of sequence-invariant contrastive learning (Chalcroft et al., 2025: the paper
and the released generator), ``clinical`` is the narrower set its authors left in a comment, with
FLAIR inversion times that null fluid and with proton-density- and T1-weighted spin echoes added. Draws that no
scanner could run (an echo after the next excitation, a negative delay) are drawn again: of the code's own
ranges those are 93 % of the MP2RAGE, 56 % of the FLAIR and 15 to 21 % of the gradient-echo draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from bidsrep.errors import UsageError
from bidsrep.synth.physics.sequences import FLAIR, FSE, GRE, SPGR, Sequence
from bidsrep.synth.physics.trains import MP2RAGE, MPRAGE
from bidsrep.synth.random import integer, uniform_scalar

Distribution = Literal["paper", "code", "clinical"]
ATTEMPTS = 2000
UNKNOWN_DISTRIBUTION = "there is no parameter distribution {!r}; there are: {}."
UNKNOWN_SEQUENCE = "the {} distribution has no sequence {!r}; it has: {}."


@dataclass(frozen=True)
class Law:
    """Distribution of one parameter.

    ``uniform`` and ``log_uniform`` lie between ``a`` and ``b``; ``normal`` is ``|N(a, b)|``; ``log_normal`` is
    ``a`` times ten to the power of ``N(0, b)``; ``share`` is ``N(a, b)`` reflected at 1; ``count`` is a whole
    ``|N(a, b)|``.
    """

    kind: Literal["uniform", "log_uniform", "normal", "log_normal", "share", "count"]
    a: float
    b: float

    def draw(self, generator: torch.Generator) -> float:
        """One value."""
        if self.kind == "uniform":
            return uniform_scalar(generator, self.a, self.b)
        if self.kind == "log_uniform":
            return math.exp(uniform_scalar(generator, math.log(self.a), math.log(self.b)))
        deviation = self.b * torch.randn((), generator=generator).item()
        if self.kind == "log_normal":
            return self.a * 10**deviation
        value = abs(self.a + deviation)
        if self.kind == "share":
            return 2 - value if value > 1 else value
        return int(value) if self.kind == "count" else value


@dataclass(frozen=True)
class Protocol:
    """A sequence with the laws of its parameters; ``fixed`` are parameters that are not drawn.

    A law named ``nulled_t1`` sets the inversion time to the one that nulls tissue of that T1 (s).
    """

    kind: type[Sequence]
    laws: Mapping[str, Law]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, generator: torch.Generator) -> Sequence:
        """One draw, whether or not a scanner could run it."""
        values: dict[str, Any] = {name: law.draw(generator) for name, law in self.laws.items()}
        if "nulled_t1" in values:
            values["ti"] = null_time(values.pop("nulled_t1"), values["tr"])
        return self.kind(**values, **self.fixed)


def null_time(t1: float, tr: float) -> float:
    """Inversion time (s) at which tissue of ``t1`` (s) gives no signal: ``T1 ln(2 / (1 + exp(-TR / T1)))``."""
    return t1 * math.log(2 / (1 + math.exp(-tr / t1)))


def distribution_sequences(distribution: Distribution) -> tuple[str, ...]:
    """Names of the sequences a distribution draws from."""
    return tuple(_protocols(distribution))


def sample_parameters(
    generator: torch.Generator, sequence_name: str | None = None, distribution: Distribution = "clinical"
) -> Sequence:
    """Draw the acquisition parameters of a sequence (``None``: any of the distribution's, equally likely)."""
    protocols = _protocols(distribution)
    if sequence_name is None:
        sequence_name = tuple(protocols)[integer(generator, 0, len(protocols))]
    if sequence_name not in protocols:
        raise UsageError(UNKNOWN_SEQUENCE.format(distribution, sequence_name, ", ".join(protocols)))
    choices = protocols[sequence_name]
    protocol = choices[integer(generator, 0, len(choices))]
    for _ in range(ATTEMPTS):
        parameters = protocol.draw(generator)
        if not parameters.faults():
            return parameters
    raise RuntimeError(f"{ATTEMPTS} draws of {sequence_name} gave nothing a scanner could run")


def _protocols(distribution: str) -> Mapping[str, tuple[Protocol, ...]]:
    if distribution not in DISTRIBUTIONS:
        raise UsageError(UNKNOWN_DISTRIBUTION.format(distribution, ", ".join(get_args(Distribution))))
    return DISTRIBUTIONS[distribution]


def _u(low: float, high: float) -> Law:
    return Law("uniform", low, high)


def _log(low: float, high: float) -> Law:
    return Law("log_uniform", low, high)


# The repetition time of the paper's MPRAGE is printed as 23 s. What the paper does not state is the code's.
_MPRAGE = {"te": _u(0.002, 0.004), "fa": _u(5, 12), "n": _u(100, 200), "eff": _u(0.8, 1.0)}
_GRE = {"te": _log(0.002, 0.080), "tr": _log(0.005, 5.0), "fa": _u(5, 50)}
_FLAIR = {"te": Law("log_normal", 0.020, 0.1), "tr": _log(0.001, 5.0), "ti": _log(0.001, 3.0)}

PAPER = {
    "fse": (Protocol(FSE, {"te": _log(0.001, 3.0), "tr": _log(0.001, 3.0)}),),
    "flair": (Protocol(FLAIR, _FLAIR),),
    "mprage": (
        Protocol(
            MPRAGE,
            {"tr": Law("normal", 2.3, 0.23), "ti": _u(0.6, 0.9), "tx": _u(0.004, 0.008), **_MPRAGE},
        ),
    ),
    # Equation 2 has the factor (1 - MT); the code's gradient echo does not.
    "gre": (Protocol(GRE, _GRE, {"mt_pulse": True}),),
}

CODE = {
    "fse": (Protocol(FSE, {"te": _log(0.020, 0.150), "tr": _log(2.0, 8.0)}),),
    "flair": (Protocol(FLAIR, _FLAIR),),
    "mprage": (Protocol(MPRAGE, {"tr": _u(1.9, 2.5), "ti": _u(0.6, 1.2), **_MPRAGE}),),
    "mp2rage": (
        Protocol(
            MP2RAGE,
            {
                "tr": Law("normal", 2.3, 0.23),
                "ti1": _u(0.6, 0.9),
                "ti2": Law("normal", 2.2, 0.22),
                "tx": Law("log_normal", 0.0058, 0.5),
                "te": Law("log_normal", 0.0029, 0.5),
                "fa1": _u(3, 6),
                "fa2": _u(3, 6),
                "n": Law("count", 160, 16),
                "eff": Law("share", 0.96, 0.096),
            },
        ),
    ),
    "spgr": (Protocol(SPGR, {"te": _log(0.002, 0.080), "tr": _log(0.005, 0.800), "fa": _u(5, 50)}),),
    "gre": (Protocol(GRE, _GRE),),
}

_SPGR = {"te": _log(0.002, 0.020), "tr": _log(0.020, 0.100), "fa": _u(10, 30)}

CLINICAL = {
    "fse": (
        Protocol(FSE, {"te": _log(0.080, 0.120), "tr": _log(2.0, 6.0)}),  # T2-weighted
        Protocol(FSE, {"te": _log(0.008, 0.035), "tr": _log(2.0, 6.0)}),  # proton-density-weighted
        Protocol(FSE, {"te": _log(0.008, 0.020), "tr": _log(0.4, 0.8)}),  # T1-weighted
    ),
    "flair": (
        Protocol(
            FLAIR,
            {"te": Law("log_normal", 0.100, 0.1), "tr": _log(5.0, 11.0), "nulled_t1": _u(3.6, 4.6)},
            {"magnitude": True},
        ),
    ),
    "mprage": (
        Protocol(
            MPRAGE,
            {
                "tr": _u(2.0, 2.5),
                "ti": _u(0.9, 1.1),
                "tx": _u(0.006, 0.008),
                "te": _u(0.002, 0.004),
                "fa": _u(8, 12),
                "n": _u(160, 200),
                "eff": _u(0.9, 1.0),
            },
        ),
    ),
    "mp2rage": (
        Protocol(
            MP2RAGE,
            {
                "tr": _u(5.0, 8.0),
                "ti1": _u(0.7, 1.0),
                "ti2": _u(2.2, 2.8),
                "tx": _u(0.0055, 0.0070),
                "te": _u(0.002, 0.003),
                "fa1": _u(4, 8),
                "fa2": _u(4, 8),
                "n": Law("count", 160, 16),
                "eff": _u(0.9, 1.0),
                "beta": _log(0.02, 0.2),
            },
            {"magnitude": False},
        ),
    ),
    "spgr": (Protocol(SPGR, _SPGR), Protocol(SPGR, _SPGR, {"mt_pulse": False})),
    "gre": (Protocol(GRE, {"te": _log(0.005, 0.040), "tr": _log(0.050, 1.0), "fa": _u(10, 30)}),),
}

DISTRIBUTIONS: Mapping[str, Mapping[str, tuple[Protocol, ...]]] = {
    "paper": PAPER,
    "code": CODE,
    "clinical": CLINICAL,
}
