"""Run a function in two processes that train together, as one that hangs would take the whole suite with it."""

import faulthandler
import os
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch


def run_two(function: Callable[..., None], folder: Path, *arguments: Any, limit: float = 240) -> None:
    """Call ``function(rank, *arguments)`` in two new processes that have a gloo group, and wait for both.

    They are killed, not taken down: a process group's own threads may wait for the interpreter that waits for
    them. A process that is not done after ``limit`` seconds says on stderr where it is and fails the test.
    """
    context = torch.multiprocessing.get_context("spawn")
    started = []
    try:
        for rank in (0, 1):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_rank, args=(theirs, rank, folder, limit, function, arguments), daemon=True
            )
            process.start()
            theirs.close()
            started.append((process, ours))
        for rank, (_, ours) in enumerate(started):
            try:
                assert ours.poll(limit), f"process {rank} is not done after {limit:g} s"
                assert ours.recv() == "done"
            except EOFError:
                raise AssertionError(f"process {rank} died; its message is above") from None
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def _rank(
    theirs: Connection, rank: int, folder: Path, limit: float, function: Callable[..., None], arguments: Any
) -> None:
    faulthandler.dump_traceback_later(limit - 5, file=open(os.dup(2), "w"))  # noqa: SIM115 - lives as long as it
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meet", timedelta(seconds=limit), world_size=2, rank=rank
    )
    function(rank, *arguments)
    theirs.send("done")
    theirs.recv()  # until killed
