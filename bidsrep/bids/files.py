"""Files that appear whole or not at all, and their checksums.

Everything is written beside its destination under a hidden name and then renamed: a reader, a
concurrent job or a later run never sees half a file.
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMP_PREFIX = ".tmp-"
LONGEST_NAME = 255
"""Bytes a file's name may have; of a longer temporary name the end is kept, with the extensions."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; it becomes `path` if the block ends without an error.

    The yielded name keeps every extension of `path`, for writers that look at it. After an error
    nothing is left behind and an earlier `path` is untouched. As long as it is written to, the file is
    locked: what a killed process left is not (`remove_leftovers`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f"{TEMP_PREFIX}{uuid.uuid4().hex[:12]}_"
    end = path.name.encode()[-(LONGEST_NAME - len(start)) :].decode(errors="ignore")
    temporary = path.with_name(start + end)
    lock = _locked(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        os.close(lock)
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> bool:
    """Write `content` atomically, unless `path` holds just that already; tell whether it was written.

    Leaving an identical file alone keeps its modification time, on which later steps may depend.
    """
    try:
        if path.read_bytes() == content:
            return False
    except OSError:
        pass
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return True


def write_text(path: Path, text: str) -> bool:
    """Write `text` as UTF-8; see `write_bytes`."""
    return write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> bool:
    """Write JSON as people read it, in the order given; see `write_bytes`."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON as others write it, with a byte order mark or without.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no JSON; nests too deep for the decoder are none, either.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is none, or it cannot be read."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def copy_file(source: Path, path: Path) -> None:
    """Copy `source` to `path` atomically, with the permissions of a new file, unless it holds the same already."""
    try:
        if source.stat().st_size == path.stat().st_size and sha256_file(source) == sha256_file(path):
            return
    except OSError:
        pass
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def sha256_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> int:
    """Delete what killed runs left half-written in one folder, and nothing that is being written; count the files."""
    count = 0
    for path in folder.glob(f"{TEMP_PREFIX}*"):
        try:
            with path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except OSError:  # somebody writes to it or has renamed it, or there are no locks to tell
            continue
        count += 1
    return count


def _locked(path: Path) -> int:
    """Make an empty file that is locked from the start; its descriptor keeps the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # it is being removed: make it again
        except OSError:  # a file system without locks: then nothing is ever removed
            return descriptor
        else:
            if os.fstat(descriptor).st_nlink:
                return descriptor
        os.close(descriptor)
