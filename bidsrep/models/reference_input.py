"""The input the authors' demos give their networks (``prepare_image`` of Brain-ID and PEPSI).

For comparisons with their published numbers; the app itself prepares images in `bidsrep.imaging`
(brain mask, one interpolation, robust scaling). Deliberate differences from the reference:

- the affine follows the centre crop (theirs does not: outputs of large images lie shifted in space);
- a constant image, NaN instead of a result there, is refused;
- the voxel size is the length of the affine's columns, for oblique images, too (PEPSI sums their
  absolute values instead, which is right for axis-aligned images only).

Volumes are ``(X, Y, Z)`` float32.
"""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.errors import InputError
from bidsrep.imaging.grids import crop, to_ras
from bidsrep.imaging.volume import Volume

WINDOW = 220
CONSTANT = "the image is constant ({:g}): there is nothing to scale to [0, 1]"
RESIZE_TRUNCATE = 2.5
GENERATOR_TRUNCATE = 3.0


def reference_input(volume: Volume, window: int = WINDOW) -> Volume:
    """Scale to [0, 1], resample to 1 mm, reorient to RAS, crop the centre.

    Parameters
    ----------
    volume
        The image as read, on its native grid; not skull-stripped (the reference does not either).
    window
        Largest number of voxels kept along each axis.

    Returns
    -------
    Volume
        Values in about [0, 1] (interpolation comes after scaling), 1 mm, RAS; residual obliquity kept.

    Raises
    ------
    InputError
        If the image is constant.
    """
    data = torch.nan_to_num(torch.from_numpy(np.ascontiguousarray(volume.data)))
    data = data - data.min()
    if not data.max() > 0:
        raise InputError(CONSTANT.format(float(volume.data.flat[0])))
    aligned = to_ras(resize(volume.replace((data / data.max()).numpy()), 1.0))
    starts = [max(size - window, 0) // 2 for size in aligned.shape]
    x, y, z = (slice(start, start + window) for start in starts)
    return crop(aligned, (x, y, z))


def resize(volume: Volume, spacing: float) -> Volume:
    """Blur where voxels grow, then interpolate linearly to isotropic voxels of ``spacing`` mm."""
    size = np.array(volume.shape)
    new = np.round(size * volume.spacing / spacing).astype(int)
    shrink = size / new
    sigma = np.where(shrink > 1, math.log(5) / math.pi * shrink, 0.0)
    blurred = gaussian_blur(torch.from_numpy(volume.data), sigma.tolist(), RESIZE_TRUNCATE)
    resized = zoom(blurred, (new / size).tolist())
    affine = volume.affine.copy()
    affine[:3, :3] *= shrink
    affine[:3, 3] = nib.affines.apply_affine(volume.affine, 0.5 * (shrink - 1))
    return Volume(resized.numpy(), affine)


def gaussian_blur(data: Tensor, sigma: list[float], truncate: float = GENERATOR_TRUNCATE) -> Tensor:
    """Gaussian along each axis with standard deviation ``sigma`` (voxels; 0: none), zeros outside.

    Parameters
    ----------
    data
        ``(X, Y, Z)``.
    sigma
        One per axis.
    truncate
        Radius of the kernel in standard deviations, rounded up to voxels: 3 in the reference's
        generator, 2.5 where it resizes.
    """
    result = data[None, None]
    for axis, width in enumerate(sigma):
        if width <= 0:
            continue
        radius = math.ceil(truncate * width)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / width) ** 2)
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[axis + 2], padding[axis] = -1, radius
        result = F.conv3d(result, (kernel / kernel.sum()).to(data.dtype).view(shape), padding=padding)
    return result[0, 0]


def zoom(data: Tensor, factors: list[float]) -> Tensor:
    """Interpolate ``(X, Y, Z)`` linearly to ``round(size * factor)``; corners of voxels aligned, edges held."""
    for axis, factor in enumerate(factors):
        size = data.shape[axis]
        new = round(size * factor)
        first = (1 - factor) / (2 * factor)
        position = (first + torch.arange(new, dtype=torch.float64) / factor).clamp(0, size - 1)
        low = position.floor().long()
        shape = [1, 1, 1]
        shape[axis] = new
        weight = (position - low).to(data.dtype).view(shape)
        high = (low + 1).clamp(max=size - 1)
        data = data.index_select(axis, low) * (1 - weight) + data.index_select(axis, high) * weight
    return data
