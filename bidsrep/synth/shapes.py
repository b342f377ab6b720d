"""Random shapes: label maps without any anatomy, and images of random contrast painted on them.

CIFL trains on shapes alone, made as SynthMorph makes them (Hoffmann et al., IEEE TMI 2022, section III-B):
one smooth noise image per label, each warped by a random smooth displacement of its own; a voxel gets the
label whose noise is highest. Smooth noise is a sum over scales of Gaussian values at the nodes of a
coarse lattice, interpolated linearly (SynthMorph calls it Perlin noise). What is drawn is kept apart from
what it does, so that a draw can be logged and replayed. Volumes are ``(X, Y, Z)``; lengths are mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.contrast import Contrast, paint_labels
from bidsrep.synth.corruption import CorruptionParameters, corrupt
from bidsrep.synth.generator import normalise
from bidsrep.synth.random import coin, integer, uniform, uniform_scalar

THICKNESS_PER_SIGMA = math.pi / math.log(5)
"""Slice thickness whose blur in `corrupt` is a Gaussian of standard deviation 1."""


@dataclass(frozen=True)
class ShapesConfig:
    """Ranges of the shape generator; defaults are those of SynthMorph's published examples.

    Parameters
    ----------
    labels
        Number of labels that compete for every voxel; label 0 is the background.
    noise_scales_mm, warp_scales_mm
        Distances between the lattice nodes of the noise images and of their displacements.
    noise_std, warp_std_mm
        Upper ends of the uniform draws of the standard deviations, one per label and scale.
    blur_mm, bias_std, gamma_std
        Upper ends of the draws of blur and bias field; standard deviation of the logarithm of gamma.
    bias_scale_mm
        Distance between the nodes of the bias field.
    noise_level
        Upper end of the standard deviation of the noise added last (0 to 255 scale).
    empty_background
        Probability that the background is 0 in an image, as it is after skull-stripping.
    """

    labels: int = 26
    noise_scales_mm: tuple[float, ...] = (32.0, 64.0)
    warp_scales_mm: tuple[float, ...] = (16.0, 32.0, 64.0)
    noise_std: float = 1.0
    warp_std_mm: float = 16.0
    blur_mm: float = 1.0
    bias_std: float = 0.3
    bias_scale_mm: float = 40.0
    gamma_std: float = 0.25
    noise_level: float = 0.0
    empty_background: float = 0.2


@dataclass(frozen=True)
class ShapeParameters:
    """One draw of shapes: lattices over the field of view, one entry per scale.

    ``noise`` holds ``(labels, 1, x, y, z)``, ``warp`` ``(labels, 3, x, y, z)`` in mm.
    """

    noise: tuple[Tensor, ...]
    warp: tuple[Tensor, ...]


def lattice(shape: tuple[int, ...], spacing: float, scale_mm: float) -> tuple[int, ...]:
    """Nodes per axis of a lattice with a node about every ``scale_mm``: ``ceil(extent / scale)``."""
    return tuple(max(1, math.ceil(n * spacing / scale_mm)) for n in shape)


def sample_shapes(
    generator: torch.Generator, shape: tuple[int, int, int], spacing: float, config: ShapesConfig
) -> ShapeParameters:
    """Draw shapes for a grid of ``shape`` voxels of ``spacing`` mm; an axis may have a single voxel."""

    def smooth(channels: int, scale: float, std: float) -> Tensor:
        # One standard deviation per label and scale: some labels are patchy, others in one piece.
        spread = uniform(generator, (config.labels, 1, 1, 1, 1), 0, std)
        nodes = lattice(shape, spacing, scale)
        return spread * torch.randn(config.labels, channels, *nodes, generator=generator)

    return ShapeParameters(
        noise=tuple(smooth(1, scale, config.noise_std) for scale in config.noise_scales_mm),
        warp=tuple(smooth(3, scale, config.warp_std_mm) for scale in config.warp_scales_mm),
    )


def shape_labels(parameters: ShapeParameters, shape: tuple[int, int, int], spacing: float) -> Tensor:
    """The label map ``(X, Y, Z)`` int64 of a draw: the label whose warped noise is highest."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    # torch orders grid coordinates from the last axis to the first.
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]
    to_unit = torch.tensor([2 / (max(n - 1, 1) * spacing) for n in shape]).view(3, 1, 1, 1)
    best = torch.full(shape, -math.inf)
    labels = torch.zeros(shape, dtype=torch.int64)
    for label in range(len(parameters.noise[0])):
        shift = torch.stack([_spread(nodes[label], shape) for nodes in parameters.warp]).sum(0)
        moved = identity + (shift * to_unit).flip(0).permute(1, 2, 3, 0)
        # Interpolating the lattice where a voxel comes from warps the noise without an image of it.
        height = torch.stack([_sample(nodes[label], moved) for nodes in parameters.noise]).sum(0)
        higher = height > best
        best, labels = torch.where(higher, height, best), torch.where(higher, label, labels)
    return labels


