"""Where a network runs, and with which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bidsrep.errors import UsageError

NO_CUDA = "device {}: PyTorch sees no CUDA device here. Use --device cpu, or auto"
NO_SUCH_GPU = "device {}: there are only {} CUDA devices, counted from 0"
NOT_A_DEVICE = "device {!r} is not one of auto, cpu, cuda, cuda:N"
NOT_A_PRECISION = "precision {!r} is not one of auto, fp32, bf16"


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means on this machine.

    Raises
    ------
    UsageError
        If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(NOT_A_DEVICE.format(name)) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(NOT_A_DEVICE.format(name))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(NO_CUDA.format(name))
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(NO_SUCH_GPU.format(name, torch.cuda.device_count()))
        return torch.device("cuda", device.index or 0)
    return device


def resolve_precision(name: str, card: Mapping[str, Any], device: torch.device) -> torch.dtype:
    """The type of the multiplications.

    ``auto`` means float32, unless the card says that bfloat16 was measured to change nothing that
    matters (``[figures] bf16_safe = true``) and the hardware is much faster with it.

    Raises
    ------
    UsageError
        If it is not a known name.
    """
    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    if name != "auto":
        raise UsageError(NOT_A_PRECISION.format(name))
    safe = bool(card.get("figures", {}).get("bf16_safe", False))
    return torch.bfloat16 if safe and has_fast_bf16(device) else torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions have units of their own here.

    On processors that means AMX: with AVX-512 alone, the float32 convolutions of
    `bidsrep.models.lean_conv`, which need fewer multiplications, are as fast.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def trains_in_bf16(device: torch.device) -> bool:
    """Whether mixed-precision training is faster than float32 here.

    A processor needs AVX-512 with bfloat16 dot products; without them oneDNN emulates the type and a
    training step took 30 times as long as in float32 (AVX2, PyTorch 2.13).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())
