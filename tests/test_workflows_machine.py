"""What provenance says of the machine."""

from pathlib import Path

import pytest
from random_weights import write_random_weights

from bidsrep.settings import Settings
from bidsrep.workflows import machine
from bidsrep.workflows.models import describe_models


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n",
    ],
)
def test_the_driver_is_named_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(machine, "DRIVER_INFO", tmp_path / "version")
    assert machine.gpu_driver() == "unknown"
    (tmp_path / "version").write_text(text)
    assert machine.gpu_driver() == "550.54.15"


def test_the_processor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.cpu_model()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9B14\n")
    assert machine.cpu_model() == "AMD EPYC 9B14"


def test_what_decides_on_the_last_bit_is_recorded(tmp_path: Path) -> None:
    settings = Settings(
        bids_dir=tmp_path,
        out_dir=tmp_path,
        models=("pepsi",),
        weights={"pepsi": str(write_random_weights(tmp_path, "pepsi"))},
        skull_strip="skip",
        omp_nthreads=3,
        random_seed=7,
        precision="bf16",
        device="cpu",
    )
    found = machine.describe_machine(settings, describe_models(settings))
    assert found["EnvironmentVariables"]["OMP_NUM_THREADS"] == "3"
    assert found["Numerics"]["Precision"] == {"pepsi": "bfloat16"}
    assert found["Numerics"] | {"RandomSeed": 7, "ThreadsPerStep": 3, "Device": "cpu"} == found["Numerics"]
    assert "GPU" not in found["Hardware"]
