"""Lesions: anomaly probabilities, pathology-encoded contrast and lesion shapes (PEPSI, section 2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.filters import dilate, erode, upsample
from bidsrep.synth.random import coin, integer, uniform, uniform_scalar


def anomaly_probability(image: Tensor, mask: Tensor, contrast: Literal["T1w", "FLAIR", "T2w"]) -> Tensor:
    """Probability of anomaly inside a lesion mask from the scan's own intensities (PEPSI, eq. 1).

    ``(I - Imin) / (Imax - Imin)`` over the mask for FLAIR and T2w, one minus that for T1w; 0 outside.
    ``image`` and boolean ``mask`` are ``(X, Y, Z)``.
    """
    probability = torch.zeros_like(image)
    if not bool(mask.any()):
        return probability
    values = image[mask]
    spread = (values.max() - values.min()).clamp(min=1e-6)
    relative = (values - values.min()) / spread
    probability[mask] = 1 - relative if contrast == "T1w" else relative
    return probability


def encode_pathology(
    image: Tensor,
    probability: Tensor,
    white: float,
    grey: float,
    generator: torch.Generator,
    variant: Literal["paper", "code"] = "paper",
) -> Tensor:
    """Add lesions to a painted image (PEPSI, eq. 2): darker where white exceeds grey matter, else brighter.

    Paper: the lesion's offset is ``N(+-white/2, white/2)``, here one draw per image, folded so that the
    sign holds. Code: mean U[white/8, 5 white/8] and voxel-wise spread U[0, white/2].
    """
    sign = 1.0 if grey > white else -1.0
    if variant == "paper":
        offset = abs(white / 2 + white / 2 * torch.randn((), generator=generator).item())
        change = sign * offset * probability
    else:
        mean = white / 8 + white / 2 * uniform_scalar(generator, 0, 1)
        std = white / 2 * uniform_scalar(generator, 0, 1)
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        change = probability * (sign * mean + std * noise)
    return (image + change).clamp(min=0)


def procedural_lesions(
    white: Tensor, spacing: float, generator: torch.Generator, maximum: int = 20, large: float = 0.15
) -> Tensor:
    """Lesion-shaped probabilities ``(X, Y, Z)`` grown in a boolean white-matter map.

    Each is a blob with an irregular surface, 1.5 to 6 mm in radius (with probability ``large`` one of 6 to
    15 mm), centred deep in white matter; a few per person, as multiple sclerosis and small-vessel disease
    show them. Probabilities fall off towards the edge.
    """
    out = torch.zeros(white.shape)
    candidates = erode(white).nonzero()
    if not len(candidates):
        return out
    roughness = smooth_noise(white.shape, 5 / spacing, generator)
    count = integer(generator, 1, maximum + 1)
    for number in range(count):
        centre = candidates[integer(generator, 0, len(candidates))]
        radius = math.exp(uniform_scalar(generator, math.log(1.5), math.log(6.0)))
        if number == 0 and coin(generator, large):
            radius = uniform_scalar(generator, 6, 15)
        _add_blob(out, centre, radius / spacing, roughness, generator)
    # Lesions stop at the cortex and the ventricles, but not at every partial-volume voxel.
    return out * dilate(white)


def transplanted_lesions(
    prior: Tensor, brain: Tensor, white: Tensor, generator: torch.Generator, keep: float = 0.7
) -> Tensor:
    """Put a lesion mask drawn in a template's brain box into this brain's box, inside white matter.

    ``prior`` ``(X', Y', Z')`` is cropped to the template's brain; ``brain`` and ``white`` are boolean
    ``(X, Y, Z)`` of the same orientation.
    """
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        used = brain.any(dim=others[1]).any(dim=others[0]).nonzero()[:, 0]
        if not len(used):
            return torch.zeros(brain.shape)
        spans.append((int(used[0]), int(used[-1]) + 1))
    size = tuple(high - low for low, high in spans)
    placed = F.interpolate(prior[None, None].float(), size, mode="trilinear", align_corners=False)[0, 0]
    if coin(generator, 0.5):
        placed = placed.flip(0)
    out = torch.zeros(brain.shape)
    out[tuple(slice(low, high) for low, high in spans)] = placed.clamp(0, 1)
    drop = smooth_noise(brain.shape, 12, generator) > torch.distributions.Normal(0, 1).icdf(
        torch.tensor(keep)
    )
    return torch.where(drop, 0.0, out) * dilate(white)


def _add_blob(
    out: Tensor, centre: Tensor, radius: float, roughness: Tensor, generator: torch.Generator
) -> None:
    reach = math.ceil(radius * 1.8) + 1
    box = tuple(
        slice(max(0, int(c) - reach), min(n, int(c) + reach + 1))
        for c, n in zip(centre, out.shape, strict=True)
    )
    axes = [
        torch.arange(s.start, s.stop, dtype=torch.float32) - float(c)
        for s, c in zip(box, centre, strict=True)
    ]
    stretch = uniform(generator, 3, 0.7, 1.4)
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    distance = torch.sqrt((x * stretch[0]) ** 2 + (y * stretch[1]) ** 2 + (z * stretch[2]) ** 2)
    edge = radius * (1 + 0.35 * roughness[box]) - distance
    strength = uniform_scalar(generator, 0.5, 1.0)
    out[box] = torch.maximum(out[box], strength * (edge + 0.5).clamp(0, 1))


def smooth_noise(shape: tuple[int, ...] | torch.Size, scale: float, generator: torch.Generator) -> Tensor:
    """Unit-variance noise with a correlation length of about ``scale`` voxels."""
    coarse = [max(2, math.ceil(n / scale)) for n in shape]
    smooth = upsample(torch.randn(*coarse, generator=generator), shape)
    return smooth / smooth.std().clamp(min=1e-6)
