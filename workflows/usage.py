"""What a run needed, measured while it computes, so that the jobs of a cohort can ask for as much.

``sub-01/[ses-A/]log/<run uuid>/usage.json`` holds it, for every session that the run computed.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from bidsrep.bids.files import write_json
from bidsrep.resources import GIB
from bidsrep.settings import Settings

LOGGER = logging.getLogger("bidsrep")
NAME = "usage.json"
INTERVAL_S = 0.5
PLACES = (f"sub-*/log/*/{NAME}", f"sub-*/ses-*/log/*/{NAME}")


@dataclass(frozen=True)
class Usage:
    """One run: wall time (s), greatest resident memory of all its processes (GiB), and what it was allowed."""

    wall_s: float
    peak_gb: float
    sessions: int
    nprocs: int
    omp_nthreads: int

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a record; None if it is not one."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{field.name: field.type(values[field.name]) for field in fields(cls)})  # type: ignore[operator]
        except (OSError, ValueError, TypeError, KeyError):
            return None


@contextlib.contextmanager
def measured(folders: Sequence[Path], settings: Settings) -> Iterator[None]:
    """Measure what is done inside; leave the record in the folders, one per session.

    Nothing is left of a run that is interrupted, nor of one whose steps are jobs of a cluster.
    """
    started, peak, ended = time.monotonic(), [0], threading.Event()

    def watch() -> None:
        # Where memory is out, an exception that leaves a thread can hang the whole process (Python 3.11).
        try:
            while not ended.wait(INTERVAL_S):
                peak[0] = max(peak[0], resident(os.getpid()))
        except MemoryError:
            pass

    watcher = threading.Thread(target=watch, name="usage", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    peak[0] = max(peak[0], resident(os.getpid()))
    if settings.use_plugin:
        return
    wall = round(time.monotonic() - started, 1)
    usage = Usage(wall, round(peak[0] / GIB, 2), len(folders), settings.nprocs, settings.omp_nthreads)
    try:
        for folder in folders:
            write_json(folder / NAME, asdict(usage))
    except OSError as error:  # a full disk: the results are there all the same
        LOGGER.warning("%s: not written (%s).", NAME, error)


def read_usages(out_dir: Path) -> list[Usage]:
    """Read what earlier runs into a folder needed."""
    found = (Usage.read(path) for place in PLACES for path in out_dir.glob(place))
    return [usage for usage in found if usage is not None]


def resident(process: int) -> int:
    """Give the resident memory of a process and of all that it started, bytes; 0 where there is no ``/proc``.

    Memory that processes share counts for each of them.
    """
    total, waiting = 0, [process]
    while waiting:
        place = Path("/proc", str(waiting.pop()))
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            total += int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in (place / "task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
    return total
