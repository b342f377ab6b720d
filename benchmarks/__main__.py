"""Run the benchmarks: what is compared is measured side by side in one run, and given as ratios.

    python -m benchmarks --bids-dir BIDS_DIR --out benchmarks/results
    python -m benchmarks --only discovery nodes

From the repository's root. ``--bids-dir`` is a dataset with a session of T1w, T2w and FLAIR; ``session`` and
``preprocessing`` need it. Packages to compare with that are not installed are left out, and the table says so:
``pip install torchio cornucopia humanize pybids``.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import discovery, features, generator, group, nodes, preprocessing, scaling, session
from benchmarks.measure import Table, machine, write

BENCHMARKS = {
    "features": features.table,
    "generator": generator.table,
    "preprocessing": preprocessing.table,
    "discovery": discovery.table,
    "nodes": nodes.table,
    "session": session.table,
    "steps": session.steps_table,
    "scaling": scaling.table,
    "many": scaling.many_table,
    "group": group.table,
}
NEED_DATA = ("preprocessing", "session", "steps")


def main() -> None:
    """Run what was asked for; what is done is written at once."""
    options = parser().parse_args()
    for name in options.only:
        if name in NEED_DATA and options.bids_dir is None:
            print(f"{name}: left out, it needs --bids-dir", file=sys.stderr)
            continue
        told = machine()
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            table: Table = BENCHMARKS[name](options, Path(folder))
        print(table.markdown(), flush=True)
        if options.out:
            write(options.out, [table], told)


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    made = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    add = made.add_argument
    add(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        default=list(BENCHMARKS),
        metavar="NAME",
        help=", ".join(BENCHMARKS),
    )
    add("--out", type=Path, help="folder for results.json and README.md")
    add("--bids-dir", type=Path, help="dataset with T1w, T2w and FLAIR")
    add("--participant-label", default=None, help="whom to process (default: the first)")
    add("--session-label", default=None)
    add("--scratch", type=Path, help="folder for temporary files")
    add("--shape", type=int, nargs=3, default=(96, 96, 96), help="of the images for the networks")
    add("--threads", type=int, default=1)
    add("--side", type=int, default=128, help="of the generator's images")
    add("--rounds", type=int, default=3, help="turns of what is compared")
    add("--subjects", type=int, nargs="+", default=(1000, 10000), help="of the simulated datasets")
    add("--cohort", type=int, default=8, help="simulated subjects that are really processed")
    add("--many", type=int, default=1000, help="simulated subjects in one long run")
    add("--processes", type=int, nargs="+", default=(1, 2))
    return made


if __name__ == "__main__":
    main()
