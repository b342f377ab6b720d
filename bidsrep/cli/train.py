"""``bidsrep-train``: prepare anatomies, look at generated examples, pre-train, export weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from bidsrep.errors import InputError, UsageError

if TYPE_CHECKING:
    from bidsrep.training.recipe import Recipe

TRAINABLE = ("brainmask", "pepsi", "brainid", "seqinv", "crl", "cifl")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep-train`` and give its exit code."""
    from bidsrep.cli.run import guarded

    def body() -> int:
        options = _parser().parse_args(argv)
        code: int = options.run(options)
        return code

    return guarded("bidsrep-train", body)


def prepare(options: argparse.Namespace) -> int:
    """Write a dataset of anatomies from label maps or brain-extracted T1w scans."""
    from bidsrep.training.prepare import prepare_label_maps, prepare_t1w

    pattern = "*.nii.gz" if options.label_maps else "sub-*/**/anat/*_T1w.nii.gz"
    folder = options.label_maps or options.t1w
    sources = sorted(folder.glob(pattern))
    if not sources:
        raise InputError(f"{folder}: no {pattern} below it. Give a folder that holds such images.")
    if options.label_maps:
        table = options.labels or folder / "labels.tsv"
        count = prepare_label_maps(sources, table, options.out)
    else:
        count = prepare_t1w(sources, options.out)
    print(f"{count} anatomies in {options.out}")
    return 0


def pretrain(options: argparse.Namespace) -> int:
    """Train a model; a folder that holds a checkpoint is continued."""
    from bidsrep.training.run import pretrain as run

    recipe = _recipe(options)
    checkpoint = run(
        recipe,
        options.data,
        options.out,
        device=options.device,
        initial=options.initial,
        progress=sys.stderr.isatty(),
        max_minutes=options.max_minutes,
    )
    print(f"checkpoint: {checkpoint}")
    return 0


def sample(options: argparse.Namespace) -> int:
    """Write generated examples as NIfTI: what the network is trained on, to look at."""
    import nibabel as nib
    import numpy as np

    from bidsrep.training.run import build_objective

    recipe = _recipe(options)
    objective = build_objective(recipe, options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    affine = np.diag([recipe.stage_at(options.step).spacing] * 3 + [1.0])
    for number in range(options.count):
        for name, volume in objective.sample(number, options.step).items():
            data = np.moveaxis(volume[:, 0].float().numpy(), 0, -1)
            path = options.out / f"example-{number:02d}_{name}.nii.gz"
            nib.Nifti1Image(data, affine).to_filename(path)
    print(f"{options.count} examples in {options.out}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write weights and card of a training run."""
    from bidsrep.training.export import export_weights

    recipe = _recipe(options)
    training = {"data": options.data_description} if options.data_description else {}
    weights, card = export_weights(
        options.checkpoint, recipe, options.out, edition=options.edition, training=training
    )
    print(f"{weights}\n{card}")
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    from bidsrep.training.recipe import read_recipe

    path = (
        options.config or Path(str(files("bidsrep"))) / "data" / "recipes" / f"{options.model}-compact.toml"
    )
    if not path.exists():
        raise UsageError(f"{path}: there is no such recipe. Name a TOML file with --config.")
    try:
        recipe = read_recipe(path, seed=options.seed)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a recipe: {error}") from error
    if recipe.model != options.model:
        raise UsageError(f"{path}: a recipe for {recipe.model}, not {options.model}.")
    return recipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bidsrep-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands.add_parser("prepare", help="make a dataset of anatomies"))
    for name, function, text in (
        ("pretrain", pretrain, "train a model on generated images"),
        ("sample", sample, "write generated examples to look at"),
        ("export", export, "write weights and card of a training run"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=function)
        command.add_argument("model", choices=TRAINABLE, help="what is trained")
        command.add_argument("--config", type=Path, help="recipe (TOML); default: the bundled compact one")
        command.add_argument("--seed", type=int, help="replaces the recipe's seed")
        command.add_argument("--out", type=Path, required=True, help="folder to write to")
        if name != "export":
            command.add_argument(
                "--data", type=Path, nargs="+", required=True, help="prepared anatomies (and lesion shapes)"
            )
        _ADD[name](command)
    return parser


def _add_prepare(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=prepare)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--label-maps", type=Path, help="folder of label maps (1 mm NIfTI) with labels.tsv")
    source.add_argument("--t1w", type=Path, help="BIDS folder of brain-extracted T1w scans")
    command.add_argument("--labels", type=Path, help="label table (value, name, tissue)")
    command.add_argument("--out", type=Path, required=True, help="dataset to write")


def _add_pretrain(command: argparse.ArgumentParser) -> None:
    command.add_argument("--initial", type=Path, help="weights (safetensors) to start from")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--max-minutes", type=float, help="stop, with a checkpoint, after this time")


def _add_sample(command: argparse.ArgumentParser) -> None:
    command.add_argument("--count", type=int, default=4, help="how many examples")
    command.add_argument("--step", type=int, default=0, help="optimiser step whose stage is drawn from")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the run")
    command.add_argument("--edition", default="1", help="goes into the weights' id")
    command.add_argument("--data-description", help="what the card says the weights were trained on")


_ADD = {"pretrain": _add_pretrain, "sample": _add_sample, "export": _add_export}
