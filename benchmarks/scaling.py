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
            each = (used.cpu_s - before) / (size - sizes[0]) if before is not None else ""
            made.rows.append([size, processes, used.wall_s, used.cpu_s, each, used.peak_gib])
            before = used.cpu_s
    return made


def many_table(options, folder: Path) -> Table:
    """Process many subjects in one run of one process: whether its memory grows."""
    quarters = ("first", "second", "third", "last")
    made = Table(
        "many",
        "Many subjects in one run",
        [
            "subjects",
            "wall s",
            "CPU s",
            "CPU s per subject",
            *(f"peak GiB, {name} quarter" for name in quarters),
        ],
        notes=[
            "One T1w each, `--sloppy --resolution 4 --nprocs 1 --clean-workdir`; quarters of the run's time."
        ],
    )
    root = write_brains(folder / "raw", options.many)
    words = ("--nprocs", "1", "--clean-workdir", "-w", folder / "work")
    used = run(bidsrep(root, folder / "out", "participant", *WORDS, *words))
    pages = len(list((folder / "out").glob("sub-*.html")))
    if pages != options.many:
        raise RuntimeError(f"{pages} reports of {options.many} subjects\n{used.output}")
    step = len(used.memory_gib) // len(quarters)
    peaks = [max(used.memory_gib[at * step : (at + 1) * step]) for at in range(len(quarters))]
    made.rows.append([options.many, used.wall_s, used.cpu_s, used.cpu_s / options.many, *peaks])
    return made
