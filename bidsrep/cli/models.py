"""``bidsrep-models``: see, check and add the weights of the networks."""

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.cli import types
from bidsrep.cli.run import guarded
from bidsrep.errors import UsageError, WeightsError
from bidsrep.models.library import CHECKPOINT_SUFFIXES, Published

CONVERTIBLE = ("brainid", "crl", "pepsi", "seqinv")
NOT_INSTALLED = "{}: no such weights on this machine. `bidsrep-models list` shows what there is"
NOT_KNOWN = "{}: no weights are known under this id. `bidsrep-models list` shows what there is"
NOT_FETCHABLE = (
    "{id}: its authors offer no direct download that could be checked. Get {file} from {page} "
    "(licence: {license}) and run `bidsrep-models add {model} {file}`"
)
HAVE_IT = "{}: there are such weights already ({}). Give another --id, or --force to replace them"
BUNDLED_ID = "{}: this is the id of bundled weights. Give another --id"
BAD_ID = "{!r} cannot be an id: use letters, digits, dots, - and _, and no ending of a file of weights"
OF_FILES = (*CHECKPOINT_SUFFIXES, ".safetensors")
"""Endings of files of weights: what has one of them is taken for a file, never for an id."""
UNKNOWN_LICENCE = {"official": "not stated; see the authors' repository", "self-trained": "not stated"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep-models`` and give its exit code."""
    arguments = build_parser().parse_args(argv)
    action: Callable[[argparse.Namespace], int] = arguments.action
    return guarded("bidsrep-models", lambda: action(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(prog="bidsrep-models", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, "list", list_weights, "list the weights on this machine, and those known to be elsewhere")
    show = _add(commands, "show", show_card, "print the card of some weights: data, licence, figures")
    show.add_argument("weights", metavar="ID", help="id of weights, or a safetensors file")
    _add_add(commands)
    fetch = _add(
        commands, "fetch", fetch_weights, "download weights where their authors and licence allow it"
    )
    fetch.add_argument("weights", metavar="ID")
    verify = _add(commands, "verify", verify_weights, "compare weights with the SHA-256 of their cards")
    verify.add_argument("weights", metavar="ID", nargs="*", help="default: all on this machine")
    path = _add(commands, "path", print_path, "print where weights lie; without ID, the models folder")
    path.add_argument("weights", metavar="ID", nargs="?")
    return parser


def _add(commands: Any, name: str, action: Callable, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text}.".capitalize()
    )
    parser.add_argument(
        "--models-dir",
        type=types.path,
        metavar="DIR",
        help="folder of added weights (default: $BIDSREP_MODELS_DIR, else the user's data folder)",
    )
    parser.set_defaults(action=action)
    return parser


def _add_add(commands: Any) -> None:
    text = "convert the authors' checkpoint files, once, to safetensors with a card"
    add = _add(commands, "add", add_weights, text)
    add.add_argument("model", choices=CONVERTIBLE, metavar="MODEL", help=", ".join(CONVERTIBLE))
    add.add_argument(
        "files",
        type=types.path,
        nargs="+",
        metavar="FILE",
        help="a pre-training checkpoint; for pepsi and brainid also the two files of a fine-tuned network "
        "(checkpoint_feat_epoch_N.pth and checkpoint_epoch_N.pth); for seqinv an encoder, and U-Nets on it",
    )
    add.add_argument(
        "--id", dest="weights", metavar="ID", help="what to call them (default: the file's name)"
    )
    add.add_argument(
        "--status",
        choices=("official", "self-trained"),
        help="who trained them; written into every result's sidecar (default: official if the file is named "
        "as the authors name theirs)",
    )
    add.add_argument("--license", metavar="TEXT", help="their licence, for every result's sidecar")
    add.add_argument("--force", action="store_true", help="replace weights of the same id")


def list_weights(arguments: argparse.Namespace) -> int:
    """Print a table of what is here, then what is known to be elsewhere."""
    from bidsrep.models.library import installed, published

    rows = [("MODEL", "ID", "STATUS", "WHERE")]
    here = list(installed(arguments.models_dir))
    rows += [(w.model, w.id, str(w.card["weights"]["status"]), f"{w.source}: {w.path}") for w in here]
    converted = {name for w in here for name in w.card.get("training", {}).get("converted_from", ())}
    for known in published():
        if known.file and known.file not in converted:
            rows.append((known.model, known.id, known.status, f"not here: {known.file} from {known.page}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))
    return 0


def show_card(arguments: argparse.Namespace) -> int:
    """Print a card as it is, after its path; for weights that are not here, what is known of them."""
    from dataclasses import asdict

    from bidsrep.models.library import published
    from bidsrep.models.weights import card_path, read_card
    from bidsrep.toml import dump_toml

    try:
        path = _path_of(arguments.weights, arguments.models_dir)
    except WeightsError:
        known = [row for row in published() if row.id == arguments.weights and row.file]
        if not known:
            raise
        print(f"# not on this machine\n{dump_toml({k: v for k, v in asdict(known[0]).items() if v})}", end="")
        return 0
    read_card(path)
    print(f"# {path}\n{card_path(path).read_text(encoding='utf-8')}", end="")
    return 0


def add_weights(arguments: argparse.Namespace) -> int:
    """Convert checkpoint files; print the id to give to ``--weights``."""
    from bidsrep.models.library import installed, models_dir

    first = arguments.files[0]
    released = _released(arguments.model, first)
    weights = arguments.weights or (released.id if released else _default_id(arguments.model, first.name))
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", weights) or weights.lower().endswith(OF_FILES):
        raise UsageError(BAD_ID.format(weights))
    for other in installed(arguments.models_dir):
        if other.id == weights and other.source == "bundled":
            raise UsageError(BUNDLED_ID.format(weights))
        if other.id == weights and not arguments.force:
            raise UsageError(HAVE_IT.format(weights, other.path))
    from bidsrep.models.checkpoints import convert

    status = arguments.status or ("official" if released else "self-trained")
    folder = models_dir(arguments.models_dir)
    licence = arguments.license or (released.license if released else UNKNOWN_LICENCE[status])
    path = convert(arguments.model, arguments.files, folder, weights, status, licence)
    print(f"{path}\nUse it with: --weights {arguments.model}={weights}")
    return 0


def _released(model: str, file: Path) -> Published | None:
    """The authors' release that a file is: by its name, and by its SHA-256 where that is known."""
    from bidsrep.models.library import published

    for row in published():
        if row.status == "official" and (row.model, row.file) == (model, file.name):
            return row if not row.sha256 or _sha256(file) == row.sha256 else None
    return None


def _sha256(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _default_id(model: str, file: str) -> str:
    stem = file
    while stem.lower().endswith(OF_FILES):
        stem = stem.rpartition(".")[0]
    stem = re.sub("[^0-9A-Za-z._-]", "-", stem)
    return stem if stem.startswith(model) else f"{model}-{stem}"


def fetch_weights(arguments: argparse.Namespace) -> int:
    """Download a checkpoint, check its SHA-256 and convert it; or say where to get it."""
    from bidsrep.models.library import models_dir, published

    row = next((row for row in published() if row.id == arguments.weights), None)
    if row is None:
        raise WeightsError(NOT_KNOWN.format(arguments.weights))
    if not row.file:
        print(f"{row.id}: comes with the package; there is nothing to fetch.")
        return 0
    if not (row.url and row.sha256):
        raise WeightsError(NOT_FETCHABLE.format(**vars(row)))
    from bidsrep.cli.fetch import fetch

    print(fetch(row, models_dir(arguments.models_dir)))
    return 0


def verify_weights(arguments: argparse.Namespace) -> int:
    """Print ``ok`` or what is wrong for each; the first failure's exit code at the end."""
    from bidsrep.models.library import bundled_dir, models_dir
    from bidsrep.models.weights import SUFFIX, verify

    if arguments.weights:
        paths = [_path_of(name, arguments.models_dir) for name in arguments.weights]
    else:
        folders = (bundled_dir(), models_dir(arguments.models_dir))
        paths = [path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))]
    code = 0
    for path in paths:
        try:
            print(f"ok  {verify(path)['weights']['id']}  {path}")
        except WeightsError as error:
            print(f"BAD {error}", file=sys.stderr)
            code = error.exit_code
    return code


def print_path(arguments: argparse.Namespace) -> int:
    """Print one path."""
    from bidsrep.models.library import models_dir

    if arguments.weights:
        print(_path_of(arguments.weights, arguments.models_dir))
    else:
        print(models_dir(arguments.models_dir))
    return 0


def _path_of(weights: str, folder: Path | None) -> Path:
    """Find weights by id or file, whatever model they are for."""
    from bidsrep.models.library import installed
    from bidsrep.models.weights import NO_FILE, SUFFIX

    for candidate in installed(folder):
        if weights in (candidate.id, candidate.path.stem):
            return candidate.path
    if weights.endswith(SUFFIX):
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(NO_FILE.format(path))
        return path
    raise WeightsError(NOT_INSTALLED.format(weights))


if __name__ == "__main__":
    sys.exit(main())
