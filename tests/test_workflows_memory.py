"""Memory between steps: a process that holds much hands it back, one that holds little keeps it."""

import subprocess
import sys
from pathlib import Path

import pytest

from bidsrep.workflows import memory
from bidsrep.workflows.memory import may_keep, return_memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's")
PROGRAM = """
import numpy as np
from pathlib import Path
from bidsrep.workflows.memory import return_memory, reuse_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

reuse_memory()
before = held()
step = [np.ones(2**20) for _ in range(40)]  # 8 MB each
del step
kept = held() - before
return_memory(0.0)
print(kept, held() - before)
"""


def test_all_processes_together_may_keep_half_of_the_memory() -> None:
    assert 4 * may_keep(16.0, 4) == 8.0


@LINUX
def test_what_is_freed_is_kept_until_it_is_handed_back() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, left = map(int, ran.stdout.split())
    assert kept > 250
    assert left < 50


@LINUX
def test_who_holds_little_keeps_it() -> None:
    assert not return_memory(1e6)


@pytest.mark.parametrize("text", ["", "nonsense", "1 x 3"])
def test_a_system_that_does_not_tell_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "statm").write_text(text)
    monkeypatch.setattr(memory, "HELD", tmp_path / "statm")
    assert not return_memory(0.0)
