"""Wide ventricles: the anatomy of old and ill brains out of the healthy young ones that labels exist for.

A network that has only seen slender ventricles takes large ones for something else, for lesions above all. The
tissue around the ventricles is pushed outwards, most at their wall and less and less towards the cortex.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.filters import upsample

REACH_MM = 15.0
"""Distance from the wall over which the push falls to 1/e; more than the largest push, so that nothing folds."""

NODE_MM = 2.0
_STEPS = 5
# How deep in a T1w scan's brain (mm) fluid counts as ventricle, not as a sulcus or a cistern.
_DEEP_MM = 22.0
_PART_VOXELS = 300


def of_names(names: tuple[str, ...]) -> Tensor:
    """Boolean ``(K,)``: which structures (FreeSurfer's names) are the lateral or the third ventricle."""
    kept = ("Lateral-Ventricle", "Inf-Lat-Vent", "3rd-Ventricle", "5th-Ventricle")
    return torch.tensor([any(part in name for part in kept) for name in names])


def of_t1w(t1w: Tensor, fluid_below: float) -> Tensor:
    """Boolean lateral ventricles ``(X, Y, Z)`` of a brain-extracted 1 mm T1w in RAS: large dark parts deep inside.

    Fluid below the brain's middle is left out: the cisterns lie there.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

    brain = binary_fill_holes((t1w > 0).numpy())
    depth = distance_transform_edt(brain)
    fluid = (t1w.numpy() < fluid_below) & (depth > _DEEP_MM)
    fluid[:, :, : int(np.average(np.arange(brain.shape[2]), weights=brain.sum((0, 1))))] = False
    parts, _ = label(fluid)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    large = sizes >= max(_PART_VOXELS, sizes.max() / 4)
    return torch.from_numpy(large[parts])


def inward_field(ventricles: Tensor, spacing: float = 1.0) -> Tensor | None:
    """Direction towards the ventricles ``(3, x, y, z)``, 1 at their wall, 0 on their midline; about 2 mm nodes.

    ``ventricles`` is boolean ``(X, Y, Z)`` with voxels of ``spacing`` mm; first and last nodes are its corners.
    None where there are none.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    nodes = [max(2, math.ceil((n - 1) * spacing / NODE_MM) + 1) for n in ventricles.shape]
    step = [(n - 1) * spacing / (k - 1) for n, k in zip(ventricles.shape, nodes, strict=True)]
    share = F.interpolate(ventricles[None, None].float(), nodes, mode="trilinear", align_corners=True)[0, 0]
    inside = (share > 0.4).numpy()
    if inside.sum() < 8:
        return None
    distance = distance_transform_edt(~inside, step) - distance_transform_edt(inside, step)
    gradient = np.stack(np.gradient(gaussian_filter(distance, [1.0 / s for s in step]), *step))
    field = -gradient * np.exp(-distance.clip(0) / REACH_MM)
    return torch.from_numpy(field.astype(np.float32))


def widen(coordinates: Tensor, field: Tensor, source_shape: tuple[int, ...], push: float) -> Tensor:
    """Move source ``coordinates`` ``(X, Y, Z, 3)`` (voxels) up to ``push`` voxels along `inward_field`.

    What shows at a voxel comes from nearer the ventricles, so the ventricles grow. The path is followed in
    steps on every second voxel: it ends on the midline and does not cross it.
    """
    nodes = [max(2, (n + 1) // 2) for n in coordinates.shape[:3]]
    size = torch.tensor(source_shape, dtype=torch.float32)
    start = upsample(coordinates.movedim(-1, 0), nodes).movedim(0, -1)
    position = start
    for _ in range(_STEPS):
        grid = (position * (2 / (size - 1)) - 1).flip(-1)[None]
        moved = F.grid_sample(field[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
        position = position + (push / _STEPS) * moved.movedim(0, -1)
    return coordinates + upsample((position - start).movedim(-1, 0), coordinates.shape[:3]).movedim(0, -1)
