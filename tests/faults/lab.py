"""A tiny cohort, and runs on it that can be disturbed: killed, limited, made another user's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import matplotlib
import nibabel as nib
import numpy as np

TESTS = Path(__file__).parents[1]
HERE = Path(__file__).parent
LIMIT_S = 300
"""No run of the tiny cohort takes longer, whatever else the machine does; then it is killed."""
VOXEL_MM = 4.0
SCANS = ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_FLAIR", "sub-02/anat/sub-02_T1w")
LEVELS = {"T1w": (100, 70, 30), "T2w": (50, 75, 130), "FLAIR": (70, 85, 25)}
"""White matter, grey matter, fluid."""
UNCOMPARED = ("log", "prov")
"""Folders whose files hold times and names of runs; all others must have the same bytes in every run."""


def brain(contrast: str, seed: int = 0) -> nib.Nifti1Image:
    """Make a stripped brain of 4 mm voxels: an ellipsoid of 1.1 l with three tissues and some folds."""
    shape = (36, 44, 34)
    grid = np.indices(shape) - np.array([17.5, 21.5, 16.5])[:, None, None, None]
    radius = np.sqrt(((grid * VOXEL_MM / np.array([66, 78, 52])[:, None, None, None]) ** 2).sum(axis=0))
    folds = 0.08 * np.sin(grid[0] / 2.1) * np.cos(grid[1] / 2.7 + 1) + 0.05 * np.sin(
        grid[2] / 1.9 + grid[0] / 4
    )
    wm, gm, csf = LEVELS[contrast]
    data = np.where(radius + folds < 0.75, wm, gm).astype(float)
    data[np.abs(grid[0] - 2) + np.abs(grid[1]) + np.abs(grid[2]) < 4] = csf
    data += np.random.default_rng(seed).normal(0, 2, shape)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = -VOXEL_MM * np.array([17.5, 21.5, 16.5])
    return nib.Nifti1Image(np.where(radius < 1, np.maximum(data, 1), 0).astype(np.int16), affine)


def write_scan(root: Path, name: str, seed: int = 0) -> Path:
    """Write one scan of a dataset; the name decides its contrast."""
    path = root / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    brain(name.rpartition("_")[2], seed).to_filename(path)
    return path


def write_dataset(root: Path, scans: Sequence[str] = SCANS) -> Path:
    """Write a dataset of some scans."""
    for number, name in enumerate(scans):
        write_scan(root, name, number)
    description = {"Name": "tiny", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def contents(out: Path) -> dict[str, bytes]:
    """Read what must have the same bytes in every run: all files but those of `UNCOMPARED` and leftovers."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not _apart(path, out)
    }


def leftovers(out: Path) -> list[str]:
    """List files under the hidden names that unfinished writing has."""
    return [p.relative_to(out).as_posix() for p in out.rglob("*") if p.name.startswith(".tmp-")]


def _apart(path: Path, out: Path) -> bool:
    return bool(set(UNCOMPARED) & set(path.relative_to(out).parts)) or path.name.startswith(".tmp-")


@dataclass
class Run:
    """A run that was started: its process, which leads a group of its own, and where it prints."""

    lab: "Lab"
    process: int
    log: Path
    code: int | None = None
    _settled: bool = False

    def wait(self, limit: float = LIMIT_S) -> int | None:
        """Wait for the end; give the exit code (negative: the signal), or None if it still runs."""
        if not self._settled:
            self.code = self.lab.wait(self.process, limit)
            self._settled = self.code is not None
        return self.code

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal to the main process, or to all of the run's."""
        (os.killpg if group else os.kill)(self.process, number)

    def workers(self) -> list[int]:
        """List the processes that steps run in: the grandchildren, whose parent is the fork server."""
        return [worker for server in children(self.process) for worker in children(server)]

    def worked(self) -> float:
        """Give the time (s) that its processes have computed so far; a busy machine does not change that much."""
        found = [self.process]
        for process in found:
            found += children(process)
        return sum(map(cpu_time, found))

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def end(self) -> None:
        """Kill what is left of it."""
        for process in group_of(self.process):
            os.kill(process, signal.SIGKILL)
        if not self._settled:
            self.wait(10)


