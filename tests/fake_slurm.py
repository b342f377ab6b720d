"""Stand-ins for the commands of Slurm: they keep the queue in a folder and run jobs at once."""

from dataclasses import dataclass
from pathlib import Path

COMMANDS = {
    "sbatch": """
[ -e refuse ] && { echo "sbatch: error: Invalid account" >&2; exit 1; }
n=$(($(cat last 2>/dev/null) + 1)); echo "$n" > last
printf '%s\\n' "$@" > "$n.args"; pwd="$OLDPWD"; echo "$pwd" > "$n.cwd"
for word; do case "$word" in --output=*) out=${word#--output=}; out=${out//%j/$n}; out=${out//%%/%};; esac; done
if [ -e cancel ]; then
    echo CANCELLED 0:15 > "$n.state"
elif [ -e hold ]; then
    echo PENDING 0:0 > "$n.state"
else
    echo RUNNING 0:0 > "$n.state"
    (
        bash "${!#}" > "$out" 2>&1 && echo COMPLETED 0:0 > "$n.state" || echo FAILED $?:0 > "$n.state"
    ) < /dev/null > /dev/null 2>&1 &
fi
echo "$n" """,
    "squeue": """
[ -e away ] && { rm away; echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
grep -lE '^(RUNNING|PENDING)' ./*.state | sed 's/[^0-9]//g' """,
    "scontrol": """
[ -e forgotten ] && { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
read -r state code < "$3.state"; echo "JobId=$3 JobName=x"; echo "   JobState=$state Reason=None ExitCode=$code" """,
    "sacct": "echo 'CANCELLED by 0|0:15'",
    "scancel": "printf '%s\\n' \"$@\" >> cancelled",
}


@dataclass(frozen=True)
class FakeSlurm:
    """The folder of the fake queue; files named ``refuse``, ``cancel``, ``hold``, ``away``, ``forgotten`` steer it."""

    folder: Path

    def say(self, word: str) -> None:
        (self.folder / word).touch()

    def arguments(self, job: int) -> list[str]:
        return (self.folder / f"{job}.args").read_text().splitlines()

    @property
    def jobs(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.args"))

    @classmethod
    def install(cls, root: Path) -> "FakeSlurm":
        """Write the stand-ins into `root` / ``programs``; that folder has to go before others on PATH."""
        folder, programs = root / "queue", root / "programs"
        folder.mkdir()
        programs.mkdir()
        for name, code in COMMANDS.items():
            (programs / name).write_text(f'#!/bin/bash\ncd "{folder}" || exit\n{code}\n')
            (programs / name).chmod(0o755)
        return cls(folder)
