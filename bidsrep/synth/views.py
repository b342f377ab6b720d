"""A random view of an image: what contrastive learning must see through (SeqInv, section 3.2).

First where the view is taken (`place`: warp, flips, crop), which also gives the target of reconstruction;
then what spoils it (`degrade`: bias field, Gibbs ringing, Rician noise, cuboids missing). What is drawn is
kept apart from what it does. Images are ``(X, Y, Z)`` in [0, 1], 0 outside the brain; lengths are mm.

The released code asks its library for rotations of up to 15 radians about one axis, shears one pair of
axes and scales one axis; here rotations are in degrees, and all three axes are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bidsrep.synth.deformation import (
    DeformationConfig,
    DeformationParameters,
    sample_deformation,
    source_coordinates,
    warp,
)
from bidsrep.synth.physics import add_rician_noise
from bidsrep.synth.random import coin, integer, uniform, uniform_scalar

BIAS_DEGREE = 3
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ViewConfig:
    """Ranges of a view; defaults are the published ones, the rotation in the unit that was meant.

    Parameters
    ----------
    deformation, deform_probability
        The warp, and how often there is one. The published elastic field moves voxels by 0.3 to 0.9 mm.
    flip_probability
        For each axis on its own.
    bias
        Coefficients of the Legendre polynomials up to degree 3 are uniform from 0 to this; the field is the
        exponential of their sum.
    gibbs
        Share of the spatial frequencies, from the highest down, that may be missing.
    noise
        Largest standard deviation of the noise in each of the two channels.
    holes, hole_voxels
        Number of cuboids set to 0, and their sides; both limits included.
    """

    deformation: DeformationConfig = field(
        default_factory=lambda: DeformationConfig(
            rotation_degrees=15.0,
            shear=0.012,
            scaling=0.15,
            nonlinear_std_mm=1.0,
            integrate=False,
            flip_probability=0.0,
        )
    )
    deform_probability: float = 0.8
    flip_probability: float = 0.5
    bias: float = 0.3
    gibbs: float = 0.8
    noise: float = 0.2
    holes: tuple[int, int] = (1, 10)
    hole_voxels: tuple[int, int] = (5, 24)


@dataclass(frozen=True)
class ViewParameters:
    """One draw; `bias` are coefficients ``(4, 4, 4)``, `holes` first and last corners ``(n, 2, 3)`` in voxels."""

    deformation: DeformationParameters
    flips: tuple[int, ...]
    bias: Tensor
    gibbs: float
    noise_std: float
    noise_seed: int
    holes: Tensor


def sample_view(
    generator: torch.Generator, drawn: Shape, shape: Shape, spacing: float, config: ViewConfig
) -> ViewParameters:
    """Draw a view of ``shape`` voxels of ``spacing`` mm, anywhere in an image of ``drawn`` voxels."""
    extent = tuple(n * spacing for n in shape)
    slack = torch.tensor([max(0, n - m) * spacing / 2 for n, m in zip(drawn, shape, strict=True)])
    deformation = config.deformation
    if not coin(generator, config.deform_probability):
        deformation = replace(deformation, rotation_degrees=0, shear=0, scaling=0, nonlinear_std_mm=0)
    degree = torch.stack(torch.meshgrid(*[torch.arange(BIAS_DEGREE + 1)] * 3, indexing="ij")).sum(0)
    bias = uniform(generator, tuple(degree.shape), 0, config.bias)
    return ViewParameters(
        deformation=sample_deformation(generator, extent, slack, deformation),
        flips=tuple(axis for axis in range(3) if coin(generator, config.flip_probability)),
        bias=torch.where(degree <= BIAS_DEGREE, bias, 0),
        gibbs=uniform_scalar(generator, 0, config.gibbs),
        noise_std=uniform_scalar(generator, 0, config.noise),
        noise_seed=integer(generator, 0, 2**31 - 1),
        holes=_sample_holes(generator, shape, config),
    )


def place(image: Tensor, parameters: ViewParameters, shape: Shape, spacing: float) -> Tensor:
    """The view's piece of an image ``(X', Y', Z')``: warped and flipped, ``(X, Y, Z)`` of ``shape``."""
    coordinates = source_coordinates(parameters.deformation, shape, spacing, tuple(image.shape), spacing)
    return warp(image[None], coordinates)[0].flip(parameters.flips)


def degrade(image: Tensor, parameters: ViewParameters) -> Tensor:
    """The same piece ``(X, Y, Z)`` as a poor scanner would show it."""
    image = image * torch.exp(legendre_field(parameters.bias, image.shape))
    image = truncate_frequencies(image, parameters.gibbs)
    noise = torch.Generator().manual_seed(parameters.noise_seed)
    image = add_rician_noise(image, parameters.noise_std, noise)
    for (x0, y0, z0), (x1, y1, z1) in parameters.holes.tolist():
        image[x0:x1, y0:y1, z0:z1] = 0
    return image


def legendre_field(coefficients: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Sum of products of Legendre polynomials over the unit cube from -1 to 1, ``(X, Y, Z)``.

    ``coefficients`` ``(A, B, C)`` weigh ``P_a(x) P_b(y) P_c(z)``.
    """
    result = coefficients
    for axis, n in enumerate(shape):
        position = torch.linspace(-1, 1, n)
        terms = [torch.ones(n), position]
        for degree in range(1, coefficients.shape[axis] - 1):
            # Bonnet: (k + 1) P_k+1 = (2 k + 1) x P_k - k P_k-1
            following = (2 * degree + 1) * position * terms[-1] - degree * terms[-2]
            terms.append(following / (degree + 1))
        values = torch.stack(terms[: coefficients.shape[axis]], dim=1)
        result = torch.tensordot(values, result, dims=([1], [axis])).movedim(0, axis)
    return result


def truncate_frequencies(image: Tensor, share: float) -> Tensor:
    """Gibbs ringing: spatial frequencies above ``1 - share`` of the highest there are set to 0."""
    spectrum = torch.fft.rfftn(image)
    axes = [torch.fft.fftfreq(n) for n in image.shape[:2]] + [torch.fft.rfftfreq(image.shape[2])]
    radius = sum(f**2 for f in torch.meshgrid(*axes, indexing="ij"))
    assert isinstance(radius, Tensor)
    kept = radius <= (1 - share) ** 2 * radius.max()
    return torch.fft.irfftn(spectrum * kept, s=image.shape)


def _sample_holes(generator: torch.Generator, shape: Shape, config: ViewConfig) -> Tensor:
    least, most = config.hole_voxels
    boxes = []
    for _ in range(integer(generator, config.holes[0], config.holes[1] + 1)):
        sides = [min(integer(generator, least, most + 1), n) for n in shape]
        first = [integer(generator, 0, n - side + 1) for n, side in zip(shape, sides, strict=True)]
        boxes.append([first, [a + side for a, side in zip(first, sides, strict=True)]])
    return torch.tensor(boxes, dtype=torch.int64).reshape(-1, 2, 3)
