"""Weights on disk: a safetensors file and a card (TOML) beside it, both checked before anything is used.

A card has the tables ``[weights]`` (id, model, sha256, license, status), ``[architecture]`` (f_maps,
num_levels, heads ...), and, for people and for preprocessing, ``[input]``, ``[training]``, ``[figures]``.
Nothing is ever loaded in part: a file either is the one its card describes and fits the network key by
key, or it is refused with a `WeightsError` that says why.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bidsrep.errors import WeightsError
from bidsrep.toml import dump_toml

SUFFIX = ".safetensors"
STATUSES = ("official", "self-trained", "random")

NO_FILE = "{}: there is no such weights file. `bidsrep-models list` shows what is available"
NO_CARD = "{}: the card {} is missing. Weights are used only with the card that describes them"
BAD_CARD = "{}: this card cannot be used ({}). Restore it, or add the weights again with `bidsrep-models add`"
CUT_SHORT = "{}: the file is cut short ({} of {} bytes). Copy or fetch it again"
NOT_SAFETENSORS = (
    "{}: not a safetensors file ({}). PyTorch checkpoints of the authors are converted once, with "
    "`bidsrep-models add MODEL FILE`"
)
HASH_DIFFERS = (
    "{}: the SHA-256 is {}, but its card says {}. The file was damaged or changed: copy or fetch it again"
)
MISSING_KEY = "{}: does not fit the network: {} of {} tensors are missing, the first is {}"
UNEXPECTED_KEY = "{}: does not fit the network: {} tensors too many, the first is {}"
BOTH_KEYS = (
    "{}: does not fit the network: {} of {} tensors are missing, the first is {}; "
    "{} tensors too many, the first is {}"
)
WRONG_SHAPE = "{}: does not fit the network: {} has shape {}, expected {}"


def card_path(path: Path) -> Path:
    """Where the card of a weights file lies."""
    return path.with_suffix(".toml")


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of the weights file ``path`` and check that it says what loading needs.

    Raises
    ------
    WeightsError
        If it is missing, is not TOML, or lacks something.
    """
    card_file = card_path(path)
    if not card_file.is_file():
        if not path.is_file():
            raise WeightsError(NO_FILE.format(path))
        raise WeightsError(NO_CARD.format(path, card_file.name))
    try:
        card = tomllib.loads(card_file.read_text(encoding="utf-8"))
        for table, key in (("weights", "id"), ("weights", "model"), ("weights", "sha256"),
                           ("architecture", "heads")):  # fmt: skip
            if key not in card[table]:
                raise KeyError(f"{table}.{key}")
        if card["weights"].get("status") not in STATUSES:
            raise ValueError(f"weights.status must be one of {', '.join(STATUSES)}")
    except KeyError as error:
        raise WeightsError(BAD_CARD.format(card_file, f"{error.args[0]} is missing")) from error
    except (OSError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise WeightsError(BAD_CARD.format(card_file, error)) from error
    return card


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a weights file and its card; the file's hash is checked before its content is looked at.

    Returns
    -------
    state, card
        Tensors by name, on the CPU, of the type they were stored in; the card.

    Raises
    ------
    WeightsError
        If file or card is missing, damaged, or the one is not the other's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    card = read_card(path)
    content = _read(path)
    _check_hash(path, content, card["weights"]["sha256"])
    try:
        return load(content), card
    except SafetensorError as error:
        raise WeightsError(NOT_SAFETENSORS.format(path, error)) from error


def verify(path: Path) -> dict[str, Any]:
    """Check a weights file against its card without loading it; return the card."""
    card = read_card(path)
    _check_hash(path, _read(path), card["weights"]["sha256"])
    return card


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Give a network its weights, every one of them; ``where`` names their source in messages.

    Raises
    ------
    WeightsError
        Naming the first missing and the first unexpected key, or the first wrong shape.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if missing and unexpected:
        msg = BOTH_KEYS.format(where, len(missing), len(wanted), missing[0], len(unexpected), unexpected[0])
        raise WeightsError(msg)
    if missing:
        raise WeightsError(MISSING_KEY.format(where, len(missing), len(wanted), missing[0]))
    if unexpected:
        raise WeightsError(UNEXPECTED_KEY.format(where, len(unexpected), unexpected[0]))
    for key, value in wanted.items():
        if state[key].shape != value.shape:
            msg = WRONG_SHAPE.format(where, key, tuple(state[key].shape), tuple(value.shape))
            raise WeightsError(msg)
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()}, strict=True)


def write_weights(path: Path, state: Mapping[str, Tensor], card: Mapping[str, Any]) -> Path:
    """Write a weights file and its card, whose ``sha256`` is filled in; the card comes last, both whole.

    Parameters
    ----------
    path
        The ``.safetensors`` file.
    state
        Tensors by name.
    card
        The card; see the module's text.
    """
    from safetensors.torch import save

    content = save({key: value.detach().cpu().contiguous() for key, value in sorted(state.items())})
    weights = {**card["weights"], "sha256": hashlib.sha256(content).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, content)
    _write_whole(card_path(path), dump_toml({**card, "weights": weights}).encode())
    return path


def _write_whole(path: Path, content: bytes) -> None:
    from bidsrep.imaging._write import write_whole

    write_whole(path, content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(NO_FILE.format(path)) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}). Check its permissions") from error


def _check_hash(path: Path, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found == str(expected).lower():
        return
    complete = _complete_size(content)
    if complete is not None and len(content) < complete:
        raise WeightsError(CUT_SHORT.format(path, len(content), complete))
    raise WeightsError(HASH_DIFFERS.format(path, found, expected))


def _complete_size(content: bytes) -> int | None:
    """How long a safetensors file should be by its own header; None where it has none."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > 100_000_000:
        return None
    if len(content) < 8 + length:
        return 8 + length
    try:
        header = json.loads(content[8 : 8 + length])
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None
