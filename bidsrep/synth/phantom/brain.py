"""One person's brain from population tissue maps: sharpened, individually folded, with lesions near the ventricles.

Tissue fractions are ``(X, Y, Z)`` float32 in [0, 1] on the template's grid; distances in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bidsrep.synth.phantom.shapes import Array


@dataclass(frozen=True)
class Template:
    """Tissue probability maps ``(X, Y, Z)`` of a population, with their mask and affine (RAS+, mm)."""

    gm: Array
    wm: Array
    mask: Array
    affine: Array

    @property
    def spacing(self) -> float:
        """Voxel size in mm (isotropic, axis-aligned)."""
        return float(self.affine[0, 0])


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid with a ragged edge: centre (voxels), unit long axis, half lengths (mm), seed of the edge."""

    centre: tuple[float, float, float]
    axis: tuple[float, float, float]
    length: float
    width: float
    seed: int


def individual_fractions(
    template: Template, rng: np.random.Generator, sharpness: float = 2.0, folding: float = 0.8
) -> tuple[Array, Array]:
    """Grey and white matter fractions of one person; the rest of the mask is cerebrospinal fluid.

    A population average has no sharp cortex. Its probabilities are raised to ``sharpness`` and multiplied by the
    exponential of smooth noise (SD ``folding``, 2.5 mm), then renormalised: the borders become narrow and differ
    from person to person, and follow the average where it is certain.
    """
    inside = template.mask > 0
    gm, wm = template.gm[inside], template.wm[inside]
    csf = np.clip(1 - gm - wm, 0, 1)
    # Sulci are narrow, so the average never shows more than about half of their fluid.
    weights = [1.8 * csf, gm, wm]
    total = np.zeros_like(gm)
    powers = []
    for weight in weights:
        noise = ndimage.gaussian_filter(
            rng.standard_normal(inside.shape, dtype=np.float32), 2.5 / template.spacing
        )
        power = (weight + 0.01) ** sharpness * np.exp(folding * noise[inside] / noise.std())
        powers.append(power)
        total += power
    result = []
    for power in powers[1:]:
        fraction = np.zeros(inside.shape, dtype=np.float32)
        fraction[inside] = power / total
        result.append(fraction)
    return result[0], result[1]


def ventricle_distance(gm: Array, wm: Array, mask: Array, spacing: float) -> Array:
    """Distance (mm) of every voxel to the ventricles: fluid more than 20 mm below the brain's surface."""
    factor = max(1, round(2 / spacing))
    small = (slice(None, None, factor),) * 3
    depth = ndimage.distance_transform_edt(mask[small] > 0) * spacing * factor
    fluid = (gm[small] + wm[small] < 0.5) & (depth > 20)
    labels, count = ndimage.label(fluid)
    if count == 0:
        raise ValueError("no ventricles: no fluid more than 20 mm below the surface of the mask")
    sizes = ndimage.sum_labels(fluid, labels, np.arange(1, count + 1))
    ventricles = np.isin(labels, 1 + np.flatnonzero(sizes >= 0.2 * sizes.max()))
    distance = ndimage.distance_transform_edt(~ventricles) * spacing * factor
    full = distance.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    return full[tuple(slice(0, n) for n in mask.shape)].astype(np.float32)


def sample_lesions(
    wm: Array, distance: Array, affine: Array, count: int, rng: np.random.Generator
) -> tuple[Lesion, ...]:
    """Draw lesions in supratentorial white matter, most of them close to a ventricle and pointing away from it."""
    height = np.arange(wm.shape[2]) * affine[2, 2] + affine[2, 3]
    side = np.arange(wm.shape[0]) * affine[0, 0] + affine[0, 3]
    allowed = (wm > 0.9) & (distance > 2) & (height > 0) & (np.abs(side) > 8)[:, None, None]
    candidates = np.argwhere(allowed)
    if len(candidates) == 0:
        raise ValueError("no white matter to place lesions in")
    weights = np.exp(-distance[allowed] / 4)
    picks = rng.choice(len(candidates), size=count, p=weights / weights.sum())
    lesions = []
    for centre in candidates[picks]:
        gradient = np.array([_slope(distance, centre, axis) for axis in range(3)])
        axis = gradient + 0.3 * rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        width = float(np.clip(rng.lognormal(np.log(2.9), 0.4), 1.8, 6.0))
        lesions.append(
            Lesion(
                centre=(float(centre[0]), float(centre[1]), float(centre[2])),
                axis=(float(axis[0]), float(axis[1]), float(axis[2])),
                length=width * float(rng.uniform(1.1, 2.0)),
                width=width,
                seed=int(rng.integers(2**31)),
            )
        )
    return tuple(lesions)


def paint_lesions(lesions: tuple[Lesion, ...], wm: Array, spacing: float, growth: float = 1.0) -> Array:
    """Lesion fraction ``(X, Y, Z)``, never more than the white matter of the voxel; ``growth`` scales the lengths."""
    result = np.zeros_like(wm)
    for lesion in lesions:
        # Fixed whatever the growth, so that a lesion keeps its ragged edge from one session to the next.
        reach = int(np.ceil((1.5 * lesion.length + 4) / spacing))
        first = np.maximum(np.round(lesion.centre).astype(int) - reach, 0)
        last = np.minimum(np.round(lesion.centre).astype(int) + reach + 1, wm.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        offset = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), -1)
        offset = (offset - np.array(lesion.centre)) * spacing
        along = offset @ np.array(lesion.axis)
        across = np.sqrt(np.maximum((offset**2).sum(-1) - along**2, 0))
        radius = np.sqrt((along / lesion.length) ** 2 + (across / lesion.width) ** 2) / growth
        ragged = np.random.default_rng(lesion.seed).standard_normal((2 * reach + 1,) * 3)
        ragged = ndimage.gaussian_filter(ragged, 1.5 / spacing)[tuple(slice(0, n) for n in radius.shape)]
        edge = (1 - radius + 0.2 * ragged / ragged.std()) * lesion.width
        result[box] = np.maximum(result[box], np.clip(0.5 + edge / 1.5, 0, 1))
    return np.minimum(result, wm)


def _slope(values: Array, centre: Array, axis: int) -> float:
    ahead, behind = centre.copy(), centre.copy()
    ahead[axis] = min(centre[axis] + 3, values.shape[axis] - 1)
    behind[axis] = max(centre[axis] - 3, 0)
    return float(values[tuple(ahead)] - values[tuple(behind)])
