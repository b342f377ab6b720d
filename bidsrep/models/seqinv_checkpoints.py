"""The authors' checkpoints of SeqInv, in all their layouts, as one state dict.

==========================  ==========================================================================
written by                  tensors under
==========================  ==========================================================================
pre-training                ``encoder``, ``projector`` and, usually, ``reconstructor``
release of the encoders     ``state_dict``, beside ``config``
training of a U-Net         ``model``: the encoder and one head
extraction from a U-Net     ``encoder``
none of these               the file itself: an encoder's or a U-Net's state dict
==========================  ==========================================================================

Keys may carry the prefixes of compiled, parallel or wrapped modules. Several files make one network:
an encoder, and U-Nets that were trained on it, must agree in every tensor of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bidsrep.errors import WeightsError
from bidsrep.models.checkpoints import NOT_FINITE, NOT_TENSORS, _unpickle
from bidsrep.models.seqinv_network import LEVELS
from bidsrep.tasks.denoising import DENOISED
from bidsrep.tasks.stroke import STROKE
from bidsrep.tasks.tissue import TISSUE

PREFIXES = ("_orig_mod.", "module.", "encoder.")
"""What torch.compile, data parallelism and the authors' wrappers put before the names."""
STEM = "conv_0.conv_0.conv.weight"
HEAD_OF_CHANNELS = {task.channels: task.head for task in (TISSUE, STROKE, DENOISED)}
WINDOW = 96  # voxels; the authors trained and tested on crops of this side
DROPOUT = 0.2
VIEWS = ("seqinv", "seqaug", "base")
RUNS = {"bloch-paired": "seqinv", "bloch": "seqaug", "mprage": "base"}

TRANSFORMER = (
    "{}: holds the vision transformer of SeqInv's code, which is not supported; the paper's is a CNN"
)
NO_ENCODER = "{}: no encoder of SeqInv is in it (it has: {}). Give a file of an encoder or of a whole U-Net"
OTHER_ENCODER = "{}: was trained on another encoder than {} holds: {} differs. Add them under two ids"
TWICE = "{}: {} is also in another of the files. Give one file for each task"
UNKNOWN_HEAD = "{}: a head with {} outputs is none of SeqInv's (4 tissues, 2 stroke, 1 denoising)"


def read_checkpoint(paths: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """State, ``[architecture]`` and notes for the card of one or more files.

    Raises
    ------
    WeightsError
        If a file is missing, unsafe, damaged or of something else, or the files do not belong together.
    """
    state: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    settings: dict[str, Any] = {}
    for path in paths:
        content = _unpickle(path)
        for key, value in _tensors(path, content).items():
            if key not in state:
                state[key], origin[key] = value, path
            elif not key.startswith("encoder."):
                raise WeightsError(TWICE.format(path, key))
            elif not torch.equal(state[key], value):
                raise WeightsError(OTHER_ENCODER.format(path, origin[key], key))
        settings.update(content["config"] if isinstance(content.get("config"), Mapping) else {})
    dropout = float(settings.get("dropout", DROPOUT))
    notes = {"view": _view(paths)}
    return state, {**infer_architecture(state), "dropout": dropout, "window": WINDOW}, notes


def infer_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Widths and heads, told from the shapes of the tensors."""
    levels = [f"encoder.{STEM}"]
    levels += [f"encoder.down_{level}.convs.conv_0.conv.weight" for level in range(1, LEVELS)]
    heads = {
        match[1]: len(value)
        for key, value in state.items()
        if (match := re.fullmatch(r"heads\.(\w+)\.final_conv\.weight", key))
    }
    found: dict[str, Any] = {
        "widths": [len(state[key]) for key in levels if key in state],
        "heads": heads,
        "projection": [
            len(state[key]) for key in ("projector.fc1.weight", "projector.fc2.weight") if key in state
        ],
        "reconstructor": any(key.startswith("reconstructor.") for key in state),
    }
    for name in heads:
        found["head_width"] = state[f"heads.{name}.final_conv.weight"].shape[1]
    return found


def _tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """One file's tensors under the names of `SeqInvNetwork`."""
    tables = {name: table for name, table in content.items() if isinstance(table, Mapping)}
    main = next((tables[name] for name in ("encoder", "state_dict", "model") if name in tables), content)
    state = _network(path, main)
    for name in ("projector", "reconstructor"):
        state |= {f"{name}.{_plain(key)}": value for key, value in tables.get(name, {}).items()}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(NOT_TENSORS.format(path, type(value).__name__, key))
        if not torch.isfinite(value).all():
            raise WeightsError(NOT_FINITE.format(path, key))
    return state


def _network(path: Path, table: Mapping[Any, Any]) -> dict[str, Any]:
    """An encoder's or a U-Net's state dict under the names of `SeqInvNetwork`."""
    state = {_plain(str(key)): value for key, value in table.items()}
    if STEM not in state:
        if any("patch_embedding" in key for key in state):
            raise WeightsError(TRANSFORMER.format(path))
        raise WeightsError(NO_ENCODER.format(path, ", ".join(list(state)[:5]) or "nothing"))
    named = {}
    head = _head_name(path, state)
    for key, value in state.items():
        mine = key.startswith(("upcat_", "final_conv."))
        named[f"heads.{head}.{key}" if mine else f"encoder.{key}"] = value
    return named


def _head_name(path: Path, state: Mapping[str, Any]) -> str:
    bias = state.get("final_conv.bias")
    channels = len(bias) if isinstance(bias, Tensor) and bias.ndim == 1 else 0
    if channels and channels not in HEAD_OF_CHANNELS:
        raise WeightsError(UNKNOWN_HEAD.format(path, channels))
    return HEAD_OF_CHANNELS.get(channels, "unknown")


def _plain(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _view(paths: Iterable[Path]) -> str:
    """Which of the three methods the authors' names of files, or else of their runs' folders, tell."""
    for path in paths:
        for view in VIEWS:
            if path.name.startswith(view):
                return view
        for run, view in RUNS.items():
            if path.parent.name.endswith(run):
                return view
    return "unknown"
