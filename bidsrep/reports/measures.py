"""What the pages know of the metrics: names for people, what they are, and when to warn.

The table is ``data/reports/metrics.yml``; a metric that is not in it is shown under its own name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from bidsrep.reports.pages import data_file
from bidsrep.reports.results import Metric, SessionResult

SCAN, MODEL = "scan", "model"
Limits = Mapping[str, Mapping[str, float]]
"""Thresholds of the user by metric, ``{"mask_dice": {"low": 0.9}}``: the field ``quality_thresholds`` of the settings."""
SYMBOLS = {"": "", "1": "", "degree": "°"}
LONGEST_UNIT = 6
"""A unit longer than this is a sentence, which the description of the metric has."""


@dataclass(frozen=True)
class Measure:
    """One kind of metric; see the head of ``metrics.yml`` for the fields."""

    name: str
    title: str
    short: str = ""
    text: str = ""
    scope: str = MODEL
    plot: bool = False
    digits: int = 3
    volume: bool = False
    low: float = float("-inf")
    high: float = float("inf")
    warning: str = ""
    relation: str = "with"

    def show(self, metric: Metric, unit: bool = True) -> str:
        """Write a value as the pages show it; what is no number is shown as it is."""
        if metric.number is None:
            return metric.value or "n/a"
        text = f"{metric.number:,.{self.digits}f}".replace("-", "−")
        shown = SYMBOLS.get(metric.unit, f" {metric.unit}" if len(metric.unit) <= LONGEST_UNIT else "")
        return text + shown if unit else text

    def within(self, limits: Mapping[str, float]) -> "Measure":
        """Set other limits, ``low`` or ``high``; those that are not given stay."""
        return replace(self, low=limits.get("low", self.low), high=limits.get("high", self.high))

    def warn(self, metric: Metric) -> str:
        """Say in plain words what may be wrong with a value; empty if nothing is."""
        number = metric.number
        if number is None or not self.warning or self.low <= number <= self.high:
            return ""
        shown = self.show(metric, unit=False)
        return self.warning.format(value=shown, reference=metric.reference or "the other scan")


def measure_of(name: str) -> Measure:
    """Describe a metric, by the table or by its name alone."""
    return _table().get(name) or Measure(name, name.replace("_", " ").capitalize())


def warned_of() -> list[str]:
    """List the metrics that pages can warn of: those with thresholds."""
    return [name for name, measure in _table().items() if measure.warning]


def known_order(names: Iterable[str]) -> list[str]:
    """Sort names of metrics: those of the table in its order, then the others by name."""
    order = {name: index for index, name in enumerate(_table())}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


@dataclass(frozen=True)
class Flag:
    """One warning: which scan's result it is about, what it says, and the value that raised it."""

    about: str
    text: str
    measure: Measure
    shown: str


def flags_of(result: SessionResult, limits: Limits | None = None) -> list[Flag]:
    """Give the warnings of a session, each once; `limits` go before those of the table."""
    flags: dict[Flag, None] = {}
    for metric in result.metrics:
        measure = measure_of(metric.name).within((limits or {}).get(metric.name, {}))
        if text := measure.warn(metric):
            parts = [metric.scan, metric.model if measure.scope == MODEL else ""]
            about = ", ".join(part for part in parts if part)
            shown = measure.show(metric) + (
                f" {measure.relation} {metric.reference}" if metric.reference else ""
            )
            flags[Flag(about, text, measure, shown)] = None
    return list(flags)


def by_measure(flags: Iterable[Flag]) -> dict[Measure, list[Flag]]:
    """Put the flags of one measure together."""
    groups: dict[Measure, list[Flag]] = {}
    for flag in flags:
        groups.setdefault(flag.measure, []).append(flag)
    return groups


def in_short(flags: Iterable[Flag]) -> list[str]:
    """Sum flags up, one line per measure: ``Brain volume: T1w 760 ml; FLAIR 770 ml``."""
    return [
        f"{measure.title}: {'; '.join(f'{flag.about} {flag.shown}'.strip() for flag in group)}"
        for measure, group in by_measure(flags).items()
    ]


@cache
def _table() -> dict[str, Measure]:
    import yaml

    rows = yaml.safe_load(data_file("metrics.yml").read_text(encoding="utf-8"))
    return {name: Measure(name, **row) for name, row in rows.items()}
