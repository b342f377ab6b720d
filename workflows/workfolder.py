"""The work folder: nobody else may write to it, one run at a time is at work on a session, and what is broken goes.

Nipype keeps the results of steps there as pickles, which can run anything when they are opened. So the folder of the
graph belongs to the user alone. Two runs at work on one session in one folder would empty each other's steps: the
second is told. And of what an earlier run left, only results whose files are all there are used; a work folder that
was moved, thinned out by a cleaner of temporary files or damaged costs time, never correctness.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bidsrep.errors import UsageError
from bidsrep.settings import Settings
from bidsrep.workflows.participant import run_wf_name, session_wf_name, subject_wf_name
from bidsrep.workflows.plan import SessionPlan

NOT_OURS_MSG = (
    "--work-dir {}: {} {}, and intermediate results can run any code when they are read. "
    "Choose another --work-dir, or have it removed"
)
OTHERS = "belongs to another user"
WRITABLE = "can be written to by other users"
BUSY_MSG = (
    "another run is at work on this session in {}. Wait until it has ended and run again, or choose another "
    "--work-dir"
)


@dataclass
class WorkFolder:
    """The folder of a run's graph; `opened` makes one.

    Parameters
    ----------
    place : Path
        Nipype's folder for the graph, in the user's ``--work-dir``.
    out_dir : Path
        Where finished files go.
    """

    place: Path
    out_dir: Path
    _locks: dict[Path, int] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings) -> Iterator["WorkFolder"]:
        """Make the folder if need be, and keep other runs out of its claimed sessions meanwhile.

        Raises
        ------
        UsageError
            If others can write to it.
        """
        work = cls(Path(settings.work_dir).resolve() / run_wf_name(), settings.out_dir)
        work._make_private(settings.work_dir)
        try:
            yield work
        finally:
            for lock in work._locks.values():
                os.close(lock)

    def claim(self, plan: SessionPlan) -> str | None:
        """Take a session for this run, and drop what cannot be used of it; say why that is impossible, or None."""
        folder = self._folder(plan)
        if folder not in self._locks:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return BUSY_MSG.format(self.place)
            except OSError:  # a file system without locks: then nobody can tell
                pass
            self._locks[folder] = lock
        for result in sorted(folder.rglob("result_*.pklz")):
            if not self._is_whole(result):
                shutil.rmtree(result.parent, ignore_errors=True)
        return None

    def _folder(self, plan: SessionPlan) -> Path:
        return self.place / subject_wf_name(plan.session.subject) / session_wf_name(plan)

    def _make_private(self, work_dir: Path) -> None:
        """Make the folder for the user alone, or refuse one that is not."""
        with suppress(FileExistsError):
            self.place.mkdir(mode=0o700, parents=True)
            return
        trouble = _trouble(self.place)
        if trouble is None:
            return
        # Some file systems (of other machines) show every folder as another user's, or as open to all.
        with tempfile.TemporaryDirectory(dir=work_dir) as probe:
            if _trouble(Path(probe)) is None:
                raise UsageError(NOT_OURS_MSG.format(work_dir, self.place.name, trouble))

    def _is_whole(self, result: Path) -> bool:
        """Tell whether a step's result can be read, and every file in it is there, and not empty."""
        from nipype.pipeline.engine.utils import load_resultfile

        try:
            outputs = load_resultfile(result).outputs.get()
        except Exception:  # noqa: BLE001 - whatever a damaged pickle makes its reader raise
            return False
        named = [path for path in _paths(outputs) if not path.is_relative_to(self.out_dir)]
        return all(
            path.is_relative_to(result.parent) and path.is_file() and path.stat().st_size for path in named
        )


def _trouble(folder: Path) -> str | None:
    """Say why others could put something into a folder."""
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return OTHERS
    return WRITABLE if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


def _paths(value: Any) -> Iterator[Path]:
    """Go through the absolute paths in what a step gave."""
    match value:
        case str() if value.startswith(os.sep):
            yield Path(value)
        case dict():
            for item in value.values():
                yield from _paths(item)
        case list() | tuple():
            for item in value:
                yield from _paths(item)
