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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_BYTES = 16 * 2**20
"""Size of the transformed inputs worked on at a time: with their products they fit a last-level cache."""
FEWEST_WINOGRAD_CHANNELS = 8
NEGATIVE_SLOPE = 0.01

# Direct: taps of the kernel (columns) that fall on each input voxel (rows), per output phase.
PHASE_PLAIN = (((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),)
PHASES_DOUBLED = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


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


def z_kernel(weight: Tensor, doubled: bool) -> Tensor:
    """Kernel whose last axis is for `split_z`: as it is, or both phases as channels ``(2 O, ..., 2)``."""
    if not doubled:
        return weight
    first, middle, last = weight.unbind(-1)
    return torch.cat(
        [torch.stack([first, middle + last], -1), torch.stack([first + middle, last], -1)], dim=0
    )


def split_z(product: Tensor, doubled: bool) -> Iterator[tuple[slice, Tensor]]:
    """Results of a convolution padded by 1 along Z, ``(B, O, Y, Z)``, as (where, ``(B, Y, Z, O)``)."""
    product = product.permute(0, 2, 3, 1)
    if not doubled:
        yield slice(None), product
    else:
        even, odd = product.chunk(2, dim=-1)
        yield slice(0, None, 2), even[:, :, :-1]
        yield slice(1, None, 2), odd[:, :, 1:]


class WinogradKernel:
    """F(2, 3) along X and Y of one operand; products add up over operands before they are transformed."""

    def __init__(self, operand: Operand, dtype: torch.dtype) -> None:
        self.doubled = operand.doubled
        weight = z_kernel(operand.weight, self.doubled[2]).to(dtype)
        taps = weight.permute(2, 3, 0, 4, 1).contiguous()  # (X, Y, O, Z, C): long rows, channels last
        self.weight: list[list[Tensor | None]] = []
        for row in combine_taps(taps, self.doubled[0]):
            both = combine_taps(row, self.doubled[1]) if row is not None else []
            # (O, Z, C) seen as a 2D kernel (O, C, 1, Z)
            self.weight.append([k.permute(0, 2, 1)[:, :, None] if k is not None else None for k in both])

    def products(self, rows: Tensor, sums: list[list[Tensor | None]]) -> None:
        """Add the products of a block ``(rows, columns, Z, C)`` to ``sums[i][j]``, ``(pairs, pairs, Z, O)``."""
        for i, along_x in enumerate(combine(rows, 0, self.doubled[0])):
            for j, both in enumerate(combine(along_x, 1, self.doubled[1]) if along_x is not None else ()):
                if both is None:
                    continue
                product = F.conv2d(both.permute(0, 3, 1, 2), self.weight[i][j], padding=(0, 1))
                for where, part in split_z(product, self.doubled[2]):
                    total = sums[i][j]
                    if total is None:
                        length = part.shape[2] * (2 if self.doubled[2] else 1)
                        if length == part.shape[2]:
                            sums[i][j] = part
                            continue
                        total = sums[i][j] = part.new_zeros(*part.shape[:2], length, part.shape[3])
                    total[:, :, where] += part


def combine(rows: Tensor, axis: int, doubled: bool) -> tuple[Tensor | None, ...]:
    """Input transform B of F(2, 3) along an axis; a doubled input's third product is zero (None)."""
    if doubled:
        n = rows.shape[axis] - 2
        before, here, after = (rows.narrow(axis, start, n) for start in range(3))
        return before - here, here, None, here - after
    every = [slice(None)] * axis
    d0, d1, d2, d3 = (
        rows[(*every, slice(start, stop, 2))] for start, stop in ((0, -2), (1, -1), (2, None), (3, None))
    )
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def combine_taps(taps: Tensor, doubled: bool) -> list[Tensor | None]:
    """Kernel transform G of F(2, 3) along the first axis; see `combine`.

    For a doubled input the second product's input would be 2x: the 2 is moved here.
    """
    first, middle, last = taps.unbind(0)
    outer = first + last
    if doubled:
        return [first, outer.add_(middle), None, last]
    outer, middle = outer.mul_(0.5), middle * 0.5
    return [first, outer + middle, outer - middle, last]


def collect(products: list[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Output transform A of F(2, 3): ``p0 + p1 + p2`` and ``p1 - p2 - p3``; may overwrite the products."""
    p0, p1, p2, p3 = products
    assert p0 is not None
    assert p1 is not None
    assert p3 is not None
    if p2 is None:
        return p0.add_(p1), p1.sub_(p3)
    return p0.add_(p1).add_(p2), p1.sub_(p2).sub_(p3)


def winograd_block(kernels: list[WinogradKernel], blocks: list[Tensor], out: Tensor) -> None:
    """Convolve one block of every operand into ``out`` ``(2 pairs, 2 pairs, Z, O)``."""
    sums: list[list[Tensor | None]] = [[None] * 4 for _ in range(4)]
    for kernel, block in zip(kernels, blocks, strict=True):
        kernel.products(block, sums)
    rows = [collect(row) if row[0] is not None else None for row in sums]
    for odd_y in range(2):
        odd_x_even = collect([row[odd_y] if row is not None else None for row in rows])
        for odd_x, values in enumerate(odd_x_even):
            out[odd_x::2, odd_y::2] = values


class DirectKernel:
    """Plain convolution of one operand: X-neighbours are stacked as channels of a 2D convolution."""

    def __init__(self, operand: Operand, dtype: torch.dtype) -> None:
        self.doubled = operand.doubled
        weight = z_kernel(operand.weight, self.doubled[2])
        phases = [PHASES_DOUBLED if doubled else PHASE_PLAIN for doubled in self.doubled[:2]]
        self.taps = [len(phase[0]) for phase in phases]
        self.weight = [[self._kernel(weight, px, py).to(dtype) for py in phases[1]] for px in phases[0]]

    @staticmethod
    def _kernel(weight: Tensor, phase_x: tuple, phase_y: tuple) -> Tensor:
        along_x, along_y = torch.tensor(phase_x).to(weight), torch.tensor(phase_y).to(weight)
        kernel = torch.einsum("ia,jb,ocabk->oicjk", along_x, along_y, weight).flatten(1, 2)
        return kernel.contiguous(memory_format=torch.channels_last)

    def add_to(self, out: Tensor, rows: Tensor) -> None:
        """Convolve a block ``(rows, columns, Z, C)`` and add it to ``out`` ``(2 pairs, 2 pairs, Z, O)``."""
        count = rows.shape[0] - 2
        columns = rows.shape[1] - 3 + self.taps[1]
        for i, kernels in enumerate(self.weight):
            stacked = torch.cat([rows[i + tap : i + tap + count] for tap in range(self.taps[0])], dim=-1)
            stacked = stacked.permute(0, 3, 1, 2)
            for j, kernel in enumerate(kernels):
                product = F.conv2d(stacked[:, :, j : j + columns], kernel, padding=(0, 1))
                for where, part in split_z(product, self.doubled[2]):
                    out[i :: len(self.weight), j :: len(kernels), where] += part


def direct_block(kernels: list[DirectKernel], blocks: list[Tensor], out: Tensor) -> None:
    """Convolve one block of every operand into ``out`` ``(2 pairs, 2 pairs, Z, O)``."""
    out.zero_()
    for kernel, block in zip(kernels, blocks, strict=True):
        kernel.add_to(out, block)


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
    run = _block_runner(operands, dtype)
    if out is None:
        out = torch.empty(size_x, size_y, size_z, channels, dtype=dtype, device=device)
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


def _block_runner(operands: list[Operand], dtype: torch.dtype):  # noqa: ANN202
    enough = min(operand.data.shape[3] for operand in operands) >= FEWEST_WINOGRAD_CHANNELS
    if enough and dtype == torch.float32:
        winograd = [WinogradKernel(operand, dtype) for operand in operands]
        return lambda blocks, out: winograd_block(winograd, blocks, out)
    direct = [DirectKernel(operand, dtype) for operand in operands]
    return lambda blocks, out: direct_block(direct, blocks, out)
