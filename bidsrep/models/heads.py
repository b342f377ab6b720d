"""The papers' heads: one 1x1x1 convolution per output, under the key names of their checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bidsrep.models.detail import DetailHead
from bidsrep.models.views import ViewHead

ROWS_BYTES = 64 * 2**20
NO_VIEW = "view of {!r}: no output before it has a view"


class Heads(nn.Module):
    """One convolution per output, named ``final_conv_<name>``; outputs are raw (linear).

    Parameters
    ----------
    in_channels
        Channels of the features.
    outputs
        Name and number of channels of each output.
    with_image
        Outputs that read the input image after the features (the reference's ``DepHead``, for
        super-resolution and bias fields); the others are its ``IndepHead``.
    views
        Outputs that are `ViewHead`s instead, or with ``fold`` a `DetailHead`, and what these take.
        ``{"of": name}`` reads the maps of another output's view, instead of having one.
    """

    def __init__(
        self,
        in_channels: int,
        outputs: Mapping[str, int],
        with_image: Collection[str] = (),
        views: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.outputs = dict(outputs)
        self.with_image = frozenset(with_image)
        # A plain dict: what is in it is registered below, under the heads' names.
        self.views: dict[str, ViewHead | DetailHead] = {}
        for name, channels in outputs.items():
            if views and name in views:
                self.views[name] = self._view(in_channels, channels, dict(views[name]), views)
                self.add_module(f"final_conv_{name}", self.views[name])
                continue
            channels_in = in_channels + (name in self.with_image)
            self.add_module(f"final_conv_{name}", nn.Conv3d(channels_in, channels, kernel_size=1))

    def _view(
        self,
        in_channels: int,
        channels: int,
        settings: dict[str, Any],
        views: Mapping[str, Mapping[str, Any]],
    ) -> ViewHead | DetailHead:
        other = settings.pop("of", None)
        if "fold" in settings:
            return DetailHead(in_channels, channels, **settings)
        if other is None:
            return ViewHead(in_channels, channels, **settings)
        if other not in self.views:
            raise ValueError(NO_VIEW.format(other))
        head = ViewHead(in_channels, channels, **{**views[other], **settings})
        head.view = self.views[other].view
        return head

    def forward(
        self, features: Tensor, image: Tensor | None = None, only: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Map features ``(B, C, X, Y, Z)`` (and the image ``(B, 1, X, Y, Z)``) to ``(B, n, X, Y, Z)`` each.

        ``only`` names the outputs that are wanted, where that is not all of them.
        """
        names = [name for name in self.outputs if only is None or name in only]
        return {name: self.output(name, features, image) for name in names}

    def output(self, name: str, features: Tensor, image: Tensor | None = None) -> Tensor:
        """Compute one output."""
        if name in self.views:
            if image is None:
                raise ValueError(f"the head {name} needs the input image")
            return self.views[name](features, image)
        if name in self.with_image:
            if image is None:
                raise ValueError(f"the head {name} needs the input image")
            features = torch.cat([features, image], dim=1)
        return self.get_submodule(f"final_conv_{name}")(features)

    def is_coarse(self, name: str) -> bool:
        """Whether an output comes from a view whose voxels are larger than the image's."""
        return name in self.views and self.views[name].factor > 1

    def glance(self, image: Tensor, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """`ViewHead.glance` of heads that have a view: raw outputs on the views' grids, without features."""
        maps = self._maps(image, self.views if only is None else only)
        return {name: self.views[name].glance(image, maps[name]) for name in maps}

    def _maps(self, image: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """`ViewHead.maps` of every view among ``names``; a view that several heads read sees the image once."""
        seen: dict[nn.Module, Tensor] = {}
        for name in names:
            if (head := self.views.get(name)) and head.view not in seen:
                seen[head.view] = head.maps(image)
        return {name: seen[self.views[name].view] for name in names if name in self.views}

    def stream(
        self, features: Tensor, image: Tensor, only: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute every output (or ``only`` some) as float32 from features of any type, a few X-rows at a time.

        Heads read one voxel at a time (views are computed first), so nothing changes but the memory that copies
        would take.
        """
        batch, channels, size_x, *plane = features.shape
        outputs = {
            name: features.new_empty(batch, count, size_x, *plane, dtype=torch.float32)
            for name, count in self.outputs.items()
            if only is None or name in only
        }
        step = max(1, ROWS_BYTES // (4 * batch * channels * plane[0] * plane[1]))
        maps = self._maps(image.float(), outputs)
        for first in range(0, size_x, step):
            rows = slice(first, first + step)
            here, seen = features[:, :, rows].float(), image[:, :, rows].float()
            for name, values in outputs.items():
                view = self.views.get(name)
                values[:, :, rows] = (
                    view.rows(here, seen, maps[name], first) if view else self.output(name, here, seen)
                )
        return outputs
