"""Deformable registration of two brains on a model's features, whatever their contrasts.

The images are aligned linearly and on one grid before; what is left is found by
`bidsrep.tasks.registration`, and comes back as displacement fields in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bidsrep.imaging.deformable import DisplacementField
from bidsrep.imaging.grids import Grid, bounding_box, crop, pad_to_multiple
from bidsrep.imaging.normalise import normalise
from bidsrep.imaging.volume import Volume
from bidsrep.models.model import Model
from bidsrep.tasks.registration import RegistrationSettings, register_features

MARGIN = 8  # voxels kept around the brains
FIELD_MM = 2.0  # spacing of the fields: half that of the velocity's finest nodes
COARSE_FEATURES = "the features of {} have a stride of {}; registration needs them at full resolution"
OTHER_GRID = "images to be registered lie on one grid, got {} and {}"


@dataclass(frozen=True)
class Deformed:
    """What was found: both fields on a grid of 2 mm around the brains, in RAS+ mm.

    Parameters
    ----------
    warp : DisplacementField
        From positions of the fixed to positions of the moving image: resamples the moving image.
    inverse : DisplacementField
        The way back.
    quality : dict
        Of `bidsrep.tasks.registration.Deformation`; JSON-ready.
    """

    warp: DisplacementField
    inverse: DisplacementField
    quality: dict[str, float] = field(default_factory=dict)


def register_deformable(
    model: Model,
    fixed: Volume,
    moving: Volume,
    fixed_mask: np.ndarray,
    moving_mask: np.ndarray,
    settings: RegistrationSettings | None = None,
) -> Deformed:
    """Find the deformation that makes two brains' features alike.

    Parameters
    ----------
    model : Model
        Its features are at full resolution.
    fixed, moving : Volume
        On one grid, aligned linearly, of the voxel size the model was trained on.
    fixed_mask, moving_mask : ndarray of bool, (X, Y, Z)
        Their brains; the fixed one's is where features are compared.
    settings : RegistrationSettings, optional
        How to search.
    """
    if model.stride != 1:
        raise ValueError(COARSE_FEATURES.format(model.name, model.stride))
    if fixed.shape != moving.shape or not np.allclose(fixed.affine, moving.affine, atol=1e-3):
        raise ValueError(OTHER_GRID.format(fixed.shape, moving.shape))
    box = bounding_box(fixed_mask | moving_mask, MARGIN)
    grid = Grid.of(crop(fixed, box))
    pair = [
        _features(model, image.data[box], mask[box])
        for image, mask in ((moving, moving_mask), (fixed, fixed_mask))
    ]
    weight = torch.from_numpy(fixed_mask[box].astype(np.float32))[None, None]
    x, y, z = (float(size) for size in grid.spacing)
    found = register_features(pair[0], pair[1], (x, y, z), weight, settings)
    coarse = _coarser(grid, FIELD_MM)
    warp, inverse = (
        DisplacementField.along_axes(found.displacement(coarse.shape, inverse=back).numpy(), coarse)
        for back in (False, True)
    )
    return Deformed(warp, inverse, found.quality)


def _features(model: Model, data: np.ndarray, mask: np.ndarray) -> Tensor:
    """Features ``(1, C, X, Y, Z)`` of a brain, on the processor: there, two runs give the same bits."""
    padded, keep = pad_to_multiple(normalise(data, mask), model.divisor)
    return model.features(padded)[:, :, *keep].cpu()


def _coarser(grid: Grid, spacing_mm: float) -> Grid:
    """A grid over the same field of view (outer voxel centres) with voxels of about `spacing_mm`."""
    extent = (np.asarray(grid.shape) - 1) * grid.spacing
    x, y, z = (max(2, round(length / spacing_mm) + 1) for length in extent)
    affine = grid.affine.copy()
    affine[:3, :3] *= extent / (np.array([x, y, z]) - 1) / grid.spacing
    return Grid((x, y, z), affine)
