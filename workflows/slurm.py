"""The commands of Slurm."""

import os
import re
import subprocess
from pathlib import Path

from bidsrep.errors import BidsrepError

ANSWER_S = 60
"""How long a command may take."""


class SlurmError(BidsrepError):
    """A command of Slurm did not do what it should."""


def ask(*command: str, folder: Path | None = None) -> str:
    """Run a command of Slurm, in a folder; give what it prints."""
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=False, cwd=folder
        )
    except FileNotFoundError as error:
        raise SlurmError(f"there is no command {command[0]} here") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if ran.returncode:
        raise SlurmError(" ".join(ran.stderr.split()) or f"{command[0]} ended with code {ran.returncode}")
    return ran.stdout


def submit(*arguments: str, folder: Path | None = None) -> int:
    """Hand a job to Slurm; give its number."""
    answer = ask("sbatch", "--parsable", *arguments, folder=folder)
    try:
        return int(answer.split(";")[0])  # the name of the cluster follows, where there are several
    except ValueError as error:
        raise SlurmError(f"sbatch said {answer.strip()!r} instead of a job's number") from error


def queued_jobs() -> set[int]:
    """List this user's jobs that are waiting or running; an array counts as one, too."""
    listed = ask("squeue", "--noheader", "--format=%A %F", f"--user={os.getuid()}")
    return {int(word) for word in listed.split() if word.isdigit()}


def job_end(job: int) -> tuple[str, str]:
    """Give the state a job ended in, and its exit code; Slurm forgets both after minutes, its accounting does not.

    Accounting is not asked first, since many clusters have none.
    """
    try:
        told = ask("scontrol", "show", "job", str(job))
        found = (re.search(r"\bJobState=(\w+)", told), re.search(r"\bExitCode=(\S+)", told))
        if found[0] and found[1]:
            return found[0][1], found[1][1]
    except SlurmError:
        pass
    try:
        told = ask(
            "sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", f"--jobs={job}"
        )
        state, code = told.splitlines()[0].split("|")
        return state.split()[0], code
    except (SlurmError, LookupError, ValueError):
        return "UNKNOWN", "unknown"


def last_words(log: Path) -> str:
    """Give the last line of a job's output; empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
