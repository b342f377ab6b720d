"""Nipype's plugins, mended: sessions are finished one after another, a killed worker hangs nothing, waiting is cheap.

Nipype takes the steps of a graph breadth first: the first session's files would be written when the last one's
are. Here a step of an earlier session goes before those of later ones, which fill what processors are left; and the
status callback hears ``complete``, with a session's last step, when all of its steps are done.

When the kernel kills a worker (out of memory), `concurrent.futures` breaks every future of the pool.
Nipype 1.11 reads the result inside the done-callback, where the exception is swallowed, and then waits
for ever. Here the step is reported as failed and the pool is made anew for the steps that follow. And when the
main process is killed, its workers would wait for ever for what it has to say, or write into the work folder of
the run that follows: here they end with it.

At every look at the queue, several times a second, Nipype adds up the matrix of the graph's dependencies in a
way that converts it three times: half a processor for a cohort of twenty scans. `Dependencies` counts instead. And
before it submits steps, it collects garbage, which takes a tenth of a second with PyTorch's objects in memory: `frozen`
leaves those that were there before the run out.
"""

import gc
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import scipy.sparse as sparse
from networkx import DiGraph, weakly_connected_components
from nipype.pipeline.plugins import linear, multiproc
from nipype.pipeline.plugins.base import DistributedPluginBase
from nipype.utils.misc import str2bool
from scipy.sparse.csgraph import connected_components

from bidsrep.resources import available_memory_gb
from bidsrep.workflows.memory import may_keep, return_memory, reuse_memory

PRELOADED = ["nipype.pipeline.plugins.multiproc", "torch"]
"""What the fork server imports once for all workers; importing torch starts no thread and no CUDA."""

COMPLETE = "complete"

KILLED = (
    "WorkerKilled: the process that ran this step was killed, most often because memory ran out. "
    "Use fewer --nprocs, state --mem-gb, or give the job more memory."
)


def start_worker(folder: str, level: int) -> None:
    """Set a worker up: in the run's folder, as talkative as the process that started it, and gone when that is."""
    from nipype import logging

    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    reuse_memory()
    multiproc.process_initializer(folder)
    for name in ("workflow", "interface", "utils"):
        logging.getLogger(f"nipype.{name}").setLevel(level)


def run_step(node: Any, updatehash: bool, taskid: int, kept_gb: float) -> dict[str, Any]:
    """Run a step in a worker; what it holds afterwards beyond its share is its neighbours'."""
    try:
        return multiproc.run_node(node, updatehash, taskid)
    finally:
        return_memory(kept_gb)


