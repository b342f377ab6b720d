"""``bidsrep-train``: prepare anatomies, look at generated examples, pre-train, fine-tune, measure, export weights."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsrep.cli import evaluate, types
from bidsrep.errors import InputError, UsageError
from bidsrep.settings import MODALITIES

if TYPE_CHECKING:
    from bidsrep.training.recipe import Recipe
    from bidsrep.training.trainer import Runtime

FINETUNED = ("pepsi", "brainid")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
TASKS = ("lesion", "seg", "T1w", "FLAIR")
TRAINABLE = ("brainmask", "pepsi", "brainid", "seqinv", "crl", "cifl")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep-train`` and give its exit code."""
    from bidsrep.cli.run import guarded, set_up_logging

    def body() -> int:
        options = _parser().parse_args(argv)
        set_up_logging(0)
        # Lightning's advertisements and what it says of its own trainer; its warnings stay.
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
        warnings.filterwarnings(
            "ignore", message="Checkpoint directory|`isinstance\\(treespec", module="lightning"
        )
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
        print(f"{prepare_label_maps(sources, table, options.out)} anatomies in {options.out}")
    else:
        count = prepare_t1w(sources, options.out, options.lesions)
        more = "".join(f", {count[kind]} with {kind}" for kind in ("FLAIR", "lesions") if count[kind])
        print(f"{count['T1w']} anatomies{more} in {options.out}")
    return 0


def pretrain(options: argparse.Namespace) -> int:
    """Train a model; a folder that holds a checkpoint is continued."""
    from bidsrep.training.run import pretrain as run

    recipe = _recipe(options)
    checkpoint = run(
        recipe, list(options.data), options.out, initial=options.initial, runtime=_runtime(options)
    )
    print(f"checkpoint: {checkpoint}")
    return 0


def finetune(options: argparse.Namespace) -> int:
    """Train on a user's labelled scans and write weights; an interrupted run is continued."""
    from bidsrep.training.finetune import LabelledData, scaled
    from bidsrep.training.finetune import finetune as run

    recipe = _read(options.config or _recipes() / "finetune-compact.toml", options, model=options.model)
    if options.iterations:
        recipe = scaled(recipe, options.iterations)
    if options.validation_share is not None:
        recipe = replace(recipe, validation={**recipe.validation, "share": options.validation_share})
    data = LabelledData(
        options.bids,
        options.labels,
        options.label,
        tuple(options.participant_label),
        tuple(options.modalities),
        options.skip_bids_validation,
    )
    weights, card = run(
        options.model,
        options.task,
        recipe,
        data,
        options.out,
        initial=options.initial,
        runtime=_runtime(options),
    )
    print(
        f"{weights}\n{card}\nUse them with: bidsrep ... --model {options.model} --weights {options.model}={weights}"
    )
    return 0