def sample_shape_contrast(generator: torch.Generator, config: ShapesConfig) -> Contrast:
    """Draw intensities: a mean U(25, 225) and a spread U(5, 25) per label (0 to 255 scale).

    The background's are U(0, 225) and U(0, 25), or 0 with the configured probability.
    """
    means = uniform(generator, config.labels, 25, 225)
    stds = uniform(generator, config.labels, 5, 25)
    means[0], stds[0] = uniform_scalar(generator, 0, 225), uniform_scalar(generator, 0, 25)
    if coin(generator, config.empty_background):
        means[0] = stds[0] = 0
    nothing = (0.0, 0.0, 0.0)
    return Contrast("random", nothing, nothing, means, stds)


def sample_shape_artefacts(
    generator: torch.Generator, shape: tuple[int, int, int], spacing: float, config: ShapesConfig
) -> CorruptionParameters:
    """Draw SynthMorph's artefacts: isotropic blur, a multiplicative bias field, gamma (and noise)."""
    voxel = (spacing, spacing, spacing)
    blur = uniform_scalar(generator, 0, config.blur_mm) * THICKNESS_PER_SIGMA
    std = uniform_scalar(generator, 0, config.bias_std)
    nodes = lattice(shape, spacing, config.bias_scale_mm)
    return CorruptionParameters(
        resolution=voxel,
        thickness=(blur, blur, blur),
        blur_factor=1.0,
        gamma=math.exp(config.gamma_std * torch.randn((), generator=generator).item()),
        bias_control=std * torch.randn(*nodes, generator=generator),
        noise_std=uniform_scalar(generator, 0, config.noise_level),
        noise_seed=integer(generator, 0, 2**31 - 1),
    )


def shape_image(
    labels: Tensor, contrast: Contrast, artefacts: CorruptionParameters, noise: Tensor, spacing: float
) -> Tensor:
    """Paint a label map ``(X, Y, Z)`` and scale it as brains are: 99.5th percentile 1, clipped to [0, 2].

    Where the background is empty it stays exactly 0, as outside a brain mask.
    """
    assert contrast.label_means is not None
    empty = float(contrast.label_means[0]) == 0
    inside = labels > 0 if empty else torch.ones_like(labels, dtype=torch.bool)
    image, _ = corrupt(paint_labels(labels, contrast, noise), artefacts, spacing)
    return normalise(image, inside)


def sample_shape_pair(
    generator: torch.Generator, shape: tuple[int, int, int], spacing: float, config: ShapesConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Two images of one geometry in two random contrasts, and its labels; ``(X, Y, Z)`` each."""
    labels = shape_labels(sample_shapes(generator, shape, spacing, config), shape, spacing)
    images = []
    for _ in range(2):
        contrast = sample_shape_contrast(generator, config)
        artefacts = sample_shape_artefacts(generator, shape, spacing, config)
        noise = torch.randn(shape, generator=generator)
        images.append(shape_image(labels, contrast, artefacts, noise, spacing))
    return images[0], images[1], labels


def _spread(nodes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Interpolate a lattice ``(C, x, y, z)`` over the grid, ``(C, X, Y, Z)``."""
    return F.interpolate(nodes[None], shape, mode="trilinear", align_corners=True)[0]


def _sample(nodes: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(nodes[None], grid, padding_mode="border", align_corners=True)[0, 0]
