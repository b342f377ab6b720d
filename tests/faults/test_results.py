"""The same bytes, however they were made; and only what is missing or out of date is made again."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from .conftest import Reference
from .lab import Lab, brain, contents, leftovers

ONE = ("--participant-label", "02")


def times(out: Path) -> dict[str, int]:
    """Give the times of change of all results."""
    return {
        str(p.relative_to(out)): p.stat().st_mtime_ns
        for p in out.rglob("*.*")
        if "/log/" not in str(p) and p.is_file()
    }


@pytest.fixture
def finished(reference: Reference, place: Path) -> Path:
    """Copy the undisturbed run, with its work folder."""
    shutil.copytree(reference.out, place / "out")
    shutil.copytree(reference.out.with_name("out-work"), place / "out-work")
    return place / "out"


def test_the_order_of_subjects_does_not_matter(lab: Lab, reference: Reference, place: Path) -> None:
    for subject in ("02", "01"):
        run = lab.run(place / "out", "--participant-label", subject)
        assert run.code == 0, run.said
    assert contents(place / "out") == reference.files


@pytest.mark.campaign
def test_the_number_of_processes_does_not_matter(lab: Lab, reference: Reference, place: Path) -> None:
    run = lab.run(place / "out", nprocs=3)
    assert run.code == 0, run.said
    assert contents(place / "out") == reference.files


def test_runs_at_the_same_time_do_not_disturb_each_other(lab: Lab, reference: Reference, place: Path) -> None:
    """Four runs into one output folder, two of them with one work folder."""
    works = ("a", "b", "shared", "shared")
    runs = [lab.start(place / "out", *ONE, work=place / work) for work in works]
    codes = [run.wait() for run in runs]
    assert codes[:2] == [0, 0], [run.said for run in runs]
    assert sorted(codes[2:]) in ([0, 0], [0, 1]), [run.said for run in runs]
    for run in runs[2:]:
        assert run.code == 0 or "another run is at work on this session" in run.said
    found = contents(place / "out")
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")
    assert not leftovers(place / "out")


def test_a_session_that_another_run_is_at_work_on_is_left_alone(
    lab: Lab, reference: Reference, place: Path
) -> None:
    graph = place / "out-work" / "bidsrep_0_1_wf"
    folder = graph / "sub_01_wf"
    folder.mkdir(parents=True)
    graph.chmod(0o700)
    with (folder / "session_wf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = lab.run(place / "out")
    assert run.code == 1
    assert f"sub-01: another run is at work on this session in {graph}" in run.said
    found = contents(place / "out")
    assert {n: found.get(n) for n in reference.of("02")} == reference.of("02")
    assert not list((place / "out" / "sub-01").glob("anat/*"))
    again = lab.run(place / "out")
    assert again.code == 0, again.said
    assert contents(place / "out") == reference.files


def test_a_work_folder_that_was_thinned_out_costs_time_only(
    lab: Lab, reference: Reference, finished: Path
) -> None:
    """Cleaners of temporary files take some and leave others; a disk that lost power leaves empty ones."""
    work = finished.with_name("out-work")
    for path in work.rglob("conformed.nii"):
        path.unlink()
    for path in work.rglob("T1w.nii"):
        path.write_bytes(b"")
    for path in work.rglob("result_brain_mask.pklz"):
        path.write_bytes(path.read_bytes()[:100])
    shutil.rmtree(finished / "sub-02" / "anat")
    run = lab.run(finished, *ONE)
    assert run.code == 0, run.said
    assert contents(finished) == reference.files


def test_a_work_folder_that_was_moved_costs_time_only(lab: Lab, reference: Reference, finished: Path) -> None:
    work = finished.with_name("out-work").rename(finished.with_name("moved"))
    shutil.rmtree(finished / "sub-02" / "anat")
    run = lab.run(finished, *ONE, work=work)
    assert run.code == 0, run.said
    assert contents(finished) == reference.files


def test_another_scan_of_the_same_size_and_time_is_noticed(
    lab: Lab, reference: Reference, place: Path
) -> None:
    """Size and time of a file are all that Nipype looks at by default."""
    raw = Path(shutil.copytree(lab.raw, place / "raw"))
    for name in ("sub-01", "sub-02"):
        shutil.copytree(lab.raw / name, raw / name, dirs_exist_ok=True)
    scan = (raw / "sub-02/anat/sub-02_T1w.nii.gz").rename(raw / "sub-02/anat/sub-02_T1w.nii")
    first, second = (brain("T1w", seed).to_bytes() for seed in (2, 5))
    assert len(first) == len(second)
    out = place / "out"
    scan.write_bytes(first)
    os.utime(scan, (1e9, 1e9))
    assert lab.run(out, *ONE, raw=raw).code == 0
    before = contents(out)
    scan.write_bytes(second)
    os.utime(scan, (1e9, 1e9))
    run = lab.run(out, *ONE, raw=raw)
    assert run.code == 0, run.said
    assert "input sub-02_T1w.nii changed" in run.said
    found = contents(out)
    image = "sub-02/anat/sub-02_desc-preproc_T1w.nii.gz"
    assert found[image] != before[image]
    clean = lab.run(place / "clean", *ONE, raw=raw)
    assert clean.code == 0
    assert {n: c for n, c in contents(place / "clean").items() if "/anat/" in n} == {
        n: c for n, c in found.items() if "/anat/" in n
    }


def test_a_changed_setting_makes_only_what_depends_on_it(
    lab: Lab, reference: Reference, finished: Path
) -> None:
    before = times(finished)
    run = lab.run(finished, *ONE, "--min-lesion-volume", "5")
    assert run.code == 0, run.said
    after = times(finished)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed
    assert not [name for name in changed if name.startswith("sub-01")]
    kept = (
        "desc-preproc_T1w.nii.gz",
        "desc-brain_mask.nii.gz",
        "_desc-pepsiFromT1w_T1w.nii.gz",
        "probseg.nii.gz",
    )
    assert not [name for name in changed if name.endswith(kept)]
