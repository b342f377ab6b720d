"""Crash files, as Nipype leaves them, for people to read."""

import re
from dataclasses import dataclass
from pathlib import Path

AFTERTHOUGHTS = ("When creating this crashfile", "During the creation of this crashfile")
"""What Nipype appends to the traceback of a step that left no result."""

KILLED_CLASS = "WorkerKilled"


@dataclass(frozen=True)
class Crash:
    """One failed step.

    `node` is its full name, `message` the last line of the traceback (``errors.ImageError: ...``),
    `file` the crash file's path below the output folder.
    """

    node: str
    message: str
    traceback: str
    file: str

    @property
    def text(self) -> str:
        """The message without the exception's class."""
        return re.sub(r"^[\w.]+: (?=\S)", "", self.message)

    @property
    def killed(self) -> bool:
        """Whether the process was killed from outside, so that repeating the step may help."""
        return self.message.startswith(KILLED_CLASS)


def crashes_of(folder: Path, out_dir: Path, run_uuid: str | None = None) -> tuple[Crash, ...]:
    """Read the crash files of a ``log`` folder: those of one run, or of the newest if none is named.

    Names of runs sort by time. A folder that does not exist has no crashes.
    """
    if run_uuid is None:
        runs = sorted(path.name for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
        if not runs:
            return ()
        run_uuid = runs[-1]
    files = sorted((folder / run_uuid).glob("crash*"), key=lambda path: path.name)
    return tuple(read_crash(path, out_dir) for path in files if path.is_file())


def read_crash(path: Path, out_dir: Path) -> Crash:
    """Take one crash file apart; the output folder is cut out of its text."""
    place = path.relative_to(out_dir).as_posix()
    if path.suffix != ".txt":  # a pickle: it could run anything, so it is not opened
        return Crash(path.stem, "see the crash file", "", place)
    text = path.read_text(encoding="utf-8", errors="replace").replace(f"{out_dir}/", "")
    for afterthought in AFTERTHOUGHTS:
        text = text.partition(afterthought)[0]
    node = next((line[5:].strip() for line in text.splitlines() if line.startswith("Node:")), path.stem)
    start = text.find("Traceback (")
    traceback = text[start if start >= 0 else 0 :].strip()
    last = [line.strip() for line in traceback.splitlines() if line.strip()][-1:]
    return Crash(node, last[0] if last else "", traceback, place)