def _end_with_parent() -> None:
    """Wait until the process that started this one has ended, however it did, and end as well."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Dependencies(sparse.lil_matrix):
    """Which step (row) another one (column) waits for; sums over rows count the entries."""

    def sum(self, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
        """As of any matrix; along axis 0 by counting, for all entries are 1."""
        if axis != 0 or dtype is not None or out is not None:
            return super().sum(axis, dtype, out)
        columns = np.fromiter((c for row in self.rows for c in row), dtype=np.int64)
        return np.asmatrix(np.bincount(columns, minlength=self.shape[1]))


class LinearPlugin(linear.LinearPlugin):
    """Run a graph in this process, one connected part (a session) after another."""

    _status_callback: Any

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run every part, whatever becomes of the others; raise the first error at the end."""
        errors = []
        reuse_memory()
        with self._interruptible():
            for nodes in list(weakly_connected_components(graph)):
                part = DiGraph()
                part.add_nodes_from((node, graph.nodes[node]) for node in graph if node in nodes)
                part.add_edges_from(graph.edges(nodes, data=True))
                try:
                    super().run(part, config, updatehash=updatehash)
                except Exception as error:
                    if str2bool(config["execution"]["stop_on_first_crash"]):
                        raise
                    errors.append(error)
                else:
                    self._status_callback(next(iter(part)), COMPLETE)
        if errors:
            raise errors[0]

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let an interrupt end the run: one that comes within a step is to Nipype a failure of that step alone."""
        came: list[int] = []
        heard, folder = self._status_callback, os.getcwd()
        kept_gb = may_keep(available_memory_gb(), 1)

        def follow(node: Any, status: str) -> None:
            if came:
                raise KeyboardInterrupt
            if status != "start":
                return_memory(kept_gb)
            if heard:
                heard(node, status)

        before = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            before = {number: handler for number, handler in handlers.items() if callable(handler)}

        def note(number: int, frame: Any) -> None:
            came.append(number)
            before[signal.Signals(number)](number, frame)

        for number in before:
            signal.signal(number, note)
        self._status_callback = follow
        try:
            yield
        finally:
            self._status_callback = heard
            os.chdir(folder)  # steps are left where the interrupt found them
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def frozen() -> Iterator[None]:
    """Keep the garbage collector from looking at what there is now, until the block ends."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Parts(DistributedPluginBase):
    """Keeps count of what is left of every connected part of a graph (a session)."""

    depidx: Any
    _part: np.ndarray
    _left: np.ndarray

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        _, self._part = connected_components(self.depidx, directed=False)
        self._left = np.bincount(self._part)
        self.depidx = Dependencies(self.depidx)

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        super()._task_finished_cb(jobid, cached)
        self._left[self._part[jobid]] -= 1
        if not self._left[self._part[jobid]] and self._status_callback:
            self._status_callback(self.procs[jobid], COMPLETE)


class MultiProcPlugin(Parts, multiproc.MultiProcPlugin):
    """Run a graph on a pool of processes that survives the death of its workers.

    Takes the plugin arguments of Nipype's own ``MultiProc``.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        super().__init__(plugin_args=plugin_args)
        self._kept_gb = may_keep(self.memory_gb, self.processors)
        self._renew_pool()  # ours; the one of the parent class has not started a worker yet

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run the graph; on an interrupt, stop the workers before passing it on."""
        try:
            with frozen():
                super().run(graph, config, updatehash=updatehash)
        except BaseException:
            self._stop_workers()
            raise

    def _sort_jobs(self, jobids: Iterable[int], scheduler: str = "tsort") -> list[int]:
        """Steps of earlier parts of the graph (sessions) first, in the order of the graph."""
        return sorted(jobids, key=lambda job: self._part[job])

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        taskid = self._taskid
        try:
            future = self.pool.submit(run_step, node, updatehash, taskid, self._kept_gb)
        except BrokenProcessPool:
            self._renew_pool()
            future = self.pool.submit(run_step, node, updatehash, taskid, self._kept_gb)
        self._task_obj[taskid] = future
        future.add_done_callback(partial(self._finished, taskid))
        return taskid

    def _finished(self, taskid: int, future: Future) -> None:
        """Keep the result of a task, or say that nobody will ever bring one."""
        try:
            self._taskresult[taskid] = future.result()
        except BaseException as error:  # noqa: BLE001 (a broken pool, a cancelled or unpicklable result)
            message = KILLED if isinstance(error, BrokenProcessPool) else f"{type(error).__name__}: {error}"
            self._taskresult[taskid] = {"result": None, "traceback": [message], "taskid": taskid}

    def _renew_pool(self) -> None:
        self._stop_workers()
        self.pool = ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=start_worker,
            initargs=(self._cwd, multiproc.logger.level),
            mp_context=self._context(self.plugin_args.get("mp_context")),
        )

    def _postrun_check(self) -> None:
        if getattr(self.pool, "_broken", False):
            self._stop_workers()
        else:
            self.pool.shutdown()

    def _stop_workers(self) -> None:
        """End the workers at once.

        After an interrupt nobody waits for what they compute. In a broken pool Python ends them itself,
        but misses one that was being started at that moment, and then waits for it for ever.
        """
        workers = list((getattr(self.pool, "_processes", None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()

    @staticmethod
    def _context(method: str | None) -> BaseContext:
        context = get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        return context
