"""The main job on one session: what it takes, what it writes, and which steps its processor time goes to."""

import gzip
import json
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.measure import Table, bidsrep, python, run, size_of

MIB = 1024**2
KINDS = {
    "network": ("represent", "describe_models"),
    "registration": ("register", "reference_grid", "resample"),
    "masks": ("brain_mask", "lesion_mask", "native_lesion_mask"),
    "measures": ("evaluate", "measure_scans"),
    "reports": ("figure", "report"),
}
"""Kinds of steps by the end of their names.

Compression, which is packing and unpacking, is counted apart, wherever it happens. The network begins with loading
it (torch and the weights), which a run does once for all its scans; figures drawn inside its step are reports.
"""
COMPRESSION = "compression"
CORE = ("network", "registration", "masks", COMPRESSION)
PROCESSES = 2


def table(options, folder: Path) -> Table:
    """Measure whole runs, side by side in one process and in several, and one that finds all done."""
    made = Table(
        "session",
        "One session from scans to reports",
        ["run", "CPU s", "wall s", "peak GiB", "output MiB", "output inodes", "work MiB", "work inodes"],
        notes=[
            "T1w, T2w and FLAIR, `--model pepsi` with the bundled weights, reports included, nothing cached."
        ],
    )
    runs = {
        "--nprocs 1": ("one", ["--nprocs", "1"]),
        f"--nprocs {PROCESSES}": ("more", ["--nprocs", str(PROCESSES), "--mem-gb", "16"]),
        "again, nothing to do": ("one", ["--nprocs", "1"]),
    }
    for name, (place, words) in runs.items():
        used = run(bidsrep(*arguments(options, folder / place), *words))
        sizes = [size_of(folder / place / part) for part in ("out", "work")]
        made.rows.append(
            [name, used.cpu_s, used.wall_s, used.peak_gib]
            + [value for size, inodes in sizes for value in (size / MIB, inodes)]
        )
    return made


def steps_table(options, folder: Path) -> Table:
    """Say where the processor time of a run in one process goes."""
    words = [str(word) for word in arguments(options, folder)]
    used = run(python("-m", "benchmarks.session", *words, "--nprocs", "1", "--omp-nthreads", "1"))
    told = json.loads(next(line for line in used.output.splitlines() if line.startswith('{"total"')))
    total, steps = told["total"], told["steps"]
    kinds: dict[str, float] = defaultdict(float)
    for name, seconds in steps.items():
        kinds[kind_of(name)] += seconds
    kinds["start, imports, records"] = total - sum(kinds.values())
    made = Table("steps", "Where the processor time of a session goes", ["what", "CPU s", "% of all"])
    made.rows += [
        [name, seconds, 100 * seconds / total]
        for name, seconds in sorted(kinds.items(), key=lambda kv: -kv[1])
    ]
    core = sum(kinds[name] for name in CORE)
    made.rows.append([", ".join(CORE), core, 100 * core / total])
    made.rows.append(["all", total, 100.0])
    heaviest = sorted(steps.items(), key=lambda item: -item[1])[:8]
    made.notes.append(
        "The heaviest steps: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in heaviest) + "."
    )
    return made


def kind_of(step: str) -> str:
    """Find the kind of a step."""
    if step == COMPRESSION:
        return COMPRESSION
    return next((kind for kind, ends in KINDS.items() if step.endswith(ends)), "other steps")


def wanted(options) -> tuple[str, str | None]:
    """Choose the participant and the session: those named, or the first."""
    first = sorted(path.name[4:] for path in options.bids_dir.glob("sub-*") if path.is_dir())[0]
    subject = options.participant_label or first
    sessions = sorted(path.name[4:] for path in (options.bids_dir / f"sub-{subject}").glob("ses-*"))
    return subject, options.session_label or (sessions[0] if sessions else None)


def arguments(options, folder: Path) -> list[str | Path]:
    """Give the command line of the session."""
    subject, session = wanted(options)
    words = [options.bids_dir, folder / "out", "participant", "--model", "pepsi", "-w", folder / "work"]
    words += ["--participant-label", subject, *(["--session-label", session] if session else [])]
    return words


def profile(words: list[str]) -> int:
    """Run the job in this process, and print the processor time of every kind of step."""
    steps: dict[str, float] = defaultdict(float)
    inside = [0.0]

    def timed(function, name_of):
        """Count a function's time for a name, and take it off the step around it."""

        def wrapper(*args, **kwargs):
            outer, inside[0], start = inside[0], 0.0, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                steps[name_of(args)] += spent - inside[0]
                inside[0] = outer + spent

        return wrapper

    from nipype.pipeline.engine import nodes

    from bidsrep.imaging import volume
    from bidsrep.reports import components, subject
    from bidsrep.workflows import models

    nodes.Node.run = timed(nodes.Node.run, lambda args: args[0].name)
    volume._compress = timed(volume._compress, lambda args: COMPRESSION)
    for way in ("read", "readinto"):
        setattr(gzip.GzipFile, way, timed(getattr(gzip.GzipFile, way), lambda args: COMPRESSION))
    models.describe_models = timed(models.describe_models, lambda args: "describe_models")
    components.plot_components = timed(components.plot_components, lambda args: "components_figure")
    subject.write_subject_report = timed(subject.write_subject_report, lambda args: "report")
    from bidsrep.cli.run import main

    code = main(words)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"total": usage.ru_utime + usage.ru_stime, "steps": steps}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(profile(sys.argv[1:]))
