"""The authors' checkpoints (``.pth``), read safely and converted once; here those of Brain-ID and PEPSI.

SeqInv's and CRL's formats are beside their networks. Brain-ID's and PEPSI's training code writes ``{"model", "optimizer", "epoch", "args", "best_val_stats"}``. Pre-training
files hold the whole network (``backbone.*`` and ``head.*``); fine-tuning writes pairs,
``checkpoint_feat_epoch_N.pth`` (``backbone.*``) and ``checkpoint_epoch_N.pth`` (the head alone, without
the ``head.`` prefix).

Their loader takes whatever names happen to match and leaves the rest random, without a word. Here every
tensor must have its place, or the file is refused. Pickles are read with ``weights_only=True``: what is
not a tensor, a number, a text or an ``argparse.Namespace`` is refused before it can run.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bidsrep.errors import WeightsError
from bidsrep.models.weights import NO_FILE, load_strictly, write_weights

HEAD = re.compile(r"head\.final_conv_(?P<name>\w+)\.weight")

UNSAFE = (
    "{}: refused, it holds more than weights and could run code when opened ({}). "
    "Ask its source for a file with tensors only"
)
UNREADABLE = "{}: not a PyTorch checkpoint, or cut short ({}). Copy or download it again"
NO_MODEL = "{}: there is no `model` entry in it (it has: {}). It is not a checkpoint of Brain-ID or PEPSI"
NOT_TENSORS = "{}: its `model` entry holds {} under {}, not a tensor"
TWICE = "{}: {} is also in another of the files. Give one backbone file and one head file"
NO_BACKBONE = (
    "{}: only the head is in it. Fine-tuned networks are two files: give checkpoint_feat_epoch_N.pth, too"
)
OTHER_METHOD = "{}: this is a checkpoint of {found}, not of {model}. Run `bidsrep-models add {found} ...`"
NOT_FINITE = "{}: {} holds NaN or infinite values"


@dataclass(frozen=True)
class Checkpoint:
    """What one or two ``.pth`` files hold: tensors by name, and the training's settings."""

    state: dict[str, Tensor]
    settings: dict[str, Any]


def read_checkpoint(paths: Sequence[Path]) -> Checkpoint:
    """Read a pre-training file, or a fine-tuned backbone file and its head file.

    Raises
    ------
    WeightsError
        If a file is missing, unsafe, damaged, or the files do not make up a network.
    """
    state: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for path in paths:
        content = _unpickle(path)
        for key, value in _model_entry(path, content).items():
            full = key if key.startswith(("backbone.", "head.")) else f"head.{key}"
            if full in state:
                raise WeightsError(TWICE.format(path, full))
            state[full] = value
        if isinstance(content.get("args"), argparse.Namespace):
            settings.update(vars(content["args"]))
    if not any(key.startswith("backbone.") for key in state):
        raise WeightsError(NO_BACKBONE.format(paths[0]))
    return Checkpoint(state, settings)


