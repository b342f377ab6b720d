"""A backbone with linear heads, under the key names of the authors' checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from bidsrep.models.heads import Heads
from bidsrep.models.unet import UNet3D

__all__ = ["Heads", "Network"]


class Network(nn.Module):
    """`UNet3D` and `Heads`: state-dict keys ``backbone.*`` and ``head.final_conv_*``.

    Parameters
    ----------
    outputs
        Name and number of channels of each head.
    with_image
        Heads that read the input image after the features.
    views
        Heads with a view of their own, and what `ViewHead` takes for each.
    **backbone
        What `UNet3D` takes.
    """

    def __init__(
        self,
        outputs: Mapping[str, int],
        with_image: Collection[str] = (),
        views: Mapping[str, Mapping[str, Any]] | None = None,
        **backbone: int | bool,
    ) -> None:
        super().__init__()
        self.backbone = UNet3D(**backbone)  # type: ignore[arg-type]
        self.head = Heads(self.backbone.f_maps, outputs, with_image, views)

    def forward(self, x: Tensor, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """Raw outputs of every head, or ``only`` of some, for an image ``(B, 1, X, Y, Z)``."""
        return self.head(self.backbone(x), x, only)
