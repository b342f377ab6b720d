"""Files appear whole or not at all."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from bidsrep.bids.files import (
    atomic_path,
    copy_file,
    remove_leftovers,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)


class BoomError(Exception):
    """Stands for whatever may go wrong while a file is written."""


def test_after_an_error_the_earlier_file_is_untouched(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(BoomError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise BoomError
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_name_keeps_the_extensions_and_lies_beside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sub-01_T1w.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith("_sub-01_T1w.nii.gz")
        assert not path.exists()
        temporary.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_the_umask_decides_on_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_an_identical_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert write_json(path, {"ä": 1})
    os.utime(path, (1, 1))
    assert not write_json(path, {"ä": 1})
    assert path.stat().st_mtime == 1
    assert write_json(path, {"ä": 2})


def test_json_without_a_form_in_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    contents = [bytes([i]) * 200_000 for i in range(2)]
    write_bytes(path, contents[0])
    done = threading.Event()

    def rewrite() -> None:
        for i in range(100):
            write_bytes(path, contents[i % 2])
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= set(contents)


def test_copies_and_checksums(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"abc")
    source.chmod(0o400)
    copy_file(source, tmp_path / "b")
    assert sha256_file(tmp_path / "b") == hashlib.sha256(b"abc").hexdigest()
    assert (tmp_path / "b").stat().st_mode & 0o200


def test_leftovers_of_killed_runs_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-abc_x.nii").touch()
    (tmp_path / "x.nii").touch()
    assert remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == ["x.nii"]
