"""How far raters agree who put the same things into categories."""

from collections import Counter
from collections.abc import Hashable, Sequence

Category = Hashable


def percent_agreement(one: Sequence[Category], two: Sequence[Category]) -> float:
    """Return the share (0 to 1) of things two raters put into the same category; NaN without any.

    >>> percent_agreement(["pass", "fail"], ["pass", "pass"])
    0.5
    """
    pairs = list(zip(one, two, strict=True))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else float("nan")


def cohen_kappa(one: Sequence[Category], two: Sequence[Category]) -> float:
    """Return Cohen's kappa of two raters (Educational and Psychological Measurement, 1960).

    (p_o - p_e) / (1 - p_e), with p_e the agreement expected of raters who use the categories as often as
    these do. NaN where both always said the same one thing: then chance explains everything.
    """
    pairs = list(zip(one, two, strict=True))
    if not pairs:
        return float("nan")
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(first[category] * second[category] for category in first) / len(pairs) ** 2
    return _beyond(percent_agreement(one, two), expected)


def fleiss_kappa(ratings: Sequence[Sequence[Category]]) -> float:
    """Return Fleiss' kappa of things that were all rated equally often (Psychological Bulletin, 1971).

    Parameters
    ----------
    ratings : sequence of sequences
        For every thing, the categories it was given; at least two, in any order, of any raters.
    """
    counts = [Counter(row) for row in ratings]
    raters = {sum(count.values()) for count in counts}
    if not counts:
        return float("nan")
    if len(raters) != 1 or min(raters) < 2:
        msg = f"every thing has the same number of ratings, at least 2; got {sorted(raters)}"
        raise ValueError(msg)
    number = raters.pop()
    pairs = number * (number - 1)
    observed = sum(n * (n - 1) for count in counts for n in count.values()) / (pairs * len(counts))
    total: Counter[Category] = sum(counts, Counter())
    expected = sum((n / (number * len(counts))) ** 2 for n in total.values())
    return _beyond(observed, expected)


def _beyond(observed: float, expected: float) -> float:
    return (observed - expected) / (1 - expected) if expected < 1 - 1e-12 else float("nan")
