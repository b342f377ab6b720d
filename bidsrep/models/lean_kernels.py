"""The multiplications of `bidsrep.models.lean_conv`: one block of rows, normalised and padded, at a time.

A kernel belongs to one operand: ``weight`` is ``(O, C, 3, 3, 3)``, and ``doubled`` tells along which of X,
Y, Z the operand's voxels stand for two voxels of the output each (nearest-neighbour upsampling by 2).
Blocks are ``(rows, columns, Z, C)`` with one row and one column more on either side than are needed for the
output, ``(2 pairs, 2 pairs, Z, O)``; Z is not padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST_WINOGRAD_CHANNELS = 8

# Direct: taps of the kernel (columns) that fall on each input voxel (rows), per output phase.
PHASE_PLAIN = (((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),)
PHASES_DOUBLED = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


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

    def __init__(self, weight: Tensor, doubled: Sequence[bool], dtype: torch.dtype) -> None:
        self.doubled = doubled
        weight = z_kernel(weight, doubled[2]).to(dtype)
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

    def __init__(self, weight: Tensor, doubled: Sequence[bool], dtype: torch.dtype) -> None:
        self.doubled = doubled
        weight = z_kernel(weight, doubled[2])
        phases = [PHASES_DOUBLED if twice else PHASE_PLAIN for twice in doubled[:2]]
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


def block_runner(
    weights: Sequence[Tensor], doubled: Sequence[Sequence[bool]], dtype: torch.dtype
) -> Callable[[list[Tensor], Tensor], None]:
    """Prepare the kernels of all operands; give a function that convolves their blocks into an output."""
    if dtype == torch.float32 and min(weight.shape[1] for weight in weights) >= FEWEST_WINOGRAD_CHANNELS:
        winograd = [WinogradKernel(*both, dtype) for both in zip(weights, doubled, strict=True)]
        return lambda blocks, out: winograd_block(winograd, blocks, out)
    direct = [DirectKernel(*both, dtype) for both in zip(weights, doubled, strict=True)]
    return lambda blocks, out: direct_block(direct, blocks, out)
