"""What the tests share: tiny datasets made on the spot, and the folder of real scans where there is one."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browsing import CHROMIUM, OPTIONS, watch
from fake_slurm import FakeSlurm

MakeBids = Callable[..., Path]

if "PYTEST_XDIST_WORKER" in os.environ:  # processes beside each other leave each other the processors
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def write_image(path: Path, shape: tuple[int, ...] = (4, 5, 6), zooms: tuple[float, ...] = (1, 1, 1)) -> Path:
    """Write a small image with made-up intensities; the same name always gets the same ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(len(path.name)).uniform(1, 100, shape).astype(np.float32)
    nib.Nifti1Image(data, np.diag([*zooms, 1.0])).to_filename(path)
    return path


@pytest.fixture
def make_bids(tmp_path: Path) -> MakeBids:
    """Give a function that makes a BIDS dataset of the named images (paths below ``sub-*``)."""

    def make(names: Iterable[str], root: str = "raw", **image: tuple) -> Path:
        folder = tmp_path / root
        folder.mkdir(exist_ok=True)
        description = {"Name": "test", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
        (folder / "dataset_description.json").write_text(json.dumps(description))
        for name in names:
            write_image(folder / name, **image)
        return folder

    return make


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Give the folder of real scans; tests that ask for it are skipped where there is none."""
    folder = os.environ.get("BIDSREP_TEST_DATA")
    if not folder:
        pytest.skip("BIDSREP_TEST_DATA is not set: no real scans")
    return Path(folder)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put stand-ins for the commands of Slurm before anything else on PATH."""
    made = FakeSlurm.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser) -> Iterator[object]:
    """Give a browser without a past; errors of any page fail the test. See `browsing.watch`."""
    context = watch(browser.new_context(viewport={"width": 1400, "height": 900}))
    yield context
    assert context.trouble == []
    context.close()
