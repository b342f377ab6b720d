"""A run that is killed, terminated or interrupted loses nothing, and the next one completes it."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Reference
from .kills import ORPHANS_S, Undisturbed, kill_and_resume, undisturbed
from .lab import LIMIT_S, Lab, Run, contents, group_of, leftovers

ONE = ("--participant-label", "02")


def until(run: Run, true: Callable[[], object]) -> None:
    """Wait until something is true of a run that goes on."""
    end = time.monotonic() + LIMIT_S
    while not true():
        assert run.wait(0.01) is None, f"ended before its time:\n{run.said}"
        assert time.monotonic() < end, run.said


def step(out: Path, name: str) -> Callable[[], object]:
    """Tell whether a step of a run has begun."""
    return lambda: next(out.with_name(f"{out.name}-work").glob(f"**/{name}"), None)


def gone(run: Run) -> bool:
    """Tell whether all processes of a run end, soon."""
    end = time.monotonic() + ORPHANS_S
    while group_of(run.process) and time.monotonic() < end:
        time.sleep(0.01)
    return not group_of(run.process)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_main_process_is_killed(lab: Lab, reference: Reference, place: Path, share: float) -> None:
    """At three moments here; `campaign.py` draws as many as are asked for."""
    expected = Undisturbed(reference.of("02"), {1: 3.0})
    chance = random.Random(share)
    chance.uniform = lambda low, high: low + share * (high - low)  # type: ignore[method-assign]
    kill = kill_and_resume(lab, expected, place / "out", "main", chance, *ONE, only="sub-02")
    assert kill.survived, kill
    assert not kill.redone


def test_a_worker_is_killed_and_the_run_makes_good(lab: Lab, reference: Reference, place: Path) -> None:
    out = place / "out"
    run = lab.start(out, *ONE, nprocs=2)
    until(run, step(out, "represent"))
    os.kill(run.workers()[0], signal.SIGKILL)
    assert run.wait() == 0, run.said
    assert "1 ok, 1/1 reports" in run.said.splitlines()[-1]
    found = contents(out)
    expected = {n: content for n, content in reference.of("02").items() if n != "sub-02.html"}
    assert {n: found.get(n) for n in expected} == expected
    assert b"when repeated" in found["sub-02.html"]  # the page says that a step was killed
    assert not leftovers(out)


def test_workers_end_with_a_main_process_that_is_killed(lab: Lab, place: Path) -> None:
    """Else they would wait for ever, or write into the work folder of the next run."""
    run = lab.start(place / "out", *ONE, nprocs=2)
    until(run, run.workers)
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert gone(run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_order(lab: Lab, reference: Reference, place: Path, number: int) -> None:
    out = place / "out"
    run = lab.start(out, *ONE)
    until(run, step(out, "represent"))
    run.send(number)
    assert run.wait() == 130, run.said
    assert run.said.splitlines()[-1] == "bidsrep: interrupted; run the same command again to go on."
    assert "Traceback" not in run.said
    assert not leftovers(out)
    there = contents(out)
    assert all(content == reference.files[name] for name, content in there.items())
    again = lab.run(out, *ONE)
    assert again.code == 0, again.said
    assert {n: c for n, c in contents(out).items() if n.startswith("sub-")} == reference.of("02")


def test_an_interrupt_from_the_keyboard_reaches_workers_too(lab: Lab, place: Path) -> None:
    out = place / "out"
    run = lab.start(out, *ONE, nprocs=2)
    until(run, run.workers)
    run.send(signal.SIGINT, group=True)
    assert run.wait() == 130, run.said
    assert gone(run)
    assert not leftovers(out)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_many_kills(lab: Lab, place: Path) -> None:
    """Twenty kills, of either process, of the whole cohort."""
    chance = random.Random(0)
    expected = undisturbed(lab, place)
    for number in range(20):
        kill = kill_and_resume(
            lab, expected, place / f"out{number}", chance.choice(("main", "worker")), chance
        )
        assert kill.survived, kill
