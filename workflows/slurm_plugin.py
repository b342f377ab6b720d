"""Nipype's SLURM plugin, mended: every step is a job of Slurm, and a job that dies fails its own branch, by name.

In Nipype 1.11 a job that is killed or cancelled ends the whole run with a `TypeError`, a refused submission ends it
too, `LOGNAME` must be set, and neither memory nor processors of a step reach ``sbatch``. Every waiting job costs a
question to the controller at every look at the queue; here one question serves all.
"""

import logging
import math
import shlex
import time
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.base import SGELikeBatchManagerBase

from bidsrep.interfaces.derivatives import SaveDerivative
from bidsrep.reports.crashes import KILLED_CLASS
from bidsrep.workflows.plugins import Parts
from bidsrep.workflows.slurm import SlurmError, ask, job_end, last_words, queued_jobs, submit

LOGGER = logging.getLogger("bidsrep")
POLL_S = 5.0
"""How often the queue is looked at."""
MAX_JOBS = 200
"""How many jobs are in the queue at a time; clusters refuse users who have too many."""
LEAST_GB = 1.0
"""What any step is given: Python and the libraries alone take half of it."""
RESULT_WAIT_S = 30.0
"""How long after a job's end its result may take to show on a network file system."""

LIGHT: tuple[type, ...] = (SaveDerivative,)
"""Interfaces whose steps run in the process that waits for the jobs."""

REPEATABLE = ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "PREEMPTED", "REVOKED")
"""States that say nothing about the step: it is tried once more."""
MORE_MEMORY = "Give it more memory, for example 'sbatch_args: --mem=16G' in the file of --use-plugin."
REMEDIES = {
    "OUT_OF_MEMORY": MORE_MEMORY,
    "TIMEOUT": "Give it more time, for example 'sbatch_args: --time=120' in the file of --use-plugin.",
    "DEADLINE": "Give it a later deadline.",
    "CANCELLED": "Run the same command again to go on.",
}
KILLED_CODES = ("137:0", "0:9")
NO_RESULT = "{kind}: job {job} of Slurm ended as {state} (exit code {code}) without a result. {remedy}{words}"
NOT_SUBMITTED = "SlurmError: the step could not be submitted to Slurm ({}). Look at the file of --use-plugin."
NO_ANSWER = "Slurm does not say which jobs are in the queue (%s); they count as running."


