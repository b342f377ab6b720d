"""The papers' heads: one 1x1x1 convolution per output, under the key names of their checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

ROWS_BYTES = 64 * 2**20


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
    """

    def __init__(
        self, in_channels: int, outputs: Mapping[str, int], with_image: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.outputs = dict(outputs)
        self.with_image = frozenset(with_image)
        for name, channels in outputs.items():
            channels_in = in_channels + (name in self.with_image)
            self.add_module(f"final_conv_{name}", nn.Conv3d(channels_in, channels, kernel_size=1))

    def forward(self, features: Tensor, image: Tensor | None = None) -> dict[str, Tensor]:
        """Map features ``(B, C, X, Y, Z)`` (and the image ``(B, 1, X, Y, Z)``) to ``(B, n, X, Y, Z)`` each."""
        return {name: self.output(name, features, image) for name in self.outputs}

    def output(self, name: str, features: Tensor, image: Tensor | None = None) -> Tensor:
        """Compute one output."""
        if name in self.with_image:
            if image is None:
                raise ValueError(f"the head {name} needs the input image")
            features = torch.cat([features, image], dim=1)
        return self.get_submodule(f"final_conv_{name}")(features)

    def stream(self, features: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Compute every output as float32 from features of any type, a few X-rows at a time.

        Heads read one voxel at a time, so nothing changes but the memory that copies would take.
        """
        batch, channels, size_x, *plane = features.shape
        outputs = {
            name: features.new_empty(batch, count, size_x, *plane, dtype=torch.float32)
            for name, count in self.outputs.items()
        }
        step = max(1, ROWS_BYTES // (4 * batch * channels * plane[0] * plane[1]))
        for first in range(0, size_x, step):
            rows = slice(first, first + step)
            for name, values in self(features[:, :, rows].float(), image[:, :, rows].float()).items():
                outputs[name][:, :, rows] = values
        return outputs
