"""What the machine and the libraries' switches were when a run computed, for its provenance."""

import os
import platform
import re
from pathlib import Path
from typing import Any

from bidsrep.settings import Settings
from bidsrep.workflows.execution import THREAD_VARIABLES, thread_limits
from bidsrep.workflows.models import RunModels

CPU_INFO, DRIVER_INFO = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")


def describe_machine(settings: Settings, models: RunModels) -> dict[str, Any]:
    """Describe what results may depend on besides code, weights and settings; nothing that names the machine."""
    with thread_limits(settings):
        variables = {name: os.environ[name] for name in THREAD_VARIABLES}
    return {
        "EnvironmentVariables": variables,
        "Hardware": _hardware(models),
        "Numerics": _numerics(settings, models),
    }


def _hardware(models: RunModels) -> dict[str, str]:
    import torch

    found = {"CPU": cpu_model(), "InstructionSet": torch.backends.cpu.get_cpu_capability()}
    if models.use_gpu:
        properties = torch.cuda.get_device_properties(models.device)
        found |= {
            "GPU": properties.name,
            "ComputeCapability": f"{properties.major}.{properties.minor}",
            "GPUDriver": gpu_driver(),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    return found


def _numerics(settings: Settings, models: RunModels) -> dict[str, Any]:
    """Seed, threads, precision and the flags that decide whether two runs give the same bits."""
    import torch

    from bidsrep.models.device import resolve_precision
    from bidsrep.models.weights import read_card

    device = torch.device(models.device)
    cards = {spec.name: read_card(models.weights[spec.name]) for spec in models.specs}
    precision = {
        name: str(resolve_precision(settings.precision, card, device)).removeprefix("torch.")
        for name, card in cards.items()
    }
    return {
        "RandomSeed": settings.random_seed,
        "Device": models.device.partition(":")[0],
        "Precision": precision,
        "ThreadsPerStep": 1 if models.use_gpu else settings.omp_nthreads,
        "DeterministicAlgorithms": torch.are_deterministic_algorithms_enabled(),
        "MatmulTF32": torch.backends.cuda.matmul.allow_tf32,
        "ConvolutionTF32": False,  # every model switches it off while it runs
        "CuDNNBenchmark": torch.backends.cudnn.benchmark,
        "CuDNNDeterministic": torch.backends.cudnn.deterministic,
    }


def cpu_model() -> str:
    """Name the processor, such as ``AMD EPYC 9B14``."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def gpu_driver() -> str:
    """Give the version of NVIDIA's kernel driver; ``unknown`` where the system does not tell."""
    try:
        found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", DRIVER_INFO.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else "unknown"
