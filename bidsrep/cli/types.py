"""The types of command-line values: each turns a text into a value, or says what is wrong with it."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bidsrep.errors import UsageError


def path(text: str) -> Path:
    """Take a path; ``~`` is the home folder, and relative ones are made absolute."""
    return Path(os.path.abspath(os.path.expanduser(text)))  # not Path's, which fails for users without a home


def existing_file(text: str) -> Path:
    """Take the path of a file that is there."""
    found = path(text)
    if not found.is_file():
        msg = f"there is no file {text}"
        raise argparse.ArgumentTypeError(msg)
    return found


def subject(text: str) -> str:
    """Take a subject's label, with or without ``sub-``.

    >>> subject("sub-01"), subject("01")
    ('01', '01')
    """
    return alphanumeric(text.removeprefix("sub-"))


def session(text: str) -> str:
    """Take a session's label, with or without ``ses-``."""
    return alphanumeric(text.removeprefix("ses-"))


def alphanumeric(text: str) -> str:
    """Take a BIDS label or suffix: letters, digits and plus."""
    if not re.fullmatch("[0-9a-zA-Z+]+", text):
        msg = f"{text!r} is not a BIDS label (letters, digits and + only)"
        raise argparse.ArgumentTypeError(msg)
    return text


def count(text: str) -> int:
    """Take a whole number from 1 up."""
    number = int(text)
    if number < 1:
        msg = f"must be at least 1, got {text}"
        raise argparse.ArgumentTypeError(msg)
    return number


def positive(text: str) -> float:
    """Take a number above 0."""
    return _number_in(text, lambda x: 0 < x < float("inf"), "above 0")


def not_negative(text: str) -> float:
    """Take a number from 0 up."""
    return _number_in(text, lambda x: 0 <= x < float("inf"), "0 or more")


def probability(text: str) -> float:
    """Take a number from 0 to 1."""
    return _number_in(text, lambda x: 0 <= x <= 1, "from 0 to 1")


def device(text: str) -> str:
    """Take the name of a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        msg = f"{text!r} is not one of auto, cpu, cuda, cuda:N"
        raise argparse.ArgumentTypeError(msg)
    return text


def target_contrast(text: str) -> str:
    """Take acquisition parameters in seconds, ``TR=2.3,TE=0.003,TI=0.9``."""
    from bidsrep.bids.acquisition import parse_target_contrast

    try:
        return str(parse_target_contrast(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--target-contrast: ")) from error


def quality_thresholds(text: str) -> dict[str, dict[str, float]]:
    """Take a TOML file with a table per metric, which has ``low``, ``high`` or both."""
    import tomllib

    from bidsrep.reports.measures import warned_of

    file = existing_file(text)
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{text} cannot be read ({error}); it must be a TOML file"
        raise argparse.ArgumentTypeError(msg) from error
    known = warned_of()
    for metric, limits in tables.items():
        if metric not in known:
            msg = f"{text}: nothing is warned of by {metric!r}. There are: {', '.join(known)}"
            raise argparse.ArgumentTypeError(msg)
        if not (
            isinstance(limits, dict)
            and limits.keys() <= {"low", "high"}
            and all(map(_is_number, limits.values()))
        ):
            msg = f"{text}: [{metric}] must have 'low', 'high' or both, as numbers"
            raise argparse.ArgumentTypeError(msg)
    return {
        metric: {side: float(value) for side, value in limits.items()} for metric, limits in tables.items()
    }


class NamedTexts(argparse.Action):
    """Collects ``NAME=VALUE`` into a dictionary; the option may be given several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the values to those collected before."""
        collected = dict(getattr(namespace, self.dest, None) or {})
        for text in values or ():
            name, equals, value = str(text).partition("=")
            if not (equals and name and value):
                parser.error(f"argument {option_string}: {text!r} is not {self.metavar}")
            if name in collected:
                parser.error(f"argument {option_string}: {name} is given twice")
            collected[name] = self.convert(parser, name, value)
        setattr(namespace, self.dest, collected)

    def convert(self, parser: argparse.ArgumentParser, name: str, value: str) -> Any:
        """Give the value as it is kept."""
        return value


class NamedPaths(NamedTexts):
    """Collects ``NAME=DIR``; the folders must be there, and the names fit into BIDS URIs."""

    def convert(self, parser: argparse.ArgumentParser, name: str, value: str) -> Path:
        """Give the folder, absolute."""
        if not re.fullmatch("[0-9a-zA-Z_-]+", name) or name == "raw":
            parser.error(
                f"argument {self.option_strings[-1]}: {name!r} cannot name a dataset; use letters and digits"
            )
        folder = path(value)
        if not folder.is_dir():
            parser.error(f"argument {self.option_strings[-1]}: there is no folder {value}")
        return folder


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _number_in(text: str, accept: Any, wanted: str) -> float:
    number = float(text)
    if not accept(number):
        msg = f"must be {wanted}, got {text}"
        raise argparse.ArgumentTypeError(msg)
    return number
