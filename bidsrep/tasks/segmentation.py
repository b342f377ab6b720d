"""Brain segmentation (Brain-ID's ``seg`` head): 33 structures."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.polynomial.legendre import legvander
from torch import Tensor

from bidsrep.tasks.task import Task

# Order of the channels (the reference's label list): neutral structures, left ones, right ones.
NEUTRAL = (0, 14, 15, 16, 24, 77, 85)
LEFT = (2, 3, 4, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28)
RIGHT = (41, 42, 43, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
LABELS = NEUTRAL + LEFT + RIGHT

IGNORED = 255
"""Class of voxels whose structure is unknown: they count in no loss and no figure."""

NEAREST = {
    5: 4, 44: 43,  # inferior lateral ventricle: lateral ventricle
    31: 4, 63: 43,  # choroid plexus: the ventricle it lies in
    72: 14,  # fifth ventricle (cavum septi pellucidi): the other ventricle on the midline
    30: 24, 62: 24,  # vessel, which is dark perivascular fluid: CSF
    25: 77, 57: 77, 78: 77, 79: 77,  # lesion, sided hypointensities: white-matter hypointensities
    136: 4, 137: 4, 163: 43, 164: 43,  # SynthSeg's training maps: second parts of the ventricles
    5001: 2, 5002: 41,  # unsegmented white matter of the parcellations
}  # fmt: skip
"""FreeSurfer values that the list lacks, and the one of nearest meaning."""

PARCELS = {3: ((1000, 1036), (11100, 11176)), 42: ((2000, 2036), (12100, 12176)),
           2: ((3000, 3036), (13100, 13176)), 41: ((4000, 4036), (14100, 14176))}  # fmt: skip
"""Value ranges of the cortical and white-matter parcellations, and the tissue they are parts of."""


def most_probable_label(raw: Tensor) -> Tensor:
    """FreeSurfer label ``(B, 1, X, Y, Z)`` int16 of the largest of the 33 raw outputs."""
    labels = torch.tensor(LABELS, dtype=torch.int16, device=raw.device)
    return labels[raw.argmax(dim=1, keepdim=True)]


FLUID = (4, 14, 15, 24)
"""Structures of one intensity: what fills the ventricles also surrounds the brain."""
EVERY = 8
"""Of the brain's voxels every so many tell the intensities."""
ITERATIONS = 10
LEVELS = 1024
"""Intensities that densities are computed for."""
NARROWEST = 0.02
"""Standard deviation of noise-free intensities."""
OUTLIERS = 0.05
"""Density of intensities that no structure explains (white matter of a T1w is about 1)."""
BIAS_DEGREE = 3
BIAS_RANGE = (0.4, 2.5)


@torch.no_grad()
def follow_intensities(raw: Tensor, image: Tensor) -> Tensor:
    """Let borders that were found on coarse voxels follow those in the image; changes ``raw`` in place.

    What the network says is the prior of every voxel; each structure, with its counterpart on the other side, has a
    normal distribution of intensities, all of one variance, found in this very image by expectation and maximisation,
    so contrasts need not be known. The field that the image is multiplied by, a polynomial of degree 3, is found
    along with them (Van Leemput et al., IEEE Transactions on Medical Imaging 1999; Ashburner and Friston, NeuroImage
    2005). A uniform density beside the normal ones limits what intensities can do against the prior: lesions are no
    cortex.

    Parameters
    ----------
    raw
        The 33 raw outputs ``(B, 33, X, Y, Z)``, on the image's grid.
    image
        ``(B, 1, X, Y, Z)``, 0 outside the brain.

    Returns
    -------
    Tensor
        ``raw``, plus the logarithm of the intensities' density.
    """
    groups = _groups_of_intensity().to(raw.device)
    for scores, values in zip(raw, image[:, 0].float(), strict=True):
        chosen = (values > 0).flatten().nonzero()[::EVERY, 0]
        if not len(chosen):
            continue
        shares = scores.flatten(1)[:, chosen].softmax(0)
        prior = shares.new_zeros(int(groups.max()) + 1, len(chosen)).index_add_(0, groups, shares)
        mean, variance, field = _normal_intensities(values, chosen, prior)
        even = values / field
        # Densities are looked up: there are fewer intensities that differ than voxels.
        levels = torch.linspace(float(even.min()), float(even.max()) + NARROWEST, LEVELS, device=raw.device)
        level = ((even - levels[0]) / (levels[1] - levels[0])).round_().int()
        for group, likely in enumerate(_density(levels, mean, variance).log_()):
            here = likely[level]
            for number in (groups == group).nonzero()[:, 0].tolist():
                scores[number] += here
    return raw


