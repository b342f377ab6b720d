"""A large cohort is computed in groups of sessions: what each gets, what ends the run, how progress is counted."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bidsrep.settings import Settings
from bidsrep.workflows import run
from bidsrep.workflows.progress import Tally


class Job(SimpleNamespace):
    """A session with two scans that one network sees; ``fails`` says how its graphs end."""

    def __init__(self, number: int, folder: Path, fails: int = 0) -> None:
        scan = SimpleNamespace(predictions=("pepsi",))
        plan = SimpleNamespace(scans=(scan, scan))
        super().__init__(
            label=f"sub-{number}", plan=plan, log_dir=folder, reasons={"pepsi": "not done before"}, fails=fails,
            session=SimpleNamespace(scans=(scan, scan)), done=False, crashed=False, retried=False,
            left_behind={},
        )  # fmt: skip

    def claimed(self, work: Any) -> bool:
        return True


class Runs:
    """Stands in for the graphs: notes who is in each, and the tally it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graphs: list[list[str]] = []
        self.tallies: list[tuple[int, int]] = []
        monkeypatch.setattr(run, "run_graph", self.graph)
        monkeypatch.setattr(run, "_take_stock", lambda job, recorder: job.plan is not None)
        monkeypatch.setattr(run.Recorder, "start", lambda *given: None)
        monkeypatch.setattr(run.WorkFolder, "opened", lambda settings: nullcontext())
        monkeypatch.setattr(run, "measured", lambda *given: nullcontext())
        monkeypatch.setattr(run, "BATCH", 2)

    def graph(self, jobs, settings, models, recorder, tally, isolate=False) -> Exception | None:
        self.graphs.append([job.label for job in jobs])
        self.tallies.append((tally.done, tally.total))
        failed = [job for job in jobs if job.fails]
        for job in jobs:
            if job.fails:
                job.fails -= 1
                job.crashed = True
            else:
                job.done = True
                tally.done += 2
        return RuntimeError("a step failed") if failed else None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(bids_dir=tmp_path, out_dir=tmp_path / "out", models=("pepsi",), nprocs=1)


def compute(jobs: list[Job], settings: Settings, monkeypatch: pytest.MonkeyPatch, most: int = 1) -> Runs:
    monkeypatch.setattr(run, "PER_PROCESS", most)
    runs = Runs(monkeypatch)
    run.compute(jobs, settings, None)
    return runs


def test_every_session_is_in_one_group(settings, tmp_path, monkeypatch):
    runs = compute([Job(n, tmp_path) for n in range(5)], settings, monkeypatch)
    assert runs.graphs == [["sub-0", "sub-1"], ["sub-2", "sub-3"], ["sub-4"]]


def test_progress_counts_over_all_groups(settings, tmp_path, monkeypatch):
    runs = compute([Job(n, tmp_path) for n in range(5)], settings, monkeypatch)
    assert runs.tallies == [(0, 10), (4, 10), (8, 10)]


def test_many_processes_get_larger_groups(settings, tmp_path, monkeypatch):
    runs = compute([Job(n, tmp_path) for n in range(5)], settings, monkeypatch, most=4)
    assert [len(graph) for graph in runs.graphs] == [4, 1]


def test_what_failed_is_tried_again_within_its_group(settings, tmp_path, monkeypatch):
    jobs = [Job(0, tmp_path), Job(1, tmp_path, fails=1), Job(2, tmp_path)]
    runs = compute(jobs, settings, monkeypatch)
    assert runs.graphs == [["sub-0", "sub-1"], ["sub-1"], ["sub-2"]]
    assert runs.tallies == [(0, 6), (0, 2), (4, 6)]


def test_stop_on_first_crash_ends_all_groups(tmp_path, monkeypatch):
    stopping = Settings(
        bids_dir=tmp_path, out_dir=tmp_path / "out", models=("pepsi",), nprocs=1, stop_on_first_crash=True
    )
    runs = compute([Job(n, tmp_path, fails=int(n == 0)) for n in range(4)], stopping, monkeypatch)
    assert runs.graphs == [["sub-0", "sub-1"]]


def test_the_time_left_is_guessed_from_the_pace(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bidsrep.workflows.progress.time.monotonic", lambda: clock[0])
    tally = Tally(10)
    tally.done, clock[0] = 2, 60.0
    assert tally.time_left() == ""
    tally.done, clock[0] = 4, 240.0
    assert tally.time_left() == ", about 6 min left"
    tally.done = 10
    assert tally.time_left() == ""
