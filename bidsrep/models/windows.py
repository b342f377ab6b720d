"""Overlapping windows over an image, their results blended with Gaussian weights.

For networks that were trained on crops and whose normalisation looks at all of its input: given a whole
head they would see other statistics than they learned. The arrangement is MONAI's, so that results of
networks tested with it agree: windows half a side apart, the last one flush with the far end, weights with
a standard deviation of an eighth of the side, and two windows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Window = tuple[slice, slice, slice]
OVERLAP = 0.5
SIGMA = 0.125
LEAST_WEIGHT = 1e-3
AT_ONCE = 2


def sliding(
    compute: Callable[[Tensor], dict[str, Tensor]],
    image: Tensor,
    side: int,
    stride: int = 1,
) -> dict[str, Tensor]:
    """Apply ``compute`` to windows of an image and blend what it gives.

    Parameters
    ----------
    compute
        Maps ``(n, 1, side, side, side)`` to named ``(n, C, side / stride, ...)``.
    image
        ``(1, 1, X, Y, Z)``; what is smaller than a window is padded with its minimum, which is air.
    side
        Voxels along each side of a window, a multiple of ``stride``.
    stride
        Voxels of the image along a side of one of the results'.

    Returns
    -------
    dict
        ``(1, C, X / stride, Y / stride, Z / stride)`` each, rounded down.
    """
    shape = [size // stride for size in image.shape[2:]]
    before = [max(side - size, 0) // 2 // stride * stride for size in image.shape[2:]]
    after = [max(side - size, 0) - first for size, first in zip(image.shape[2:], before, strict=True)]
    padding = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
    image = F.pad(image, padding, value=float(image.min()))
    grid = [size // stride for size in image.shape[2:]]
    weight = gaussian(side // stride, image.device)
    sums: dict[str, Tensor] = {}
    total = image.new_zeros(1, 1, *grid)
    places = list(windows(image.shape[2:], side, stride))
    for group in (places[first : first + AT_ONCE] for first in range(0, len(places), AT_ONCE)):
        found = compute(torch.cat([image[(..., *window)] for window in group]))
        for number, window in enumerate(group):
            x, y, z = (slice(part.start // stride, part.stop // stride) for part in window)
            total[..., x, y, z] += weight
            for name, value in found.items():
                if name not in sums:
                    sums[name] = value.new_zeros(1, value.shape[1], *grid, dtype=torch.float32)
                sums[name][..., x, y, z] += weight * value[number]
    x, y, z = (
        slice(first // stride, first // stride + size) for first, size in zip(before, shape, strict=True)
    )
    return {name: (value / total)[..., x, y, z] for name, value in sums.items()}


def windows(shape: Sequence[int], side: int, stride: int = 1) -> Iterator[Window]:
    """Windows that cover a grid of ``shape`` voxels, each side at least ``side``; starts on multiples of ``stride``."""
    step = max(stride, int(side * (1 - OVERLAP)) // stride * stride)
    starts = []
    for size in shape:
        last = (size - side) // stride * stride
        starts.append([min(n * step, last) for n in range(math.ceil(last / step) + 1)])
    for x, y, z in product(*starts):
        yield slice(x, x + side), slice(y, y + side), slice(z, z + side)


def gaussian(side: int, device: torch.device | None = None) -> Tensor:
    """Weights ``(side, side, side)`` of a window's voxels: highest in the middle, nowhere below 0.001."""
    position = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
    line = torch.exp(-0.5 * (position / (SIGMA * side)) ** 2)
    return (line[:, None, None] * line[:, None] * line).clamp(min=LEAST_WEIGHT)
