"""Parts of pages that are written from the program itself: options, files, weights, metrics."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bidsrep_docs.drawing import draw
from bidsrep_docs.example import everything_of, example_session
from bidsrep_docs.graph import read_graph

NOTHING_YET = "This checkout has no bundled weights."


def workflow_graph(*models: str) -> str:
    """Picture of the graph of the example session."""
    with example_session(models or ("pepsi",)) as (_, workflow):
        graph = read_graph(workflow)
    return draw(graph, "Steps of a session with a T1w and a FLAIR scan", prefix="sub-01_ses-A_")


def planned_files(*models: str) -> str:
    """Table of every file of the example session, as ``--dry-run`` lists them."""
    with example_session(models or ("pepsi",), session=None) as (plan, _):
        rows = [
            (file.path.name, file.reason, file.sidecar is not None, file.path.parent.name)
            for file in plan.planned()
        ]
    lines = ["| file | what it is |", "|---|---|"]
    for folder in ("anat", "figures"):
        for name, reason, sidecar, parent in rows:
            if parent == folder:
                beside = " (and `.json`)" if sidecar else ""
                lines.append(f"| `{parent}/{name}`{beside} | {reason} |")
    return "\n".join(lines)


def model_files(model: str) -> str:
    """Table of what one model makes of the FLAIR of the example session, if everything is asked for."""
    lines = ["| file | what it is |", "|---|---|"]
    with everything_of(model) as plan:
        for file in plan.planned():
            name, folder = file.path.name, file.path.parent.name
            if folder != "figures" and f"desc-{model}" in name and "FromT1w" not in name:
                lines.append(f"| `{folder}/{name}` | {file.reason} |")
    return "\n".join(lines)


def command_line(function: str) -> str:
    """Reference of a command: usage, then every option by group; subcommands follow under their own heading."""
    module, name = function.split(":")
    parser = getattr(importlib.import_module(module), name)()
    return "\n".join(_command(parser, parser.prog))


def model_cards() -> str:
    """Cards of the bundled weights."""
    from bidsrep.models.library import bundled_dir

    cards = [_card(path) for path in sorted(bundled_dir().glob("*.toml"))]
    return "\n\n".join(cards) if cards else NOTHING_YET


def known_weights() -> str:
    """Table of the weights that are known to exist elsewhere."""
    from bidsrep.models.library import published

    lines = ["| id | model | status | licence | where |", "|---|---|---|---|---|"]
    for row in published():
        if row.file:
            where = f"`{row.file}` from {_linked(row.page)}. {row.note}"
            lines.append(f"| `{row.id}` | {row.model} | {row.status} | {row.license} | {where} |")
    return "\n".join(lines)


def metrics() -> str:
    """Table of what is measured."""
    from bidsrep.reports import measures

    lines = ["| metric | what it is |", "|---|---|"]
    for name in measures.known_order(measures._table()):
        measure = measures.measure_of(name)
        lines.append(f"| `{name}` | {' '.join((measure.text or measure.title).split())} |")
    return "\n".join(lines)


INSERTS: dict[str, Callable[..., str]] = {
    "workflow-graph": workflow_graph,
    "planned-files": planned_files,
    "model-files": model_files,
    "command-line": command_line,
    "model-cards": model_cards,
    "known-weights": known_weights,
    "metrics": metrics,
}
MARK = re.compile(r"^<!-- insert: (?P<name>[a-z-]+)(?P<arguments>(?: (?!-->)\S+)*) -->$", re.MULTILINE)


def fill(text: str) -> str:
    """Replace every ``<!-- insert: NAME ARGUMENTS -->`` line of a page."""
    return MARK.sub(lambda match: INSERTS[match["name"]](*match["arguments"].split()), text)


def _command(parser: argparse.ArgumentParser, title: str, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {title}\n"
    if parser.description:
        yield _sentence(parser.description) + "\n"
    subcommands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    yield f"```text\n{_usage(parser)}\n```\n"
    for group in parser._action_groups:
        actions = [
            a
            for a in group._group_actions
            if not isinstance(a, argparse._HelpAction) and a not in subcommands
        ]
        if actions:
            yield f"**{group.title.capitalize() if group.title else ''}**\n"
            for action in actions:
                yield f"{_names(action)}\n: {_help(parser, action)}\n"
    if parser.epilog:
        yield _sentence(parser.epilog) + "\n"
    for subparsers in subcommands:
        for name, child in subparsers.choices.items():
            yield from _command(child, f"{title} {name}", level + 1)


def _usage(parser: argparse.ArgumentParser) -> str:
    short = [a for a in parser._actions if not a.option_strings or a.required]
    words = [parser.prog, "[options]" if any(a.option_strings for a in parser._actions) else ""]
    for action in short:
        value = parser._get_formatter()._format_args(action, _metavar(action))
        words.append(f"{action.option_strings[-1]} {value}" if action.option_strings else value)
    return " ".join(word for word in words if word)


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices and not isinstance(action, argparse._SubParsersAction):
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper()


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_metavar(action)}`"
    value = "" if action.nargs == 0 else f" {_metavar(action)}"
    if action.nargs in ("+", "*"):
        value += " ..."
    return ", ".join(f"`{name}{value}`" for name in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = action.help or ""
    values = {**vars(action), "prog": parser.prog}
    return _sentence(text % values if "%" in text else text) or "\u2014"


def _sentence(text: str) -> str:
    """Text as Markdown: options and file names keep their hyphens."""
    text = " ".join(text.split()).replace("``", "`")
    return re.sub(r"(?<![`\w-])(--[a-z][a-z-]+)(?![`\w])", r"`\1`", text).replace("<", "&lt;")


def _card(path: Path) -> str:
    import tomllib

    card = tomllib.loads(path.read_text(encoding="utf-8"))
    weights = card.pop("weights")
    size = path.with_suffix(".safetensors").stat().st_size / 1e6
    lines = [
        f"### {weights['id']}\n",
        f"Model {weights.get('model', path.stem)}, {weights['status']}, {weights['license']}, {size:.1f} MB.",
        f"SHA-256 `{weights['sha256']}`.\n",
        "| | |",
        "|---|---|",
    ]
    for table, values in card.items():
        for key, value in _flat(values):
            lines.append(f"| {table}: {key.replace('_', ' ')} | {value} |")
    return "\n".join(lines)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield prefix + key, str(shown).replace("|", "\\|")


def _linked(text: str) -> str:
    return re.sub(r"(https?://[^\s)]+)", r"<\1>", text)
