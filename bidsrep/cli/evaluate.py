"""``bidsrep-train evaluate``: measure weights on acquired scans, or as a paper's table does."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsrep import __version__
from bidsrep.cli import types
from bidsrep.errors import UsageError
from bidsrep.settings import MODALITIES

if TYPE_CHECKING:
    from bidsrep.evaluation.results import Published, Result

MEASURED = ("pepsi", "brainid", "seqinv", "crl", "cifl")
SCALES = ("sloppy", "compact", "full")
NEEDS = "{}: needs --{}."
REFUSED = "{}: has no use for --{}."
NOT_MEASURED = "{}: measures {}, not {}."
NOT_A_MODEL = "--weights: {} is not one of --model"


@dataclass(frozen=True)
class Protocol:
    """What a protocol understands.

    Parameters
    ----------
    models
        Which models it can measure.
    default
        Which it does if nobody says otherwise.
    needs, takes
        Options that must and may be given, of those that not every protocol has.
    """

    models: tuple[str, ...]
    default: tuple[str, ...]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


_OF_SCANS = ("pepsi", "brainid", "seqinv", "cifl"), ("pepsi", "brainid")
_DENSE = "pepsi", "brainid", "cifl"
SCANS = {
    "scans-synthesis": Protocol(*_OF_SCANS, ("bids",), ("modalities",)),
    "scans-lesion": Protocol(*_OF_SCANS, ("bids",), ("labels", "label", "modalities")),
    "scans-segmentation": Protocol(*_OF_SCANS, ("bids", "labels"), ("label", "modalities")),
    "scans-superresolution": Protocol(*_OF_SCANS, ("bids",), ("modalities",)),
    "scans-bias": Protocol(*_OF_SCANS, ("bids",), ("modalities",)),
    "scans-identity": Protocol(*_OF_SCANS, ("bids",), ("modalities",)),
}
PAPERS = {
    "brainid-robustness": Protocol(_DENSE, _DENSE, ("data",), ("scale", "seed")),
    "crl-synthesis": Protocol(("crl",), ("crl",), ("data",), ("scale", "seed")),
}
_TRAINED = ("data",), ("scale", "seed")
COMPARISONS = {
    "brainid-downstream": Protocol(("brainid",), ("brainid",), *_TRAINED),
    "brainid-ablation": Protocol((), (), *_TRAINED),
    "brainid-data-fraction": Protocol(("brainid",), ("brainid",), *_TRAINED),
    "pepsi-segmentation": Protocol(("pepsi",), ("pepsi",), *_TRAINED),
    "pepsi-synthesis": Protocol(("pepsi",), ("pepsi",), *_TRAINED),
    "seqinv-tissue": Protocol(("seqinv",), ("seqinv",), *_TRAINED),
    "seqinv-lesion": Protocol(("seqinv",), ("seqinv",), *_TRAINED),
    "seqinv-denoise": Protocol(("seqinv",), ("seqinv",), *_TRAINED),
    "cifl-transfer": Protocol(("cifl",), ("cifl",), *_TRAINED),
}
"""Protocols that train, from these models' weights and without."""
PROTOCOLS = SCANS | PAPERS | COMPARISONS
SPECIAL = ("bids", "labels", "label", "modalities", "data", "scale", "seed")
"""Options that not every protocol has; None where they are not given."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Say what the command line may hold."""
    command.set_defaults(run=evaluate)
    command.add_argument("protocol", choices=tuple(PROTOCOLS), help="what is measured")
    command.add_argument(
        "--model", nargs="+", choices=MEASURED, help="of which models; default: the protocol's"
    )
    command.add_argument(
        "--weights",
        nargs="+",
        action=types.NamedTexts,
        metavar="NAME=FILE_OR_ID",
        help="other weights than the bundled ones",
    )
    command.add_argument("--out", type=types.path, required=True, help="folder to write to")
    command.add_argument(
        "--participant-label",
        nargs="+",
        type=types.subject,
        default=(),
        help="only these subjects; default: all scans, but of anatomies those that the weights never saw",
    )
    command.add_argument("--device", type=types.device, default="auto", help="auto, cpu, cuda or cuda:N")
    scans = command.add_argument_group("acquired scans (scans-*)")
    scans.add_argument("--bids", type=types.path, help="BIDS dataset of the scans")
    scans.add_argument("--labels", type=types.path, help="derivatives dataset of the labels")
    scans.add_argument("--label", help="label or desc entity of the labels")
    scans.add_argument("--modalities", nargs="+", type=types.alphanumeric, help="only these contrasts")
    papers = command.add_argument_group("papers' protocols")
    papers.add_argument("--data", type=types.path, nargs="+", help="prepared anatomies")
    papers.add_argument("--scale", choices=SCALES, help="how much is drawn; default: compact")
    papers.add_argument("--seed", type=int, help="of all draws; default: 20")


