"""Are the files there, and what they were? Those that are not: whose content is it, and what has changed?"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from bidsrep.bids.files import sha256_file
from bidsrep.bids.hashes import gzip_crc, image_hashes, is_image
from bidsrep.bids.verify.dataset import Dataset
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.records import FileRecord, Records

SMALL = 256 * 1024
"""Bytes up to which a file is hashed by default too."""

MAKE_AGAIN = "Restore it, or delete it and run bidsrep again to make it anew"
WRITE_AGAIN = "Restore it, or run bidsrep again, which makes what is missing"
BRING_BACK = "Bring it back, or run bidsrep again on what there is now"
SWAP_BACK = "Put each file back in its place, or run bidsrep again on both subjects"
FETCH = "Fetch its content, for example with `datalad get`"


def check_content(
    dataset: Dataset, records: Records, users: Mapping[str, int], rehash: bool = False
) -> Iterator[Finding]:
    """Compare every recorded file with what lies in its place.

    Parameters
    ----------
    dataset, records
        What is there, and what was recorded.
    users : mapping
        How many sidecars name a file (BIDS URI) as their source.
    rehash : bool
        Hash everything. Otherwise sizes, the checksum in a ``.gz`` file's last bytes, and small files.
    """
    for uri, file in sorted(records.files.items()):
        path = dataset.path(uri)
        if path is None:  # of a dataset that is not here: the link is reported
            continue
        try:
            if not path.is_file():
                yield _missing(file, path, users.get(uri, 0))
            elif differs(file, path, rehash):
                yield _changed(file, path, records)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            yield Finding(file.name, "changed", problem, "Check its permissions and the disk")


def differs(file: FileRecord, path: Path, rehash: bool) -> bool:
    """Tell whether a file is another than the recorded one, as far as asked for."""
    size = path.stat().st_size
    if size != file.size:
        return True
    if file.crc is not None and gzip_crc(path) != file.crc:
        return True
    return (rehash or size <= SMALL) and sha256_file(path) != file.sha256


def _missing(file: FileRecord, path: Path, users: int) -> Finding:
    named = f"; {users} file(s) name it as their source" if users else ""
    if path.is_symlink():
        return Finding(file.name, "missing", f"is a link to a file that is not here{named}", FETCH)
    if file.is_output:
        return Finding(file.name, "missing", f"was written, but is not there{named}", WRITE_AGAIN)
    return Finding(file.name, "source", f"was read, but is not there any more{named}", BRING_BACK)


def _changed(file: FileRecord, path: Path, records: Records) -> Finding:
    hashes = image_hashes(path) if is_image(path) else None
    contents = [sha256_file(path), *([hashes.voxels] if hashes else [])]
    for content in contents:
        owner = _other(file, records.owners.get(content, set()))
        if content not in (file.sha256, file.voxels) and owner:
            return Finding(file.name, "swapped", f"holds what was recorded for {owner}", SWAP_BACK)
    remedy = MAKE_AGAIN if file.is_output else BRING_BACK
    if is_image(path) and hashes is None:
        return Finding(file.name, "changed", "cannot be read to its end: it is cut short or damaged", remedy)
    if hashes is None or file.geometry is None:
        return Finding(file.name, "changed", "is not the file that was recorded", remedy)
    if hashes.voxels == file.voxels:
        problem = "was compressed anew: its voxels are the recorded ones, its bytes are not"
        return Finding(file.name, "changed", problem, remedy)
    if hashes.geometry == file.geometry:
        problem = "its grid is the recorded one, its voxels are not"
        return Finding(file.name, "changed", problem, remedy)
    owner = _other(file, records.owners.get(hashes.geometry, set()))
    if owner:
        problem = f"its grid is not the recorded one, but that of {owner}"
        return Finding(file.name, "swapped", problem, SWAP_BACK)
    return Finding(file.name, "changed", "neither its grid nor its voxels are the recorded ones", remedy)


def _other(file: FileRecord, owners: set[str]) -> str | None:
    """Give whose content it is, if not this file's: another subject's before another one of the same."""
    own = f"sub-{file.subject}/"
    others = sorted(owners - {file.uri}, key=lambda uri: (own in uri, uri))
    return others[0].removeprefix("bids::") if others else None
