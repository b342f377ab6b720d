"""The networks of SeqInv under the key names of its checkpoints: encoder, projector, reconstructor, U-Net heads.

Written from the published architecture (Chalcroft et al., SASHIMI 2025) and the tensors' names. The paper
speaks of five downsampling blocks; the released networks are a stem and four max-pooled levels, stride 16.
Images are ``(B, 1, X, Y, Z)`` float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.models.views import ViewHead

LEVELS = 5
STRAY_VIEWS = "views of what are no heads: {}"
WIDTHS = "widths must be {} positive numbers of channels, got {}"


class Convolution(nn.Module):
    """3x3x3 convolution, instance norm without parameters, dropout, GELU; dropout precedes the activation."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, X, Y, Z)`` to ``(B, out_channels, X, Y, Z)``."""
        return F.gelu(self.dropout(F.instance_norm(self.conv(x))))


class TwoConvolutions(nn.Module):
    """Two `Convolution`; the first changes the width."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv_0 = Convolution(in_channels, out_channels, dropout)
        self.conv_1 = Convolution(out_channels, out_channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, X, Y, Z)`` to ``(B, out_channels, X, Y, Z)``."""
        return self.conv_1(self.conv_0(x))


class Down(nn.Module):
    """Maximum over 2x2x2 voxels, then `TwoConvolutions`."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.convs = TwoConvolutions(in_channels, out_channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the grid (an odd last voxel is dropped) and change the width."""
        return self.convs(F.max_pool3d(x, 2))


class Encoder(nn.Module):
    """The backbone: five levels, of which the last, at 1/16 of the resolution, is the representation.

    Parameters
    ----------
    widths
        Channels of the five levels; 64, 128, 256, 512, 768 as published.
    dropout
        Probability that an element is dropped in training.
    """

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.conv_0 = TwoConvolutions(1, widths[0], dropout)
        for level, (fine, coarse) in enumerate(pairwise(widths), 1):
            self.add_module(f"down_{level}", Down(fine, coarse, dropout))

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(B, widths[-1], X / 16, Y / 16, Z / 16)``."""
        x = image
        for level in self.children():
            x = level(x)
        return x

    def levels(self, image: Tensor) -> list[Tensor]:
        """All five levels, the finest first."""
        found = [image]
        for level in self.children():
            found.append(level(found[-1]))
        return found[1:]


class Projector(nn.Module):
    """What the contrastive loss compares: two linear layers on the spatial mean of the features."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, out_features)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, C, X, Y, Z)`` to ``(B, out_features)``; the loss normalises them."""
        return self.fc2(F.gelu(self.fc1(features.mean(dim=(2, 3, 4)))))


class Reconstructor(nn.Module):
    """Image from features: four transposed convolutions and a 1x1x1 one, nothing between (a linear map)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels // 2**level for level in range(LEVELS)]
        layers: list[nn.Module] = [nn.ConvTranspose3d(a, b, 2, stride=2) for a, b in pairwise(widths)]
        self.conv = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, kernel_size=1))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, X, Y, Z)`` to ``(B, 1, 16 X, 16 Y, 16 Z)``."""
        return self.conv(features)


class Up(nn.Module):
    """Transposed convolution to the finer grid, the encoder's level of that grid, `TwoConvolutions`."""

    def __init__(self, in_channels: int, up: int, skip: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.upsample = nn.ModuleDict({"deconv": nn.ConvTranspose3d(in_channels, up, 2, stride=2)})
        self.convs = TwoConvolutions(skip + up, out_channels, dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join ``(B, in_channels, X / 2, Y / 2, Z / 2)`` with ``skip`` ``(B, skip, X, Y, Z)``."""
        x = self.upsample["deconv"](x)
        missing = [fine - coarse for fine, coarse in zip(skip.shape[2:], x.shape[2:], strict=True)]
        if any(missing):  # an odd side lost its last voxel on the way down
            x = F.pad(x, [n for more in reversed(missing) for n in (0, more)], mode="replicate")
        return self.convs(torch.cat([skip, x], dim=1))


class Head(nn.Module):
    """The decoder of the downstream U-Net: one task's raw output from the levels of the encoder.

    Parameters
    ----------
    widths
        Channels of the encoder's levels.
    head_width
        Channels at full resolution; 32 as published.
    channels
        Channels of the output.
    dropout
        As in the encoder.
    """

    def __init__(self, widths: Sequence[int], head_width: int, channels: int, dropout: float) -> None:
        super().__init__()
        for level in range(LEVELS - 1, 0, -1):
            coarse, fine = widths[level], widths[level - 1]
            # The last step up keeps its width, and ends in a width of its own.
            up, out = (coarse // 2, fine) if level > 1 else (coarse, head_width)
            self.add_module(f"upcat_{level}", Up(coarse, up, fine, out, dropout))
        self.final_conv = nn.Conv3d(head_width, channels, kernel_size=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Map the encoder's levels, the finest first, to ``(B, channels, X, Y, Z)``."""
        x = levels[-1]
        for level in range(LEVELS - 1, 0, -1):
            x = self.get_submodule(f"upcat_{level}")(x, levels[level - 1])
        return self.final_conv(x)


class SeqInvNetwork(nn.Module):
    """Encoder, what pre-training hangs on it, and one U-Net head per task.

    Parameters
    ----------
    widths
        Channels of the encoder's five levels.
    heads
        Name and number of channels of each head; none while pre-training.
    dropout
        Probability that an element is dropped in training.
    head_width
        Channels of the heads at full resolution.
    projection
        Hidden and last width of the projector; empty for a network without.
    reconstructor
        Whether the network has one.
    views
        Heads that are `ViewHead`s instead of decoders, and what these take; ``hidden`` reads the encoder's first
        level. Short trainings need them: normalised to unit variance down to a few voxels, the encoder's coarse
        levels tell a new decoder little about where in the brain it is.
    """

    def __init__(
        self,
        widths: Sequence[int],
        heads: Mapping[str, int],
        *,
        dropout: float = 0.2,
        head_width: int = 32,
        projection: Sequence[int] = (),
        reconstructor: bool = False,
        views: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if len(widths) != LEVELS or min(widths) < 1:
            raise ValueError(WIDTHS.format(LEVELS, list(widths)))
        self.encoder = Encoder(widths, dropout)
        self.projector = Projector(widths[-1], *projection) if projection else None
        self.reconstructor = Reconstructor(widths[-1]) if reconstructor else None
        self.views = frozenset(views or ())
        if stray := self.views - set(heads):
            raise ValueError(STRAY_VIEWS.format(", ".join(sorted(stray))))
        self.heads = nn.ModuleDict(
            {
                name: ViewHead(widths[0], channels, **(views or {})[name])
                if name in self.views
                else Head(widths, head_width, channels, dropout)
                for name, channels in heads.items()
            }
        )
        self.frozen = False

    def freeze_encoder(self) -> Self:
        """Train the heads alone. The encoder stays in evaluation mode: the reference left its dropout active."""
        self.frozen = True
        self.encoder.eval().requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> Self:
        """As in any module, except that a frozen encoder keeps evaluating."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, image: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Raw outputs ``(B, channels, X, Y, Z)`` of the heads (or of those named) for an image."""
        wanted = [name for name in self.heads if names is None or name in names]
        levels = self.encoder.levels(image) if set(wanted) - self.views else [self.encoder.conv_0(image)]
        return {
            name: self.heads[name](levels[0], image) if name in self.views else self.heads[name](levels)
            for name in wanted
        }
