"""How a run grows with subjects and processes, on simulated brains of 4 mm voxels; and whether its memory stays."""

from pathlib import Path

from benchmarks.measure import Table, bidsrep, run
from benchmarks.simulated import write_brains

WORDS = ("--model", "pepsi", "--sloppy", "--resolution", "4", "--mem-gb", "16")


def table(options, folder: Path) -> Table:
    """Process cohorts of several sizes, each with several numbers of processes."""
    root = write_brains(folder / "raw", options.cohort)
    made = Table(
        "scaling",
        "Scaling with subjects and processes",
        ["subjects", "processes", "wall s", "CPU s", "CPU s per further subject", "peak GiB"],
        notes=[
            "One T1w each, `--sloppy --resolution 4`. More processes than processors allowed cannot be faster; "
            "two logical processors may be one physical core."
        ],
    )
    sizes = [max(1, options.cohort // 4), options.cohort]
    for processes in options.processes:
        before = None
        for size in sizes:
            labels = [f"{number:05d}" for number in range(size)]
            place = folder / f"{processes}-{size}"
            words = ["--participant-label", *labels, "--nprocs", str(processes), "-w", place / "work"]
            used = run(bidsrep(root, place / "out", "participant", *WORDS, *words))
            each = (used.cpu_s - before) / (size - sizes[0]) if before is not None else float("nan")
            made.rows.append([size, processes, used.wall_s, used.cpu_s, each, used.peak_gib])
            before = used.cpu_s
    return made
