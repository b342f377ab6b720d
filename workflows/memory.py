"""Memory between steps: what a step frees is used again; a process that holds much hands it back.

By default the C library gives every freed array of more than 32 MB back to the kernel, which fills the next one with
zeros page by page: a tenth of a session's processor time. But a worker that kept all it ever had would stand in the
way of its neighbours, whose steps count on the memory they were promised.
"""

import ctypes
import os
import sys
from pathlib import Path

from bidsrep.resources import GIB
from bidsrep.training.memory import keep_freed_memory

HELD = Path("/proc/self/statm")


def reuse_memory() -> None:
    """Let this process use again what it frees; `return_memory` then belongs at the end of every step."""
    keep_freed_memory()


def may_keep(memory_gb: float, processes: int) -> float:
    """Say what each of some processes may hold between steps, GiB: all together half of the memory."""
    return memory_gb / processes / 2


def return_memory(kept_gb: float) -> bool:
    """Hand freed memory back if this process holds more than it may; say whether it did (GNU C library only)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        held = int(HELD.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return held > kept_gb * GIB and bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, ValueError, LookupError, AttributeError):
        return False
