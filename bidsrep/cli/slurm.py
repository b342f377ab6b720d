"""``bidsrep-slurm``: write, and if wanted submit, a job array that runs ``bidsrep`` for a whole cohort."""

import argparse
import logging
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bidsrep.bids.discovery import find_sessions
from bidsrep.bids.files import write_text
from bidsrep.bids.names import report_path
from bidsrep.bids.scans import Session
from bidsrep.cli import types
from bidsrep.cli.parser import build_parser as bidsrep_parser
from bidsrep.cli.parser import normalise_spelling, settings_of
from bidsrep.cli.run import guarded, set_up_logging
from bidsrep.errors import ExitCode, UsageError, WeightsError
from bidsrep.models.library import models_dir
from bidsrep.settings import Settings, option_of, read_toml
from bidsrep.workflows.ledger import is_complete
from bidsrep.workflows.slurm import queued_jobs, submit
from bidsrep.workflows.slurm_array import GROUP, PARTICIPANTS, JobArray, Resources, units_of
from bidsrep.workflows.usage import read_usages

LOGGER = logging.getLogger("bidsrep")
DESCRIPTION = (
    "Takes the command line of bidsrep and, instead of running it, writes a job array of Slurm that does: one run "
    "per participant or session, and, with the level 'group', a job after them. --nprocs and --mem-gb are what a "
    "task of the array asks for. What is not given is taken from what earlier runs into OUT_DIR needed, and some "
    "more; without such runs it is 4 processors, 8 GB and 60 minutes for a session."
)
EPILOG = """\
exit codes: 0 written or submitted, or nothing left to do; 2 wrong usage; 65 nothing to process;
70 Slurm refused; 130 interrupted.
"""
OWN = (
    *("by", "image", "setup", "sbatch", "minutes", "max_tasks", "max_running"),
    *("local_work", "script_dir", "submit", "resubmit"),
)
RESERVED = ("array", "dependency", "output", "chdir")
LOGS, JOBS = Path("logs", "slurm"), "jobs.txt"
LEVEL_MSG = (
    "bidsrep-slurm is for the level participant, or participant and group; run the group level itself."
)
ONE_RUN_MSG = "{}: this belongs to a single run. Use bidsrep itself."
QUEUED_MSG = "Jobs of {} are still in the queue ({}). Wait for them, or cancel them with scancel."
BY_HAND = (
    "To submit it: cd {} && sbatch {}; then the group job, if there is one, with --dependency=afterany:JOB."
)
NOT_IMAGE_MSG = "--image {}: there is no such file. Jobs have no network: build or pull the image first."


class _Directives(types.NamedTexts):
    """Collects options of ``sbatch``; nothing that could be more than one word gets into a script."""

    def convert(self, parser: argparse.ArgumentParser, name: str, value: str) -> str:
        """Give the value as it is."""
        if not re.fullmatch("[a-z][a-z-]*", name) or not re.fullmatch(r"[\w.:,@/+=-]+", value):
            parser.error(f"argument --sbatch: {f'{name}={value}'!r} is not a plain option of sbatch")
        if name in RESERVED:
            parser.error(f"argument --sbatch: {name} is set by bidsrep-slurm itself")
        return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep-slurm`` and give its exit code."""
    return guarded("bidsrep-slurm", lambda: _run(sys.argv[1:] if argv is None else argv))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser: the one of ``bidsrep``, and the options of the array."""
    parser = bidsrep_parser()
    parser.prog, parser.description, parser.epilog = "bidsrep-slurm", DESCRIPTION, EPILOG
    _add_options(parser)
    return parser


def slurm_options() -> argparse.ArgumentParser:
    """Build a parser of the options alone that ``bidsrep`` does not have: for the documentation."""
    parser = argparse.ArgumentParser("bidsrep-slurm", description=DESCRIPTION, add_help=False)
    _add_options(parser)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("job array")
    add = group.add_argument
    add("--by", choices=("participant", "session"), default="participant", help="what one run is for")
    add(
        "--image",
        type=types.path,
        metavar="SIF",
        help="run in this image of Apptainer, closed to all but its inputs",
    )
    add(
        "--setup",
        type=types.existing_file,
        metavar="FILE",
        help="lines of bash that every job starts with, such as 'module load apptainer'",
    )
    add(
        "--sbatch",
        nargs="+",
        action=_Directives,
        default={},
        metavar="OPTION=VALUE",
        help="options of sbatch without their dashes: account=lab partition=long gres=gpu:1",
    )
    add("--minutes", type=types.count, metavar="N", help="time for one session")
    add(
        "--max-tasks",
        type=types.count,
        default=1000,
        metavar="N",
        help="tasks of the array; with more participants than that, a task has several (default: 1000)",
    )
    add("--max-running", type=types.count, metavar="N", help="tasks that run at the same time")
    add(
        "--local-work",
        action="store_true",
        help="intermediate results go to $TMPDIR of the node, not to --work-dir",
    )
    add(
        "--script-dir",
        type=types.path,
        metavar="DIR",
        help="folder for the scripts and what the jobs print (default: a new one in OUT_DIR/logs/slurm)",
    )
    add("--submit", action="store_true", help="hand the jobs to Slurm")
    add(
        "--resubmit",
        action="store_true",
        help="only for those whose results are not all there; reads the records that runs leave, not the images",
    )


