"""Files that appear whole or not at all, and their checksums.

Everything is written beside its destination under a hidden name and then renamed: a reader, a
concurrent job or a later run never sees half a file.
"""

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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; it becomes `path` if the block ends without an error.

    The yielded name keeps every extension of `path`, for writers that look at it. After an error
    nothing is left behind and an earlier `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMP_PREFIX}{uuid.uuid4().hex[:12]}_{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
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


def copy_file(source: Path, path: Path) -> None:
    """Copy `source` to `path` atomically, with the permissions of a new file."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def sha256_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> int:
    """Delete what killed runs left half-written in one folder; count the files.

    Only for folders that no other run is writing to at the moment.
    """
    leftovers = [p for p in folder.glob(f"{TEMP_PREFIX}*") if p.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
