"""Files that appear whole or not at all."""

from pathlib import Path

from bidsrep.bids.files import write_bytes


def write_whole(path: Path, payload: bytes) -> None:
    """Write `payload` beside `path` and rename it, unless `path` holds just that already."""
    write_bytes(path, payload)
