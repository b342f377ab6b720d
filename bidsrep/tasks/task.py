"""What a task is: a head, what its raw output means, and the file that is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Task:
    """One thing that is predicted from the features.

    Parameters
    ----------
    name
        What ``predict`` calls it.
    head
        The head's name in checkpoints, ``final_conv_<head>``.
    channels
        Channels of the head.
    activation
        Maps the raw output ``(B, channels, X, Y, Z)`` to the prediction.
    units
        Unit of the prediction.
    file_kind
        Kind of file it becomes (a key of ``data/outputs.json``: name, suffix, label and sidecar);
        empty for what is only used on the way.
    target
        The contrast that a synthetic image shows, a BIDS suffix.
    with_image
        The head reads the input image, too.
    """

    name: str
    head: str
    channels: int
    activation: Callable[[Tensor], Tensor]
    units: str
    file_kind: str = ""
    target: str = ""
    with_image: bool = False

    def predict(self, raw: Tensor) -> Tensor:
        """Turn the head's raw output ``(B, channels, X, Y, Z)`` into the prediction."""
        return self.activation(raw)


def identity(raw: Tensor) -> Tensor:
    """Return the raw output as it is."""
    return raw
