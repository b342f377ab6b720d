"""Get a NIfTI image out of whatever lies at a path, or say plainly why that is impossible."""

import contextlib
import gzip
import math
import zlib
from io import BytesIO
from os import PathLike
from pathlib import Path

import nibabel as nib

from bidsrep.errors import ImageError

MISSING = "does not exist"
DANGLING = "is a link to a file that is not here"
NOT_A_FILE = "is not a file"
FORBIDDEN = "cannot be opened ({})"
EMPTY = "is empty (0 bytes)"
POINTER = "is a {} pointer, not the image itself"
NOT_NIFTI = "is not a NIfTI image"
BAD_HEADER = "has a damaged header ({})"
CUT_SHORT = "is cut short ({})"
DAMAGED = "is damaged ({})"
TOO_MUCH = "unpacks to far more than its header announces"

REMEDY_FETCH = "Fetch its content first, for example with `datalad get`, `git annex get` or `git lfs pull`"
REMEDY_COPY = "Copy or download the file again"
REMEDY_CONVERT = "Convert it again from the original images, or exclude it with --bids-filter-file"

WARN_NOT_GZIP = "the name ends in .gz but the content is not compressed; read as it is"
WARN_GZIP = "the content is gzip-compressed although the name does not end in .gz; read as it is"

_GZIP_MAGIC = b"\x1f\x8b"
# A pointer file is a few lines of text; no image is this small.
_POINTER_BYTES = 1024
_HEADER_BYTES = 540
# What may follow the voxels; no program is known to append more.
_SLACK_BYTES = 64 << 20
# Deflate makes no more of one byte, so a small file cannot ask for much memory.
_MOST_PER_BYTE = 1040


def read_image(path: str | PathLike[str]) -> tuple[nib.Nifti1Image, list[str]]:
    """Read a NIfTI-1 or NIfTI-2 file completely, checksum included.

    nibabel alone stops reading at the last voxel and never sees that a gzip stream lacks its end.

    Returns
    -------
    image : Nifti1Image
        Held in memory; its data array is still unscaled and untouched.
    warnings : list of str
        What was odd but harmless.
    """
    payload, warnings = _decompressed(path, _raw_bytes(Path(path)))
    kind = _kind(payload)
    if kind is None:
        raise ImageError(path, NOT_NIFTI, REMEDY_CONVERT)
    try:
        return kind.from_bytes(payload), warnings
    except Exception as error:  # whatever a damaged header makes nibabel raise
        raise ImageError(path, BAD_HEADER.format(brief(error)), REMEDY_CONVERT) from error


def _kind(start: bytes) -> type[nib.Nifti1Image] | None:
    """Tell which version of NIfTI starts like this."""
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        if kind.header_class.may_contain_header(start[:_HEADER_BYTES]):
            return kind
    return None


def brief(error: BaseException) -> str:
    """Return an exception's message on one line, at most 160 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _raw_bytes(path: Path) -> bytes:
    if path.is_symlink() and not path.exists():
        raise ImageError(path, DANGLING, REMEDY_FETCH)
    if not path.exists():
        raise ImageError(path, MISSING)
    if not path.is_file():
        raise ImageError(path, NOT_A_FILE)
    try:
        raw = path.read_bytes()
    except OSError as error:
        problem = FORBIDDEN.format(error.strerror or brief(error))
        raise ImageError(path, problem, "Check its permissions and the disk") from error
    if not raw:
        raise ImageError(path, EMPTY, REMEDY_COPY)
    if len(raw) < _POINTER_BYTES:
        if raw.startswith(b"version https://git-lfs"):
            raise ImageError(path, POINTER.format("Git LFS"), REMEDY_FETCH)
        if b"/annex/objects/" in raw:
            raise ImageError(path, POINTER.format("git-annex"), REMEDY_FETCH)
    return raw


def _decompressed(path: str | PathLike[str], raw: bytes) -> tuple[bytes, list[str]]:
    named_gz = str(path).endswith(".gz")
    if not raw.startswith(_GZIP_MAGIC):
        return raw, [WARN_NOT_GZIP] if named_gz else []
    try:
        payload = _gunzip(raw)
    except OverflowError as error:
        raise ImageError(path, TOO_MUCH, REMEDY_CONVERT) from error
    except EOFError as error:
        raise ImageError(path, CUT_SHORT.format("the gzip stream has no end"), REMEDY_COPY) from error
    except (OSError, zlib.error, ValueError) as error:
        raise ImageError(path, DAMAGED.format(brief(error)), REMEDY_COPY) from error
    return payload, [] if named_gz else [WARN_GZIP]


def _gunzip(raw: bytes) -> bytes:
    try:
        from isal import igzip, isal_zlib
    except ImportError:
        return _unpack(gzip.GzipFile(fileobj=BytesIO(raw)), len(raw))
    try:
        return _unpack(igzip.IGzipFile(fileobj=BytesIO(raw)), len(raw))
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub hides that it is an exception
        raise zlib.error(str(error)) from error


def _unpack(stream: gzip.GzipFile, packed: int) -> bytes:
    """Unpack as much as the header announces, to the end and its checksum; `packed` is the size before.

    Raises
    ------
    OverflowError
        If there is far more: the file is made to fill the memory.
    """
    start = stream.read(_HEADER_BYTES)
    limit = _SLACK_BYTES
    if kind := _kind(start):
        with contextlib.suppress(Exception):  # a damaged header, about which more is said later
            header = kind.header_class(start[: kind.header_class.template_dtype.itemsize], check=False)
            voxels = math.prod(map(int, header.get_data_shape()))
            limit += max(0, voxels * header.get_data_dtype().itemsize + int(header["vox_offset"]))
    rest = stream.read(min(limit, _MOST_PER_BYTE * packed))
    if stream.read(1):
        raise OverflowError
    return start + rest
