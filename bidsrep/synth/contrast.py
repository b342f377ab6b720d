"""Image contrasts: a value per tissue, painted on labels or on the tissue mixture of a real T1w scan.

Brain-ID draws every label's Gaussian at random (section 3.1). A share of *clinical* draws keeps the order of
intensities that T1w, T2w, FLAIR and PDw scans have, with wide jitter: real cohorts are made of those.
Intensities are on the 0 to 250 scale of the reference's generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bidsrep.synth.random import coin, integer, uniform, uniform_scalar

ContrastName = Literal["random", "T1w", "T2w", "FLAIR", "PDw", "equation"]

# Ranges of (CSF, grey matter, white matter) relative to the brightest tissue. Read off published tissue
# tables at 1.5 and 3 T through the signal equations; wide enough to hold both field strengths (and T2w of
# 60 to 120 ms echo time).
CLINICAL: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "T1w": ((0.05, 0.45), (0.50, 0.82), (0.95, 1.0)),
    "T2w": ((0.90, 1.25), (0.27, 0.65), (0.17, 0.48)),
    "FLAIR": ((0.05, 0.45), (0.90, 1.05), (0.62, 0.89)),
    "PDw": ((0.65, 1.10), (0.85, 1.0), (0.66, 0.85)),
}


@dataclass(frozen=True)
class Contrast:
    """One draw: mean and spread of CSF, grey and white matter, and per-label offsets (relative).

    ``lesion`` is the intensity of lesions where it follows from the sequence; else eq. 2 of PEPSI draws it.
    """

    name: ContrastName
    means: tuple[float, float, float]
    stds: tuple[float, float, float]
    label_means: Tensor | None = None
    label_stds: Tensor | None = None
    background: float = 0.0
    lesion: float | None = None


def sample_contrast(generator: torch.Generator, clinical: float, tissues: tuple[str, ...] = ()) -> Contrast:
    """Draw a contrast; with probability ``clinical`` one of the four clinical kinds.

    ``tissues`` is the tissue of every label of a label map; empty for a T1w anatomy.
    """
    name: ContrastName = "random"
    if coin(generator, clinical):
        name = ("T1w", "T2w", "FLAIR", "FLAIR", "PDw", "T2w")[integer(generator, 0, 6)]
        top = uniform_scalar(generator, 130, 220)
        means = [top * uniform_scalar(generator, *bounds) for bounds in CLINICAL[name]]
        if name == "T2w":
            means[1] = max(means[1], 1.1 * means[2])
        stds = [uniform_scalar(generator, 1, 8) for _ in range(3)]
    else:
        means = uniform(generator, 3, 25, 225).tolist()
        stds = uniform(generator, 3, 2, 15).tolist()
    label_means = label_stds = None
    if tissues:
        label_means, label_stds = _paint_table(generator, name, means, stds, tissues)
    return Contrast(name, _triple(means), _triple(stds), label_means, label_stds)


def paint_labels(labels: Tensor, contrast: Contrast, noise: Tensor) -> Tensor:
    """Gaussian of every voxel's label; ``labels`` ``(X, Y, Z)`` index the table that the draw was made for."""
    assert contrast.label_means is not None
    assert contrast.label_stds is not None
    flat = labels.reshape(-1)
    means, stds = contrast.label_means.to(noise.device), contrast.label_stds.to(noise.device)
    image = means.index_select(0, flat) + stds.index_select(0, flat) * noise.reshape(-1)
    return image.clamp(min=0).reshape(labels.shape)


def paint_mixture(
    t1w: Tensor, tissue_means: tuple[float, float, float], contrast: Contrast, noise: Tensor
) -> Tensor:
    """Repaint a T1w ``(X, Y, Z)`` (white matter 1): each intensity is a mixture of two neighbouring tissues.

    Between the tissue means of the T1w scan the new intensity is linear, which is exactly what mixing two
    tissues in a voxel gives (the reference's fractional generation labels 2 to 4). Above white matter the
    last slope continues at a third.
    """
    csf, gm, wm = contrast.means
    top = wm + (wm - gm) / 3
    knots = torch.tensor([0.0, tissue_means[0], tissue_means[1], 1.0, 1.0 + (1 - tissue_means[1])])
    # Below CSF lies background only at the mask's edge: fluid, not air, fills the gap inside a mask.
    image = piecewise_linear(t1w, knots, torch.tensor([csf, csf, gm, wm, top]))
    spread = piecewise_linear(t1w, knots, torch.tensor([contrast.stds[0], *contrast.stds, contrast.stds[2]]))
    return (image + spread * noise).clamp(min=0)


def piecewise_linear(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate ``values`` given at ascending ``knots``; constant outside them."""
    knots, values = knots.to(x), values.to(x)
    index = torch.bucketize(x, knots).clamp(1, len(knots) - 1)
    low, high = knots[index - 1], knots[index]
    share = ((x - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return values[index - 1] + share * (values[index] - values[index - 1])


def _paint_table(
    generator: torch.Generator, name: str, means: list[float], stds: list[float], tissues: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    count = len(tissues)
    if name == "random":
        table, spread = uniform(generator, count, 25, 225), uniform(generator, count, 2, 15)
    else:
        of = {"csf": 0, "gm": 1, "wm": 2, "lesion": 2}
        base = torch.tensor([means[of[t]] if t in of else 0.0 for t in tissues])
        # Structures of one tissue class differ by a few percent (thalamus against cortex).
        table = base * (1 + 0.06 * torch.randn(count, generator=generator))
        spread = torch.tensor([stds[of[t]] if t in of else 0.0 for t in tissues])
        outside = torch.tensor([t not in of for t in tissues])
        table = torch.where(outside, uniform(generator, count, 5, 225), table)
    table[0], spread[0] = 0.0, 0.0
    return table, spread


def _triple(values: list[float]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third