def _unpickle(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise WeightsError(NO_FILE.format(path))
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"GLOBAL (\S+)", str(error))
        if reason or "nsupported" in str(error):
            raise WeightsError(UNSAFE.format(path, reason[1] if reason else _first_line(error))) from error
        raise WeightsError(UNREADABLE.format(path, _first_line(error))) from error
    except Exception as error:  # whatever a damaged file makes the unpickler stumble over
        raise WeightsError(UNREADABLE.format(path, _first_line(error))) from error
    if not isinstance(content, Mapping):
        raise WeightsError(NO_MODEL.format(path, type(content).__name__))
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _model_entry(path: Path, content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state dict: under the first key that contains ``model``, as the authors' loader has it."""
    found = next((key for key in content if isinstance(key, str) and "model" in key), None)
    if found is None or not isinstance(content[found], Mapping):
        raise WeightsError(NO_MODEL.format(path, ", ".join(map(str, content))))
    for key, value in content[found].items():
        if not isinstance(value, Tensor):
            raise WeightsError(NOT_TENSORS.format(path, type(value).__name__, key))
        if not torch.isfinite(value).all():
            raise WeightsError(NOT_FINITE.format(path, key))
    return content[found]


def infer_architecture(model: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Tell the network's width, depth and heads from the tensors' shapes.

    Brain-ID's code ignores its settings for depth and groups; PEPSI's uses them. The number of groups
    leaves no trace in the shapes.

    Parameters
    ----------
    model
        ``brainid`` or ``pepsi``.
    checkpoint
        What was read.

    Returns
    -------
    dict
        The ``[architecture]`` of a card.
    """
    state, settings = checkpoint.state, checkpoint.settings
    levels = {int(m[1]) for key in state if (m := re.match(r"backbone\.encoders\.(\d+)\.", key))}
    first = state.get("backbone.encoders.0.basic_module.SingleConv1.conv.weight")
    last = state.get("backbone.encoders.0.basic_module.SingleConv2.conv.weight")
    in_channels = first.shape[1] if first is not None and first.ndim == 5 else 1
    f_maps = last.shape[0] if last is not None and last.ndim == 5 else 64
    heads = {m["name"]: (key, value) for key, value in state.items() if (m := HEAD.fullmatch(key))}
    return {
        "f_maps": f_maps,
        "num_levels": max(levels, default=4) + 1,
        "in_channels": in_channels,
        "num_groups": int(settings.get("num_groups", 8)) if model == "pepsi" else 8,
        "unit_features": model == "pepsi",
        "heads": {name: int(value.shape[0]) for name, (_, value) in heads.items()},
        "with_image": [
            name for name, (_, value) in heads.items() if value.ndim == 5 and value.shape[1] == f_maps + 1
        ],
    }


def read_representation(
    model: str, paths: Sequence[Path]
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """State, ``[architecture]`` and notes for the card of a checkpoint of Brain-ID or PEPSI.

    Parameters
    ----------
    model
        ``brainid`` or ``pepsi``.
    paths
        One pre-training file, or a fine-tuned pair.

    Raises
    ------
    WeightsError
        If a file is missing, unsafe, damaged, or of the other method.
    """
    where = _joined(paths)
    checkpoint = read_checkpoint(paths)
    task = str(checkpoint.settings.get("task", ""))
    # Only PEPSI's tasks are called "uni-..."; their features have unit norm, which no shape shows.
    if task and model == "brainid" and ("uni" in task or checkpoint.settings.get("unit_feat")):
        raise WeightsError(OTHER_METHOD.format(where, found="pepsi", model=model))
    if task and model == "pepsi" and checkpoint.settings.get("unit_feat") is False:
        raise WeightsError(OTHER_METHOD.format(where, found="brainid", model=model))
    return checkpoint.state, infer_architecture(model, checkpoint), {"task": task or "unknown"}


def convert(
    model: str,
    paths: Sequence[Path],
    folder: Path,
    weights_id: str,
    status: str,
    license: str = "not stated",  # noqa: A002 (the card's word)
) -> Path:
    """Convert the authors' checkpoint files of a method into safetensors with a card; return the new file.

    Parameters
    ----------
    model
        Name of the method.
    paths
        One file, or those that make up a network (see the method's ``read_checkpoint``).
    folder
        Where to put ``<weights_id>.safetensors``.
    weights_id
        Identifier to give them.
    status
        ``official`` for what the authors published, ``self-trained`` for the rest.
    license
        What the card says of their licence.

    Raises
    ------
    WeightsError
        If the tensors are not exactly those of such a network.
    """
    from bidsrep.models.registry import model_class

    where = _joined(paths)
    kind = model_class(model)
    state, architecture, notes = kind.read_checkpoint(paths)
    try:
        network = kind.build(architecture)
    except (ValueError, TypeError, KeyError, IndexError) as error:  # shapes that no such network can have
        raise WeightsError(f"{where}: does not fit the network: {error}") from error
    load_strictly(network, state, where)
    card = {
        "weights": {
            "id": weights_id,
            "model": model,
            "status": status,
            "license": license,
        },
        "architecture": architecture,
        "training": {
            **notes,
            "converted_from": [path.name for path in paths],
            "converted_sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
        },
    }
    return write_weights(folder / f"{weights_id}.safetensors", network.state_dict(), card)


def _joined(paths: Sequence[Path]) -> str:
    return " + ".join(map(str, paths))


def network_arguments(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Network` from the ``[architecture]`` of a card.

    Raises
    ------
    TypeError, ValueError
        If it has an entry that no network has.
    """
    arguments = dict(architecture)
    heads = arguments.pop("heads")
    # A list is short for one channel each.
    outputs = dict.fromkeys(heads, 1) if isinstance(heads, list) else {k: int(v) for k, v in heads.items()}
    return {"outputs": outputs, **arguments}
