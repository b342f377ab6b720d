"""Several jobs at work in one output folder, as an array of a cluster is: nothing is torn, nothing is lost."""

import csv
import gzip
import json
import shutil
from pathlib import Path

from bidsrep.cli.run import main
from bidsrep.errors import ExitCode

from .conftest import Reference
from .lab import Lab, Run, contents, leftovers

JOBS = (("01",), ("02",), ("02",))
"""One participant twice: somebody has submitted it again."""


def read_all(out: Path) -> int:
    """Read every file that has its final name to its end; give how many there are."""
    count = 0
    for path in sorted(out.rglob("*")):
        if path.name.startswith(".tmp-") or not path.is_file() or "log" in path.relative_to(out).parts:
            continue
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)
        if path.suffix in (".json", ".jsonld"):
            json.loads(content)
        elif path.suffix == ".tsv":
            rows = list(csv.reader(content.decode().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
            assert rows, path
            assert len({len(row) for row in rows}) == 1, path
        elif path.suffix in (".html", ".svg"):
            assert content.rstrip().endswith((b"</html>", b"</svg>")), path
        assert content, path
        count += 1
    return count


def test_jobs_and_group_runs_at_the_same_time(lab: Lab, reference: Reference, place: Path) -> None:
    out = place / "out"

    def job(number: int) -> Run:
        words = ("--participant-label", *JOBS[number])
        return lab.start(out, *words, work=place / f"work{number}", log=place / f"job{number}")

    def group(folder: Path) -> int:
        return main([str(lab.raw), str(folder), "group", "--notrack"])

    jobs = [job(number) for number in range(len(JOBS))]
    seen = [0]
    while any(one.wait(0.5) is None for one in jobs):
        if (out / "dataset_description.json").is_file():
            assert group(out) in (ExitCode.OK, ExitCode.SOME_FAILED, ExitCode.USAGE)
            seen.append(read_all(out))
    for one in jobs:
        assert one.code == 0, one.said
        assert "Traceback" not in one.said
    assert len(seen) > 2
    assert seen == sorted(seen), "files went away"

    assert group(out) == 0
    alone = place / "alone"
    shutil.copytree(reference.out, alone)
    assert group(alone) == 0
    assert contents(out) == contents(alone)
    assert not leftovers(out)
