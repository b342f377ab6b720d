"""CIFL: contrast-invariant features for segmentation and registration across contrasts (Chua and Dalca, MIDL 2023).

Eight convolutions and a normalisation turn an image into as many channels at every voxel, trained so that
two contrasts of one geometry get the same channels and no two channels the same (the paper's contrastive
loss: `bidsrep.training.cifl`). The paper does not give width, activation, padding, or along what the
features have unit length; see `CIFLBackbone` for what is done here, and the documentation for why.

A head is a U-Net of its own that sees nothing but the features: trained on those of one contrast, it works
on those of others. Tensors are ``(B, C, X, Y, Z)``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.models.model import Model, or_on_cpu
from bidsrep.models.unet import UNet3D
from bidsrep.tasks.tissue import TISSUE

UnitNorm = Literal["voxel", "channel"]
SLOPE = 0.2
SLICES_BYTES = 8 * 2**20
"""What a layer's channels of the slices that are computed together may take."""
PUBLISHED_LAYERS = (1,) * 8
BAD_NORM = "unit_norm is 'voxel' or 'channel', not {!r}"
BAD_DIMENSIONS = "dimensions is 2 or 3, not {!r}"
BAD_AXIS = "slice_axis is 0, 1 or 2, not {!r}"


class CIFLBackbone(nn.Module):
    """Convolutions with kernel 3, then features of unit norm at full resolution.

    Parameters
    ----------
    features
        Channels of the output.
    f_maps
        Channels of the hidden layers.
    dimensions
        3, or 2: every slice on its own, as in the paper's experiments. The kernels of 2D networks have
        one voxel along ``slice_axis``, so both kinds take volumes.
    slice_axis
        The axis that 2D networks do not look along; 1 are coronal slices (RAS).
    dilations
        Dilation of each layer. The paper has eight layers and mentions no dilation; with it as many
        layers see more of the image.
    unit_norm
        ``voxel``: the features of a voxel have unit length ("on a unit hypersphere"), whatever the field of
        view; ``channel``: the paper's formula read literally, each channel has unit length over all
        voxels, so that features depend on the field of view.
    """

    def __init__(
        self,
        features: int = 6,
        f_maps: int = 64,
        dimensions: int = 3,
        slice_axis: int = 1,
        dilations: Sequence[int] = PUBLISHED_LAYERS,
        unit_norm: UnitNorm = "voxel",
    ) -> None:
        super().__init__()
        _check(dimensions, slice_axis, unit_norm)
        self.features, self.f_maps, self.unit_norm = features, f_maps, unit_norm
        self.flat = flat = slice_axis if dimensions == 2 else None
        widths = [1, *[f_maps] * (len(dilations) - 1), features]
        self.convs = nn.ModuleList(
            _convolution(widths[i], widths[i + 1], dilation, flat) for i, dilation in enumerate(dilations)
        )

    @property
    def reach(self) -> int:
        """How far from a voxel, in voxels, its features still look."""
        return sum(max(conv.dilation) for conv in self.convs)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, features, X, Y, Z)`` of an image ``(B, 1, X, Y, Z)``."""
        x = self._convolved(x) if self.flat is None else self._slicewise(x, self.flat)
        return F.normalize(x, dim=1) if self.unit_norm == "voxel" else F.normalize(x, dim=(2, 3, 4))

    def _convolved(self, x: Tensor) -> Tensor:
        *hidden, last = self.convs
        for conv in hidden:
            x = F.leaky_relu_(conv(x), SLOPE)
        return last(x)

    def _slicewise(self, volume: Tensor, axis: int) -> Tensor:
        """The same as two-dimensional convolutions, a few slices at a time.

        Processors have no fast way with kernels of one voxel along an axis of a volume.
        """
        slices = volume.movedim(2 + axis, 1).flatten(0, 1)
        parts = slices.split(max(1, SLICES_BYTES // (4 * self.f_maps * slices[0].numel())))
        found = torch.cat([self._convolved_slices(part, axis) for part in parts])
        return found.unflatten(0, (len(volume), -1)).movedim(1, 2 + axis)

    def _convolved_slices(self, x: Tensor, axis: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for number, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv3d)
            reach = max(conv.dilation)
            x = F.pad(x, [reach] * 4, mode="replicate")
            x = F.conv2d(x, conv.weight.squeeze(2 + axis), conv.bias, dilation=reach)
            if number < len(self.convs) - 1:
                x = F.leaky_relu_(x, SLOPE)
        return x


class FeatureHeads(nn.Module):
    """One U-Net with a linear output layer per head, on features ``(B, C, X, Y, Z)``.

    Parameters
    ----------
    in_channels
        Channels of the features.
    outputs
        Name and number of channels of each head.
    f_maps, num_levels
        Width and depth of the U-Nets.
    """

    def __init__(
        self, in_channels: int, outputs: Mapping[str, int], f_maps: int = 16, num_levels: int = 4
    ) -> None:
        super().__init__()
        self.outputs = dict(outputs)
        self.divisor = 2 ** (num_levels - 1)
        for name, channels in outputs.items():
            unet = UNet3D(in_channels, f_maps, num_levels)
            self.add_module(name, nn.Sequential(unet, nn.Conv3d(f_maps, channels, kernel_size=1)))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Raw outputs of every head."""
        return {name: self.get_submodule(name)(features) for name in self.outputs}


