"""Synthetic whole heads of random contrast with the signed distance to the brain surface.

The training material of the brain-mask network: SynthStrip's idea (Hoopes et al., NeuroImage 2022) that a
network shown only random contrasts painted on label maps learns shape and generalises to real scans.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bidsrep.synth.contrast import paint_labels, sample_contrast
from bidsrep.synth.corruption import Level, corrupt, sample_corruption
from bidsrep.synth.deformation import DeformationConfig, sample_deformation, source_coordinates, warp
from bidsrep.synth.random import coin, integer, uniform, uniform_scalar

MAXIMUM_DISTANCE_MM = 15.0


@dataclass(frozen=True)
class HeadConfig:
    """Ranges of the head generator.

    ``clinical`` is the share of thick-slice protocols, ``clinical_contrast`` that of heads whose brain has
    the tissue order of a real sequence (the tissues around it stay random).
    """

    deformation: DeformationConfig = field(
        default_factory=lambda: DeformationConfig(
            rotation_degrees=20, shear=0.1, scaling=0.2, nonlinear_std_mm=5
        )
    )
    clinical: float = 0.5
    clinical_contrast: float = 0.0
    crop_probability: float = 0.35
    deface_probability: float = 0.25
    strip_probability: float = 0.05
    empty_background_probability: float = 0.6


def signed_distance(mask: Tensor, spacing: float = 1.0) -> Tensor:
    """Signed Euclidean distance (mm) of a boolean ``(X, Y, Z)`` to its surface, positive inside."""
    from scipy.ndimage import distance_transform_edt

    inside = mask.numpy()
    distance = distance_transform_edt(inside, spacing) - distance_transform_edt(~inside, spacing)
    # Half a voxel lies between the outermost inside centre and the surface.
    distance -= 0.5 * spacing * (2 * inside.astype("float32") - 1)
    return torch.from_numpy(distance).float()


def brain_of(labels: Tensor, brain: Tensor, parenchyma: Tensor) -> Tensor:
    """Boolean brain ``(X, Y, Z)`` of a head's label indices: one piece, no holes, no spinal canal.

    Label maps give the fluid around the spinal cord the same label as that around the brain; what lies
    below the lowest parenchyma (grey or white matter) voxel is therefore dropped.
    """
    import numpy as np
    from scipy import ndimage

    mask = brain[labels.long()].numpy()
    height = np.flatnonzero(parenchyma[labels.long()].numpy().sum((0, 1)) > 20)
    if len(height):
        mask[..., : height[0]] = False
    pieces, count = ndimage.label(ndimage.binary_opening(mask, iterations=1))
    if count:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
        mask = ndimage.binary_dilation(mask, iterations=1)
    return torch.from_numpy(ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=2)))


def paint(labels: Tensor, generator: torch.Generator, count: int, empty_background: bool) -> Tensor:
    """A random Gaussian per label: mean U(5, 240), spread U(2, 20); ``labels`` index a table.

    Brain-ID draws U(25, 225) and U(5, 25): here also darker, brighter and less noisy, for heads with air and fat.
    """
    means = uniform(generator, count, 5, 240)
    stds = uniform(generator, count, 2, 20)
    if empty_background:
        means[0] = stds[0] = 0
    else:
        means[0], stds[0] = uniform_scalar(generator, 0, 40), uniform_scalar(generator, 0, 15)
    noise = torch.randn(labels.shape, generator=generator)
    flat = labels.reshape(-1)
    image = means.index_select(0, flat) + stds.index_select(0, flat) * noise.reshape(-1)
    return image.clamp(min=0).reshape(labels.shape)


def sample_head(
    labels: Tensor,
    distance: Tensor,
    brain: Tensor,
    generator: torch.Generator,
    shape: tuple[int, int, int],
    spacing: float,
    config: HeadConfig,
    tissues: tuple[str, ...] = (),
) -> tuple[Tensor, Tensor]:
    """One training pair: image in [0, about 1] and target distance (mm), both ``(1, X, Y, Z)``.

    Parameters
    ----------
    labels
        Label indices ``(1, X, Y, Z)`` uint8, 1 mm.
    distance
        Signed distance of the brain (mm) on the same grid.
    brain
        Boolean ``(K,)``: which labels belong to the brain.
    generator, shape, spacing, config
        Randomness, target grid (voxels; mm) and ranges.
    tissues
        Tissue of every label; needed where ``clinical_contrast`` is above 0.
    """
    extent = [n * spacing for n in shape]
    slack = torch.tensor([max(0.0, (n - e) / 2) for n, e in zip(labels.shape[1:], extent, strict=True)])
    draw = sample_deformation(generator, tuple(extent), slack + 10, config.deformation)
    coordinates = source_coordinates(draw, shape, spacing, tuple(labels.shape[1:]))
    warped = warp(labels.float(), coordinates, "nearest")[0].round().int()
    # A global scale keeps the distance in mm; local stretching stays within the deformation's range.
    scale = float(torch.linalg.det(draw.matrix()).abs()) ** (1 / 3)
    outside = warp(distance + MAXIMUM_DISTANCE_MM, coordinates)[0] - MAXIMUM_DISTANCE_MM
    target = (outside / scale).clamp(-MAXIMUM_DISTANCE_MM, MAXIMUM_DISTANCE_MM)
    if coin(generator, config.strip_probability):
        warped = torch.where(brain[warped.long()], warped, 0)
    empty = coin(generator, config.empty_background_probability)
    if coin(generator, config.clinical_contrast):
        contrast = sample_contrast(generator, 1.0, tissues)
        image = paint_labels(warped, contrast, torch.randn(warped.shape, generator=generator))
    else:
        image = paint(warped, generator, len(brain), empty)
    levels: tuple[Level, ...] = ("mild", "medium", "severe")
    level = levels[integer(generator, 0, 3)]
    parameters = sample_corruption(generator, shape, spacing, level, config.clinical)
    image, _ = corrupt(image, parameters, spacing)
    if coin(generator, config.deface_probability):
        image = _deface(image, target, generator)
    if coin(generator, config.crop_probability):
        image = _cut_field_of_view(image, generator)
    return normalise_head(image)[None], target[None]


def normalise_head(image: Tensor) -> Tensor:
    """Divide by the 99.5th percentile of the non-zero voxels and clip to [0, 1]; what inference does too."""
    positive = image[image > 0]
    if not len(positive):
        return image
    # A subsample is exact enough and a sort of millions of voxels is not cheap.
    step = max(1, len(positive) // 100_000)
    top = torch.quantile(positive[::step], 0.995)
    return (image / top.clamp(min=1e-6)).clamp(0, 1)


def _deface(image: Tensor, distance: Tensor, generator: torch.Generator) -> Tensor:
    """Blank what lies in front of and below a random plane, well outside the brain (RAS axes)."""
    axes = [torch.linspace(-1, 1, n) for n in image.shape]
    _, y, z = torch.meshgrid(*axes, indexing="ij")
    slope, offset = uniform_scalar(generator, 0.4, 1.6), uniform_scalar(generator, 0.2, 0.7)
    face = (y - slope * z > offset) & (distance < -uniform_scalar(generator, 1, 6))
    return torch.where(face, 0.0, image)


def _cut_field_of_view(image: Tensor, generator: torch.Generator) -> Tensor:
    """Zero a slab at one or both ends of one axis: scans that do not cover the head."""
    axis, n = integer(generator, 0, 3), 0
    n = image.shape[axis]
    low, high = integer(generator, 0, max(1, n // 4)), integer(generator, 0, max(1, n // 4))
    image = image.clone()
    image.narrow(axis, 0, low).zero_()
    image.narrow(axis, n - high, high).zero_()
    return image
