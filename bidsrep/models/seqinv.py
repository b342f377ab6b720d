"""SeqInv: sequence-invariant contrastive representations (Chalcroft et al., SASHIMI 2025).

A 3D convolutional encoder learns that two scans of one anatomy in different (simulated) sequences belong
together, and to restore each of them from its features. Frozen, it carries U-Net heads for tissues, stroke
lesions and denoising. *Base* (one real or simulated MPRAGE) and *SeqAug* (one simulated sequence, seen
twice) are the same network under other views.

Where paper and released code differ in the network, the code is followed, for its weights exist: a stem
and four levels (paper: five blocks), max-pooling, no parameters in the instance norm.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.imaging.equalise import Preparation
from bidsrep.models.model import Model, or_on_cpu
from bidsrep.models.seqinv_network import LEVELS, SeqInvNetwork
from bidsrep.models.windows import sliding
from bidsrep.tasks.denoising import DENOISED, denoise
from bidsrep.tasks.stroke import STROKE
from bidsrep.tasks.task import Task
from bidsrep.tasks.tissue import TISSUE

PREPARATIONS = ("equalised", "scaled", "none")
NOT_A_PREPARATION = "preparation {!r} is not one of " + ", ".join(PREPARATIONS)
NOT_A_WINDOW = "window must be 0 (the whole volume) or a multiple of {} of at least {} voxels, got {}"
ONE_VOXEL = "the volume has {} voxels, but the instance norm of seqinv needs more than {} along some axis"
FEATURES = "features"


class SeqInv(Model):
    """SeqInv, SeqAug or Base: features at 1/16 of the resolution, and what the heads at hand predict.

    Besides what `SeqInvNetwork` takes, a card's ``[architecture]`` says ``window`` (side in voxels of the
    crops the weights were trained on; 0 for whole volumes) and ``preparation`` (``equalised`` as published,
    ``scaled`` without the equalisation, ``none`` for images that are prepared already). Heads
    with a view of their own see the whole image at once.
    """

    name = "seqinv"
    tasks = (TISSUE, STROKE, DENOISED)
    stride: ClassVar[int] = 2 ** (LEVELS - 1)
    network: SeqInvNetwork

    @classmethod
    def build(cls, architecture: Mapping[str, Any]) -> SeqInvNetwork:
        """The untrained network that a card's ``[architecture]`` describes."""
        arguments = dict(architecture)
        _window(arguments.pop("window", 0), cls.stride)
        if (preparation := arguments.pop("preparation", PREPARATIONS[0])) not in PREPARATIONS:
            raise ValueError(NOT_A_PREPARATION.format(preparation))
        return SeqInvNetwork(**arguments)

    @classmethod
    def read_checkpoint(
        cls, paths: Sequence[Path]
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """State, ``[architecture]`` and notes of an encoder's file, of U-Nets' files, or of both."""
        from bidsrep.models.seqinv_checkpoints import read_checkpoint

        return read_checkpoint(paths)

    @classmethod
    def width_of(cls, architecture: Mapping[str, Any]) -> int:
        """Channels at full resolution."""
        return int(architecture["widths"][0])

    def __init__(
        self,
        network: nn.Module,
        card: Mapping[str, Any],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(network, card, device, dtype)
        self.window = _window(card["architecture"].get("window", 0), self.stride)
        self.preparation = str(card["architecture"].get("preparation", PREPARATIONS[0]))

    @property
    def divisor(self) -> int:
        """Sides of an image should be multiples of this, at least one each."""
        return self.stride

    @or_on_cpu
    def features(self, volume: Tensor | np.ndarray) -> Tensor:
        """Features ``(B, C, X / 16, Y / 16, Z / 16)`` float32, rounded down, of images ``(B, 1, X, Y, Z)``."""

        def encode(image: Tensor) -> dict[str, Tensor]:
            return {FEATURES: self.network.encoder(image)}

        batch = self.as_batch(volume)
        return torch.cat(
            [self._compute(encode, self.prepare(image)[0], self.stride)[FEATURES] for image in batch]
        )

    @or_on_cpu
    def predict(self, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """Predict every output (or only ``tasks``) of images ``(B, 1, X, Y, Z)``: ``(B, 1, X, Y, Z)`` each."""
        wanted = self.wanted(tasks)
        found = [self._predict_one(image, wanted) for image in self.as_batch(volume)]
        return {task.name: torch.cat([one[task.name] for one in found]) for task in wanted}

    def predict_from(
        self, features: Tensor, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Predict from images ``(B, 1, X, Y, Z)``.

        The features do not suffice: the heads read all levels of the encoder, which runs again.
        """
        del features
        return self.predict(volume, tasks)

    def prepare(self, image: Tensor) -> tuple[Tensor, Preparation | None]:
        """The network's input ``(1, 1, X, Y, Z)`` of one image ``(1, X, Y, Z)``, and how it was made."""
        image = image.to(self.device)[None]
        if self.preparation == "none":
            return image, None
        preparation = Preparation.of(image, equalised=self.preparation == "equalised")
        return preparation.apply(image), preparation

    def as_batch(self, volume: Tensor | np.ndarray) -> Tensor:
        """As for any model; one axis at least must be longer than a single feature."""
        batch = super().as_batch(volume)
        if max(batch.shape[2:]) < 2 * self.stride and not self.window:
            size = "x".join(map(str, batch.shape[2:]))
            raise ValueError(ONE_VOXEL.format(size, 2 * self.stride - 1))
        return batch

    def _predict_one(self, image: Tensor, wanted: tuple[Task, ...]) -> dict[str, Tensor]:
        prepared, preparation = self.prepare(image)
        heads, views = [task.head for task in wanted], self.network.views
        raw: dict[str, Tensor] = {}
        if decoders := [name for name in heads if name not in views]:
            raw |= self._compute(lambda window: self.network(window, decoders), prepared)
        if viewers := [name for name in heads if name in views]:
            raw |= self._compute(lambda whole: self._view(whole, viewers), prepared, whole=True)
        predictions = {task.name: task.predict(raw[task.head]) for task in wanted}
        if DENOISED.name in predictions:
            clean = denoise(prepared, predictions[DENOISED.name])
            predictions[DENOISED.name] = clean if preparation is None else preparation.invert(clean)
        return predictions

    def _view(self, prepared: Tensor, heads: list[str]) -> dict[str, Tensor]:
        """Raw outputs of heads with a view; what lies beyond the image is air, not the zero of their padding."""
        divisor = math.lcm(*(self.network.heads[name].divisor for name in heads))
        beyond = [n for size in reversed(prepared.shape[2:]) for n in (0, -size % divisor)]
        x, y, z = (slice(size) for size in prepared.shape[2:])
        found = self.network(F.pad(prepared, beyond, value=float(prepared.min())), heads)
        return {name: value[..., x, y, z] for name, value in found.items()}

    def _compute(
        self, compute: Any, prepared: Tensor, stride: int = 1, whole: bool = False
    ) -> dict[str, Tensor]:
        reduced = self.dtype != torch.float32
        # cuDNN would round float32 to TF32; who asks for float32 gets it.
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(self.device.type, self.dtype, enabled=reduced),
        ):
            in_windows = self.window and not whole
            found = sliding(compute, prepared, self.window, stride) if in_windows else compute(prepared)
        return {name: value.float() for name, value in found.items()}


def _window(side: Any, stride: int) -> int:
    """Check a card's window.

    Raises
    ------
    ValueError
        If no window of this side can be used.
    """
    least = 2 * stride
    if not isinstance(side, int) or side % stride or 0 < side < least or side < 0:
        raise ValueError(NOT_A_WINDOW.format(stride, least, side))
    return side
