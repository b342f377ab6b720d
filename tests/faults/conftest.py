"""One lab and one undisturbed run for all tests of faults."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .lab import Lab, contents


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run of the cohort, with one process, left."""

    out: Path
    files: dict[str, bytes]

    def of(self, subject: str) -> dict[str, bytes]:
        """Give the files of one subject, its page among them."""
        return {
            n: c for n, c in self.files.items() if n.startswith((f"sub-{subject}/", f"sub-{subject}.html"))
        }


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long versions out, unless they are asked for with ``-m campaign``."""
    if "campaign" in (config.option.markexpr or ""):
        return
    for item in items:
        if item.get_closest_marker("campaign"):
            item.add_marker(pytest.mark.skip(reason="long: asked for with -m campaign"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Give the lab; its folder can be entered by any user, as pytest's own cannot."""
    root = Path(tempfile.mkdtemp(prefix="bidsrep-faults-"))
    root.chmod(0o755)
    try:
        with Lab(root) as made:
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def reference(lab: Lab) -> Reference:
    """Run the cohort once, undisturbed."""
    out = lab.root / "reference" / "out"
    run = lab.run(out)
    assert run.code == 0, run.said
    return Reference(out, contents(out))


@pytest.fixture
def place(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a folder for one test, on the disk of the lab; what was started in it is killed at the end."""
    folder = lab.root / re.sub(r"\W+", "_", request.node.name)[:60]
    folder.mkdir()
    yield folder
    for run in lab.started:
        if folder in run.log.parents:
            run.end()
    shutil.rmtree(folder, ignore_errors=True)
