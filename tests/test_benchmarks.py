"""The benchmarks' own arithmetic: what a command takes with all its processes, how tables are shown and kept."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.__main__ import BENCHMARKS, parser
from benchmarks.measure import Table, machine, python, run, show, size_of, write
from benchmarks.session import kind_of
from benchmarks.simulated import write_brains, write_names

BUSY = """
import subprocess, sys, time
def work():
    end = time.process_time() + 0.4
    while time.process_time() < end: pass
work()
if len(sys.argv) == 1:
    memory = bytearray(200 << 20)
    subprocess.run([sys.executable, __file__, "child"], check=True)
print("said")
"""


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    path = tmp_path / "busy.py"
    path.write_text(BUSY)
    return path


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_a_command_is_measured_with_what_it_starts(busy: Path) -> None:
    used = run(python(str(busy)))
    assert used.cpu_s > 0.75, "the child's time counts"
    assert used.wall_s >= 0.75
    assert 0.19 < used.peak_gib < 1
    assert used.output.split() == ["said", "said"]


def test_a_command_that_fails_is_no_result() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        run(python("-c", "raise SystemExit(3)"))


@pytest.mark.parametrize(("value", "shown"), [(1234.6, "1,235"), (0.01234, "0.0123"), (7, "7"), ("x", "x")])
def test_numbers_have_three_digits(value: object, shown: str) -> None:
    assert show(value) == shown


def test_tables_of_other_benchmarks_are_kept(tmp_path: Path) -> None:
    told = machine()
    write(tmp_path, [Table("a", "First", ["x"], [[1.0]])], told)
    write(tmp_path, [Table("b", "Second", ["y"], [[2.0]], ["a note"])], told)
    write(tmp_path, [Table("a", "First", ["x"], [[3.0]])], told)
    assert {
        name: entry["rows"] for name, entry in json.loads((tmp_path / "results.json").read_text()).items()
    } == {
        "a": [[3.0]],
        "b": [[2.0]],
    }
    page = (tmp_path / "README.md").read_text()
    assert page.index("## First") < page.index("| 3 |") < page.index("a note") < page.index("| 2 |")


def test_the_machine_has_no_name() -> None:
    told = json.dumps(machine())
    assert os.uname().nodename not in told.split()
    assert "/" not in told.replace("n/a", "")


def test_every_benchmark_can_be_chosen() -> None:
    assert parser().parse_args(["--only", *BENCHMARKS]).only == list(BENCHMARKS)


@pytest.mark.parametrize(
    ("step", "kind"),
    [("register", "registration"), ("save_T1w", "other steps"), ("lesion_figure", "reports"),
     ("pepsi_evaluate", "measures"), ("compression", "compression"), ("native_lesion_mask", "masks")],
)  # fmt: skip
def test_steps_have_kinds(step: str, kind: str) -> None:
    assert kind_of(step) == kind


def test_simulated_datasets_hold_what_they_say(tmp_path: Path) -> None:
    from bidsrep.bids.discovery import find_sessions
    from bidsrep.settings import Settings

    for write_it, scans in ((write_names, 6), (write_brains, 3)):
        root = write_it(tmp_path / write_it.__name__, 3)
        found = find_sessions(Settings(bids_dir=root, out_dir=tmp_path / "out", models=("pepsi",)))
        assert sum(len(session.scans) for session in found) == scans
    size, inodes = size_of(tmp_path / "write_brains")
    assert inodes == 1 + 3 * 3
    assert size > 1000
