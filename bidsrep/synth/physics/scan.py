"""Scans of tissue maps: a sequence, a transmit and a receive field, and the noise of a magnitude image.

What is drawn (`ScanParameters`) is kept apart from what it does (`acquire`). Volumes are ``(X, Y, Z)``.
Resolution and slice thickness are not here: `bidsrep.synth.corruption` has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bidsrep.synth.physics.distributions import Distribution, distribution_sequences, sample_parameters
from bidsrep.synth.physics.maps import TissueMaps
from bidsrep.synth.physics.sequences import Sequence
from bidsrep.synth.random import integer, uniform_scalar

TOP_PERCENTILE = 0.995
FIELD_ORDER = 4
"""Cosines per axis of a field: half waves of the field of view, up to three."""


@dataclass(frozen=True)
class ScanRanges:
    """Ranges of what is drawn beside the sequence.

    ``transmit`` and ``receive`` are standard deviations of the fields' logarithms: B1+ deviates by 5 to 15 %
    within a brain at 3 T, a head array's sensitivity by more. ``noise`` is the standard deviation in each of
    the two channels, relative to the 99.5th percentile of the noise-free image.
    """

    transmit: tuple[float, float] = (0.02, 0.10)
    receive: tuple[float, float] = (0.02, 0.25)
    noise: tuple[float, float] = (0.005, 0.05)


@dataclass(frozen=True)
class ScanParameters:
    """One draw: sequence, fields (coefficients of `smooth_field`; ``None``: flat) and noise."""

    sequence: Sequence
    transmit: Tensor | None
    receive: Tensor | None
    noise_std: float
    noise_seed: int


def random_scan(
    maps: TissueMaps,
    generator: torch.Generator,
    distribution: Distribution = "clinical",
    sequences: tuple[str, ...] | None = None,
    ranges: ScanRanges | None = None,
) -> tuple[Tensor, ScanParameters]:
    """Draw a scan of ``maps`` ``(X, Y, Z)`` and make it; the image's 99.5th percentile is 1 where PD > 0."""
    parameters = sample_scan(generator, distribution, sequences, ranges)
    return acquire(maps, parameters), parameters


def sample_scan(
    generator: torch.Generator,
    distribution: Distribution = "clinical",
    sequences: tuple[str, ...] | None = None,
    ranges: ScanRanges | None = None,
) -> ScanParameters:
    """Draw one of ``sequences`` (``None``: all of the distribution), its parameters, fields and noise."""
    ranges = ranges or ScanRanges()
    names = sequences or distribution_sequences(distribution)
    name = names[integer(generator, 0, len(names))]
    return ScanParameters(
        sequence=sample_parameters(generator, name, distribution),
        transmit=_sample_field(generator, ranges.transmit),
        receive=_sample_field(generator, ranges.receive),
        noise_std=uniform_scalar(generator, *ranges.noise),
        noise_seed=integer(generator, 0, 2**31 - 1),
    )


def acquire(maps: TissueMaps, parameters: ScanParameters) -> Tensor:
    """Image of ``maps`` ``(X, Y, Z)``: fields, signal, noise; scaled to 1 at the 99.5th percentile (PD > 0)."""
    inside = maps.pd > 0
    # The signal equations are most of the work, and most of a volume is air.
    transmit, receive = (
        None if control is None else smooth_field(control, maps.pd.shape).to(inside.device)[inside]
        for control in (parameters.transmit, parameters.receive)
    )
    signal = parameters.sequence.signal(TissueMaps.unstack(maps.stack()[:, inside]), transmit, receive)
    image = torch.zeros_like(maps.pd).masked_scatter(inside, signal / top(signal.abs()))
    noise = torch.Generator().manual_seed(parameters.noise_seed)
    image = add_rician_noise(image, parameters.noise_std, noise)
    return image / top(image[inside])


def add_rician_noise(image: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Magnitude of a signal with independent Gaussian noise in both channels: ``sqrt((S + n1)^2 + n2^2)``.

    Gudbjartsson and Patz, MRM 1995 (the paper's equation 5). Without noise a signed image is its magnitude.
    """
    first, second = (
        std * torch.randn(image.shape, generator=generator, dtype=image.dtype).to(image.device)
        for _ in range(2)
    )
    return torch.hypot(image + first, second)


def smooth_field(control: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Positive field ``(X, Y, Z)`` around 1: the exponential of a sum of low-order cosines.

    ``control`` ``(A, B, C)`` weighs the products of ``cos(pi a x)``, ``cos(pi b y)`` and ``cos(pi c z)`` with
    x, y, z from 0 to 1 across the volume.
    """
    log = control
    for axis, n in enumerate(shape):
        position = (torch.arange(n, dtype=control.dtype) + 0.5) / n
        waves = torch.cos(math.pi * position[:, None] * torch.arange(control.shape[axis]))
        log = torch.tensordot(waves, log, dims=([1], [axis])).movedim(0, axis)
    return torch.exp(log)


def top(values: Tensor) -> Tensor:
    """The 99.5th percentile of ``(N,)`` values; 1 where there are none or it is 0."""
    if not len(values):
        return values.new_ones(())
    # A subsample is exact enough, and a sort of millions of voxels is not cheap.
    step = max(1, len(values) // 100_000)
    level = torch.quantile(values[::step], TOP_PERCENTILE)
    return torch.where(level > 0, level, 1.0)


def _sample_field(generator: torch.Generator, stds: tuple[float, float]) -> Tensor | None:
    std = uniform_scalar(generator, *stds)
    if std == 0:
        return None
    orders = torch.arange(FIELD_ORDER)
    waves = orders[:, None, None] + orders[None, :, None] + orders[None, None, :]
    axes = (orders > 0).int()
    # The longer the wave, the stronger. No constant: the image is scaled, and flip angles have their own range.
    weight = torch.where((waves > 0) & (waves < FIELD_ORDER), 0.5**waves, 0.0)
    # A cosine has a mean square of 1/2 along its axis: divide, so that the field's spread is the one drawn.
    power = weight**2 * 0.5 ** (axes[:, None, None] + axes[None, :, None] + axes[None, None, :])
    return std / power.sum().sqrt() * weight * torch.randn(weight.shape, generator=generator)
