"""The scripts of a job array: one run of ``bidsrep`` per participant or session, and a group job after them.

Everything that a user gives is in the scripts as a quoted word or in the settings file they name; the shell never
interprets it. Directives (``#SBATCH``), whose quoting is Slurm's own, hold numbers and plain words only.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bidsrep import __version__
from bidsrep.bids.scans import Session
from bidsrep.settings import PER_RUN, Settings
from bidsrep.toml import dump_toml
from bidsrep.workflows.apptainer import SCRIPTS, WORK, Inside, bindable
from bidsrep.workflows.usage import Usage

PARTICIPANTS, GROUP, SETTINGS = "participant.sh", "group.sh", "bidsrep.toml"
SHARE = 0.9
"""Of the memory a job has, so much is for its steps; Python and the page cache have the rest."""
MEMORY_MARGIN, TIME_MARGIN, START_MINUTES = 1.3, 2.0, 5
"""Factors on what was measured: other heads are larger, other nodes slower, and libraries load slowly at first."""
MOST_THREADS = 8
GROUP_GB, GROUP_MINUTES = 4, 120
GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")

TASK = """\
units=(
{units}
)
work={work}
worst=0
for unit in "${{units[@]:${{SLURM_ARRAY_TASK_ID:-0}} * {each}:{each}}}"; do
    chosen=(--participant-label "${{unit%%_*}}")
    case $unit in *_ses-*) chosen+=(--session-label "${{unit#*_}}") ;; esac
    place=$work/$unit
    mkdir -p -- "$place"
    {command} \\
        {arguments} "${{chosen[@]}}" --work-dir {inside}
    code=$?
    echo "$unit: exit code $code"
    if [ "$code" -eq 0 ]; then rm -rf -- "$place"; fi
    if [ "$code" -gt "$worst" ]; then worst=$code; fi
done
exit "$worst"
"""
PAGES = """\
subjects=(
{subjects}
)
{command} \\
    {arguments} --participant-label "${{subjects[@]}}"
