"""How much of a cohort's measurements tells the scanner, or any other group, instead of the person.

Rows are scans: `values` are (N,) or (N, C), `groups` and `people` (N,). What cannot be told is NaN.
"""

from collections.abc import Sequence

import numpy as np

NOT_ROWS = "groups belong to rows: {} rows, {} groups"


def eta_squared(values: np.ndarray, groups: Sequence[object]) -> float:
    """Return the share of the variance that groups explain: between groups over total sum of squares.

    Of several channels (N, C) the sums of squares are added up, which is the R-squared of a
    permutational analysis of variance on Euclidean distances (Anderson, Austral Ecology 2001). Groups
    that mean nothing still explain `eta_squared_by_chance`, which is not small in a small cohort.

    >>> round(eta_squared(np.array([1.0, 2.0, 3.0, 5.0, 6.0, 7.0]), list("aaabbb")), 3)
    0.857
    """
    rows, codes, count = _rows(values, groups)
    if len(rows) < 2:
        return float("nan")
    total = float(((rows - rows.mean(axis=0)) ** 2).sum())
    if not total > 0:
        return float("nan")
    sums, sizes = _sums(rows, codes, count)
    between = float((sizes[:, None] * (sums / sizes[:, None] - rows.mean(axis=0)) ** 2).sum())
    return min(between / total, 1.0)


def eta_squared_by_chance(groups: Sequence[object]) -> float:
    """Return what groups without any effect explain on average: (groups - 1) / (rows - 1).

    >>> eta_squared_by_chance(list("aaabbb"))
    0.2
    """
    return (len(set(groups)) - 1) / (len(groups) - 1) if len(groups) > 1 else float("nan")


def group_identification(
    features: np.ndarray, groups: Sequence[object], people: Sequence[object] | None = None
) -> tuple[float, float]:
    """Guess every row's group from the others' mean rows; return the accuracy, and that by chance.

    The nearest centroid, by Euclidean distance, with everything of the row's own person left out: a
    person scanned twice on one scanner must not give it away. Rows of groups that have nobody else are
    not scored, and rows of one group alone tell nothing. Chance is the accuracy of always guessing the most frequent group of the scored rows.
    """
    rows, codes, count = _rows(features, groups)
    owners = _codes(people if people is not None else range(len(rows)), len(rows))[0]
    sums, sizes = _sums(rows, codes, count)
    guesses, truths = [], []
    for owner in range(int(owners.max(initial=-1)) + 1):
        own = np.flatnonzero(owners == owner)
        own_sums, own_sizes = _sums(rows[own], codes[own], count)
        left = sizes - own_sizes
        known = left > 0
        scored = own[known[codes[own]]]
        if known.sum() < 2 or not scored.size:
            continue
        centroids = (sums - own_sums)[known] / left[known, None]
        distances = ((rows[scored][:, None] - centroids) ** 2).sum(axis=2)
        guesses.append(np.flatnonzero(known)[distances.argmin(axis=1)])
        truths.append(codes[scored])
    guess, truth = (np.concatenate([np.zeros(0, np.intp), *parts]) for parts in (guesses, truths))
    if len(np.unique(truth)) < 2:
        return float("nan"), float("nan")
    return float((guess == truth).mean()), float(np.bincount(truth).max() / len(truth))


def _rows(values: np.ndarray, groups: Sequence[object]) -> tuple[np.ndarray, np.ndarray, int]:
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    codes, count = _codes(groups, len(rows))
    return rows, codes, count


def _codes(groups: Sequence[object], expected: int) -> tuple[np.ndarray, int]:
    """Number the groups in the order they appear."""
    numbers: dict[object, int] = {}
    codes = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)
    if len(codes) != expected:
        raise ValueError(NOT_ROWS.format(expected, len(codes)))
    return codes, len(numbers)


def _sums(rows: np.ndarray, codes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the rows of every group: (groups, C), and count them: (groups,)."""
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums, np.bincount(codes, minlength=count)
