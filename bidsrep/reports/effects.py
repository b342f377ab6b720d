"""Columns of a cohort, and what they explain: the scanner's part in embeddings and volumes, and repeats."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bidsrep.evaluation.cohort_effects import eta_squared, eta_squared_by_chance, group_identification
from bidsrep.evaluation.metrics.identity import icc_2_1
from bidsrep.reports.cohort import Cohort, Values, rank
from bidsrep.reports.measures import known_order, measure_of

SMALLEST_GROUP = 2
SMALLEST_COHORT = 6
"""Scans; the variance that two groups of two explain by chance is a third."""

FEWEST_REPEATED = 3
"""People who were scanned twice."""

MOST_GROUPS = 30
FEW_NUMBERS = 5
MOST_LEVELS = 200
"""A column of more different words than this names things, and does not group them."""


@dataclass(frozen=True)
class Column:
    """One thing that is known of every scan: a word or a number each, None where it is not known."""

    name: str
    text: str
    values: tuple[Any, ...]
    is_number: bool

    def to_json(self) -> dict[str, Any]:
        """Write words as the numbers of `levels`, which come in the order of their first letters."""
        if self.is_number:
            return {"name": self.name, "text": self.text, "levels": None, "values": self.values}
        levels = sorted({value for value in self.values if value is not None}, key=_natural)
        index = {level: number for number, level in enumerate(levels)}
        values = [index.get(value) for value in self.values]
        return {"name": self.name, "text": self.text, "levels": levels, "values": values}


def columns_of(cohort: Cohort, described: Mapping[str, str]) -> list[Column]:
    """Lay out what is known of the scans as columns; those that name single things are left out."""
    names = dict.fromkeys(name for row in cohort.known for name in row)
    columns = []
    for name in names:
        words = [row.get(name) for row in cohort.known]
        numbers = [_number(word) for word in words]
        distinct = {word for word in words if word is not None}
        all_numbers = all(n is not None for n, w in zip(numbers, words, strict=True) if w is not None)
        people = {(cohort.subject_of(scan), word) for scan, word in enumerate(words) if word is not None}
        if all_numbers and not (name in cohort.levelled or _are_names([word for _, word in people])):
            columns.append(Column(name, described.get(name, ""), tuple(numbers), True))
        elif len(distinct) <= MOST_LEVELS:
            columns.append(Column(name, described.get(name, ""), tuple(words), False))
    return columns


def _are_names(words: Sequence[str]) -> bool:
    """Whether people's numbers may be names (of sites, say): whole ones, a few, each several times; or two at most."""
    counts = Counter(words)
    whole = all(word.strip().lstrip("-").isdigit() for word in counts)
    return len(counts) <= 2 or (
        whole and len(counts) <= FEW_NUMBERS and min(counts.values()) >= SMALLEST_GROUP
    )


