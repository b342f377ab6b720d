"""Finding the scans of a dataset: ours against a bare walk of the folders and against pybids.

Each has its own process and is timed inside, without its imports; they take turns, and the fastest of
the turns counts: the first finds cold caches. And how long it takes one participant of the largest dataset until its
first step starts.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

from benchmarks.measure import Table, python, run
from benchmarks.simulated import describe, write_brains, write_names

WAYS = ("os.walk", "bidsrep", "pybids", "pybids, no metadata")
SLOW = "pybids"
SLOW_FROM = 5000
"""Subjects from which pybids takes one turn only."""


def table(options, folder: Path) -> Table:
    """Compare the ways of finding everything."""
    made = Table(
        "discovery",
        "Discovery",
        ["subjects", "way", "wall s", "of os.walk", "peak GiB"],
        notes=["T1w and FLAIR with their JSON, every subject wanted; `os.walk` reads names only."],
    )
    ways = [way for way in WAYS if not way.startswith(SLOW) or importlib.util.find_spec("bids")]
    if len(ways) < len(WAYS):
        made.notes.append("pybids is not installed here and left out.")
    for subjects in options.subjects:
        root = write_names(folder / str(subjects), subjects)
        found: dict[str, list[dict]] = {way: [] for way in ways}
        for turn in range(options.rounds):
            for way in ways:
                if turn and way.startswith(SLOW) and subjects >= SLOW_FROM:
                    continue
                used = run(python("-m", "benchmarks.discovery", way, str(root)))
                found[way].append(json.loads(used.output.splitlines()[-1]) | {"gib": used.peak_gib})
        best = {way: min(turns, key=lambda turn: turn["s"]) for way, turns in found.items()}
        for way, turn in best.items():
            if turn["scans"] != 2 * subjects:
                raise RuntimeError(f"{way} found {turn['scans']} of {2 * subjects} scans")
            made.rows.append([subjects, way, turn["s"], turn["s"] / best["os.walk"]["s"], turn["gib"]])
    made.notes.append(first_step(options, folder))
    return made


def first_step(options, folder: Path) -> str:
    """Say how long one participant of a large dataset waits for its first step, of the clock and of a processor."""
    subjects = max(options.subjects)
    root = folder / str(subjects)
    write_brains(describe(root), 1)
    words = ["--model", "pepsi", "--participant-label", "00000", "--modalities", "T1w", "--nprocs", "1"]
    words += ["-w", folder / "work", "--sloppy", "--resolution", "4", "--omp-nthreads", "1"]
    waits = []
    for turn in range(options.rounds):
        arguments = [str(word) for word in (root, folder / f"out{turn}", "participant", *words)]
        used = run(python("-m", "benchmarks.discovery", "first step", *arguments))
        waits.append(json.loads(next(line for line in used.output.splitlines() if line.startswith('{"s"'))))
    best = min(waits, key=lambda wait: wait["s"])
    return (
        f"One participant of {subjects:,} subjects: its first step starts {best['s']:.2f} s after the program "
        f"({best['cpu']:.2f} CPU s; interpreter and imports included; best of {len(waits)})."
    )


def find(way: str, root: Path) -> int:
    """Find every scan; give how many there are."""
    if way == "os.walk":
        import os

        return sum(name.endswith(".nii.gz") for _, _, names in os.walk(root) for name in names)
    if way == "bidsrep":
        from bidsrep.bids.discovery import find_sessions
        from bidsrep.settings import Settings

        settings = Settings(bids_dir=root, out_dir=root / "out", models=("pepsi",))
        return sum(len(session.scans) for session in find_sessions(settings))
    from bids import BIDSLayout

    metadata = {"index_metadata": False} if way != SLOW else {}
    if metadata:
        from bids import BIDSLayoutIndexer

        layout = BIDSLayout(root, validate=False, indexer=BIDSLayoutIndexer(validate=False, **metadata))
    else:
        layout = BIDSLayout(root, validate=False)
    return len(layout.get(suffix=["T1w", "FLAIR"], extension=".nii.gz", return_type="filename"))


def timed(way: str, root: Path) -> dict:
    """Time a way, its imports apart: it finds one subject first."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        find(way, write_names(Path(place) / "one", 1))
    start = time.perf_counter()
    scans = find(way, root)
    return {"s": time.perf_counter() - start, "scans": scans}


def wait_for_first_step(arguments: list[str]) -> None:
    """Run bidsrep until its first step starts, and print how long this process has been there then."""
    import os

    from nipype.pipeline.engine import nodes

    def stop(self, *args, **kwargs):
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(ticks[19]) / os.sysconf("SC_CLK_TCK")
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        print(json.dumps({"s": now - started, "cpu": time.process_time()}), flush=True)
        os._exit(0)

    nodes.Node.run = stop
    from bidsrep.cli.run import main

    main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "first step":
        wait_for_first_step(sys.argv[2:])
    else:
        print(json.dumps(timed(sys.argv[1], Path(sys.argv[2]))))
