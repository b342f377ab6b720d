"""Untrained weights in the format of trained ones, for tests that need some network."""

from pathlib import Path
from typing import Any

import torch

from bidsrep.models.cifl import CIFL
from bidsrep.models.crl import CRL
from bidsrep.models.network import Network
from bidsrep.models.weights import write_weights

HEADS = {
    "pepsi": {"image": 1, "aux_image": 1, "pathol": 1},
    "brainid": {"image": 1},
    "brainmask": {"distance": 1},
}


def random_network(model: str, seed: int = 0, **architecture: Any) -> Network:
    """Make a network whose normalisation layers, too, are random: a wrong one shows."""
    torch.manual_seed(seed)
    network = Network(HEADS[model], **architecture)
    for name, value in network.named_parameters():
        if "groupnorm" in name:
            torch.nn.init.normal_(value, 0.5, 0.3)
    return network


def write_random_weights(folder: Path, model: str, seed: int = 0, **architecture: Any) -> Path:
    """Write ``<model>.safetensors`` and its card; 8 features and 3 levels unless told otherwise."""
    architecture = {"f_maps": 8, "num_levels": 3, "unit_features": model == "pepsi", **architecture}
    card = {
        "weights": {"id": f"random-{model}", "model": model, "status": "random", "license": "CC0-1.0"},
        "architecture": {**architecture, "heads": HEADS[model]},
        "input": {"resolution_mm": 2.0 if model == "brainmask" else 1.0},
    }
    state = random_network(model, seed, **architecture).state_dict()
    return write_weights(folder / f"{model}.safetensors", state, card)


def write_random_cifl(folder: Path, seed: int = 0) -> Path:
    """Write ``cifl.safetensors`` and its card: 4 features of 3 layers, and a small tissue head."""
    architecture = {
        "heads": {"tissue": 4},
        "head": {"f_maps": 8, "num_levels": 2},
        "features": 4,
        "f_maps": 8,
        "dilations": [1, 1, 1],
    }
    card = {
        "weights": {"id": "random-cifl", "model": "cifl", "status": "random", "license": "CC0-1.0"},
        "architecture": architecture,
        "input": {"resolution_mm": 1.0},
    }
    torch.manual_seed(seed)
    return write_weights(folder / "cifl.safetensors", CIFL.build(architecture).state_dict(), card)


def write_random_crl(folder: Path, seed: int = 0, **training: Any) -> Path:
    """Write ``crl.safetensors`` and its card: 8 features, one residual block."""
    architecture = {"f_maps": 8, "num_resblocks": 1, "positive": True, "guard": 0.01, "heads": {"image": 1}}
    card = {
        "weights": {"id": "random-crl", "model": "crl", "status": "random", "license": "CC0-1.0"},
        "architecture": architecture,
        "input": {"resolution_mm": 1.0},
        "training": training,
    }
    torch.manual_seed(seed)
    return write_weights(folder / "crl.safetensors", CRL.build(architecture).state_dict(), card)