class CIFLNetwork(nn.Module):
    """`CIFLBackbone` and `FeatureHeads`: state-dict keys ``backbone.*`` and ``head.*``."""

    def __init__(
        self, heads: Mapping[str, int], head: Mapping[str, int] | None = None, **backbone: Any
    ) -> None:
        super().__init__()
        self.backbone = CIFLBackbone(**backbone)
        self.head = FeatureHeads(self.backbone.features, heads, **(head or {}))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features, and the raw outputs of every head, of an image ``(B, 1, X, Y, Z)``."""
        features = self.backbone(x)
        return {"features": features, **self.head(features)}


class CIFL(Model):
    """CIFL; weights with the head ``tissue`` segment grey matter, white matter and fluid."""

    name = "cifl"
    tasks = (TISSUE,)
    network: CIFLNetwork

    @classmethod
    def build(cls, architecture: Mapping[str, Any]) -> CIFLNetwork:
        """The untrained network that a card's ``[architecture]`` describes."""
        return CIFLNetwork(**architecture)

    @property
    def divisor(self) -> int:
        """Sides that are multiples of this pass the levels of the heads without a shift."""
        return self.network.head.divisor if self.network.head.outputs else 1

    @or_on_cpu
    def features(self, volume: Tensor | np.ndarray) -> Tensor:
        """Features ``(B, C, X, Y, Z)`` float32 of unit norm, of images ``(B, 1, X, Y, Z)`` or ``(X, Y, Z)``."""
        return self._run(self.network.backbone, self.as_batch(volume)).float()

    @or_on_cpu
    def predict_from(
        self, features: Tensor, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Predict from features computed before; the images are not looked at."""
        wanted = self.wanted(tasks)
        return {
            task.name: task.predict(self._run(self.network.head.get_submodule(task.head), features).float())
            for task in wanted
        }

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        # cuDNN would round float32 to TF32; who asks for float32 gets it.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), autocast:
            result: Tensor = module(x.to(self.device))
        return result


def _convolution(channels_in: int, channels_out: int, dilation: int, flat: int | None) -> nn.Conv3d:
    """A convolution with kernel 3 that keeps the size; kernel 1 along the axis ``flat``."""
    kernel, spread, padding = [3] * 3, [dilation] * 3, [dilation] * 3
    if flat is not None:
        kernel[flat], spread[flat], padding[flat] = 1, 1, 0
    conv = nn.Conv3d(
        channels_in,
        channels_out,
        kernel_size=(kernel[0], kernel[1], kernel[2]),
        padding=(padding[0], padding[1], padding[2]),
        dilation=(spread[0], spread[1], spread[2]),
        # Zeros would tell every voxel how far the border is: a feature that is the same in all contrasts, that
        # the loss likes and nobody wants. Trained with them, the network learned little else.
        padding_mode="replicate",
    )
    # He initialisation keeps the signal's size through eight layers without normalisation.
    nn.init.kaiming_normal_(conv.weight, SLOPE)
    nn.init.zeros_(conv.bias)
    return conv


def _check(dimensions: int, slice_axis: int, unit_norm: str) -> None:
    if dimensions not in (2, 3):
        raise ValueError(BAD_DIMENSIONS.format(dimensions))
    if slice_axis not in (0, 1, 2):
        raise ValueError(BAD_AXIS.format(slice_axis))
    if unit_norm not in ("voxel", "channel"):
        raise ValueError(BAD_NORM.format(unit_norm))
