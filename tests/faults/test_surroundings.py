"""Machines that lack something: a home, a name for the user, a network, memory, files, a sane clock, short paths."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Reference
from .lab import HERE, Lab, contents, leftovers, write_scan
from .limits import BACKWARDS, LITTLE_MEMORY, UNKNOWN_USER, limited

ONE = ("--participant-label", "02")
HOST = "host-with-a-name"
OPEN_A_SOCKET = """
import ctypes, socket, sitecustomize
libc = ctypes.CDLL(None, use_errno=True)
print(sitecustomize.REFUSED_IN_KERNEL, libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0), ctypes.get_errno())
"""
"""As a library would, past all that is Python."""
NAMELESS = dict.fromkeys(("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"))


def assert_same(out: Path, reference: Reference) -> None:
    found = contents(out)
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")
    assert not leftovers(out)


def test_no_home_and_a_user_nobody_knows(lab: Lab, reference: Reference, place: Path) -> None:
    """As in a container that was started with any ``--user``."""
    place.chmod(0o777)
    (lab.root / "tmp").chmod(0o777)
    run = lab.run(place / "out", *ONE, environment=NAMELESS, first=UNKNOWN_USER)
    assert run.code == 0, run.said
    assert_same(place / "out", reference)


def test_a_home_that_is_not_there(lab: Lab, reference: Reference, place: Path) -> None:
    run = lab.run(place / "out", *ONE, environment={"HOME": "/nonexistent"})
    assert run.code == 0, run.said
    assert_same(place / "out", reference)
    assert not Path("/nonexistent").exists()


def test_no_network_is_needed_and_none_is_used(lab: Lab, reference: Reference, place: Path) -> None:
    """Every look-up, connection and socket fails, in workers and libraries too; in Python none is even tried.

    This run is a new process, with two workers, so that nothing was imported before the calls were replaced.
    """
    noted = place / "noted"
    path = os.pathsep.join((str(HERE / "no_network"), lab.environment()["PYTHONPATH"]))
    environment = lab.environment() | {"PYTHONPATH": path, "NO_NETWORK_NOTES": str(noted)}
    check = "import socket; socket.getaddrinfo('example.org', 80)"
    failed = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, check=False)
    assert failed.returncode != 0
    assert "getaddrinfo" in noted.read_text()
    noted.unlink()
    if sys.platform == "linux":  # what is no Python is refused by the kernel
        opened = subprocess.run(
            [sys.executable, "-c", OPEN_A_SOCKET],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert opened.stdout.strip() == f"True -1 {errno.EACCES}", opened
    arguments = lab.arguments(place / "out", *ONE, "--notrack", nprocs=2)
    command = [sys.executable, "-m", "bidsrep.cli.run", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert not noted.exists(), noted.read_text()
    assert_same(place / "out", reference)


def test_nothing_that_identifies_is_written(lab: Lab, place: Path) -> None:
    """Neither the user nor the machine nor a place on it, but for the log folder, which has the paths that were given.

    Names of crash files are there for all to see, so one scan fails.
    """
    raw = place / "private-place" / "raw"
    write_scan(raw, "sub-02/anat/sub-02_T1w")
    write_scan(raw, "sub-02/anat/sub-02_FLAIR").write_bytes(b"no image")
    (raw / "dataset_description.json").write_bytes((lab.raw / "dataset_description.json").read_bytes())
    named = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "jane-roe")
    out = place / "out"
    first = f"import platform, socket\nsocket.gethostname = platform.node = lambda: {HOST!r}\n"
    run = lab.run(out, raw=raw, environment=named, first=first)
    assert run.code == 1, run.said
    crashes = list(out.glob("sub-*/log/*/crash-*.txt"))
    assert crashes
    told = {"jane-roe", HOST, "private-place", str(place), str(lab.root)}
    for path in out.rglob("*"):
        assert not [word for word in ("jane-roe", HOST) if word in path.name], path
        if not path.is_file() or "log" in path.relative_to(out).parts:
            continue
        content = path.read_bytes()
        assert not [w for w in told - allowed(path, out) if w.encode() in content], path
    for crash in crashes:
        text = crash.read_text()
        assert "jane-roe" not in text
        assert HOST not in text


def allowed(path: Path, out: Path) -> set[str]:
    """Give what a file may say: the dataset's description says where the raw data are, seen from it."""
    return {"private-place"} if path == out / "dataset_description.json" else set()