pages=$?
{group}\
group=$?
exit "$((pages > group ? pages : group))"
"""
LOCAL_WORK = """\
"$(mktemp -d "${TMPDIR:-/tmp}/bidsrep.XXXXXX")" || exit
trap 'rm -rf -- "$work"' EXIT"""


@dataclass(frozen=True)
class Resources:
    """What one task asks for: processors, memory (GiB), and time for one session (minutes)."""

    cpus: int = 4
    mem_gb: float = 8.0
    minutes: int = 60

    @classmethod
    def from_usage(cls, usages: Sequence[Usage]) -> "Resources":
        """Take the most that earlier runs needed, and some more; the defaults if there were none."""
        if not usages:
            return cls()
        slowest = max(usage.wall_s / usage.sessions for usage in usages)
        return cls(
            max(usage.nprocs for usage in usages),
            math.ceil(MEMORY_MARGIN * max(usage.peak_gb for usage in usages)) + 1.0,
            math.ceil(TIME_MARGIN * slowest / 60),
        )


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """A job array.

    Parameters
    ----------
    settings : Settings
        What every task does, but for whom.
    units : dict
        Name of a participant (``sub-01``) or session (``sub-01_ses-A``) to the number of sessions in it.
    folder : Path
        Where the scripts lie, and the output of the jobs.
    threads : int, optional
        Threads of one step, where they are not the task's processors.
    directives : dict
        Further options of ``sbatch``.
    image : Path, optional
        Run in this image of Apptainer instead of the installed command.
    setup : Path, optional
        A file that the shell of every job reads first.
    most_tasks, most_running : int
        How many tasks the array has at most, and of these at the same time (None: no limit).
    local_work : bool
        Intermediate results go to the node's own disk and end with the job.
    by_session : bool
        The units are sessions: pages of participants are written once all are there.
    """

    settings: Settings
    units: Mapping[str, int]
    folder: Path
    resources: Resources = Resources()
    threads: int | None = None
    directives: Mapping[str, str] = field(default_factory=dict)
    image: Path | None = None
    setup: Path | None = None
    most_tasks: int = 1000
    most_running: int | None = None
    local_work: bool = False
    by_session: bool = False

    @property
    def each(self) -> int:
        """How many units a task has."""
        return math.ceil(len(self.units) / self.most_tasks)

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return math.ceil(len(self.units) / self.each)

    def files(self) -> dict[str, str]:
        """Give the files of the array: name to content."""
        shared = {
            name: value for name, value in self._inside.settings.to_dict().items() if name not in PER_RUN
        }
        made = {SETTINGS: dump_toml(shared), PARTICIPANTS: self._participants()}
        return made | ({GROUP: self._group()} if "group" in self.settings.analysis_level else {})

    @property
    def _shared(self) -> Settings:
        """What all tasks have in common; the command lines in the scripts have the rest."""
        return replace(
            self.settings,
            participant_label=(),
            session_label=() if self.by_session else self.settings.session_label,
            nprocs=self.resources.cpus,
            omp_nthreads=self.threads or min(self.resources.cpus, MOST_THREADS),
            mem_gb=round(SHARE * self.resources.mem_gb, 2),
            weights={name: _absolute(value) for name, value in self.settings.weights.items()},
        )

    @property
    def _inside(self) -> Inside:
        """The settings as the command sees them, which may be in a container."""
        return Inside.of(self._shared, self.folder) if self.image else Inside(self._shared, {})

    def _participants(self) -> str:
        sessions = max(self.units.values()) * self.each
        limit = f"%{self.most_running}" if self.most_running else ""
        directives = {
            "job-name": "bidsrep",
            "array": f"0-{self.tasks - 1}{limit}",
            "cpus-per-task": str(self.resources.cpus),
            "mem": f"{math.ceil(1024 * self.resources.mem_gb)}M",
            "time": str(START_MINUTES * self.each + self.resources.minutes * sessions),
            "output": "participant_%A_%a.txt",
        }
        work = LOCAL_WORK if self.local_work else _word(self.settings.work_dir)
        if self.image and not self.local_work:
            bindable(self.settings.work_dir)
        task = TASK.format(
            units="\n".join(map(shlex.quote, self.units)),
            work=work,
            each=self.each,
            command=self._command('"$place"'),
            arguments=self._arguments("participant"),
            inside=WORK if self.image else '"$place"',
        )
        return self._script(directives | dict(self.directives), task)

    def _group(self) -> str:
        directives = {
            "job-name": "bidsrep-group",
            "cpus-per-task": "1",
            "mem": f"{1024 * GROUP_GB}M",
            "time": str(GROUP_MINUTES),
            "output": "group_%j.txt",
        }
        given = {name: value for name, value in self.directives.items() if name not in GPU_OPTIONS}
        body = f"{self._command()} \\\n    {self._arguments('group')}\n"
        if self.by_session:
            subjects = dict.fromkeys(unit.partition("_")[0] for unit in self.units)
            body = PAGES.format(
                subjects="\n".join(map(shlex.quote, subjects)),
                command=self._command(),
                arguments=self._arguments("participant", "--reports-only"),
                group=body,
            )
        return self._script(directives | given, body)

    def _script(self, directives: Mapping[str, str], body: str) -> str:
        if directives.keys() & {"mem-per-cpu", "mem-per-gpu"}:  # Slurm takes one way to say it
            directives = {name: value for name, value in directives.items() if name != "mem"}
        lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in directives.items())]
        lines += [f"# Written by bidsrep-slurm {__version__}."]
        lines += [f"source {_word(self.setup)}"] if self.setup else []
        return "\n".join([*lines, body])

    def _arguments(self, *words: str) -> str:
        settings = self._inside.settings
        file = (SCRIPTS if self.image else self.folder) / SETTINGS
        return f"{_word(settings.bids_dir)} {_word(settings.out_dir)} {' '.join(words)} --config-file {_word(file)}"

    def _command(self, place: str | None = None) -> str:
        if self.image is None:
            return "bidsrep"
        gpu = bool(self.directives.keys() & set(GPU_OPTIONS))
        return self._inside.command(self.image, gpu and place is not None, place)


def units_of(sessions: Iterable[Session], by_session: bool) -> dict[str, int]:
    """Name the participants, or sessions, and count the sessions in each."""
    units: dict[str, int] = {}
    for session in sessions:
        name = session.label if by_session else f"sub-{session.subject}"
        units[name] = units.get(name, 0) + 1
    return units


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _absolute(weights: str) -> str:
    """Give weights that are a file an absolute path; ids stay as they are."""
    return str(Path(weights).absolute()) if Path(weights).is_file() else weights