def sample(options: argparse.Namespace) -> int:
    """Write generated examples as NIfTI: what the network is trained on, to look at."""
    from bidsrep.training.examples import write_example
    from bidsrep.training.run import build_objective

    recipe = _recipe(options)
    objective = build_objective(recipe, list(options.data))
    options.out.mkdir(parents=True, exist_ok=True)
    spacing = recipe.stage_at(options.step).spacing
    for number in range(options.count):
        stem = options.out / f"example-{number:02d}"
        write_example(objective.sample(number, options.step), stem, spacing)
    print(f"{options.count} examples in {options.out}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write weights and card of a training run."""
    from bidsrep.training.export import export_weights

    if not options.checkpoint.is_file():
        raise UsageError(f"--checkpoint: there is no file {options.checkpoint}.")
    training = {"data": options.data_description} if options.data_description else {}
    if options.onto:
        return _export_onto(options, training)
    if options.heads or options.join:
        raise UsageError("--heads and --join are for --onto: which weights shall get the heads?")
    recipe, start = _recipe_of_run(options)
    weights, card = export_weights(
        options.checkpoint,
        recipe,
        options.out,
        edition=options.edition,
        training=training,
        license=options.license,
        start=start,
        average_with=options.average_with,
    )
    print(f"{weights}\n{card}")
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """Write weights whose lesion maps have their operating point where they overlap best with lesions."""
    from bidsrep.models.library import find_weights
    from bidsrep.models.registry import load_model
    from bidsrep.training.calibrate import calibrate as run

    path = find_weights("pepsi", options.weights)
    model = load_model("pepsi", options.weights, options.device)
    persons = [f"sub-{label}" for label in options.participant_label]
    weights, card = run(
        model, path, list(options.data), persons, options.out, edition=options.edition, seed=options.seed
    )
    print(f"{weights}\n{card}")
    return 0


def _export_onto(options: argparse.Namespace, training: dict[str, str]) -> int:
    from bidsrep.models.library import find_weights
    from bidsrep.training.graft import export_onto

    if not options.heads:
        raise UsageError("--onto needs --heads: which heads of the run are taken.")
    if options.join and "pathol" not in options.heads:
        raise UsageError("--join is for lesions: name pathol with --heads.")
    if options.average_with:
        raise UsageError("--average-with cannot be used with --onto: average the weights of a whole run.")
    recipe, _ = _recipe_of_run(options)
    base = find_weights(options.model, options.onto)
    join = None
    if options.join:
        from bidsrep.training.run import build_objective

        join = (build_objective(recipe, list(options.data)), options.join)
    weights, card = export_onto(
        options.checkpoint,
        recipe,
        base,
        options.heads,
        options.out,
        edition=options.edition,
        training=training,
        join=join,
    )
    print(f"{weights}\n{card}")
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    path = options.config or _recipes() / f"{options.model}-compact.toml"
    recipe = _read(path, options)
    if recipe.model != options.model:
        raise UsageError(f"{path}: a recipe for {recipe.model}, not {options.model}.")
    return recipe


def _recipe_of_run(options: argparse.Namespace) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe that a run's folder keeps, unless --config names one, and what the run began with."""
    from bidsrep.bids.files import read_object
    from bidsrep.training.recipe import make_recipe
    from bidsrep.training.run import RECORD

    record = read_object(options.checkpoint.parent / RECORD)
    if options.config or "recipe" not in record:
        recipe = _read(options.config or _recipes() / f"{options.model}-compact.toml", options)
    else:
        try:
            recipe = make_recipe(record["recipe"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            place = options.checkpoint.parent / RECORD
            raise UsageError(
                f"{place}: no recipe of this version ({error}). Name one with --config."
            ) from error
    if recipe.model != options.model and not options.onto:
        raise UsageError(f"{options.checkpoint}: of a run for {recipe.model}, not {options.model}.")
    return recipe, record.get("initial")


def _recipes() -> Path:
    return Path(str(files("bidsrep"))) / "data" / "recipes"


def _read(path: Path, options: argparse.Namespace, **changes: object) -> Recipe:
    """Read a recipe; what the command line says counts more."""
    from bidsrep.training.recipe import read_recipe

    if not path.exists():
        raise UsageError(f"{path}: there is no such recipe. Name a TOML file with --config.")
    for name in ("seed", "accumulate", "precision"):
        changes[name] = getattr(options, name, None)
    try:
        return read_recipe(path, **changes)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}: not a recipe: {error}") from error


def _runtime(options: argparse.Namespace) -> Runtime:
    from bidsrep.training.trainer import Runtime

    return Runtime(
        device=options.device,
        devices=options.devices,
        nodes=options.nodes,
        progress=sys.stderr.isatty(),
        max_minutes=options.max_minutes,
        tensorboard=options.tensorboard,
        workers=getattr(options, "workers", 0),
    )


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
                "--data",
                type=Path,
                nargs="+",
                default=(),
                help="prepared anatomies (and lesion shapes); only a recipe of random shapes alone needs none",
            )
        _ADD[name](command)
    _add_calibrate(commands.add_parser("calibrate", help="set where PEPSI's lesion maps say 0.5"))
    _add_finetune(commands.add_parser("finetune", help="train on your own labelled scans"))
    evaluate.add_arguments(commands.add_parser("evaluate", help="measure weights"))
    return parser


def _add_prepare(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=prepare)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--label-maps", type=Path, help="folder of label maps (1 mm NIfTI) with labels.tsv")
    source.add_argument("--t1w", type=Path, help="BIDS folder of brain-extracted T1w scans")
    command.add_argument("--labels", type=Path, help="label table (value, name, tissue)")
    command.add_argument(
        "--lesions", type=types.path, help="derivatives with lesion masks on the grids of the T1w scans"
    )
    command.add_argument("--out", type=Path, required=True, help="dataset to write")


def _add_pretrain(command: argparse.ArgumentParser) -> None:
    command.add_argument("--initial", help="weights to start from: a safetensors file, or an id")
    command.add_argument(
        "--workers",
        type=types.count,
        default=0,
        help="processes that draw examples ahead while the network trains; the same examples in the same order",
    )
    _add_runtime(command)


def _add_finetune(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=finetune)
    command.add_argument("--model", choices=FINETUNED, required=True, help="what is fine-tuned")
    command.add_argument("--task", choices=TASKS, required=True, help="what it should learn to predict")
    command.add_argument("--bids", type=types.path, required=True, help="BIDS dataset of the scans")
    command.add_argument("--labels", type=types.path, help="derivatives dataset of the labels")
    command.add_argument("--out", type=types.path, required=True, help="folder to write to")
    command.add_argument(
        "--initial", help="weights to start from: a file, or an id; default: the bundled ones"
    )
    command.add_argument("--config", type=Path, help="recipe (TOML); default: finetune-compact")
    command.add_argument(
        "--label",
        default="",
        help="label or desc entity of the masks (default lesion), or of the segmentations",
    )
    command.add_argument(
        "--participant-label", nargs="+", type=types.subject, default=(), help="only these subjects"
    )
    command.add_argument(
        "--modalities", nargs="+", type=types.alphanumeric, default=MODALITIES, help="only these contrasts"
    )
    command.add_argument(
        "--skip-bids-validation", action="store_true", help="do without a dataset_description.json"
    )
    command.add_argument(
        "--iterations", type=types.count, help="optimiser steps in all, instead of the recipe's"
    )
    command.add_argument(
        "--validation-share", type=types.probability, help="share of the subjects that is held out"
    )
    command.add_argument("--seed", type=int, help="replaces the recipe's seed")
    _add_runtime(command)


def _add_runtime(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("running")
    group.add_argument("--device", type=types.device, default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--devices", type=types.count, help="processes per node; default: one per GPU")
    group.add_argument("--nodes", type=types.count, help="nodes; default: those of the Slurm step")
    group.add_argument("--accumulate", type=types.count, help="mini-batches per optimiser step")
    group.add_argument("--precision", choices=PRECISIONS, help="replaces the recipe's")
    group.add_argument("--max-minutes", type=types.positive, help="stop, with a checkpoint, after this time")
    group.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write TensorBoard logs beside the CSV ones (where TensorBoard is installed)",
    )


def _add_sample(command: argparse.ArgumentParser) -> None:
    command.add_argument("--count", type=int, default=4, help="how many examples")
    command.add_argument("--step", type=int, default=0, help="optimiser step whose stage is drawn from")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint of the run, in its folder"
    )
    command.add_argument("--license", metavar="TEXT", help="licence of the weights, for the card")
    command.add_argument(
        "--average-with",
        type=types.existing_file,
        help="weights to average with, such as those the run began with",
    )
    command.add_argument(
        "--onto",
        help="weights of MODEL (a file, or an id) that get some heads of the run, which may be another model's",
    )
    command.add_argument("--heads", nargs="+", help="with --onto: the heads that are taken; they have views")
    command.add_argument(
        "--join",
        type=types.count,
        metavar="IMAGES",
        help="with --onto: join the view of lesions with the weights' own head, by a regression on so many images of --data",
    )
    command.add_argument("--data", type=Path, nargs="+", default=(), help="with --join: prepared anatomies")
    command.add_argument("--edition", default="1", help="goes into the weights' id")
    command.add_argument("--data-description", help="what the card says the weights were trained on")


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=calibrate)
    command.add_argument("--weights", help="a safetensors file, or an id; default: the bundled ones")
    command.add_argument(
        "--data", type=types.path, nargs="+", required=True, help="prepared anatomies, lesion shapes"
    )
    command.add_argument("--out", type=types.path, required=True, help="folder to write to")
    command.add_argument(
        "--participant-label",
        nargs="+",
        type=types.subject,
        default=(),
        help="who is shown; default: those that the weights never saw",
    )
    command.add_argument("--edition", default="1", help="goes into the weights' id")
    command.add_argument("--seed", type=int, default=20, help="of the images")
    command.add_argument("--device", type=types.device, default="auto", help="auto, cpu, cuda or cuda:N")


_ADD = {"pretrain": _add_pretrain, "sample": _add_sample, "export": _add_export}


if __name__ == "__main__":
    sys.exit(main())
