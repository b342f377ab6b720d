"""Files that appear whole or not at all."""

import uuid
from pathlib import Path


def write_whole(path: Path, payload: bytes) -> None:
    """Write `payload` beside `path` under a name nobody else takes, then rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(payload)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
