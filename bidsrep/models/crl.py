"""CRL: contrast representation learning from imaging parameters (MICCAI 2024).

One image of known TR, TE and TI becomes content features that belong to the anatomy alone, and these become
the image that any other TR, TE and TI would have given. The network (`bidsrep.models.crl_network`) is 2D; a
volume is the batch of its axial slices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.errors import UsageError, WeightsError
from bidsrep.models.checkpoints import _unpickle
from bidsrep.models.crl_network import CRLNetwork, acquisition_vector
from bidsrep.models.model import Model, or_on_cpu
from bidsrep.tasks.synthesis import first_channel_above_zero
from bidsrep.tasks.task import Task

UNITS = "99.5th percentile of the brain = 1"
T1W = Task("T1w", "image", 1, first_channel_above_zero, UNITS, "synthetic", "T1w")
FLAIR = Task("FLAIR", "image", 1, first_channel_above_zero, UNITS, "synthetic", "FLAIR")
T2W = Task("T2w", "image", 1, first_channel_above_zero, UNITS, "synthetic", "T2w")

STANDARD_CONTRASTS = {
    "T1w": AcquisitionParameters(2.479, 0.00962, 1.055),
    "FLAIR": AcquisitionParameters(8.0, 0.1, 2.33),
    "T2w": AcquisitionParameters(8.142, 0.1042),
}
"""What is made when nobody says otherwise: T1-FLAIR and T2 of the paper (its 1st and 7th sequence), and its
T2-FLAIR (the 9th) with the inversion time that nulls fluid at 3 T: T1 4.2 s and TR 8 s give 2.33 s, the paper's
2.025 s leave the fluid at two thirds of grey matter."""

SLICE_BATCH_BYTES = {"cpu": 64 * 2**20, "cuda": 1024 * 2**20}
"""Size of one layer's output for the slices that are computed at once."""

NO_SOURCE = (
    "crl: the acquisition parameters of the image (TR, TE, TI) are not given; its content cannot be told "
    "from its contrast without them"
)
NOT_CRL = "{}: not a checkpoint of CRL ({}). Give one of its `epoch-*.pth` files"
ONE_FILE = "{}: CRL is one file; {} were given"


def read_crl_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """State, ``[architecture]`` and notes of an ``epoch-*.pth`` file: ``{"model": {name, args, sd}, ...}``.

    Raises
    ------
    WeightsError
        If the file is missing, unsafe, damaged, or not of CRL.
    """
    content = _unpickle(path)
    model = content.get("model")
    state = model.get("sd") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(state, Mapping):
        raise WeightsError(NOT_CRL.format(path, "it has no entry model.sd"))
    for key in ("encoder.head.0.weight", "codemapping_mlp.layers.0.weight", "imnet.layers.0.weight"):
        if not isinstance(state.get(key), Tensor):
            raise WeightsError(NOT_CRL.format(path, f"{key} is missing"))
    for key, value in state.items():
        if not isinstance(value, Tensor) or not torch.isfinite(value).all():
            raise WeightsError(NOT_CRL.format(path, f"{key} is not a tensor of finite numbers"))
    encoder = _table(_table(_table(model, "args"), "encoder_spec"), "args")
    architecture = {
        "f_maps": len(state["encoder.head.0.weight"]),
        "num_resblocks": len({key.split(".")[2] for key in state if key.startswith("encoder.body.")}) - 1,
        "res_scale": float(encoder.get("res_scale", 0.1)),  # leaves no trace in the tensors
        "variant": "code",
        "embedding_layers": _count(state, "codemapping_mlp"),
        "decoder_layers": _count(state, "imnet"),
        "heads": {"image": 1},
    }
    epoch = content.get("epoch")
    return dict(state), architecture, {"epoch": epoch} if isinstance(epoch, int) else {}


