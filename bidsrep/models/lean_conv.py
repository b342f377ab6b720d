"""3x3x3 convolutions for whole-volume inference: fewer multiplications, no large temporary arrays.

Tensors here are ``(X, Y, Z, C)``, channels last in memory. A convolution runs through its inputs a few
X-rows at a time, so that what it computes between reading and writing a row stays in the cache:

1. the rows are normalised into a small zero-padded `RowBuffer` (each row once, so that the result may
   overwrite the input);
2. X and Y are convolved two output voxels at a time with Winograd's F(2, 3), four products instead of six
   (Lavin & Gray, CVPR 2016, arXiv 1509.09308, section 4.1), Z directly;
3. an input that stands for its nearest-neighbour upsampling is never upsampled. In F(2, 3) two of its
   four neighbours are then equal, one product is zero, and three remain. Along Z, two-tap phases do;
4. LeakyReLU, and the sums that the next GroupNorm needs.

The results are exact up to rounding (about 1e-6 of the largest value). F(2, 3) forms differences, which
bfloat16 is too coarse for: there, and for few channels, the same loop uses direct convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.models import scratch
from bidsrep.models.lean_kernels import block_runner

BLOCK_BYTES = 16 * 2**20
"""Size of the transformed inputs worked on at a time: with their products they fit a last-level cache."""
NEGATIVE_SLOPE = 0.01


@dataclass
class Operand:
    """An input of a convolution.

    Parameters
    ----------
    data
        ``(X, Y, Z, C)``, or the coarser tensor whose nearest-neighbour upsampling is meant.
    scale, shift
        ``(C,)`` float32: the input is ``data * scale + shift``, and zero outside the volume.
    weight
        Kernel ``(O, C, 3, 3, 3)`` float32.
    grid
        The (upsampled) size ``X, Y, Z``.
    """

    data: Tensor
    scale: Tensor
    shift: Tensor
    weight: Tensor
    grid: tuple[int, int, int]

    def __post_init__(self) -> None:
        self.doubled = [2 * have == want for have, want in zip(self.data.shape, self.grid, strict=False)]
        # An axis of odd size is not doubled but stretched: those rows are picked one by one.
        self.picks = [
            None if doubled or have == want else nearest_indices(have, want, self.data.device)
            for have, want, doubled in zip(self.data.shape, self.grid, self.doubled, strict=False)
        ]

    def rows(self, first: int, last: int) -> Tensor:
        """Normalised rows ``first`` to ``last``, picked along Y and Z too; ``(rows, Y, Z, C)`` float32."""
        pick_x, *picks = self.picks
        rows = self.data[first:last] if pick_x is None else self.data[pick_x[first:last]]
        for axis, pick in enumerate(picks, start=1):
            if pick is not None:
                rows = rows.index_select(axis, pick)
        return torch.addcmul(self.shift, rows.float(), self.scale)


def nearest_indices(have: int, want: int, device: torch.device | str = "cpu") -> Tensor:
    """Which of ``have`` voxels ``F.interpolate(..., mode="nearest")`` takes for each of ``want``."""
    index = torch.arange(have, dtype=torch.float32, device=device)[None, None]
    return F.interpolate(index, size=want, mode="nearest")[0, 0].long()


class RowBuffer:
    """The normalised rows of an operand that a few pairs of output rows need, with a border of zeros."""

    def __init__(self, operand: Operand, pairs: int, dtype: torch.dtype) -> None:
        self.operand = operand
        self.step = pairs if operand.doubled[0] else 2 * pairs
        self.height = operand.grid[0] // 2 if operand.doubled[0] else operand.grid[0]
        half = -(-operand.grid[1] // 2)
        self.width = half if operand.doubled[1] else operand.grid[1]
        depth = operand.data.shape[2] if operand.doubled[2] else operand.grid[2]
        columns = half if operand.doubled[1] else 2 * half
        shape = (self.step + 2, columns + 2, depth, operand.data.shape[3])
        self.data = torch.zeros(shape, dtype=dtype, device=operand.data.device)
        self._fill(1, 0, 1)
        self.next = 1

    def _fill(self, position: int, first: int, count: int) -> None:
        there = max(0, min(count, self.height - first))
        if there:
            self.data[position : position + there, 1 : self.width + 1] = self.operand.rows(
                first, first + there
            )
        if there < count:
            self.data[position + there : position + count].zero_()

    def advance(self) -> Tensor:
        """The rows of the next pairs of output rows, one more on either side: ``(rows, Y + 2, Z, C)``."""
        if self.next > 1:
            self.data[:2] = self.data[-2:].clone()
        self._fill(2, self.next, self.step)
        self.next += self.step
        return self.data


@dataclass
class Moments:
    """Sums over the voxels of each channel: ``(C,)`` float64."""

    total: Tensor
    squares: Tensor
    voxels: int


def convolve(
    operands: list[Operand],
    *,
    out: Tensor | None = None,
    unit: bool = False,
    dtype: torch.dtype = torch.float32,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Tensor, Moments]:
    """LeakyReLU of the sum of the operands' convolutions.

    Parameters
    ----------
    operands
        Inputs on one grid.
    out
        Where to write, ``(X, Y, Z, O)``; may be the data of an operand that is not upsampled.
    unit
        Divide each voxel's channels by their Euclidean norm (as ``F.normalize``).
    dtype
        Type of the multiplications and of a new ``out``.
    block_bytes
        How much to work on at a time.

    Returns
    -------
    out, moments
        The result ``(X, Y, Z, O)`` and its sums.
    """
    size_x, size_y, size_z = operands[0].grid
    channels = operands[0].weight.shape[0]
    device = operands[0].data.device
    pairs, chunk = _block_size(operands, block_bytes)
    buffers = [RowBuffer(operand, pairs, dtype) for operand in operands]
    run = block_runner([o.weight for o in operands], [o.doubled for o in operands], dtype)
    if out is None:
        out = scratch.empty(size_x, size_y, size_z, channels, dtype=dtype, device=device)
    half = -(-size_y // 2)
    work = torch.empty(2 * pairs, 2 * half, size_z, channels, device=device)
    moments = torch.zeros(2, channels, dtype=torch.float64, device=device)
    for first in range(0, size_x, 2 * pairs):
        rows = [buffer.advance() for buffer in buffers]
        for start in range(0, half, chunk):
            stop = min(start + chunk, half)
            blocks = [
                block[:, start : stop + 2] if operand.doubled[1] else block[:, 2 * start : 2 * stop + 2]
                for operand, block in zip(operands, rows, strict=True)
            ]
            run(blocks, work[:, 2 * start : 2 * stop])
        result = F.leaky_relu_(work[: min(2 * pairs, size_x - first), :size_y], NEGATIVE_SLOPE)
        if unit:
            result /= torch.linalg.vector_norm(result, dim=-1, keepdim=True).clamp_min_(1e-12)
        moments[0] += result.sum((0, 1, 2))
        moments[1] += (result * result).sum((0, 1, 2))
        out[first : first + 2 * pairs] = result
    return out, Moments(moments[0], moments[1], size_x * size_y * size_z)


def _block_size(operands: list[Operand], block_bytes: int) -> tuple[int, int]:
    """Pairs of X-rows, and pairs of Y-columns, to work on at a time."""
    size_x, size_y, size_z = operands[0].grid
    channels = max(operand.data.shape[3] for operand in operands)
    cells = max(1, block_bytes // (16 * 4 * size_z * channels))
    half = -(-size_y // 2)
    if cells >= half:
        return min(cells // half, -(-size_x // 2)), half
    return 1, -(-half // -(-half // cells))
