"""Where weights are found: bundled with the package, or in the user's models folder.

The folder is ``--models-dir``, else ``$BIDSREP_MODELS_DIR``, else ``bidsrep/models`` in the user's data
folder. ``data/weights.toml`` says what is published and where. Nothing here opens a connection, or torch.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bidsrep.errors import WeightsError

NOT_BUNDLED = (
    "{model}: this installation has no bundled weights for it. Give a file or id with "
    "--weights {model}=..., or add some with `bidsrep-models add {model} FILE`"
)
UNKNOWN_ID = "{weights}: neither a file nor the id of weights for {model}; there are: {known}"
NOT_ADDED = (
    "{weights}: these weights of {model} are not on this machine. Get {file} from {page} and run "
    "`bidsrep-models add {model} {file}`"
)
OTHER_MODEL = "{path}: these are weights of {found}, not of {model}"
CHECKPOINT = (
    "{path}: a PyTorch checkpoint. Convert it once with `bidsrep-models add {model} {path}`, then give its id"
)
NO_HOME = (
    "There is no home folder to keep weights in. Set BIDSREP_MODELS_DIR to a folder, or give --models-dir"
)
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".tar")


@dataclass(frozen=True)
class Published:
    """Weights that are known to exist: a row of ``data/weights.toml``.

    `file` is the file's name, `page` where to get it, `url` and `sha256` what `fetch` needs (empty where
    its authors offer neither), `license` what is said about it, `note` anything else.
    """

    id: str
    model: str
    status: str
    license: str
    file: str = ""
    page: str = ""
    url: str = ""
    sha256: str = ""
    note: str = ""


@dataclass(frozen=True)
class Installed:
    """Weights on this machine; `source` is ``bundled`` or ``added``, `card` their card as a dict."""

    path: Path
    card: dict[str, Any]
    source: str

    @property
    def id(self) -> str:
        """Identifier, from the card."""
        return str(self.card["weights"]["id"])

    @property
    def model(self) -> str:
        """The model they are for."""
        return str(self.card["weights"]["model"])


def bundled_dir() -> Path:
    """The folder of the weights that come with the package."""
    return Path(str(files("bidsrep") / "data" / "weights"))


def models_dir(given: Path | None = None) -> Path:
    """The user's folder of weights; it need not exist.

    Raises
    ------
    WeightsError
        If nothing says where it is and the user has no home folder.
    """
    if given is not None:
        return given
    if folder := os.environ.get("BIDSREP_MODELS_DIR"):
        return Path(folder)
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "bidsrep" / "models"
    try:
        return Path.home() / ".local" / "share" / "bidsrep" / "models"
    except RuntimeError as error:
        raise WeightsError(NO_HOME) from error


@cache
def published() -> tuple[Published, ...]:
    """The rows of ``data/weights.toml``."""
    text = (files("bidsrep") / "data" / "weights.toml").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in tomllib.loads(text)["weights"])


def installed(given: Path | None = None) -> Iterator[Installed]:
    """Weights on this machine, bundled ones first; files without a usable card are passed over."""
    from bidsrep.models.weights import SUFFIX, read_card

    folders = [(bundled_dir(), "bundled")]
    with suppress(WeightsError):  # no home folder: then nothing was added either
        folders.append((models_dir(given), "added"))
    for folder, source in folders:
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                yield Installed(path, read_card(path), source)
            except WeightsError:
                continue


def find_weights(model: str, weights: str | Path | None = None, folder: Path | None = None) -> Path:
    """Find the weights file of a model.

    Parameters
    ----------
    model
        The model's name.
    weights
        A file, an id, or None (or an empty text) for the bundled default.
    folder
        The user's models folder, where it is not the usual one.

    Raises
    ------
    WeightsError
        Saying what there is, or where to get what is wanted.
    """
    from bidsrep.models.weights import SUFFIX

    if not weights:
        path = bundled_dir() / f"{model}{SUFFIX}"
        if not path.is_file():
            raise WeightsError(NOT_BUNDLED.format(model=model))
        return path
    as_path = Path(weights)
    if as_path.suffix.lower() in CHECKPOINT_SUFFIXES:
        raise WeightsError(CHECKPOINT.format(path=weights, model=model))
    if as_path.suffix == SUFFIX or as_path.is_file():
        return as_path
    known = [candidate for candidate in installed(folder) if candidate.model == model]
    for candidate in known:
        if str(weights) in (candidate.id, candidate.path.stem):
            return candidate.path
    for row in published():
        if row.id == str(weights) and row.model == model and row.file:
            raise WeightsError(NOT_ADDED.format(weights=weights, model=model, file=row.file, page=row.page))
    names = ", ".join(candidate.id for candidate in known) or "none"
    raise WeightsError(UNKNOWN_ID.format(weights=weights, model=model, known=names))