@dataclass
class Lab:
    """A folder with the cohort, the weights, and the process that runs are forked from; use it as a context."""

    root: Path
    server: Any = None
    started: list[Run] = field(default_factory=list)

    def __enter__(self) -> Self:
        sys.path[:0] = [str(TESTS)]
        from random_weights import write_random_weights

        write_dataset(self.raw)
        write_random_weights(self.root / "weights", "pepsi", f_maps=8, num_levels=2)
        (self.root / "tmp").mkdir()
        # Else every lab would wait for matplotlib to look at all fonts.
        shutil.copytree(matplotlib.get_cachedir(), self.root / "home" / ".cache" / "matplotlib")
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=self.environment(),
        )
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for run in self.started:
            if not run._settled:
                run.end()
        self.server.stdin.close()
        self.server.wait(30)

    def environment(self) -> dict[str, str]:
        """Give the environment of runs: one thread, and temporary files in the lab."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join(filter(None, (str(TESTS.parent), os.environ.get("PYTHONPATH"))))
        return (
            os.environ
            | threads
            | {
                "TMPDIR": str(self.root / "tmp"),
                "HOME": str(self.root / "home"),
                "PYTHONPATH": path,
            }
        )

    @property
    def raw(self) -> Path:
        """The dataset all tests share; those that damage one write their own."""
        return self.root / "raw"

    @property
    def weights(self) -> Path:
        """The small untrained network of all runs."""
        return self.root / "weights" / "pepsi.safetensors"

    def arguments(
        self, out: Path, *more: str, raw: Path | None = None, work: Path | None = None, nprocs: int = 1
    ) -> list[str]:
        """Give the command line of a run."""
        return [
            str(raw or self.raw), str(out), "participant", "--model", "pepsi", "--weights",
            f"pepsi={self.weights}", "--resolution", f"{VOXEL_MM:g}", "--lesion-threshold", "0.4", "--sloppy",
            "--nprocs", str(nprocs), "--omp-nthreads", "1", "--device", "cpu",
            "--work-dir", str(work or out.with_name(f"{out.name}-work")), *more,
        ]  # fmt: skip

    def start(
        self,
        out: Path,
        *more: str,
        raw: Path | None = None,
        work: Path | None = None,
        nprocs: int = 1,
        environment: Mapping[str, str | None] | None = None,
        first: str = "",
        folder: Path | None = None,
        log: Path | None = None,
    ) -> Run:
        """Start a run.

        Parameters
        ----------
        out, *more, raw, work, nprocs
            Its command line.
        environment : mapping, optional
            Variables to set, or (None) to remove.
        first : str
            Python to execute in the new process before it starts.
        folder : Path, optional
            Where it is started.
        log : Path, optional
            Start of the name of the file it prints to; else beside the output folder.
        """
        log = (log or out).with_name(f"{(log or out).name}-{time.monotonic_ns()}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        request = {
            "arguments": self.arguments(out, *more, raw=raw, work=work, nprocs=nprocs),
            "log": str(log),
            "folder": str(folder or log.parent),
            "environment": dict(environment or {}),
            "first": first,
        }
        run = Run(self, int(self._ask({"run": request})), log)
        self.started.append(run)
        return run

    def run(self, out: Path, *more: str, **options: Any) -> Run:
        """Start a run and wait for its end."""
        run = self.start(out, *more, **options)
        assert run.wait() is not None, f"still running after {LIMIT_S} s:\n{run.said}"
        return run

    def wait(self, process: int, limit: float) -> int | None:
        """Wait for a process that was started here."""
        answer = self._ask({"wait": process, "limit": limit})
        return None if answer == "null" else int(answer)

    def _ask(self, request: dict[str, Any]) -> str:
        self.server.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def _answer(self) -> str:
        line: str = self.server.stdout.readline()
        assert line, "the process that runs are forked from has died"
        return line.strip()


def children(process: int) -> list[int]:
    """List the processes that a process has started and that are still there."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except OSError:
        pass  # it has ended meanwhile
    return found


def cpu_time(process: int) -> float:
    """Give the time (s) a process and those it has waited for have computed; 0 if it has ended."""
    try:
        values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, values[11:15])) / os.sysconf("SC_CLK_TCK")


def group_of(leader: int) -> list[int]:
    """List the processes of a group, but for those that have ended and wait for their parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(group) == leader and state not in "ZX":
            found.append(int(entry.name))
    return found


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a folder with the times of its files."""
    return Path(shutil.copytree(source, target, symlinks=True))