def effects_of(cohort: Cohort, columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """Say for every column of words what it explains of embeddings and volumes, one contrast at a time.

    One contrast at a time because a site that acquires another contrast would otherwise be told by it.
    """
    for column in columns:
        counts = Counter(value for value in column.values if value is not None)
        groups = [value for value, count in counts.items() if count >= SMALLEST_GROUP]
        if column.is_number or not 2 <= len(groups) <= MOST_GROUPS:
            continue
        rows = [
            *_of_embeddings(cohort, column),
            *(row for key, values in _volumes(cohort) for row in _of_volume(cohort, column, key, values)),
        ]
        if rows:
            yield {"column": column.name, "rows": rows}


def repeats_of(cohort: Cohort) -> Iterator[dict[str, Any]]:
    """Give the ICC(2,1) of what was measured twice of people, at their first two sessions, by contrast."""
    for key, values in _volumes(cohort):
        rows, numbers = np.asarray(values.rows), np.asarray(values.numbers)
        yield from _repeats(cohort, _title(*key), rows, numbers[:, None])
    for model in cohort.embedded:
        yield from _repeats(cohort, f"{model}: features", *cohort.embeddings(model))


def _of_embeddings(cohort: Cohort, column: Column) -> Iterator[dict[str, Any]]:
    for model in cohort.embedded:
        rows, features = cohort.embeddings(model)
        for contrast, chosen, groups in _by_contrast(cohort, column, rows):
            people = [cohort.subject_of(row) for row in rows[chosen]]
            accuracy, chance = group_identification(features[chosen], groups, people)
            yield {
                "what": f"{model}: features",
                "contrast": contrast,
                **_explained(features[chosen], groups, people),
                "accuracy": _known(accuracy),
                "chance": _known(chance),
            }


def _of_volume(
    cohort: Cohort, column: Column, key: tuple[str, str], values: Values
) -> Iterator[dict[str, Any]]:
    rows, numbers = np.asarray(values.rows), np.asarray(values.numbers)
    for contrast, chosen, groups in _by_contrast(cohort, column, rows):
        people = [cohort.subject_of(row) for row in rows[chosen]]
        yield {"what": _title(*key), "contrast": contrast, **_explained(numbers[chosen], groups, people)}


def _explained(values: np.ndarray, groups: Sequence[object], people: Sequence[str]) -> dict[str, Any]:
    """What groups explain of people: several scans of one in a group are averaged, as they are not independent."""
    own: dict[tuple[str, object], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(people, groups, strict=True)):
        own[key].append(row)
    enough = len(own) >= SMALLEST_COHORT
    means = np.stack([values[rows].mean(axis=0) for rows in own.values()])
    kept = [group for _, group in own]
    return {
        "scans": len(groups),
        "groups": len(set(groups)),
        "eta": _known(eta_squared(means, kept)) if enough else None,
        "eta_chance": _known(eta_squared_by_chance(kept)) if enough else None,
    }


def _by_contrast(
    cohort: Cohort, column: Column, rows: np.ndarray
) -> Iterator[tuple[str, np.ndarray, list[object]]]:
    """Choose, for every contrast, the scans in groups large enough: positions in `rows`, and their groups."""
    contrasts: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        if column.values[row] is not None:
            contrasts[cohort.scans[row].suffix].append(position)
    for contrast, positions in sorted(contrasts.items(), key=lambda item: rank(item[0])):
        people = {(cohort.subject_of(rows[p]), column.values[rows[p]]) for p in positions}
        counts = Counter(value for _, value in people)
        chosen = [p for p in positions if counts[column.values[rows[p]]] >= SMALLEST_GROUP]
        groups = [column.values[rows[p]] for p in chosen]
        if len(chosen) >= SMALLEST_COHORT and len(set(groups)) >= 2:
            yield contrast, np.array(chosen), groups


def _repeats(cohort: Cohort, what: str, rows: np.ndarray, values: np.ndarray) -> Iterator[dict[str, Any]]:
    """Pair everyone's first two sessions, one scan of a contrast each; of several channels the median ICC is given."""
    found: dict[str, dict[str, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(dict))
    for position, row in enumerate(rows):
        scan = cohort.scans[row]
        found[scan.suffix][cohort.subject_of(row)].setdefault(scan.key, []).append(position)
    for contrast, people in sorted(found.items(), key=lambda item: rank(item[0])):
        twice = ((p for _, p in sorted(keys.items()) if len(p) > 1) for keys in people.values())
        pairs = [first[:2] for first in (next(scans, []) for scans in twice) if first]
        if len(pairs) < FEWEST_REPEATED:
            continue
        table = values[np.array(pairs)]  # (people, 2, channels)
        with np.errstate(invalid="ignore", divide="ignore"):  # sessions that agree fully have no interval
            scores = [icc_2_1(table[:, :, channel]) for channel in range(table.shape[2])]
        known = [score for score in scores if score.value == score.value]
        if known:
            single = known[0] if table.shape[2] == 1 else None
            yield {
                "what": what,
                "contrast": contrast,
                "people": len(pairs),
                "icc": float(np.median([score.value for score in known])),
                "lower": _known(single.lower) if single else None,
                "upper": _known(single.upper) if single else None,
            }


def _volumes(cohort: Cohort) -> list[tuple[tuple[str, str], Values]]:
    """List what goes into the table of volumes, in the order of the table of metrics."""
    names = known_order(name for name, _ in cohort.values)
    chosen = [k for k in cohort.values if measure_of(k[0]).volume or cohort.values[k].unit == "ml"]
    return [(k, cohort.values[k]) for k in sorted(chosen, key=lambda key: (names.index(key[0]), key[1]))]


def _title(name: str, model: str) -> str:
    title = measure_of(name).title
    return f"{model}: {title.lower()}" if model else title


def _number(word: str | None) -> float | None:
    try:
        number = float(word) if word is not None else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < float("inf") else None


def _natural(word: str) -> tuple[int, float, str]:
    """Sort numbers as numbers, before words."""
    number = _number(word)
    return (1, 0.0, word) if number is None else (0, number, word)


def _known(value: float) -> float | None:
    return value if value == value else None
