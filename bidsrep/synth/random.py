"""Draws from an explicit `torch.Generator`; nothing in the generator touches the global random state."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(generator: torch.Generator, size: int | tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform float32 draws in ``[low, high)`` of the given shape (on the CPU)."""
    shape = (size,) if isinstance(size, int) else size
    return low + (high - low) * torch.rand(*shape, generator=generator)


def uniform_scalar(generator: torch.Generator, low: float, high: float) -> float:
    """One uniform draw in ``[low, high)``."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def coin(generator: torch.Generator, probability: float) -> bool:
    """True with the given probability."""
    return torch.rand((), generator=generator).item() < probability


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """One integer draw in ``[low, high)``."""
    return int(torch.randint(low, high, (), generator=generator).item())
