"""What the benchmarks share: commands that are measured with all their processes, tables, and the machine."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

GIB = 1024**3
INTERVAL_S = 0.25
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PACKAGES = (
    *("bidsrep", "torch", "numpy", "scipy", "antspyx", "nibabel", "nipype", "isal", "pybids"),
    *("torchio", "cornucopia", "pyarrow"),
)


@dataclass
class Table:
    """One benchmark's result: ``rows`` have an entry per column, numbers unrounded."""

    name: str
    title: str
    columns: list[str]
    rows: list[list] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Show the table, with three digits of every number."""
        lines = [f"## {self.title}", "", *(f"{note}\n" for note in self.notes)]
        if self.rows:
            lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
            lines += ["| " + " | ".join(map(show, row)) + " |" for row in self.rows]
        return "\n".join(lines).rstrip() + "\n"


@dataclass
class Used:
    """What a command took: seconds of the clock and of processors, and the greatest memory of all its processes.

    ``memory_gib`` is their memory at each of the looks, four a second.
    """

    wall_s: float
    cpu_s: float
    peak_gib: float
    output: str = ""
    memory_gib: list[float] = field(default_factory=list)


def show(value) -> str:
    """Write a number with three significant digits, and all of an integer."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def run(command: list[str]) -> Used:
    """Run a command to its end, and measure it with all that it started; its output is shown if it fails.

    Processor time is what the kernel counted for the processes that were waited for; of helpers that nobody waits
    for (a fork server's workers), what was seen at the last of four looks a second.
    """
    start, before = time.perf_counter(), os.times()
    seen: dict[int, float] = {}
    memory: list[int] = [0]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None:
            memory.append(look(process.pid, seen))
            time.sleep(INTERVAL_S)
        said.seek(0)
        output = said.read()
    after = os.times()
    waited = after.children_user + after.children_system - before.children_user - before.children_system
    if process.returncode:
        raise RuntimeError(f"{command}: exit code {process.returncode}\n{output}")
    wall, gib = time.perf_counter() - start, [size / GIB for size in memory]
    return Used(wall, max(waited, sum(seen.values())), max(gib), output, gib)


def look(session: int, seen: dict[int, float]) -> int:
    """Note the processor time (s) of every process of a session; give the memory of all, bytes.

    Pages that processes share are counted for each of them.
    """
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            words = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if int(words[3]) == session:
                seen[int(entry.name)] = (int(words[11]) + int(words[12])) * TICK_S
                total += int(Path(entry.path, "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
    return total


def python(*words: str) -> list[str]:
    """Give a command line of this Python."""
    return [sys.executable, *words]


def bidsrep(*words: str | Path) -> list[str]:
    """Give a command line of bidsrep, with one thread."""
    code = "import sys; from bidsrep.cli.run import main; sys.exit(main())"
    return python("-c", code, *map(str, words), "--omp-nthreads", "1")


def size_of(folder: Path) -> tuple[int, int]:
    """Count the bytes and the inodes of a folder."""
    paths = list(folder.rglob("*"))
    return sum(path.stat().st_size for path in paths if path.is_file()), len(paths)


def machine() -> dict:
    """Describe what the figures depend on; nothing that names the machine."""
    from bidsrep.bids.software import package_versions
    from bidsrep.resources import available_cpus, available_memory_gb
    from bidsrep.workflows.machine import cpu_model

    found = package_versions(PACKAGES)
    return {
        "processor": cpu_model(),
        "processors_allowed": available_cpus(),
        "memory_gib": round(available_memory_gb() / 0.9, 1),
        "load_average_at_start": round(os.getloadavg()[0], 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "packages": found,
    }


def write(folder: Path, tables: list[Table], told: dict) -> None:
    """Write ``results.json`` and, for people, ``README.md``; tables of other benchmarks there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "results.json"
    kept = json.loads(place.read_text()) if place.is_file() else {}
    kept |= {table.name: {"machine": told, **asdict(table)} for table in tables}
    place.write_text(json.dumps(kept, indent=1) + "\n")
    parts = ["# Results\n", "Written by `python -m benchmarks`; see there for what is measured and how.\n"]
    for entry in kept.values():
        values = dict(entry)
        where = values.pop("machine")
        parts += [Table(**values).markdown(), f"{describe(where)}\n"]
    (folder / "README.md").write_text("\n".join(parts))


def describe(told: dict) -> str:
    """Say in one line where a table was measured."""
    packages = ", ".join(f"{name} {number}" for name, number in told["packages"].items())
    return (
        f"*{told['processor']}, {told['processors_allowed']} logical processor(s) allowed, {told['memory_gib']} GiB, "
        f"load {told['load_average_at_start']} at the start; Python {told['python']}, {packages}.*"
    )


def median(values: list[float]) -> float:
    """Give the median."""
    return float(statistics.median(values))
