"""What this process may use: processors and memory as the scheduler or container grants them."""

import os
import time
import uuid
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
GIB = 1024**3


def available_cpus() -> int:
    """Count the processors this process may run on (a Slurm step or a container may have few)."""
    if hasattr(os, "sched_getaffinity"):
        return max(len(os.sched_getaffinity(0)), 1)
    return os.cpu_count() or 1


def available_memory_gb() -> float:
    """Give 90 % of the memory this process may use, in GiB to one decimal.

    That is the machine's memory, or less where a control group or Slurm grants less.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in map(Path, CGROUP_LIMITS):
        try:
            limits.append(int(limit.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    per_node = os.environ.get("SLURM_MEM_PER_NODE", "")  # MiB; 0 means all there is
    if per_node.isdigit() and int(per_node):
        limits.append(int(per_node) * 1024**2)
    return max(round(0.9 * min(limits) / GIB, 1), 0.1)


def new_run_uuid() -> str:
    """Name a run so that names sort by time: ``20261120-142501_<uuid4>``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4()}"