def test_few_files_may_be_open(lab: Lab, reference: Reference, place: Path) -> None:
    run = lab.run(place / "out", *ONE, first=limited("RLIMIT_NOFILE", 48))
    assert run.code == 0, run.said
    assert_same(place / "out", reference)


@pytest.mark.parametrize("more", [1 << 20, 24 << 20])
def test_little_memory_ends_in_words(lab: Lab, reference: Reference, place: Path, more: int) -> None:
    run = lab.run(place / "out", *ONE, first=LITTLE_MEMORY.format(more=more))
    assert run.code in (0, 1, 70), run.said
    if run.code:
        assert "emory" in run.said or "allocate" in run.said, run.said
    assert not leftovers(place / "out")
    again = lab.run(place / "out", *ONE)
    assert again.code == 0, again.said
    assert_same(place / "out", reference)


def test_a_clock_that_goes_back(lab: Lab, reference: Reference, place: Path) -> None:
    out = place / "out"
    run = lab.run(out, *ONE, first=BACKWARDS)
    assert run.code == 0, run.said
    assert_same(out, reference)
    for path in (lab.raw / "sub-02/anat").iterdir():
        os.utime(path, (7e9, 7e9))  # in the year 2191
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")}
    again = lab.run(out, *ONE, first=BACKWARDS)
    assert again.code == 0, again.said
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")} == before


@pytest.mark.parametrize(
    "name",
    [
        "x" * 150 + "/" + "y" * 150,
        "Größe 頭 \U0001f9e0",
        "a'b\"c $(touch pwned) `id` ;&|",
        "<b>{0}%s[x]*?",
        "-rf",
    ],
)
def test_any_place_will_do(lab: Lab, reference: Reference, place: Path, name: str) -> None:
    root = place / name
    raw = root / "raw"
    raw.parent.mkdir(parents=True)
    raw.symlink_to(lab.raw)
    run = lab.run(root / "out", *ONE, raw=raw, folder=root)
    assert run.code == 0, run.said
    found = contents(root / "out")
    anat = {n: c for n, c in reference.of("02").items() if "/anat/" in n}
    assert {n: found.get(n) for n in anat} == anat
    assert not list(lab.root.rglob("pwned"))


@pytest.mark.parametrize(
    "entities", ["acq-é", "acq-a b", "acq-<b>", "acq-$(id)", "acq-=1+1", "acq-" + "z" * 200]
)
def test_odd_entities_fail_alone(lab: Lab, reference: Reference, place: Path, entities: str) -> None:
    raw = place / "raw"
    for name in ("sub-02/anat/sub-02_T1w", f"sub-02/anat/sub-02_{entities}_FLAIR"):
        path = raw / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((lab.raw / "sub-02/anat/sub-02_T1w.nii.gz").read_bytes())
    (raw / "dataset_description.json").write_bytes((lab.raw / "dataset_description.json").read_bytes())
    run = lab.run(place / "out", raw=raw)
    assert run.code == 1, run.said
    assert "Traceback" not in run.said
    told = "the name is longer than 170 bytes" if len(entities) > 200 else "the name is not a BIDS name"
    assert told in run.said, run.said
    found = contents(place / "out")
    made = {n: c for n, c in reference.of("02").items() if "desc-preproc" in n and n.endswith(".nii.gz")}
    assert {n: found.get(n) for n in made} == made
    assert not list(lab.root.rglob("pwned"))


def test_work_folders_are_private(lab: Lab, place: Path) -> None:
    out = place / "out"
    run = lab.run(out, *ONE)
    assert run.code == 0, run.said
    (graph,) = (place / "out-work").glob("bidsrep_*_wf")
    assert stat.S_IMODE(graph.stat().st_mode) == 0o700
    graph.chmod(0o777)
    (out / "sub-02/anat/sub-02_desc-preproc_T1w.nii.gz").unlink()
    again = lab.run(out, *ONE)
    assert again.code == 2
    assert "can be written to by other users" in again.said.splitlines()[-1]
    assert "--work-dir" in again.said.splitlines()[-1]
