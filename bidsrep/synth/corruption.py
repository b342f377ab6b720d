"""Acquisition artefacts: resolution and slice thickness, bias field, gamma, noise (Brain-ID, section 3.1).

Brain-ID's mild-to-severe mini-batches draw from `LEVELS`; ranges from the paper's Table B.1 and the released
configuration. Images are ``(X, Y, Z)``; intensities of the painted image are about 0 to 250.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bidsrep.imaging.resample import spline_matrix
from bidsrep.synth.filters import upsample
from bidsrep.synth.random import coin, integer, uniform_scalar

Level = Literal["none", "mild", "medium", "severe"]


@dataclass(frozen=True)
class CorruptionRanges:
    """Ranges of one corruption level; noise is on the 0..250 scale of the painted image."""

    bias_scale: tuple[float, float]
    bias_std: tuple[float, float]
    gamma_std: float
    noise_std: tuple[float, float]


LEVELS: dict[str, CorruptionRanges] = {
    "none": CorruptionRanges((0.01, 0.02), (0.0, 0.0), 0.0, (0.0, 0.0)),
    "mild": CorruptionRanges((0.01, 0.02), (0.01, 0.05), 0.01, (0.01, 1.0)),
    "medium": CorruptionRanges((0.02, 0.03), (0.05, 0.3), 0.05, (0.5, 5.0)),
    "severe": CorruptionRanges((0.02, 0.04), (0.1, 0.6), 0.1, (5.0, 15.0)),
}


ISOTROPIC_MM = (2.0, 7.0)
"""Sides of the cubes that `sample_resolution` draws."""


@dataclass(frozen=True)
class CorruptionParameters:
    """One draw; ``resolution`` and ``thickness`` are mm per axis; ``order`` is that of the spline back to the grid."""

    resolution: tuple[float, float, float]
    thickness: tuple[float, float, float]
    blur_factor: float
    gamma: float
    bias_control: Tensor
    noise_std: float
    noise_seed: int
    order: int = 1


def sample_resolution(
    generator: torch.Generator, spacing: float, clinical: float = 0.0, isotropic: float = 0.0
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Voxel size and slice thickness (mm): isotropic, one thick axis, low field, or coarse per axis.

    The four equally likely cases are the reference's. ``clinical`` is the probability of drawing instead a
    2D clinical protocol (0.5 to 1.2 mm in plane, 2.5 to 6 mm slices along one axis), which is what hospitals
    deliver most often; the reference has no such case for axes other than the third. Before all of these,
    ``isotropic`` is the probability of cubes of `ISOTROPIC_MM`, as in Brain-ID's table of super-resolution.
    """
    if isotropic and coin(generator, isotropic):  # recipes without it keep their draws
        cube = (uniform_scalar(generator, *ISOTROPIC_MM),) * 3
        return _at_least(list(cube), spacing), _at_least(list(cube), spacing)
    if coin(generator, clinical):
        axis = integer(generator, 0, 3)
        plane, slices = uniform_scalar(generator, 0.5, 1.2), uniform_scalar(generator, 2.5, 6.0)
        resolution = [plane] * 3
        resolution[axis] = slices
        thickness = list(resolution)
        thickness[axis] = slices * uniform_scalar(generator, 0.8, 1.0)
        return _at_least(resolution, spacing), _at_least(thickness, spacing)
    case = uniform_scalar(generator, 0, 1)
    if case < 0.25:
        resolution = thickness = [spacing] * 3
    elif case < 0.5:
        axis = integer(generator, 0, 3)
        resolution, thickness = [spacing] * 3, [spacing] * 3
        resolution[axis] = 2.5 + uniform_scalar(generator, 0, 6)
        thickness[axis] = min(resolution[axis], 4 + uniform_scalar(generator, 0, 2))
    elif case < 0.75:
        resolution = [base + uniform_scalar(generator, 0, 0.4) for base in (1.3, 1.3, 5.0)]
        thickness = resolution
    else:
        resolution = [2 + uniform_scalar(generator, 0, 3) for _ in range(3)]
        thickness = resolution
    return _at_least(resolution, spacing), _at_least(thickness, spacing)


def sample_corruption(
    generator: torch.Generator,
    shape: tuple[int, ...],
    spacing: float,
    level: Level,
    clinical: float = 0.0,
    blur: tuple[float, float] = (0.85, 1.15),
    isotropic: float = 0.0,
    order: int = 1,
) -> CorruptionParameters:
    """Draw the corruption of one image of ``shape`` voxels of ``spacing`` mm; ``blur`` is ``blur_factor``'s range.

    ``clinical`` and ``isotropic``: see `sample_resolution`; ``order``: 1 linear, 3 cubic.
    """
    ranges = LEVELS[level]
    resolution, thickness = (
        ((spacing,) * 3, (spacing,) * 3)
        if level == "none"
        else sample_resolution(generator, spacing, clinical, isotropic)
    )
    scale = uniform_scalar(generator, *ranges.bias_scale)
    control = [max(2, round(scale * n * spacing)) for n in shape]
    std = uniform_scalar(generator, *ranges.bias_std)
    return CorruptionParameters(
        resolution=resolution,
        thickness=thickness,
        blur_factor=uniform_scalar(generator, *blur),
        gamma=math.exp(ranges.gamma_std * torch.randn((), generator=generator).item()),
        bias_control=std * torch.randn(*control, generator=generator),
        noise_std=uniform_scalar(generator, *ranges.noise_std),
        noise_seed=integer(generator, 0, 2**31 - 1),
        order=order,
    )