def _normal_intensities(values: Tensor, chosen: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means ``(K, 1)``, their common variance and the bias field ``(X, Y, Z)`` of an image's intensities.

    From the ``chosen`` of its voxels, of which ``prior`` ``(K, N)`` says what they are.
    """
    axes = [_polynomials(length).to(values.device) for length in values.shape]
    places = torch.unravel_index(chosen, values.shape)
    x, y, z = (axis[:, place] for axis, place in zip(axes, places, strict=True))
    orders = [order for order in product(range(BIAS_DEGREE + 1), repeat=3) if sum(order) <= BIAS_DEGREE]
    basis = torch.stack([x[i] * y[j] * z[k] for i, j, k in orders])
    seen = values.flatten()[chosen]
    field, belongs = torch.ones_like(seen), prior
    for _ in range(ITERATIONS):
        even = seen / field
        size = belongs.sum(1, keepdim=True).clamp(min=1e-3)
        mean = (belongs @ even)[:, None] / size
        # One for all: voxels that two structures share then fall to the one that fills more of them.
        spread = (even.square().sum() - (size * mean.square()).sum()) / len(even)
        variance = spread.clamp(min=0) + NARROWEST**2
        density = _density(even, mean, variance)
        belongs = prior * density
        belongs /= belongs.sum(0).clamp(min=1e-12)
        # Least squares: what is explained by no structure says nothing of the field.
        explained = belongs * (1 - OUTLIERS / density)
        weight = (explained * (mean.square() / variance)).sum(0)
        target = (explained * (mean / variance)).sum(0) * seen
        system = (basis * weight) @ basis.T
        ridge = (1e-6 * system.diagonal().mean() + 1e-6) * torch.eye(len(basis), device=basis.device)
        found = torch.linalg.solve((system + ridge).double(), (basis @ target).double()).float()
        field = (found @ basis).clamp(*BIAS_RANGE)
    coefficients = values.new_zeros([BIAS_DEGREE + 1] * 3)
    for order, coefficient in zip(orders, found, strict=True):
        coefficients[order] = coefficient
    whole = torch.einsum("ijk,ix,jy,kz->xyz", coefficients, *axes)
    return mean, variance, whole.clamp_(*BIAS_RANGE)


def _polynomials(length: int) -> Tensor:
    """Legendre's polynomials of degrees 0 to `BIAS_DEGREE` along an axis, ``(BIAS_DEGREE + 1, length)``."""
    return torch.from_numpy(legvander(np.linspace(-1, 1, length), BIAS_DEGREE).T.astype(np.float32).copy())


def _density(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    normal = torch.exp((values - mean).square() / (-2 * variance)) / (2 * torch.pi * variance).sqrt()
    return normal + OUTLIERS


@cache
def _groups_of_intensity() -> Tensor:
    """For every class the number of its intensity: both sides of a structure share it, and so do `FLUID`."""
    other = dict(zip(RIGHT, LEFT, strict=True))
    same = [other.get(label, label) for label in LABELS]
    same = [FLUID[0] if label in FLUID else label for label in same]
    return torch.tensor([sorted(set(same)).index(label) for label in same])


SEGMENTATION = Task("seg", "seg", len(LABELS), most_probable_label, "FreeSurfer label", "dseg")


def to_classes(values: Tensor) -> Tensor:
    """Number of the channel, int64, of FreeSurfer values of any shape; `NEAREST` where the list lacks one.

    What has no side (corpus callosum, 251 to 255) or no counterpart becomes `IGNORED`.
    """
    table = _class_table()
    known = (values >= 0) & (values < len(table))
    return torch.where(known, table[torch.where(known, values, 0).long()], IGNORED)


def mirror_classes(classes: Tensor) -> Tensor:
    """Swap left and right structures: for a head that was reflected, whose left side shows the right one."""
    mirrored = torch.arange(IGNORED + 1)
    first, sided = len(NEUTRAL), len(LEFT)
    mirrored[first : first + sided] += sided
    mirrored[first + sided : len(LABELS)] -= sided
    return mirrored[classes.long()]


def segmentation_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice overlap, the latter averaged over the classes there are.

    The reference divides both terms by the number of classes and sums Dice over all 33, so that
    structures outside a crop count as missed. ``logits`` are ``(B, 33, X, Y, Z)``, ``classes``
    ``(B, 1, X, Y, Z)`` with `IGNORED` voxels.
    """
    target = classes[:, 0].long()
    if not bool((target != IGNORED).any()):
        return logits.sum() * 0
    cross_entropy = F.cross_entropy(logits, target, ignore_index=IGNORED)
    kept = target != IGNORED
    probability = torch.softmax(logits, 1)
    right = probability.gather(1, target.where(kept, 0)[:, None])[:, 0][kept]
    # Sums per class without a one-hot copy, which would be as large as the output.
    overlap = right.new_zeros(logits.shape[1]).index_add(0, target[kept], right)
    sizes = torch.bincount(target[kept], minlength=logits.shape[1])
    dice = 2 * overlap / ((probability * kept[:, None]).sum((0, 2, 3, 4)) + sizes).clamp(min=1e-5)
    return cross_entropy + (1 - dice)[sizes > 0].mean()


def structure_volumes(labels: Tensor, voxel_ml: float) -> dict[int, float]:
    """Volume in ml of every structure of the list in a segmentation ``(X, Y, Z)``; background is left out."""
    return {label: float((labels == label).sum()) * voxel_ml for label in LABELS if label}


@cache
def _class_table() -> Tensor:
    """Class of every FreeSurfer value up to the largest that is known."""
    meaning = {value: value for value in LABELS} | NEAREST
    for tissue, ranges in PARCELS.items():
        meaning |= {value: tissue for start, stop in ranges for value in range(start, stop)}
    table = torch.full((max(meaning) + 1,), IGNORED, dtype=torch.int64)
    for value, label in meaning.items():
        table[value] = LABELS.index(label)
    return table
