"""A backbone with linear heads, under the key names of the authors' checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bidsrep.models.unet import UNet3D


class Heads(nn.Module):
    """One 1x1x1 convolution per output, named ``final_conv_<name>`` (the reference's ``IndepHead``)."""

    def __init__(self, in_channels: int, outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = dict(outputs)
        for name, channels in outputs.items():
            self.add_module(f"final_conv_{name}", nn.Conv3d(in_channels, channels, kernel_size=1))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map features ``(B, C, X, Y, Z)`` to one raw (linear) output per head."""
        return {name: self.get_submodule(f"final_conv_{name}")(features) for name in self.outputs}


class Network(nn.Module):
    """`UNet3D` and `Heads`: state-dict keys ``backbone.*`` and ``head.final_conv_*``."""

    def __init__(self, outputs: Mapping[str, int], **backbone: int | bool) -> None:
        super().__init__()
        self.backbone = UNet3D(**backbone)  # type: ignore[arg-type]
        self.head = Heads(self.backbone.f_maps, outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Raw outputs of every head for an image ``(B, 1, X, Y, Z)``."""
        return self.head(self.backbone(x))