def _table(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = mapping.get(key)
    return found if isinstance(found, Mapping) else {}


def _count(state: Mapping[str, Tensor], mlp: str) -> int:
    return sum(key.startswith(f"{mlp}.layers.") and key.endswith(".weight") for key in state)


class CRL(Model):
    """CRL: any contrast of an image whose TR, TE and TI are known.

    Features are the content of the image, without its contrast. Predictions are the `STANDARD_CONTRASTS`, or
    any other ``targets``; on the scale of the input (`UNITS`).
    """

    name = "crl"
    tasks = (T1W, FLAIR, T2W)
    network: CRLNetwork

    @classmethod
    def build(cls, architecture: Mapping[str, Any]) -> CRLNetwork:
        """The untrained `CRLNetwork` that a card's ``[architecture]`` describes."""
        return CRLNetwork(**architecture)

    @classmethod
    def read_checkpoint(
        cls, paths: Sequence[Path]
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """State, ``[architecture]`` and notes of the authors' checkpoint, one file.

        Raises
        ------
        WeightsError
            If there are more files, or it is missing, unsafe, damaged, or not of CRL.
        """
        if len(paths) != 1:
            raise WeightsError(ONE_FILE.format(paths[0], len(paths)))
        return read_crl_checkpoint(paths[0])

    @property
    def divisor(self) -> int:
        """Any size does."""
        return 1

    @or_on_cpu
    def features(self, volume: Tensor | np.ndarray, *, source: AcquisitionParameters | None = None) -> Tensor:
        """Content ``(B, C, X, Y, Z)`` of images ``(B, 1, X, Y, Z)`` acquired with ``source``.

        Raises
        ------
        UsageError
            If ``source`` is not given.
        """
        batch = self.as_batch(volume)
        with torch.no_grad():
            contents = list(self._contents(batch, source))
        return volume_of(torch.cat(contents), len(batch))

    @or_on_cpu
    def predict(
        self,
        volume: Tensor | np.ndarray,
        tasks: Collection[str] | None = None,
        *,
        source: AcquisitionParameters | None = None,
        targets: Mapping[str, AcquisitionParameters] | None = None,
    ) -> dict[str, Tensor]:
        """Images ``(B, 1, X, Y, Z)`` under other parameters; a few slices at a time, content is not kept.

        Parameters
        ----------
        volume
            Images ``(B, 1, X, Y, Z)``, or one, ``(X, Y, Z)``.
        tasks
            Which of the `STANDARD_CONTRASTS` to make; None: all of them, or none where there are targets.
        source
            How the images were acquired.
        targets
            Names and parameters of further contrasts.

        Raises
        ------
        UsageError
            If ``source`` is not given.
        WeightsError
            If there is no such task.
        """
        batch = self.as_batch(volume)
        wanted = self._targets(tasks, targets)
        slices: dict[str, list[Tensor]] = {name: [] for name in wanted}
        with torch.no_grad():
            for content in self._contents(batch, source):
                for name, code in wanted.items():
                    slices[name].append(self._decode(content, code))
        return {name: volume_of(torch.cat(parts), len(batch)) for name, parts in slices.items()}

    @or_on_cpu
    def predict_from(
        self,
        features: Tensor,
        volume: Tensor | np.ndarray,
        tasks: Collection[str] | None = None,
        *,
        targets: Mapping[str, AcquisitionParameters] | None = None,
    ) -> dict[str, Tensor]:
        """Predict from content ``(B, C, X, Y, Z)`` computed before; the images themselves are not needed."""
        slices = slices_of(features).split(self._slices_at_once(features))
        with torch.no_grad():
            return {
                name: volume_of(torch.cat([self._decode(part, code) for part in slices]), len(features))
                for name, code in self._targets(tasks, targets).items()
            }

    def _targets(
        self, tasks: Collection[str] | None, targets: Mapping[str, AcquisitionParameters] | None
    ) -> dict[str, Tensor]:
        """Name and code ``(1, C)`` of each contrast to make."""
        standard = () if targets and tasks is None else self.wanted(tasks)
        contrasts = {task.name: STANDARD_CONTRASTS[task.name] for task in standard} | dict(targets or {})
        with torch.no_grad():
            return {name: self._code(parameters) for name, parameters in contrasts.items()}

    def _code(self, parameters: AcquisitionParameters) -> Tensor:
        return self.network.code(acquisition_vector(parameters)[None].to(self.device))

    def _contents(self, batch: Tensor, source: AcquisitionParameters | None) -> Iterator[Tensor]:
        """Content ``(n, C, X, Y)`` of the axial slices of a batch, some at a time."""
        if source is None:
            raise UsageError(NO_SOURCE)
        code = self._code(source)
        slices = slices_of(batch).to(memory_format=torch.channels_last)
        for part in slices.split(self._slices_at_once(batch)):
            with self._arithmetic():
                features = self.network.encoder(part.to(self.device))
            yield self.network.content(features.float(), code)

    def _decode(self, content: Tensor, code: Tensor) -> Tensor:
        with self._arithmetic():
            raw = self.network.decode(content.to(self.device), code)
        return first_channel_above_zero(raw.float())

    def _slices_at_once(self, volume: Tensor) -> int:
        width = len(self.network.encoder.head[0].weight)
        pixels = volume.shape[2] * volume.shape[3]
        return max(1, SLICE_BATCH_BYTES[self.device.type] // (4 * width * pixels))

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """The model's type of multiplications; cuDNN would round float32 to TF32."""
        stack = ExitStack()
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        if self.dtype != torch.float32:
            stack.enter_context(torch.autocast(self.device.type, self.dtype))
        return stack


def slices_of(volume: Tensor) -> Tensor:
    """The axial slices ``(B Z, C, X, Y)`` of volumes ``(B, C, X, Y, Z)``."""
    return volume.movedim(-1, 1).flatten(0, 1)


def volume_of(slices: Tensor, batch: int) -> Tensor:
    """Volumes ``(B, C, X, Y, Z)`` of all their axial slices ``(B Z, C, X, Y)``."""
    return slices.unflatten(0, (batch, -1)).movedim(1, -1)
