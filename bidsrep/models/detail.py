"""The head of super-resolution: a residual network that adds the detail large voxels lost."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CENTRE = 0.5
"""Intensities are 0 to about 1; the network sees them around zero."""
SCALE = 0.1
"""Of what the network adds: detail is a tenth of the intensity range."""


class DetailHead(nn.Module):
    """``image + detail(image)``; the detail comes from convolutions on blocks of ``fold ** 3`` voxels.

    Blocks become channels (space to depth; Shi et al., CVPR 2016, arXiv 1609.05158, the other way round), which
    makes convolutions an eighth as many and their reach twice as far. Between them stand residuals without
    normalisation (Lim et al., CVPRW 2017, arXiv 1707.02921): a norm over the volume would hide how strong an
    edge is. Starts as its input.

    Parameters
    ----------
    in_channels
        Of the features, which this head does not read.
    channels
        Of the output; 1.
    fold
        Side of a block in voxels.
    f_maps
        Width of the convolutions.
    blocks
        Their number between the first and the last.
    """

    factor = 1

    def __init__(
        self, in_channels: int, channels: int, fold: int = 2, f_maps: int = 32, blocks: int = 5
    ) -> None:
        super().__init__()
        del in_channels
        if channels != 1:
            raise ValueError(f"super-resolution has one channel, not {channels}")
        self.channels, self.fold = channels, fold
        self.first = nn.Conv3d(fold**3, f_maps, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv3d(f_maps, f_maps, 3, padding=1) for _ in range(blocks))
        self.last = nn.Conv3d(f_maps, fold**3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(torch.as_tensor(self.last.bias))

    @property
    def view(self) -> nn.Module:
        """What other heads could share: nothing of it."""
        return self

    def maps(self, image: Tensor) -> Tensor:
        """The detail ``(B, 1, X, Y, Z)`` of an image of the same shape."""
        size = image.shape[2:]
        beyond = [n for side in reversed(size) for n in (0, -side % self.fold)]
        hidden = self.first(self._folded(F.pad(image, beyond)) - CENTRE)
        for convolution in self.middle:
            hidden = hidden + convolution(F.relu(hidden))
        detail = self._unfolded(self.last(F.relu(hidden)))
        return SCALE * detail[:, :, : size[0], : size[1], : size[2]]

    def glance(self, image: Tensor, maps: Tensor | None = None) -> Tensor:
        """The output; ``maps`` are those of the image, where they are at hand."""
        return image + (self.maps(image) if maps is None else maps)

    def forward(self, features: Tensor | None, image: Tensor) -> Tensor:
        """The image with its detail, ``(B, 1, X, Y, Z)`` as the image; features are not read."""
        return self.glance(image)

    def rows(self, features: Tensor | None, image: Tensor, maps: Tensor, first: int) -> Tensor:
        """The output of some X-rows, from ``first`` on: the image is of those rows, `maps` of all."""
        return image + maps[:, :, first : first + image.shape[2]]

    def _folded(self, image: Tensor) -> Tensor:
        """Blocks as channels: ``(B, 1, X, Y, Z)`` to ``(B, fold ** 3, X / fold, ...)``."""
        f, batch = self.fold, len(image)
        x, y, z = (side // f for side in image.shape[2:])
        parts = image.reshape(batch, x, f, y, f, z, f).permute(0, 2, 4, 6, 1, 3, 5)
        return parts.reshape(batch, f**3, x, y, z).contiguous(memory_format=torch.channels_last_3d)

    def _unfolded(self, blocks: Tensor) -> Tensor:
        """The inverse of `_folded`."""
        f, (batch, _, x, y, z) = self.fold, blocks.shape
        parts = blocks.reshape(batch, f, f, f, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
        return parts.reshape(batch, 1, x * f, y * f, z * f)
