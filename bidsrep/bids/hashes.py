"""Checksums of images: of their grid, and of their voxels however the file is compressed.

Another compression, or another version of the same one, changes the bytes of a file but not its content.
Each hash is a SHA-256, as 64 hexadecimal digits:

- geometry: of the shape as text (``"181 217 181"``) and the affine (16 float64, little-endian, rows first);
- voxels: of that hash, the type on disk, slope and intercept as text, then the voxels' bytes as stored.
"""

import gzip
import hashlib
import math
from pathlib import Path
from typing import IO, Any, NamedTuple

from bidsrep.bids.scans import IMAGE_EXTENSIONS

CHUNK = 1 << 20
"""Bytes read at a time: dense features are larger than the memory should have to hold."""
TRAILER = 8
"""Bytes at the end of a gzip file: checksum (CRC-32) and length of what is compressed."""


class ImageHashes(NamedTuple):
    """The hashes of an image's grid and voxels."""

    geometry: str
    voxels: str


def is_image(path: Path) -> bool:
    """Tell whether the name is that of an image."""
    return path.name.endswith(IMAGE_EXTENSIONS)


def geometry_hash(path: Path) -> str | None:
    """Hash the grid of an image; None if it cannot be read."""
    try:
        with _open(path) as stream:
            return _geometry(_header(stream))
    except Exception:  # noqa: BLE001 - whatever a broken file makes a decoder raise
        return None


def image_hashes(path: Path) -> ImageHashes | None:
    """Hash the grid and the voxels of an image; None if it cannot be read to its end."""
    try:
        with _open(path) as stream:
            header = _header(stream)
            geometry = _geometry(header)
            slope_inter = " ".join(map(str, header.get_slope_inter()))
            digest = hashlib.sha256(f"{geometry} {header.get_data_dtype().str} {slope_inter}".encode())
            stream.seek(header.get_data_offset())
            missing = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                missing -= len(chunk)
            return None if missing > 0 else ImageHashes(geometry, digest.hexdigest())
    except Exception:  # noqa: BLE001 - whatever a broken file makes a decoder raise
        return None


def gzip_crc(path: Path) -> str | None:
    """Give the CRC-32 that a ``.gz`` file says its content has, without reading that; None for other files.

    It tells any changed voxel at the cost of reading a few bytes.
    """
    if path.suffix != ".gz":
        return None
    with path.open("rb") as stream:
        stream.seek(0, 2)
        if stream.tell() < TRAILER:
            return None
        stream.seek(-TRAILER, 2)
        return stream.read(4)[::-1].hex()


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    if not compressed:
        return path.open("rb")
    try:
        from isal import igzip
    except ImportError:
        return gzip.open(path)
    return igzip.open(path)


def _header(stream: IO[bytes] | gzip.GzipFile) -> Any:
    import nibabel as nib

    start = stream.read(540)  # the length of a NIfTI-2 header, the longer of the two
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(start):
            return kind(start[: kind.template_dtype.itemsize], check=False)
    raise ValueError("no NIfTI header")


def _geometry(header: Any) -> str:
    import numpy as np

    shape = " ".join(str(int(size)) for size in header.get_data_shape())
    with np.errstate(all="ignore"):  # a damaged header may hold any numbers
        affine = header.get_best_affine().astype("<f8") + 0.0  # -0 and 0 are the same place
    return hashlib.sha256(shape.encode() + affine.tobytes()).hexdigest()
