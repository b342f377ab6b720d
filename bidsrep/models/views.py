"""A head with a view of its own: what a task needs besides the features of each voxel.

The papers fine-tune one whole network per task. Where one frozen backbone serves all tasks, its features tell what
tissue a voxel is, hardly where it lies (left or right, which nucleus) or how a bias field runs over the head. A
`ViewHead` adds a small UNet that looks at the image on a coarse grid of its own. What detail large voxels lost is for
`bidsrep.models.detail`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.models.lean import lean_features
from bidsrep.models.unet import UNet3D


class ViewHead(nn.Module):
    """``coarse(maps) + fine(features, image, maps)``: maps of a small UNet, interpolated to the image's grid.

    The second summand, a convolution of 1x1x1 with one hidden layer, starts at zero.

    Parameters
    ----------
    in_channels
        Channels of the features.
    channels
        Channels of the output.
    factor
        The view's voxels are means of ``factor ** 3`` of the image's.
    f_maps, num_levels
        Width and depth of the view's `UNet3D`.
    hidden
        Width of the hidden layer; 0 leaves the second summand out.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        factor: int,
        f_maps: int = 16,
        num_levels: int = 4,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.factor, self.f_maps = channels, factor, f_maps
        self.view = UNet3D(1, f_maps, num_levels)
        self.coarse = nn.Conv3d(f_maps, channels, kernel_size=1)
        self.fine: nn.Module | None = None
        if hidden:
            last = nn.Conv3d(hidden, channels, kernel_size=1, bias=False)
            nn.init.zeros_(last.weight)
            first = nn.Conv3d(in_channels + 1 + f_maps, hidden, kernel_size=1)
            self.fine = nn.Sequential(first, nn.LeakyReLU(0.01), last)

    @property
    def divisor(self) -> int:
        """Images whose sides are multiples of this are not padded."""
        return int(self.factor * 2 ** (self.view.num_levels - 1))

    def pooled(self, image: Tensor) -> Tensor:
        """The image ``(B, 1, X, Y, Z)`` on the view's grid, with zeros behind it up to a side that halves evenly."""
        beyond = [-size % self.divisor for size in reversed(image.shape[2:])]
        padded = F.pad(image, [n for pad in beyond for n in (0, pad)]) if any(beyond) else image
        return F.avg_pool3d(padded, self.factor) if self.factor > 1 else padded

    def maps(self, image: Tensor) -> Tensor:
        """What the view sees of ``(B, 1, X, Y, Z)``: ``(B, f_maps, ...)`` on the grid of `pooled`."""
        pooled = self.pooled(image)
        return self.view(pooled) if torch.is_grad_enabled() else lean_features(self.view, pooled)

    def glance(self, image: Tensor, maps: Tensor | None = None) -> Tensor:
        """The first summand alone, ``(B, channels, ceil(X / factor), ...)`` on the view's grid; needs no features.

        ``maps`` are those of the image, where they are at hand.
        """
        raw: Tensor = self.coarse(self.maps(image) if maps is None else maps)
        x, y, z = (-(-size // self.factor) for size in image.shape[2:])
        return raw[:, :, :x, :y, :z]

    def forward(self, features: Tensor | None, image: Tensor) -> Tensor:
        """Raw output ``(B, channels, X, Y, Z)`` for features ``(B, C, X, Y, Z)`` of an image ``(B, 1, X, Y, Z)``."""
        return self.rows(features, image, self.maps(image), 0)

    def rows(self, features: Tensor | None, image: Tensor, maps: Tensor, first: int) -> Tensor:
        """Raw output of some X-rows, from ``first`` on: features and image are of those rows, `maps` of all."""
        here = self._interpolated(maps, first, tuple(image.shape[2:]))
        raw: Tensor = self.coarse(here)
        if self.fine is not None:
            assert features is not None
            raw = raw + self.fine(torch.cat([features, image, here], dim=1))
        return raw

    def _interpolated(self, maps: Tensor, first: int, size: tuple[int, ...]) -> Tensor:
        """Interpolate linearly between the centres of the view's voxels; `size` is that of the rows."""
        if self.factor == 1:
            return maps[:, :, first : first + size[0], : size[1], : size[2]]
        for axis, (start, count) in enumerate(zip((first, 0, 0), size, strict=True), start=2):
            centres = torch.arange(start, start + count, device=maps.device)
            place = ((centres + 0.5) / self.factor - 0.5).clamp(0, maps.shape[axis] - 1)
            below = place.floor().long()
            above = (below + 1).clamp(max=maps.shape[axis] - 1)
            shape = [1] * 5
            shape[axis] = count
            weight = (place - below).reshape(shape)
            maps = torch.lerp(maps.index_select(axis, below), maps.index_select(axis, above), weight)
        return maps


def class_shares(classes: Tensor, count: int, factor: int) -> Tensor:
    """Share of every class in the voxels of a view's grid.

    Parameters
    ----------
    classes
        Classes ``(B, 1, X, Y, Z)``; those of `count` or more are unknown and count as none.
    count
        Number of classes.
    factor
        Voxels per view voxel and axis.

    Returns
    -------
    Tensor
        ``(B, count, ceil(X / factor), ...)``; sums to 1 where all classes are known.
    """
    batch, _, *size = classes.shape
    grid = [-(-n // factor) for n in size]
    cells = torch.zeros(1, dtype=torch.long, device=classes.device)
    for n, coarse in zip(size, grid, strict=True):
        cells = cells[..., None] * coarse + torch.arange(n, device=classes.device) // factor
    total = grid[0] * grid[1] * grid[2]
    shares = []
    for values in classes[:, 0].long():
        known = values < count
        cell = cells.reshape(*size)[known]
        counts = torch.bincount(values[known] * total + cell, minlength=count * total)
        shares.append(counts.reshape(count, *grid).float() / factor**3)
    return torch.stack(shares).reshape(batch, count, *grid)
