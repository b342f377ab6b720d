"""The SLURM plugin, with stand-ins for Slurm: a dead job fails its branch, by name, and nothing else."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from bidsrep.errors import UsageError
from bidsrep.reports.crashes import Crash, crashes_of
from bidsrep.settings import Settings
from bidsrep.workflows import slurm_plugin
from bidsrep.workflows.execution import configure_nipype, make_plugin
from bidsrep.workflows.plugins import COMPLETE
from bidsrep.workflows.slurm import job_end
from bidsrep.workflows.slurm_plugin import SlurmPlugin

FAST = {"poll_s": 0.1, "retry_timeout": 0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_plugin, "RESULT_WAIT_S", 0.2)
    monkeypatch.delenv("LOGNAME", raising=False)


def _kill_self(value: int) -> int:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return value


def _refuse(value: int) -> int:
    raise ValueError("a bad scan")


def _pass(value: int) -> int:
    return value


def chain(name: str, *functions: Callable) -> list[pe.Node]:
    nodes = [pe.Node(Function(["value"], ["out"], function=f), name=f"{name}{n}") for n, f in enumerate(functions)]  # fmt: skip
    nodes[0].inputs.value = 1
    return nodes


def run(tmp_path: Path, *chains: list[pe.Node], heard: Callable | None = None, **arguments: object) -> None:
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path)
    configure_nipype(settings, tmp_path / "log" / "run")
    workflow = pe.Workflow("test_wf", base_dir=str(tmp_path / "100% work"))
    for nodes in chains:
        workflow.add_nodes(nodes[:1])
        for before, after in pairwise(nodes):
            workflow.connect(before, "out", after, "value")
    workflow.run(plugin=SlurmPlugin(FAST | arguments | {"status_callback": heard}))


def crash_of(tmp_path: Path) -> Crash:
    (crash,) = crashes_of(tmp_path / "log", tmp_path, "run")
    return crash


def finished(tmp_path: Path) -> set[str]:
    return {path.parent.name for path in (tmp_path / "100% work" / "test_wf").glob("*/result_*.pklz")}


def test_a_killed_job_fails_its_branch_by_name(tmp_path: Path, slurm: FakeSlurm) -> None:
    complete = []
    heavy = chain("good", _pass, _pass)
    heavy[0]._mem_gb, heavy[0].n_procs = 2.5, 3
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("bad", _kill_self, _pass), heavy,
            heard=lambda node, status: complete.append(node.name) if status == COMPLETE else None)  # fmt: skip
    crash = crash_of(tmp_path)
    assert crash.node == "test_wf.bad0"
    assert "FAILED (exit code 137:0)" in crash.message
    assert "more memory" in crash.message
    assert "Killed" in crash.message  # what the shell wrote into the job's output
    assert finished(tmp_path) == {"good0", "good1"}
    assert complete == ["good1"]
    asked = {job: slurm.arguments(job) for job in slurm.jobs}
    assert len(asked) == 3
    first = next(words for words in asked.values() if "--job-name=test_wf.good0" in words)
    assert {"--mem=2560M", "--cpus-per-task=3"} <= set(first)
    assert all(any(word.startswith("--mem=") for word in words) for words in asked.values())


def test_a_cancelled_job_is_not_tried_again(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.say("cancel")
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("step", _pass, _pass))
    crash = crash_of(tmp_path)
    assert (crash.node, crash.killed) == ("test_wf.step0", False)
    assert "CANCELLED (exit code 0:15)" in crash.text


def test_a_job_that_lost_its_node_is_worth_another_try(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.say("cancel")
    command = tmp_path / "programs" / "scontrol"
    command.write_text("#!/bin/bash\necho JobState=NODE_FAIL ExitCode=0:0\n")
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("step", _pass))
    assert crash_of(tmp_path).killed


def test_a_refused_submission_fails_its_step(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.say("refuse")
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("step", _pass, _pass))
    crash = crash_of(tmp_path)
    assert crash.node == "test_wf.step0"
    assert "Invalid account" in crash.text


def test_light_steps_are_no_jobs(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_plugin, "LIGHT", (Function,))
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("bad", _refuse, _pass), chain("good", _pass, _pass))
    crash = crash_of(tmp_path)
    assert (crash.node, crash.message) == ("test_wf.bad0", "ValueError: a bad scan")
    assert finished(tmp_path) - {"bad0"} == {"good0", "good1"}
    assert not slurm.jobs


def test_a_controller_that_does_not_answer_stops_nothing(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.say("away")
    run(tmp_path, chain("step", _pass))
    assert finished(tmp_path) == {"step0"}
    assert not (slurm.folder / "away").exists()


def test_an_interrupt_takes_the_jobs_out_of_the_queue(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.say("hold")

    def interrupt(node: pe.Node, status: str) -> None:
        if slurm.jobs == [1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, chain("a", _pass), chain("b", _pass), heard=interrupt)
    assert (slurm.folder / "cancelled").read_text() == "1\n"


def test_the_user_decides_on_memory(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.say("cancel")
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("step", _pass), sbatch_args="--mem-per-cpu=900 --account='a b'")
    words = slurm.arguments(1)
    assert [word for word in words if word.startswith("--mem")] == ["--mem-per-cpu=900"]
    assert "--account=a b" in words


def test_a_result_of_other_inputs_does_not_pass(tmp_path: Path, slurm: FakeSlurm) -> None:
    stale = tmp_path / "100% work" / "test_wf" / "step0" / "result_step0.pklz"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    slurm.say("cancel")
    with pytest.raises(RuntimeError):
        run(tmp_path, chain("step", _pass))
    assert "CANCELLED" in crash_of(tmp_path).text


def test_accounting_tells_what_the_controller_forgot(slurm: FakeSlurm) -> None:
    slurm.say("forgotten")
    assert job_end(7) == ("CANCELLED", "0:15")


def test_a_plugin_file_that_says_slurm_gets_this_plugin(tmp_path: Path) -> None:
    path = tmp_path / "plugin.yml"
    path.write_text("plugin: SLURM\nplugin_args: {max_jobs: 3}\n")
    plugin, _ = make_plugin(Settings(bids_dir=tmp_path, out_dir=tmp_path, use_plugin=path))
    assert isinstance(plugin, SlurmPlugin)
    assert plugin.max_jobs == 3


def test_a_plugin_that_does_not_wait_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plugin.yml"
    path.write_text("plugin: SLURMGraph\n")
    with pytest.raises(UsageError, match="plugin: SLURM"):
        make_plugin(Settings(bids_dir=tmp_path, out_dir=tmp_path, use_plugin=path))
