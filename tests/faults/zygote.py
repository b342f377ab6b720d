"""A process that has imported what a run needs, and forks a child for every run that is asked of it.

A new process spends more time importing than computing on the tiny cohort of these tests. The children are
processes like any other: they can be killed, limited, and made another user's. Nothing heavier than the standard
library is imported at the top, for the workers of a run import this file, too, as their main module.

It reads requests from standard input, one JSON object a line, and answers each with one line: ``{"run": {...}}``
(see `lab.Lab.start`) with the process id, ``{"wait": pid, "limit": s}`` with the exit code or null.
"""

import json
import os
import signal
import sys
import time
from typing import Any

POLL_S = 0.01
HEAVY = (
    "ants",
    "bidsrep.evaluation.session",
    "bidsrep.imaging.registration",
    "bidsrep.interfaces.reportlets",
    "bidsrep.models.registry",
    "bidsrep.reports.subject",
    "bidsrep.workflows.participant",
    "bidsrep.workflows.plugins",
    "bidsrep.workflows.run",
    "matplotlib.pyplot",
    "nilearn.plotting",
    "nireports.reportlets.utils",
    "pandas",
    "scipy.ndimage",
    "torch",
)


def serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in a child, give the run it is to do."""
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answer.write("ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            process = os.fork()
            if process == 0:
                return dict(request["run"])
            answer.write(f"{process}\n")
        else:
            answer.write(json.dumps(_wait(request["wait"], request["limit"])) + "\n")
    return None


def _wait(process: int, limit: float) -> int | None:
    """Wait for a child; a negative number is the signal that ended it, null that it still runs."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    return None


def child(run: dict[str, Any]) -> int:
    """Be the process that was asked for: its group, its output, its surroundings; then run the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    log = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(run["folder"])
    for name, value in run["environment"].items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    exec(run["first"], {"__name__": "first"})
    from bidsrep.cli.run import main

    return main(run["arguments"])


def warm_up() -> None:
    """Import what a run imports, without computing: threads would not survive the fork."""
    import importlib

    os.environ |= {"NO_ET": "1", "NIPYPE_NO_ET": "1", "MPLBACKEND": "Agg"}
    for name in HEAVY:
        importlib.import_module(name)


if __name__ == "__main__":
    warm_up()
    wanted = serve()
    sys.exit(child(wanted) if wanted is not None else 0)