def _run(argv: Sequence[str]) -> int:
    set_up_logging(0)
    given = vars(build_parser().parse_args(normalise_spelling(argv)))
    own = {name: given.pop(name) for name in OWN}
    array = _plan(given, own)
    if array is None:
        print("Nothing is left to do.")
        return ExitCode.OK
    files = array.files()
    if array.settings.dry_run:
        print("\n".join(f"# ==> {array.folder / name} <==\n{text}" for name, text in files.items()))
        return ExitCode.OK
    if own["submit"]:
        _refuse_twice(array.settings.out_dir)
    for name, text in files.items():
        write_text(array.folder / name, text)
    print(f"{len(array.units)} {own['by']}(s) in {array.tasks} task(s): {array.folder}")
    if own["submit"]:
        _submit(array, GROUP in files)
    else:
        print(BY_HAND.format(shlex.quote(str(array.folder)), PARTICIPANTS))
    return ExitCode.OK


def _submit(array: JobArray, group: bool) -> None:
    """Hand the array to Slurm, and the group job, which waits for all tasks, whatever becomes of them."""
    job = submit(PARTICIPANTS, folder=array.folder)
    _note(array.settings.out_dir, job)
    print(f"Submitted as job {job}.")
    if group:
        last = submit(f"--dependency=afterany:{job}", GROUP, folder=array.folder)
        _note(array.settings.out_dir, last)
        print(f"The group level follows as job {last}.")


def _plan(given: Mapping[str, Any], own: Mapping[str, Any]) -> JobArray | None:
    """Find out what is to be done; None if nothing is."""
    settings = _settings(given)
    sessions = find_sessions(settings)
    if own["resubmit"]:
        sessions = [session for session in sessions if session.scans and not _done(session, settings)]
    if own["by"] == "session":
        # What has problems and no scan is no task: without a session's label, it would be all of the participant.
        for problem in (problem for session in sessions if not session.scans for problem in session.problems):
            LOGGER.warning("%s", problem)
        sessions = [session for session in sessions if session.scans]
    units = units_of(sessions, own["by"] == "session")
    if not units:
        return None
    if own["image"] and not own["image"].is_file():
        raise UsageError(NOT_IMAGE_MSG.format(own["image"]))
    found = Resources.from_usage(read_usages(settings.out_dir))
    config_file: Path | None = given.get("config_file")
    named = (read_toml(config_file) if config_file else {}) | dict(given)
    return JobArray(
        settings=settings,
        units=units,
        folder=own["script_dir"] or settings.out_dir / LOGS / time.strftime("%Y%m%d-%H%M%S"),
        resources=Resources(
            named.get("nprocs", found.cpus),
            named.get("mem_gb", found.mem_gb),
            own["minutes"] or found.minutes,
        ),
        threads=named.get("omp_nthreads"),
        directives=own["sbatch"],
        image=own["image"],
        setup=own["setup"],
        most_tasks=own["max_tasks"],
        most_running=own["max_running"],
        local_work=own["local_work"],
        by_session=own["by"] == "session",
    )


def _settings(given: Mapping[str, Any]) -> Settings:
    """Make the settings of the tasks, with paths that do not depend on where a job starts."""
    settings = settings_of(dict(given))
    if "participant" not in settings.analysis_level:
        raise UsageError(LEVEL_MSG)
    for name in ("reports_only", "boilerplate_only", "use_plugin"):
        if getattr(settings, name):
            raise UsageError(ONE_RUN_MSG.format(option_of(name)))
    return replace(
        settings,
        work_dir=types.path(str(settings.work_dir)),
        models_dir=_models_dir(settings.models_dir),
    )


def _models_dir(given: Path | None) -> Path | None:
    """Find the user's folder of weights, which a job, or a container, would look for elsewhere or not at all."""
    try:
        folder = models_dir(given)
    except WeightsError:
        return None
    return types.path(str(folder)) if given or folder.is_dir() else None


def _done(session: Session, settings: Settings) -> bool:
    """Tell whether a session has the results of every model, and its subject a page."""
    complete = (is_complete(session, model, settings.out_dir) for model in settings.models)
    return report_path(settings.out_dir, session.subject).is_file() and all(complete)


def _note(out_dir: Path, job: int) -> None:
    with (out_dir / LOGS / JOBS).open("a", encoding="ascii") as file:
        file.write(f"{job}\n")


def _refuse_twice(out_dir: Path) -> None:
    """Refuse to submit while jobs of an earlier array are in the queue: two would do the same work."""
    place = out_dir / LOGS / JOBS
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_file():
        return
    left = sorted({int(line) for line in place.read_text(encoding="ascii").split()} & queued_jobs())
    if left:
        raise UsageError(QUEUED_MSG.format(out_dir, ", ".join(map(str, left))))


if __name__ == "__main__":
    sys.exit(main())
