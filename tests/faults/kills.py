"""Runs that are killed at a random moment, and what is left of them when they are run again."""

import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .lab import UNCOMPARED, Lab, Run, contents, group_of, leftovers

POLL_S = 0.05
ORPHANS_S = 30.0
"""So soon all processes of a killed run must be gone, on a machine that has other things to do."""


@dataclass
class Kill:
    """One kill and what came after it.

    `victim` is ``main`` or ``worker``; `after_s` how long the run had computed when it was sent; `there` how many of the final files were there;
    `torn` those of them that were not whole, `orphans` the processes that outlived the run; `redone` the files
    that the next run wrote although they were whole, `differing` those that it left different from an undisturbed
    run, `left` the hidden files it did not sweep up. `hit` tells whether the run was still at work.
    """

    victim: str
    after_s: float
    hit: bool = False
    there: int = 0
    torn: list[str] = field(default_factory=list)
    orphans: int = 0
    code: int | None = None
    redone: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether nothing was torn, lost or different."""
        return self.code == 0 and not (self.torn or self.orphans or self.differing or self.left)


@dataclass
class Undisturbed:
    """What a run gives, and how long it computes (s), with one process and with two."""

    files: dict[str, bytes]
    work_s: dict[int, float]


def undisturbed(lab: Lab, folder: Path, *options: str, processes: tuple[int, ...] = (1, 2)) -> Undisturbed:
    """Run once with one process and once with several; both must give the same bytes."""
    made: dict[int, dict[str, bytes]] = {}
    work = {}
    for nprocs in processes:
        out = folder / f"undisturbed{nprocs}"
        run = lab.start(out, *options, nprocs=nprocs)
        work[nprocs] = 0.0
        while run.wait(POLL_S) is None:
            work[nprocs] = max(work[nprocs], run.worked())
        assert run.code == 0, run.said
        made[nprocs] = contents(out)
    assert all(files == made[processes[0]] for files in made.values()), "processes change the results"
    return Undisturbed(made[processes[0]], work)


def kill_and_resume(
    lab: Lab,
    expected: Undisturbed,
    out: Path,
    victim: str,
    chance: random.Random,
    *options: str,
    only: str = "",
) -> Kill:
    """Kill a run, or one of its workers, at a uniformly random moment; run again, and compare.

    Files whose names start with `only` are compared, where the options choose a part of the cohort.

    The moment is counted in the time the run has computed, so that a busy machine does not shift it. Of a killed
    worker's steps the run itself must make good; one of two processes is not killed as a whole, for what its main
    process does is what a run of one process does.
    """
    nprocs = 2 if victim == "worker" else 1
    kill = Kill(victim, chance.uniform(0, expected.work_s[nprocs]))
    run = lab.start(out, *options, nprocs=nprocs)
    if victim == "worker":
        kill.hit = _kill_worker(run, kill.after_s, chance)
        run.wait()
    else:
        while run.wait(POLL_S) is None:
            if run.worked() >= kill.after_s:
                run.send(signal.SIGKILL)
                kill.hit = run.wait() == -signal.SIGKILL
    kill.orphans = _orphans(run)
    kill.there, kill.torn = _look(out, expected, only)
    before = _times(out)
    again = lab.run(out, *options, nprocs=1)
    kill.code = again.code
    found = {name: content for name, content in contents(out).items() if name.startswith(only)}
    names = expected.files.keys() | found.keys()
    if victim == "worker":  # the page says that a step was killed and succeeded when it was repeated
        names = {name for name in names if not name.endswith(".html")}
    kill.differing = sorted(name for name in names if found.get(name) != expected.files.get(name))
    after = _times(out)
    kill.redone = sorted(name for name in before.keys() & found.keys() if after.get(name) != before[name])
    kill.left = leftovers(out)
    run.end()
    return kill


def remove(out: Path) -> None:
    """Remove what a run left, its work folder and what it printed."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(f"{out.name}-work"), ignore_errors=True)
    for log in out.parent.glob(f"{out.name}-*.log"):
        log.unlink()


def _kill_worker(run: Run, after_s: float, chance: random.Random) -> bool:
    """Kill a worker once the time has come and there is one; tell whether there was."""
    while run.wait(POLL_S) is None:
        workers = run.workers() if run.worked() >= after_s else []
        if workers:
            try:
                os.kill(chance.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                continue
            return True
    return False


def _orphans(run: Run) -> int:
    """Wait until the processes of an ended run are gone; count those that stay."""
    until = time.monotonic() + ORPHANS_S
    while (left := group_of(run.process)) and time.monotonic() < until:
        time.sleep(POLL_S)
    return len(left)


def _look(out: Path, expected: Undisturbed, only: str) -> tuple[int, list[str]]:
    """Count the files under their final names; list those that hold something else than they should.

    Of the subjects' pages, which show how far a run has come, only the end is looked at: they must be whole.
    """
    there = contents(out) if out.is_dir() else {}
    there = {name: content for name, content in there.items() if name.startswith(only)}
    torn = []
    for name, content in there.items():
        if name.endswith(".html"):
            whole = content.rstrip().endswith(b"</html>")
        else:
            whole = content == expected.files.get(name)
        if not whole:
            torn.append(name)
    return len(there), torn


def _times(out: Path) -> dict[str, int]:
    if not out.is_dir():
        return {}
    return {
        path.relative_to(out).as_posix(): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and not set(UNCOMPARED) & set(path.relative_to(out).parts)
    }


def say(kill: Kill) -> None:
    """Print one line about a kill."""
    print(
        f"{kill.victim} after {kill.after_s:.2f} s ({'hit' if kill.hit else 'too late'}), {kill.there} files: "
        f"{'survived' if kill.survived else kill}, {len(kill.redone)} written again",
        file=sys.stderr,
        flush=True,
    )
