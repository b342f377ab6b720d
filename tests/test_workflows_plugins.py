"""The plugins: a killed worker ends its step, not the run, and one session is finished before the next."""

import gc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe

from bidsrep.errors import ImageError
from bidsrep.reports.crashes import crashes_of
from bidsrep.settings import Settings
from bidsrep.workflows.execution import configure_nipype, make_plugin
from bidsrep.workflows.plugins import COMPLETE, Dependencies, LinearPlugin, MultiProcPlugin, frozen


def _kill_self(value: int) -> int:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return value


def _refuse(value: int) -> int:
    from bidsrep.errors import ImageError

    raise ImageError("scan.nii.gz", "is empty", "Copy it again")


def _pass(value: int) -> int:
    return value


def _run(
    tmp_path: Path,
    processes: int = 2,
    in_line: bool = False,
    heard: Callable | None = None,
    **functions: list,
) -> Path:
    """Run chains of one-line nodes, of which one fails; give the folder of the crash files."""
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path, nprocs=2)
    crash_dir = tmp_path / "log"
    configure_nipype(settings, crash_dir)
    workflow = pe.Workflow("test_wf", base_dir=str(tmp_path / "work"))
    for name, chain in functions.items():
        before = None
        for step, function in enumerate(chain):
            node = pe.Node(Function(["value"], ["out"], function=function), name=f"{name}{step}")
            node.inputs.value = 1
            workflow.add_nodes([node])
            if before is not None:
                workflow.connect(before, "out", node, "value")
            before = node
    _, arguments = make_plugin(settings, heard)
    plugin = (
        LinearPlugin({"status_callback": heard})
        if in_line
        else MultiProcPlugin(plugin_args=arguments | {"n_procs": processes})
    )
    with pytest.raises((RuntimeError, ImageError)):
        workflow.run(plugin=plugin)
    return crash_dir


def test_a_killed_worker_does_not_hang_the_run(tmp_path):
    crash_dir = _run(tmp_path, bad=[_kill_self, _pass])
    (crash,) = crashes_of(crash_dir.parent, tmp_path, "log")
    assert crash.node == "test_wf.bad0"
    assert "killed" in crash.message


def test_steps_after_a_killed_worker_run_in_a_new_pool(tmp_path):
    _run(tmp_path, processes=1, bad=[_kill_self], good=[_pass, _pass], late=[_pass, _pass])
    finished = {p.parent.name for p in (tmp_path / "work" / "test_wf").glob("*/result_*.pklz")}
    assert finished == {"good0", "good1", "late0", "late1"}


def test_a_refusal_is_told_in_its_own_words(tmp_path):
    crash_dir = _run(tmp_path, bad=[_refuse, _pass], good=[_pass, _pass])
    (crash,) = crashes_of(crash_dir.parent, tmp_path, "log")
    assert crash.message == "bidsrep.errors.ImageError: scan.nii.gz: is empty. Copy it again."
    assert len(list((tmp_path / "work" / "test_wf").glob("good*/result_*.pklz"))) == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_sessions_are_finished_one_after_another(tmp_path, processes):
    """The last step of every chain is done before a chain two places further on has begun."""
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path, nprocs=processes)
    configure_nipype(settings, tmp_path / "log")
    workflow = pe.Workflow("test_wf", base_dir=str(tmp_path / "work"))
    for chain in "cab":
        steps = [pe.Node(Function(["value"], ["out"], function=_pass), name=f"{chain}{i}") for i in range(3)]
        steps[0].inputs.value = 1
        workflow.add_nodes([steps[0]])
        workflow.connect([(a, b, [("out", "value")]) for a, b in pairwise(steps)])
    started, complete = [], []

    def follow(node, status):
        if status == "start":
            started.append(node.name)
        elif status == COMPLETE:
            complete.append((node.name[0], [name for name in started if name[0] == node.name[0]]))

    plugin, arguments = make_plugin(settings, follow)
    workflow.run(plugin=plugin, plugin_args=arguments)
    chains = list(dict.fromkeys(name[0] for name in started))
    assert len(started) == 9
    assert sorted(complete) == [(chain, [f"{chain}{i}" for i in range(3)]) for chain in "abc"]
    assert started.index(f"{chains[0]}2") < started.index(f"{chains[2]}0")
    if processes == 1:
        assert started == [f"{chain}{i}" for chain in chains for i in range(3)]


@pytest.mark.parametrize("in_line", [True, False])
def test_a_chain_with_a_failure_is_not_complete(tmp_path, in_line):
    complete = []
    _run(tmp_path, in_line=in_line, heard=lambda node, status: complete.append(node.name[:-1])
         if status == COMPLETE else None, bad=[_pass, _refuse, _pass], good=[_pass, _pass])  # fmt: skip
    assert complete == ["good"]


def test_in_line_a_failure_costs_its_own_session_alone(tmp_path):
    _run(tmp_path, processes=1, in_line=True, bad=[_refuse, _pass], good=[_pass, _pass])
    finished = {p.parent.name for p in (tmp_path / "work" / "test_wf").glob("*/result_*.pklz")}
    assert finished - {"bad0"} == {"good0", "good1"}


@pytest.mark.parametrize("text", ["[1, 2]", "plugin_args: {}", "plugin: [", ""])
def test_a_bad_plugin_file_is_named(tmp_path, text):
    from bidsrep.errors import UsageError

    path = tmp_path / "plugin.yml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"plugin\.yml"):
        make_plugin(Settings(bids_dir=tmp_path, out_dir=tmp_path, use_plugin=path))


def test_a_plugin_file_wins(tmp_path):
    path = tmp_path / "plugin.yml"
    path.write_text("plugin: SGE\nplugin_args: {max_jobs: 3}\n")
    settings = Settings(bids_dir=tmp_path, out_dir=tmp_path, use_plugin=path)
    assert make_plugin(settings) == ("SGE", {"max_jobs": 3})


@pytest.mark.parametrize(("name", "mended"), [("MultiProc", MultiProcPlugin), ("Linear", LinearPlugin)])
def test_a_plugin_file_gets_the_mended_plugins(tmp_path, name, mended):
    path = tmp_path / "plugin.yml"
    path.write_text(f"plugin: {name}\nplugin_args: {{n_procs: 2, raise_insufficient: true}}\n")
    plugin, arguments = make_plugin(Settings(bids_dir=tmp_path, out_dir=tmp_path, nprocs=5, use_plugin=path))
    assert isinstance(plugin, mended)
    assert (arguments["n_procs"], arguments["raise_insufficient"]) == (2, True)
    if name == "MultiProc":
        assert arguments["mp_context"] == "forkserver"


def test_dependencies_are_counted_as_they_are_added_up():
    generator = np.random.default_rng(0)
    plain = sparse.lil_matrix((generator.random((40, 40)) < 0.05).astype(float))
    counted = Dependencies(plain)
    for job in (3, 17, 3, 39):
        for matrix in (plain, counted):
            row = matrix.getrowview(job)  # what Nipype does when a step has ended
            row[row.nonzero()] = 0
        assert np.array_equal(counted.sum(axis=0), plain.sum(axis=0))
    assert np.array_equal(counted.sum(axis=1), plain.sum(axis=1))


def test_what_was_there_before_a_run_is_no_matter_for_the_garbage_collector():
    with frozen():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