def bias_field_log(parameters: CorruptionParameters, shape: tuple[int, ...]) -> Tensor:
    """The smooth log bias field ``(X, Y, Z)``; the image is multiplied by its exponential."""
    return upsample(parameters.bias_control, shape)


def undegraded(parameters: CorruptionParameters, spacing: float) -> CorruptionParameters:
    """The same draw at full resolution without noise: gamma and bias field, which are the image's own, stay."""
    fine = (spacing,) * 3
    return replace(parameters, resolution=fine, thickness=fine, noise_std=0.0)


def corrupt(image: Tensor, parameters: CorruptionParameters, spacing: float) -> tuple[Tensor, Tensor]:
    """Gamma, bias, blur, down-sampling, noise, up-sampling; returns the image and the log bias field.

    ``image`` is non-negative on the 0..300 scale. The order is the reference's.
    """
    log_bias = bias_field_log(parameters, image.shape).to(image.device)
    image = 300 * (image.clamp(min=0) / 300) ** parameters.gamma
    image = image * torch.exp(log_bias)
    image = add_noise_at_resolution(image, parameters, spacing)
    return image, log_bias


def add_noise_at_resolution(image: Tensor, parameters: CorruptionParameters, spacing: float) -> Tensor:
    """Blur to the slice thickness, sample at the acquired resolution, add noise there, interpolate back.

    Blurring and sampling are one matrix per axis (three small products instead of convolutions).
    """
    matrices = [
        acquisition_matrices(
            n,
            spacing,
            parameters.resolution[axis],
            parameters.thickness[axis],
            parameters.blur_factor,
            parameters.order,
        )
        for axis, n in enumerate(image.shape)
    ]
    low = _separable(image, [down.to(image.device) for down, _ in matrices])
    noise = torch.Generator().manual_seed(parameters.noise_seed)
    low = low + parameters.noise_std * torch.randn(low.shape, generator=noise).to(image.device)
    low = low.clamp(min=0)
    back = _separable(low, [up.to(image.device) for _, up in matrices])
    # As the app does (`bidsrep.imaging.resample`): splines swing over, linear interpolation does not.
    return back.clamp(low.min(), low.max()) if parameters.order > 1 else back


def acquisition_matrices(
    n: int, spacing: float, resolution: float, thickness: float, blur_factor: float, order: int = 1
) -> tuple[Tensor, Tensor]:
    """``(m, n)`` blur-and-sample and ``(n, m)`` up-sampling matrices of one axis, linear unless ``order`` is 3.

    The Gaussian's standard deviation is ``blur_factor * ln(5) / pi * thickness`` (reference), 0 where the
    thickness is not above the spacing.
    """
    m = max(2, int(n * spacing / resolution)) if resolution > spacing else n
    centres = (torch.arange(m, dtype=torch.float32) + 0.5) * n / m - 0.5
    index = torch.arange(n, dtype=torch.float32)
    if thickness > spacing:
        sigma = blur_factor * math.log(5) / math.pi * thickness / spacing
        down = torch.exp(-0.5 * ((index[None] - centres[:, None]) / sigma) ** 2)
    else:
        down = (1 - (index[None] - centres[:, None]).abs()).clamp(min=0)
    down = down / down.sum(1, keepdim=True)
    position = (index + 0.5) * m / n - 0.5
    if order > 1 and m < n:  # else the voxels are the grid's own
        return down, torch.from_numpy(spline_matrix(position.numpy(), m, order))
    position = position.clamp(0, m - 1)
    up = (1 - (position[:, None] - torch.arange(m)[None]).abs()).clamp(min=0)
    return down, up


def _separable(image: Tensor, matrices: list[Tensor]) -> Tensor:
    for axis, matrix in enumerate(matrices):
        if matrix.shape[0] == matrix.shape[1] and torch.equal(
            matrix, torch.eye(len(matrix), device=matrix.device)
        ):
            continue
        image = torch.tensordot(matrix, image, dims=([1], [axis])).movedim(0, axis)
    return image


def _at_least(values: list[float], spacing: float) -> tuple[float, float, float]:
    first, second, third = (max(value, spacing) for value in values)
    return first, second, third
