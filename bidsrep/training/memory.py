"""Memory that is not handed back: what a training step frees, the next one needs."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, and say whether that worked (GNU C library only).

    By default every tensor of more than 32 MB is mapped and unmapped by the kernel, which fills it with
    zeros page by page: measured, 40 % of the generator's time and a tenth of a training step's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
