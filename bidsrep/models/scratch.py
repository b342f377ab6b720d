"""Large tensors in files instead of memory, for machines with little of it.

What lies in a mapped file the system can write out when memory gets short, and read again when it is
needed; a process that is over its limit otherwise is killed. Results are the same to the last bit.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

SMALLEST_BYTES = 16 * 2**20
"""Tensors below this stay in memory."""

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def tensors_on_disk(folder: Path | None) -> Iterator[None]:
    """Let `empty` make its tensors in a folder while the block runs; in memory for None.

    The files have no name, so nothing is left of them once the tensors are gone, however the process ends.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def empty(*size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Make a tensor like `torch.empty`: on disk inside `tensors_on_disk`, if it is large and on the CPU.

    Raises
    ------
    OSError
        If the disk has no room for it.
    """
    folder, count = _folder.get(), math.prod(size)
    n_bytes = count * dtype.itemsize
    if folder is None or torch.device(device).type != "cpu" or n_bytes < SMALLEST_BYTES:
        return torch.empty(size, dtype=dtype, device=device)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-") as file:
        # Without this a full disk would end the process at the first write to the map.
        os.posix_fallocate(file.fileno(), 0, n_bytes)
        return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(size)
