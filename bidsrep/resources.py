"""What this process may use: processors and memory as the scheduler or container grants them."""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
GIB = 1024**3


def available_cpus() -> int:
    """Count the processors this process may run on (a Slurm step or a container may have few)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = _slurm("SLURM_CPUS_PER_TASK")  # not every cluster binds a job to its processors
    return max(min(count, granted or count), 1)


def available_memory_gb() -> float:
    """Give 90 % of the memory this process may use, in GiB to one decimal.

    That is the machine's memory, or less where a control group or Slurm grants less.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()]
    granted = _slurm("SLURM_MEM_PER_NODE")  # MiB; 0 means all there is
    granted = granted or _slurm("SLURM_MEM_PER_CPU") * (_slurm("SLURM_CPUS_ON_NODE") or available_cpus())
    if granted:
        limits.append(granted * 1024**2)
    return max(round(0.9 * min(limits) / GIB, 1), 0.1)


def _slurm(name: str) -> int:
    """Read a number that Slurm tells its jobs; 0 if it does not."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else 0


def _cgroup_limits() -> Iterator[int]:
    """Give the memory limits (bytes) of the control groups this process is in, the outer ones among them."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")  # version 2
    old = next((line.split(":", 2)[2].lstrip("/") for line in lines if ":memory:" in line), "")  # version 1
    files = [CGROUPS / place / "memory.max" for place in _upwards(own)]
    files += [CGROUPS / "memory" / place / "memory.limit_in_bytes" for place in _upwards(old)]
    for file in files:
        try:
            yield int(file.read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue


def _upwards(place: str) -> list[Path]:
    path = Path(place)
    return [path, *path.parents]


def new_run_uuid() -> str:
    """Name a run so that names sort by time: ``20261120-142501_<uuid4>``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4()}"
