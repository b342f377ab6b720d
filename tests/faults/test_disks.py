"""Disks that are full, folders that may not be written to or read, and limits on files."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Reference
from .lab import Lab, contents, leftovers
from .limits import NO_PRIVILEGES, limited

ONE = ("--participant-label", "02")
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """Give a disk of 300 kB, where this user may mount one."""
    disk = place / "disk"
    disk.mkdir()
    if LIBC.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=300k") != 0:
        pytest.skip(f"no tmpfs can be mounted here ({os.strerror(ctypes.get_errno())})")
    yield disk
    LIBC.umount2(bytes(disk), 2)


def assert_whole(out: Path, reference: Reference) -> None:
    """Expect that whatever is there is finished."""
    there = {n: c for n, c in contents(out).items() if n.startswith("sub-") and not n.endswith(".html")}
    assert all(content == reference.files[name] for name, content in there.items())
    assert not leftovers(out)


def test_a_full_disk_of_the_output(lab: Lab, reference: Reference, small_disk: Path) -> None:
    """The run says so, leaves nothing half-written, and goes on when there is room."""
    out, work = small_disk / "out", small_disk.parent / "work"
    out.mkdir()
    log = small_disk.parent / "full"
    run = lab.run(out, *ONE, work=work, log=log)
    assert run.code in (1, 70), run.said
    assert "no space is left" in run.said.lower() or "No space left" in run.said
    assert_whole(out, reference)
    assert LIBC.mount(b"tmpfs", bytes(small_disk), b"tmpfs", 32, b"size=64m") == 0  # remounted with room
    again = lab.run(out, *ONE, work=work, log=log)
    assert again.code == 0, again.said
    found = contents(out)
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")


def test_a_full_disk_of_the_work_folder(lab: Lab, reference: Reference, small_disk: Path) -> None:
    out = small_disk.parent / "out"
    run = lab.run(out, *ONE, work=small_disk / "work")
    assert run.code in (1, 70), run.said
    assert "No space left" in run.said or "no space is left" in run.said
    assert_whole(out, reference)
    again = lab.run(out, *ONE, work=small_disk.parent / "roomy")
    assert again.code == 0, again.said
    found = contents(out)
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")


def test_files_that_may_not_grow(lab: Lab, reference: Reference, place: Path) -> None:
    """A limit on the size of files stands for a quota: every write beyond it fails."""
    out = place / "out"
    run = lab.run(out, *ONE, first=limited("RLIMIT_FSIZE", 60_000))
    assert run.code in (1, 70), run.said
    assert "File too large" in run.said
    assert_whole(out, reference)
    again = lab.run(out, *ONE)
    assert again.code == 0, again.said
    found = contents(out)
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")


def test_an_output_that_may_not_be_written_to(lab: Lab, place: Path) -> None:
    out = place / "out"
    out.mkdir(mode=0o555)
    run = lab.run(out, *ONE, first=NO_PRIVILEGES)
    assert run.code == 2
    told = run.said.splitlines()[-1]
    assert told.startswith(f"bidsrep: error: output folder {out}: cannot be written to (Permission denied)")
    assert not list(out.iterdir())


def test_a_read_only_file_system(lab: Lab, place: Path) -> None:
    out = place / "out"
    out.mkdir()
    if LIBC.mount(b"tmpfs", bytes(out), b"tmpfs", 1, b"size=1m") != 0:
        pytest.skip(f"no tmpfs can be mounted here ({os.strerror(ctypes.get_errno())})")
    try:
        run = lab.run(out, *ONE)
    finally:
        LIBC.umount2(bytes(out), 2)
    assert run.code == 2
    assert f"{out}: cannot be written to (Read-only file system)" in run.said.splitlines()[-1]


def test_a_work_folder_that_may_not_be_written_to(lab: Lab, place: Path) -> None:
    (place / "work").mkdir(mode=0o555)
    run = lab.run(place / "out", *ONE, work=place / "work", first=NO_PRIVILEGES)
    assert run.code == 2
    assert "--work-dir" in run.said
    assert "Permission denied" in run.said.splitlines()[-1]


def test_scans_and_subjects_that_may_not_be_read(lab: Lab, reference: Reference, place: Path) -> None:
    raw = Path(shutil.copytree(lab.raw, place / "raw"))
    scan, subject = raw / "sub-01/anat/sub-01_FLAIR.nii.gz", raw / "sub-03"
    shutil.copytree(raw / "sub-02", subject)
    scan.chmod(0)
    subject.chmod(0)
    run = lab.run(place / "out", "--participant-label", "01", "02", "03", raw=raw, first=NO_PRIVILEGES)
    subject.chmod(0o755)
    assert run.code == 1
    assert f"{scan}: the file may not be read by this user. Change its permissions." in run.said
    assert f"{subject}: the folder cannot be read (Permission denied)" in run.said
    assert "1 ok, 2 failed (sub-01, sub-03)" in run.said.splitlines()[-1]
    found = contents(place / "out")
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")


def test_a_subject_whose_results_may_not_be_written(lab: Lab, reference: Reference, place: Path) -> None:
    out = place / "out"
    (out / "sub-01" / "anat").mkdir(parents=True)
    (out / "sub-01" / "anat").chmod(0o555)
    run = lab.run(out, first=NO_PRIVILEGES)
    assert run.code == 1, run.said
    assert "1 failed (sub-01)" in run.said.splitlines()[-1]
    assert "Permission denied" in run.said
    assert "Traceback" not in run.said
    found = contents(out)
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")
    assert not leftovers(out)
