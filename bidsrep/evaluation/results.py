"""Results of a protocol: one tidy table, and a summary to read that shows the worst beside the mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from bidsrep.bids.files import write_text

LOWER_IS_BETTER = ("mae", "l1", "hd95", "normL2", "false_positive", "volume_error", "loss", "steps")
"""Beginnings of the names of metrics whose worst value is the largest."""
PAPER = "paper"
"""The system that a paper's own figures are shown as."""
Published = Mapping[tuple[str, ...], float]
"""A paper's figures by group, metric and, where it has several, what they are of."""


@dataclass(frozen=True)
class Result:
    """One measurement.

    Parameters
    ----------
    system
        Model, or baseline, that was measured.
    group
        What results are summarised over apart: a contrast, a structure, a thickness.
    scan
        What it was measured on.
    metric, value, unit
        The measurement; ``nan`` where it is not defined.
    seed
        Of a training or of a random draw, where there is one.
    """

    system: str
    group: str
    scan: str
    metric: str
    value: float
    unit: str = ""
    seed: int | None = None


def write_results(
    folder: Path,
    protocol: str,
    results: Sequence[Result],
    facts: Mapping[str, str],
    published: Published | None = None,
) -> tuple[Path, Path]:
    """Write ``<protocol>.tsv`` and ``<protocol>.md`` (the summary, and what it was measured with).

    ``published`` has the paper's figures; the summary shows them under ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, page = folder / f"{protocol}.tsv", folder / f"{protocol}.md"
    write_text(table, to_tsv(results))
    about = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    write_text(page, f"# {protocol}\n\n{about}\n{to_markdown(results, published)}")
    return table, page


def to_tsv(results: Iterable[Result]) -> str:
    """Give one line per measurement; ``n/a`` where there is none."""
    lines = ["\t".join(field.name for field in fields(Result))]
    for result in results:
        lines.append("\t".join(_cell(value) for value in astuple(result)))
    return "\n".join(lines) + "\n"


def to_markdown(results: Sequence[Result], published: Published | None = None) -> str:
    """Summarise: a row per group and system, with the number of scans; a column per metric: mean and worst.

    A group whose metrics have ``published`` figures gets rows of them. Where several trainings differ in their
    seed alone, the mean is followed by the standard deviation of the seeds' means.
    """
    units = {result.metric: result.unit for result in results}
    groups: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        groups.setdefault(result.group, {}).setdefault(result.system, []).append(result)
    titles = [f"{metric} ({unit})" if unit else metric for metric, unit in units.items()]
    rows = [["group", "system", "n", *titles]]
    for group, systems in groups.items():
        rows += [_row(group, system, found, tuple(units)) for system, found in systems.items()]
        rows += _printed(group, published or {}, tuple(units))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    spread = ", ± the standard deviation of the seeds' means" if any("±" in line for line in lines) else ""
    return (
        "\n".join(lines)
        + f"\n\nMeans{spread}, with the worst scan's value in brackets; n is the number of scans.\n"
    )


def _printed(group: str, published: Published, metrics: Sequence[str]) -> list[list[str]]:
    """Rows of a paper's figures for one group."""
    rows: dict[str, list[str]] = {}
    for (of, metric, *what), value in published.items():
        if of == group and metric in metrics:
            system = ": ".join((PAPER, *what))
            rows.setdefault(system, [""] * len(metrics))[metrics.index(metric)] = f"{value:.3g}"
    return [[group, system, "", *cells] for system, cells in rows.items()]


def _row(group: str, system: str, results: Sequence[Result], metrics: Sequence[str]) -> list[str]:
    values: dict[str, list[float]] = {metric: [] for metric in metrics}
    for result in results:
        values[result.metric].append(result.value)
    cells = [
        summarise(of, name.startswith(LOWER_IS_BETTER), _spread(results, name)) for name, of in values.items()
    ]
    return [group, system, str(len({result.scan for result in results})), *cells]


def summarise(values: Sequence[float], lower_is_better: bool = False, spread: float | None = None) -> str:
    """``0.83 [0.75]``: mean and worst of the finite values; the value alone if it is one, empty for none.

    A ``spread`` stands behind the mean: ``0.83 ± 0.02 [0.75]``.
    """
    finite = np.array([value for value in values if np.isfinite(value)])
    if finite.size < 2:
        return f"{finite[0]:.3g}" if finite.size else ""
    worst = finite.max() if lower_is_better else finite.min()
    between = "" if spread is None else f" ± {spread:.2g}"
    return f"{finite.mean():.3g}{between} [{worst:.3g}]"


def _spread(results: Sequence[Result], metric: str) -> float | None:
    """Standard deviation of the means of seeds; None if it is not the same scans that several seeds measured."""
    of: dict[int | None, dict[str, float]] = {}
    for result in results:
        if result.metric == metric and np.isfinite(result.value):
            of.setdefault(result.seed, {})[result.scan] = result.value
    if len(of) < 2 or len({frozenset(values) for values in of.values()}) > 1:
        return None
    return float(np.std([np.mean(list(values.values())) for values in of.values()], ddof=1))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else "n/a"
    return "n/a" if value in (None, "") else str(value)
