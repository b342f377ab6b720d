"""The five-level 3D UNet shared by Brain-ID and PEPSI.

Architecture and state-dict keys follow the authors' released code (Brain-ID, ECCV 2024, arXiv 2311.16914;
PEPSI, MICCAI 2024, arXiv 2403.06227; the UNet goes back to Wolny et al., eLife 2020), so that their
checkpoints load key by key. Tensors are ``(B, C, X, Y, Z)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SingleConv(nn.Module):
    """GroupNorm, 3x3x3 convolution without bias, LeakyReLU: the reference's ``gcl`` order."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int = 8) -> None:
        super().__init__()
        # Fewer channels than groups means one group: the very first layer standardises the whole volume.
        groups = num_groups if in_channels >= num_groups else 1
        if in_channels % groups:
            raise ValueError(f"{in_channels} channels cannot be split into {groups} groups")
        self.groupnorm = nn.GroupNorm(groups, in_channels)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in, X, Y, Z)`` to ``(B, out, X, Y, Z)``."""
        return F.leaky_relu(self.conv(self.groupnorm(x)), 0.01)


class DoubleConv(nn.Module):
    """Two `SingleConv` layers; an encoder narrows in the first one, a decoder does not."""

    def __init__(self, in_channels: int, out_channels: int, encoder: bool, num_groups: int = 8) -> None:
        super().__init__()
        middle = max(out_channels // 2, in_channels) if encoder else out_channels
        self.SingleConv1 = SingleConv(in_channels, middle, num_groups)
        self.SingleConv2 = SingleConv(middle, out_channels, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in, X, Y, Z)`` to ``(B, out, X, Y, Z)``."""
        return self.SingleConv2(self.SingleConv1(x))


class Encoder(nn.Module):
    """Max-pool by 2 (not at the first level), then `DoubleConv`."""

    def __init__(self, in_channels: int, out_channels: int, pool: bool, num_groups: int = 8) -> None:
        super().__init__()
        self.pool = pool
        self.basic_module = DoubleConv(in_channels, out_channels, True, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in, X, Y, Z)`` to ``(B, out, X // 2, ...)`` (same size at the first level)."""
        return self.basic_module(F.max_pool3d(x, 2) if self.pool else x)


class Decoder(nn.Module):
    """Nearest upsampling to the skip's size, concatenation ``[skip, upsampled]``, `DoubleConv`."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int = 8) -> None:
        super().__init__()
        self.basic_module = DoubleConv(in_channels, out_channels, False, num_groups)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Join a skip ``(B, C, X, Y, Z)`` with the coarser ``(B, 2C, X // 2, ...)``."""
        x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
        return self.basic_module(torch.cat([skip, x], dim=1))


class UNet3D(nn.Module):
    """3D UNet without a final convolution: the last decoder's activations are the features.

    Parameters
    ----------
    in_channels
        Channels of the input image.
    f_maps
        Channels of the first level and of the output features; level *k* has ``f_maps * 2**k``.
    num_levels
        Levels of the encoder; every side of an input must be at least ``2 ** (num_levels - 1)``.
    num_groups
        Groups of the GroupNorm layers (one group where a layer has fewer channels).
    unit_features
        PEPSI: the features of a voxel are divided by their Euclidean norm (and the heads see those).
    """

    def __init__(
        self,
        in_channels: int = 1,
        f_maps: int = 64,
        num_levels: int = 5,
        num_groups: int = 8,
        unit_features: bool = False,
    ) -> None:
        super().__init__()
        widths = [f_maps * 2**level for level in range(num_levels)]
        self.in_channels, self.f_maps, self.num_levels = in_channels, f_maps, num_levels
        self.unit_features = unit_features
        self.encoders = nn.ModuleList(
            Encoder(widths[i - 1] if i else in_channels, width, bool(i), num_groups)
            for i, width in enumerate(widths)
        )
        self.decoders = nn.ModuleList(
            Decoder(widths[i] + widths[i - 1], widths[i - 1], num_groups)
            for i in range(num_levels - 1, 0, -1)
        )

    def get_features(self, x: Tensor) -> list[Tensor]:
        """Features of every level, coarsest first; the last is ``(B, f_maps, X, Y, Z)``.

        Raises
        ------
        ValueError
            If a side of ``x`` is too short for the number of levels.
        """
        shortest = 2 ** (self.num_levels - 1)
        if min(x.shape[2:]) < shortest:
            raise ValueError(f"every side must have at least {shortest} voxels, got {tuple(x.shape[2:])}")
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        levels = [skips.pop()]
        for decoder in self.decoders:
            levels.append(decoder(skips.pop(), levels[-1]))
        if self.unit_features:
            levels[-1] = F.normalize(levels[-1], dim=1)
        return levels

    def forward(self, x: Tensor) -> Tensor:
        """Full-resolution features ``(B, f_maps, X, Y, Z)`` of an image ``(B, in_channels, X, Y, Z)``."""
        return self.get_features(x)[-1]
