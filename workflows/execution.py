"""How a graph is run: Nipype's configuration, and the plugin."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bidsrep.errors import UsageError
from bidsrep.settings import Settings

POLL_S = 0.02
"""How often finished steps are looked for; Nipype's default of 2 s costs seconds per scan."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
ITK_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
"""Always 1: with more, two registrations of the same images differ in the last digits."""

USER_NAME = "LOGNAME"
"""The first variable that Python's `getpass.getuser` looks at."""

READ_BY = {"conform": "in_file", "brain_mask": "given_mask", "_evaluate": "given_lesions"}
"""Steps that read files of others, by the end of their names, and the input that names the files."""

NO_GRAPH = (
    "--use-plugin {}: {} does not wait for its jobs, so nothing could be said about them. Use 'plugin: {}'."
)


def configure_nipype(settings: Settings, crash_dir: Path) -> None:
    """Set Nipype up for a run.

    Must be called before any workflow is built: a workflow copies the configuration when it is made.
    """
    os.environ["NO_ET"] = os.environ["NIPYPE_NO_ET"] = "1"  # read at the first interface: no look-up
    from nipype import config
    from nipype import logging as nipype_logging

    config.update_config(
        {
            "execution": {
                "crashdump_dir": str(crash_dir).replace("%", "%%"),  # else a name to look up
                "crashfile_format": "txt",
                "poll_sleep_duration": POLL_S,
                "stop_on_first_crash": settings.stop_on_first_crash,
                "check_version": False,
                "create_report": False,
                "get_linked_libs": False,
                "hash_method": "timestamp",
                "remove_unnecessary_outputs": False,
            },
            "logging": {"log_to_file": False},
            "monitoring": {
                "enabled": settings.resource_monitor,
                "sample_frequency": 0.5,
                "summary_append": True,
            },
        }
    )
    # Failures are told once, in one line each, by the run itself; their tracebacks are in the crash files.
    level = (logging.CRITICAL, logging.WARNING, logging.INFO)[min(settings.verbose, 2)]
    for name in ("workflow", "interface", "utils"):
        nipype_logging.getLogger(f"nipype.{name}").setLevel(level)


def hash_inputs_by_content(workflow: Any) -> None:
    """Have the steps that read files of others recognise them by what is in them.

    Between steps times of change will do; but a scan may be replaced by another of the same size and time.
    """
    for node in workflow._get_all_nodes():
        field = next((field for name, field in READ_BY.items() if node.name.endswith(name)), None)
        given = getattr(node.inputs, field) if field else None
        if isinstance(given, str) or (isinstance(given, list) and any(given)):
            node.config["execution"]["hash_method"] = "content"


@contextmanager
def without_user_name() -> Iterator[None]:
    """Keep the user's name out of the names of crash files; who has none needs none, either."""
    before = os.environ.get(USER_NAME)
    os.environ[USER_NAME] = "bidsrep"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(USER_NAME, None)
        else:
            os.environ[USER_NAME] = before


@contextmanager
def thread_limits(settings: Settings) -> Iterator[None]:
    """Tell this process and its workers how many threads one step may use."""
    wanted = dict.fromkeys(THREAD_VARIABLES, str(settings.omp_nthreads)) | {ITK_THREADS: "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def claim_processors(node, settings: Settings, use_gpu: bool) -> None:  # noqa: ANN001 (nipype is imported late)
    """Say how many processors a step with a network counts for; with ``--low-mem`` all: it runs alone."""
    threads = 1 if use_gpu else settings.omp_nthreads
    node.n_procs = settings.nprocs if settings.low_mem else threads
    node.inputs.num_threads = threads  # setting n_procs has changed it


def make_plugin(
    settings: Settings,
    status_callback: Callable[[Any, str], None] | None = None,
    gpus: int = 0,
    isolate: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Choose the Nipype plugin and its arguments.

    Parameters
    ----------
    settings : Settings
        ``use_plugin`` names a YAML or JSON file that wins; otherwise ``nprocs`` decides. Of ``Linear``, ``MultiProc``
        and ``SLURM`` the mended versions are taken (`bidsrep.workflows.plugins`, `bidsrep.workflows.slurm_plugin`).
    status_callback : callable, optional
        Called with a node and ``start``, ``end`` or ``exception``.
    gpus : int
        How many steps may use a GPU at the same time.
    isolate : bool
        One step at a time, in a process of its own: after a worker was killed, to see which step it was.
    """
    name = ""
    told: dict[str, Any] = {"status_callback": status_callback} if status_callback else {}
    if settings.use_plugin:
        name, arguments = _plugin_of_file(settings.use_plugin)
        if name.endswith("Graph"):
            raise UsageError(NO_GRAPH.format(settings.use_plugin, name, name.removesuffix("Graph")))
        if name not in ("SLURM", "Linear", "MultiProc"):
            return name, told | arguments
        if name == "SLURM":
            from bidsrep.workflows.slurm_plugin import SlurmPlugin

            return SlurmPlugin(told | arguments), told | arguments
        told |= arguments
    from bidsrep.workflows.plugins import LinearPlugin, MultiProcPlugin

    if not isolate and (name == "Linear" or (not name and settings.nprocs == 1)):
        return LinearPlugin(plugin_args=told), told

    arguments = {
        "n_procs": settings.nprocs,
        "memory_gb": settings.mem_gb,
        "n_gpu_procs": gpus,
        "raise_insufficient": False,
        "scheduler": "tsort",
        "mp_context": "forkserver",  # CUDA cannot be used in a forked process
    } | told
    if isolate:
        arguments["n_procs"] = 1
    return MultiProcPlugin(plugin_args=arguments), arguments


def _plugin_of_file(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(values["plugin"]), dict(values.get("plugin_args") or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        msg = (
            f"--use-plugin {path}: cannot be read as a plugin file ({type(error).__name__}: {error}). "
            "It must be YAML or JSON with the key 'plugin' and, if needed, 'plugin_args'."
        )
        raise UsageError(msg) from error