class SlurmPlugin(Parts, SGELikeBatchManagerBase):
    """Run a graph as jobs of Slurm.

    Parameters
    ----------
    plugin_args : dict, optional
        As of Nipype's ``SLURM``: ``sbatch_args``, ``template``, ``max_jobs``, ``max_tries``, ``retry_timeout``.
        ``sbatch_args`` go before what a step asks for itself. And ``poll_s``: seconds between looks at the queue.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        given = plugin_args or {}
        super().__init__(str(given.get("template", "#!/bin/bash")), plugin_args=plugin_args)
        self.max_jobs = given.get("max_jobs", MAX_JOBS)
        self._sbatch_args = shlex.split(str(given.get("sbatch_args", "")))
        self._more_tries = int(given.get("max_tries", 2))
        self._retry_s = float(given.get("retry_timeout", 2))
        self._poll_s = float(given.get("poll_s", POLL_S))
        self._queued: set[int] = set()
        self._looked = -math.inf
        self._gone: dict[int, float] = {}
        self._logs: dict[int, Path] = {}
        self._here: dict[int, dict[str, Any]] = {}

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run the graph; when that is interrupted, take the jobs out of the queue."""
        config = config | {"execution": config["execution"] | {"poll_sleep_duration": self._poll_s}}
        try:
            super().run(graph, config, updatehash=updatehash)
        except BaseException:
            self._cancel_jobs()
            raise

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        """Submit a step, or do it at once if it is light; one that cannot be submitted is one that failed."""
        trouble: list[str] | None = None
        try:
            if not isinstance(node.interface, LIGHT):
                return super()._submit_job(node, updatehash=updatehash)
            node.run(updatehash=updatehash)
        except Exception as error:  # noqa: BLE001 - whatever an interface raises fails its step
            refused = isinstance(error, SlurmError)
            trouble = [NOT_SUBMITTED.format(error)] if refused else format_exception(error)
        task = -1 - len(self._here)
        self._here[task] = {"result": None, "traceback": trouble}
        return task

    def _submit_batchtask(self, scriptfile: str, node: Any) -> int:
        folder = Path(node.output_dir())
        for stale in folder.glob("result_*.pklz"):  # of other inputs: it must not pass for this job's
            stale.unlink()
        logs = Path(scriptfile).parent
        output = str(logs).replace("%", "%%") + "/slurm-%j.out"
        job = self._sbatch(*self._options(node), f"--output={output}", scriptfile)
        self._pending[job] = str(folder)
        self._logs[job] = logs / f"slurm-{job}.out"
        self._queued.add(job)
        return job

    def _options(self, node: Any) -> list[str]:
        """Say what a step needs; what the user says goes before."""
        options = [
            f"--job-name={node.fullname}",
            "--ntasks=1",
            f"--cpus-per-task={max(node.n_procs or 1, 1)}",
        ]
        if not any(given.startswith("--mem") for given in self._sbatch_args):
            options.append(f"--mem={math.ceil(1024 * max(node.mem_gb, LEAST_GB))}M")
        if getattr(node.inputs, "use_gpu", False) and not any("gpu" in given for given in self._sbatch_args):
            options.append("--gres=gpu:1")
        return [*options, *self._sbatch_args]

    def _sbatch(self, *arguments: str) -> int:
        for _ in range(self._more_tries):
            try:
                return submit(*arguments)
            except SlurmError:
                time.sleep(self._retry_s)
        return submit(*arguments)

    def _is_pending(self, taskid: int) -> bool:
        if time.monotonic() - self._looked >= self._poll_s / 2:
            self._look()
        return taskid in self._queued

    def _look(self) -> None:
        """Ask which jobs are waiting or running; if there is no answer, all are."""
        self._looked = time.monotonic()
        try:
            self._queued = queued_jobs()
        except SlurmError as error:
            LOGGER.warning(NO_ANSWER, error)

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        if taskid in self._here:
            return self._here[taskid]
        if self._is_pending(taskid):
            return None
        if any(Path(self._pending[taskid]).glob("result_*.pklz")):
            return super()._get_result(taskid)
        ended = self._gone.setdefault(taskid, time.monotonic())
        if time.monotonic() - ended < RESULT_WAIT_S:
            return None
        return {"result": None, "traceback": [self._explain(taskid)]}

    def _clear_task(self, taskid: int) -> None:
        self._pending.pop(taskid, None)

    def _report_crash(self, node: Any, result: dict[str, Any] | None = None) -> str:
        """Nipype hands over the traceback as one text where it fails itself, and expects lines."""
        if result is not None and isinstance(result["traceback"], str):
            result = result | {"traceback": result["traceback"].splitlines(keepends=True)}
        return super()._report_crash(node, result=result)

    def _explain(self, job: int) -> str:
        """Say how a job ended that left no result."""
        state, code = job_end(job)
        remedy = REMEDIES.get(state, MORE_MEMORY if code in KILLED_CODES else "")
        words = last_words(self._logs[job])
        return NO_RESULT.format(
            kind=KILLED_CLASS if state in REPEATABLE else "SlurmJobEnded",
            job=job,
            state=state,
            code=code,
            remedy=remedy,
            words=f" It said: {words}" if words else "",
        ).rstrip()

    def _cancel_jobs(self) -> None:
        """Nobody waits any more for the jobs in the queue."""
        jobs = [str(job) for job in self._pending if job in self._queued]
        if jobs:
            try:
                ask("scancel", *jobs)
            except SlurmError as error:
                LOGGER.warning("Jobs %s are still in the queue (%s).", ", ".join(jobs), error)
