"""The group level over simulated derivatives of many subjects: names and tables as runs write them, no voxels."""

import shutil
import sys
from pathlib import Path

from benchmarks.measure import Table, bidsrep, run

MIB = 1024**2


def table(options, folder: Path) -> Table:
    """Measure the group level for several sizes of cohorts."""
    made = Table(
        "group",
        "The group level",
        [
            "subjects",
            "files read",
            "wall s",
            "CPU s",
            "CPU ms per subject",
            "peak GiB",
            "tables MiB",
            "page MiB",
        ],
        notes=["T1w and FLAIR each, results of pepsi with 16 channels."],
    )
    for subjects in options.subjects:
        out = folder / f"group{subjects}"
        files = simulate(out, subjects)
        used = run(bidsrep(folder, out, "group", "--model", "pepsi"))
        tables = sum(path.stat().st_size for path in [*out.glob("*.tsv"), *out.glob("phenotype/*.tsv")])
        page = (out / "group.html").stat().st_size
        made.rows.append(
            [
                subjects,
                files,
                used.wall_s,
                used.cpu_s,
                1000 * used.cpu_s / subjects,
                used.peak_gib,
                tables / MIB,
                page / MIB,
            ]
        )
        shutil.rmtree(out)
    return made


def simulate(out: Path, subjects: int) -> int:
    """Write derivatives that differ a little from subject to subject; give the number of files."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fake_derivatives import FakeRun

    made = FakeRun(out, channels=16)
    for number in range(subjects):
        made.session(f"{number:05d}", volume=1300.0 + number % 97, lesion=1.0 + number % 13)
    (out / "dataset_description.json").write_text('{"Name": "simulated", "BIDSVersion": "1.9.0"}')
    return sum(1 for path in out.rglob("*") if path.is_file())


if __name__ == "__main__":
    print(simulate(Path(sys.argv[1]), int(sys.argv[2])))