def evaluate(options: argparse.Namespace) -> int:
    """Measure weights; write a table and a summary, and print the summary."""
    from bidsrep.evaluation.results import to_markdown, write_results
    from bidsrep.models.registry import load_model

    names = _checked(options)
    weights = options.weights or {}
    models = {name: load_model(name, weights.get(name), options.device) for name in names}
    published: Published | None
    if options.protocol in SCANS:
        results, facts, published = _on_scans(options, models)
    elif options.protocol in PAPERS:
        results, facts, published = _on_anatomies(options, models)
    else:
        results, facts, published = _by_training(options, models)
    facts["bidsrep"] = __version__
    for name, model in models.items():
        facts[name] = f"{model.card['weights']['id']} ({model.card['weights']['sha256'][:12]})"
    table, page = write_results(options.out, options.protocol, results, facts, published)
    print(to_markdown(results, published))
    print(f"{table}\n{page}")
    return 0


def _checked(options: argparse.Namespace) -> tuple[str, ...]:
    """The models to measure, if protocol and options go together."""
    name, protocol = options.protocol, PROTOCOLS[options.protocol]
    for option in SPECIAL:
        given = getattr(options, option) is not None
        if given and option not in protocol.needs + protocol.takes:
            raise UsageError(REFUSED.format(name, option))
        if not given and option in protocol.needs:
            raise UsageError(NEEDS.format(name, option))
    models = tuple(options.model or protocol.default)
    if others := [model for model in models if model not in protocol.models]:
        raise UsageError(NOT_MEASURED.format(name, ", ".join(protocol.models), ", ".join(others)))
    if unknown := set(options.weights or {}) - set(models):
        raise UsageError(NOT_A_MODEL.format(", ".join(sorted(unknown))))
    return models


def _on_scans(
    options: argparse.Namespace, models: Mapping[str, Any]
) -> tuple[list[Result], dict[str, str], None]:
    from bidsrep.training.protocols.scans import PROTOCOLS as MEASURES
    from bidsrep.training.protocols.scans import Scans

    scans = Scans(
        options.bids,
        options.out / "prepared",
        options.labels,
        options.label or "",
        tuple(options.participant_label),
        options.device,
        tuple(options.modalities or MODALITIES),
    )
    return list(MEASURES[options.protocol](scans, models)), {"scans": options.bids.name}, None


def _on_anatomies(
    options: argparse.Namespace, models: Mapping[str, Any]
) -> tuple[list[Result], dict[str, str], Published]:
    from bidsrep.training.protocols.anatomies import SEED, Anatomies, choose_persons, describe, held_out
    from bidsrep.training.protocols.papers import PAPERS as TABLES

    protocol, aside = TABLES[options.protocol], held_out(models)
    folders: tuple[Path, ...] = tuple(options.data)
    persons = choose_persons(folders, [f"sub-{label}" for label in options.participant_label], aside)
    seed = SEED if options.seed is None else options.seed
    anatomies = Anatomies(folders, persons, options.scale or "compact", seed)
    facts = {
        "data": ", ".join(folder.name for folder in folders),
        "persons": describe(persons, aside),
        "scale": f"{anatomies.scale} ({protocol.sample} of each person: {protocol.samples[anatomies.scale]})",
        "seed": str(seed),
    }
    return list(protocol.measure(anatomies, models)), facts, protocol.published


def _by_training(
    options: argparse.Namespace, models: Mapping[str, Any]
) -> tuple[list[Result], dict[str, str], Published]:
    from bidsrep.training.protocols.anatomies import SEED, Anatomies, describe, held_out
    from bidsrep.training.protocols.comparison import (
        Comparison,
        describe_training,
        split_persons,
        write_split,
    )
    from bidsrep.training.protocols.comparisons import COMPARISONS as TABLES

    protocol, aside = TABLES[options.protocol], held_out(models)
    folders: tuple[Path, ...] = tuple(options.data)
    seed = SEED if options.seed is None else options.seed
    wanted = [f"sub-{label}" for label in options.participant_label]
    train, test = split_persons(folders, wanted, aside, seed, labelled=protocol.labelled)
    anatomies = Anatomies(folders, test, options.scale or "compact", seed)
    size = protocol.sizes[anatomies.scale]
    train = train[: size.persons or None]
    comparison = Comparison(anatomies, train, size, models, options.out, options.device)
    split = options.out / f"{options.protocol}_split.tsv"
    write_split(split, comparison, protocol.shares)
    facts = {
        "data": ", ".join(folder.name for folder in folders),
        "measured persons": describe(test, aside),
        **describe_training(comparison, protocol, split),
    }
    return list(protocol.measure(comparison)), facts, protocol.published
