"""Whole-volume inference of `UNet3D` in a fraction of the time and memory, with the same result.

GroupNorm makes every feature depend on the whole volume, so a volume must not be cut into tiles. What a
plain forward spends its memory on is avoided instead: normalised copies, the upsampled and the
concatenated tensor of each decoder, skips kept longer than needed. Convolutions overwrite their input
where the number of channels stays the same, and return the sums that the next GroupNorm needs
(`bidsrep.models.lean_conv` says how they save multiplications). For inference only: there are no
gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bidsrep.models.lean_conv import Moments, Operand, convolve, nearest_indices
from bidsrep.models.unet import SingleConv, UNet3D

TOO_SMALL = "every side must have at least {} voxels, got {}"


@torch.no_grad()
def lean_features(unet: UNet3D, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute ``unet(x)`` with little memory.

    Parameters
    ----------
    unet
        The network; its parameters are used as float32.
    x
        Images ``(B, in_channels, X, Y, Z)``; any size, odd ones too, of at least
        ``2 ** (num_levels - 1)`` voxels a side.
    dtype
        ``torch.float32``, or ``torch.bfloat16`` for the multiplications and for what is kept between
        layers (sums and statistics stay float32 and float64).

    Returns
    -------
    Tensor
        Features ``(B, f_maps, X, Y, Z)`` of type ``dtype``, channels last in memory.

    Raises
    ------
    ValueError
        If a side of ``x`` is too short for the number of levels.
    """
    shortest = 2 ** (unet.num_levels - 1)
    if min(x.shape[2:]) < shortest:
        raise ValueError(TOO_SMALL.format(shortest, tuple(x.shape[2:])))
    features = [_features_of_one(unet, image.permute(1, 2, 3, 0), dtype) for image in x]
    stacked = features[0][None] if len(features) == 1 else torch.stack(features)
    return stacked.permute(0, 4, 1, 2, 3)


def _features_of_one(unet: UNet3D, image: Tensor, dtype: torch.dtype) -> Tensor:
    """Features ``(X, Y, Z, C)`` of one image ``(X, Y, Z, in_channels)``."""
    skips: list[tuple[Tensor, Moments]] = []
    current = image.float().contiguous()
    for level, encoder in enumerate(unet.encoders):
        if level:
            current = max_pool(current)
        block = encoder.basic_module
        current, moments = _layer(block.SingleConv1, [(current, measure(current))], dtype, keep=not level)
        unit = unet.unit_features and unet.num_levels == 1
        current, moments = _layer(block.SingleConv2, [(current, moments)], dtype, unit=unit)
        skips.append((current, moments))
    coarse, moments = skips.pop()
    for level, decoder in enumerate(unet.decoders, start=1):
        block = decoder.basic_module
        skip = skips.pop()
        size = skip[0].shape[:3]
        if any(2 * have != want for have, want in zip(coarse.shape, size, strict=False)):
            moments = measure(coarse, size)
        current, moments = _layer(block.SingleConv1, [skip, (coarse, moments)], dtype)
        del skip, coarse
        unit = unet.unit_features and level == len(unet.decoders)
        coarse, moments = _layer(block.SingleConv2, [(current, moments)], dtype, unit=unit)
        del current
    return coarse


def _layer(
    layer: SingleConv,
    inputs: list[tuple[Tensor, Moments]],
    dtype: torch.dtype,
    keep: bool = False,
    unit: bool = False,
) -> tuple[Tensor, Moments]:
    """GroupNorm, convolution, LeakyReLU of the concatenation of ``inputs``, coarser ones upsampled."""
    scale, shift = group_norm_affine(layer.groupnorm, [moments for _, moments in inputs])
    first = inputs[0][0]
    grid = (first.shape[0], first.shape[1], first.shape[2])
    weight = layer.conv.weight.float()
    operands, start = [], 0
    for data, _ in inputs:
        part = slice(start, start + data.shape[3])
        operands.append(Operand(data, scale[part], shift[part], weight[:, part], grid))
        start = part.stop
    reuse = not keep and first.shape[3] == weight.shape[0] and first.dtype == dtype
    return convolve(operands, out=first if reuse else None, unit=unit, dtype=dtype)


def group_norm_affine(norm: nn.GroupNorm, inputs: list[Moments]) -> tuple[Tensor, Tensor]:
    """Scale and shift ``(C,)`` float32 that GroupNorm amounts to, from the sums of the concatenation.

    Nearest-neighbour upsampling to twice the size multiplies sums and number of voxels alike.
    """
    mean = torch.cat([moments.total / moments.voxels for moments in inputs])
    square = torch.cat([moments.squares / moments.voxels for moments in inputs])
    mean, square = (value.view(norm.num_groups, -1).mean(1) for value in (mean, square))
    inverse = (square - mean**2).clamp_min(0).add(norm.eps).rsqrt()
    per_group = norm.num_channels // norm.num_groups
    mean, inverse = mean.repeat_interleave(per_group), inverse.repeat_interleave(per_group)
    scale = inverse * norm.weight.double()
    return scale.float(), (norm.bias.double() - mean * scale).float()


def measure(data: Tensor, size: tuple[int, ...] | None = None) -> Moments:
    """Sums over the voxels of ``(X, Y, Z, C)``, or of its nearest-neighbour upsampling to ``size``."""
    size = tuple(size or data.shape[:3])
    counts = [
        torch.bincount(nearest_indices(have, want, data.device), minlength=have)
        for have, want in zip(data.shape, size, strict=False)
    ]
    plane = (counts[1][:, None] * counts[2]).double()[..., None]
    total, squares = torch.zeros(2, data.shape[3], dtype=torch.float64, device=data.device)
    for row, count in zip(data, counts[0].tolist(), strict=True):
        row = row.double()
        weighted = row * plane
        total += count * weighted.sum((0, 1))
        squares += count * (weighted * row).sum((0, 1))
    return Moments(total, squares, size[0] * size[1] * size[2])


def max_pool(data: Tensor) -> Tensor:
    """Largest of 2x2x2 voxels of ``(X, Y, Z, C)``; odd remainders are dropped."""
    x, y, z = (size // 2 for size in data.shape[:3])
    pooled = data.new_empty(x, y, z, data.shape[3])
    for row in range(x):
        pair = torch.maximum(data[2 * row], data[2 * row + 1])[: 2 * y, : 2 * z]
        pair = torch.maximum(pair[0::2], pair[1::2])
        torch.maximum(pair[:, 0::2], pair[:, 1::2], out=pooled[row])
    return pooled
