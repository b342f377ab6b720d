"""What every model is to the app: weights in; features and predictions out.

Images are ``(B, 1, X, Y, Z)`` float32 on a 1 mm RAS grid, cropped to the brain and normalised
(`bidsrep.imaging.normalise`); results are float32.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bidsrep.errors import WeightsError
from bidsrep.tasks.task import Task

LOGGER = logging.getLogger("bidsrep")
Result = TypeVar("Result")
AXES = 3
NO_TASK = "{}: these weights predict {}, not {}"
WRONG_SHAPE = "a volume is (X, Y, Z) or (B, 1, X, Y, Z), got {}"
OUT_OF_MEMORY = (
    "%s: the memory of %s does not suffice for a volume of %s voxels; going on with the CPU, which is slower"
)
TOO_SMALL = "the volume has {} voxels, but {} needs at least {} along every axis"


def or_on_cpu(method: Callable[..., Result]) -> Callable[..., Result]:
    """Let a model's method start again on the CPU, with a warning, where its CUDA device runs out of memory.

    The model stays there. Its first argument is the images or features that were too much.
    """

    @wraps(method)
    def run(self: Model, volume: Any, *more: Any, **named: Any) -> Result:
        try:
            return method(self, volume, *more, **named)
        except torch.cuda.OutOfMemoryError:
            size = "x".join(map(str, tuple(volume.shape)[-AXES:]))
            LOGGER.warning(OUT_OF_MEMORY, self.name, self.device, size)
        # Outside the handler, whose traceback would keep the tensors alive.
        torch.cuda.empty_cache()
        self.device = torch.device("cpu")
        self.network.to(self.device)
        volume = volume.cpu() if isinstance(volume, Tensor) else volume
        return method(self, volume, *more, **named)

    return run


class Model(ABC):
    """A network with its weights, ready to be used.

    Parameters
    ----------
    network
        The network, with weights.
    card
        The weights' card.
    device
        Where to compute; a CUDA device that runs out of memory is replaced by the CPU, with a warning.
    dtype
        ``torch.float32`` or ``torch.bfloat16``: type of the multiplications.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[Task, ...]]
    stride: ClassVar[int] = 1
    """A voxel of the features stands for a cube of so many voxels of the image along each axis."""

    def __init__(
        self,
        network: nn.Module,
        card: Mapping[str, Any],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.card = dict(card)
        self.device = torch.device(device)
        self.dtype = dtype

    @classmethod
    @abstractmethod
    def build(cls, architecture: Mapping[str, Any]) -> nn.Module:
        """The untrained network that a card's ``[architecture]`` describes.

        Raises
        ------
        TypeError, ValueError
            If it has an entry that no such network has.
        """

    @classmethod
    def read_checkpoint(
        cls, paths: Sequence[Path]
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """State, ``[architecture]`` and notes for the card of the authors' checkpoint files.

        Raises
        ------
        WeightsError
            If a file is missing, unsafe, damaged, or not of this method.
        """
        raise WeightsError(f"{paths[0]}: checkpoints of {cls.name} cannot be converted")

    @classmethod
    def tasks_of(cls, architecture: Mapping[str, Any]) -> tuple[Task, ...]:
        """The tasks that weights with this ``[architecture]`` have a head for, in the method's order."""
        heads, with_image = architecture["heads"], architecture.get("with_image", ())
        views = architecture.get("views", ())  # these read the image, whatever the task's own head does
        return tuple(
            task
            for task in cls.tasks
            if task.head in heads and (task.head in views or task.with_image == (task.head in with_image))
        )

    @classmethod
    def width_of(cls, architecture: Mapping[str, Any]) -> int:
        """Channels at full resolution, which decide the memory a volume takes."""
        return int(architecture.get("f_maps", 64))

    @property
    def outputs(self) -> tuple[Task, ...]:
        """The tasks that these weights have a head for."""
        return self.tasks_of(self.card["architecture"])

    @property
    @abstractmethod
    def divisor(self) -> int:
        """Sides of an image should be multiples of this, at least one each."""

    @abstractmethod
    def features(self, volume: Tensor | np.ndarray) -> Tensor:
        """Features ``(B, C, X / stride, Y / stride, Z / stride)`` of images ``(B, 1, X, Y, Z)``."""

    @abstractmethod
    def predict_from(
        self, features: Tensor, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Predict from features computed before, and the images they came from."""

    def predict(self, volume: Tensor | np.ndarray, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """Predict every output (or only ``tasks``) of images ``(B, 1, X, Y, Z)``, by the task's name."""
        batch = self.as_batch(volume)
        return self.predict_from(self.features(batch), batch, tasks)

    def wanted(self, names: Collection[str] | None) -> tuple[Task, ...]:
        """The tasks of these names; all there are for None.

        Raises
        ------
        WeightsError
            If these weights have no head for one of them.
        """
        if names is None:
            return self.outputs
        have = {task.name: task for task in self.outputs}
        for name in names:
            if name not in have:
                msg = NO_TASK.format(self.card["weights"]["id"], ", ".join(have) or "nothing", name)
                raise WeightsError(msg)
        return tuple(have[name] for name in names)

    def as_batch(self, volume: Tensor | np.ndarray) -> Tensor:
        """One image ``(X, Y, Z)`` or several ``(B, 1, X, Y, Z)`` as a float32 batch.

        Raises
        ------
        ValueError
            If it is not such an array, or a side is shorter than `divisor`.
        """
        tensor = torch.as_tensor(volume, dtype=torch.float32)
        if tensor.ndim == 3:
            tensor = tensor[None, None]
        if tensor.ndim != 5 or tensor.shape[1] != 1:
            raise ValueError(WRONG_SHAPE.format(tuple(tensor.shape)))
        if min(tensor.shape[2:]) < self.divisor:
            size = "x".join(map(str, tensor.shape[2:]))
            raise ValueError(TOO_SMALL.format(size, self.name, self.divisor))
        return tensor
