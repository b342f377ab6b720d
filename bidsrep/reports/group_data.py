"""What the script of the cohort's page draws from: one JSON object, small enough for a thousand subjects."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import expm1, log1p
from statistics import median
from typing import Any

import numpy as np

from bidsrep import __version__
from bidsrep.evaluation.cohort import robust_outliers
from bidsrep.evaluation.cohort_map import centre_groups, principal_components
from bidsrep.reports.cohort import Cohort, Values, rank
from bidsrep.reports.effects import columns_of, effects_of, repeats_of
from bidsrep.reports.measures import Measure, known_order, measure_of
from bidsrep.reports.ratings import Rating, agreement
from bidsrep.reports.results import Metric

LOAD = "lesion_volume"
"""Its values are compared by their logarithms: a few people have most of the lesions."""

FEWEST = 10
"""Scans of a contrast; among fewer, outliers by their median come and go with every further scan."""

NO_PAGE = "there is no page of this subject"


def group_data(
    cohort: Cohort, described: Mapping[str, str], links: Mapping[str, str], ratings: Sequence[Rating]
) -> dict[str, Any]:
    """Give the object; `links` are the pages of the subjects that have one, `described` explains columns."""
    columns = columns_of(cohort, described)
    measures = list(_measures(cohort))
    return {
        "version": __version__,
        "subjects": [{"id": f"sub-{s}", "href": links.get(s, "")} for s in cohort.subjects],
        "sessions": [
            [row.subject, f"ses-{row.session}" if row.session is not None else "n/a", row.status]
            for row in cohort.sessions
        ],
        "scans": [[scan.session, scan.key] for scan in cohort.scans],
        "contrasts": _levels(scan.suffix for scan in cohort.scans),
        "columns": [column.to_json() for column in columns],
        "measures": measures,
        "maps": [_map(cohort, model) for model in cohort.embedded],
        "effects": list(effects_of(cohort, columns)),
        "repeats": list(repeats_of(cohort)),
        "problems": [*_problems(cohort, links), *_unusual(cohort, measures)],
        "ratings": _ratings(cohort, ratings),
        "outputs": _outputs(cohort),
    }


def _measures(cohort: Cohort) -> Iterator[dict[str, Any]]:
    """Give the points of every metric the table of metrics marks for it, with the outliers among them."""
    names = known_order(name for name, _ in cohort.values)
    for name, model in sorted(cohort.values, key=lambda key: (names.index(key[0]), key[1])):
        measure, values = measure_of(name), cohort.values[name, model]
        if not measure.plot:
            continue
        references = _levels(values.references)
        limits = {"low": measure.low, "high": measure.high} | dict(cohort.limits.get(name, {}))
        yield {
            "name": name,
            "title": measure.title,
            "short": measure.short or measure.title,
            "model": model,
            "unit": "" if values.unit in ("", "1", "n/a") else values.unit,
            "text": measure.text,
            "digits": measure.digits,
            **{side: limit if abs(limit) < float("inf") else None for side, limit in limits.items()},
            "rows": list(values.rows),
            "values": list(values.numbers),
            "references": references["levels"],
            "reference": references["values"],
            "outliers": _outliers(cohort, name, values),
        }


def _outliers(cohort: Cohort, name: str, values: Values) -> list[list[Any]]:
    """Find the values that lie far from those of the same contrast: their positions, scores, and the median."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, row in enumerate(values.rows):
        groups[cohort.scans[row].suffix, values.references[position]].append(position)
    found = []
    for positions in groups.values():
        if len(positions) < FEWEST:
            continue
        numbers = [values.numbers[position] for position in positions]
        logs = name == LOAD and min(numbers) >= 0
        compared = [log1p(number) for number in numbers] if logs else numbers
        middle = expm1(median(compared)) if logs else median(compared)
        for position, score in zip(positions, robust_outliers(compared), strict=True):
            if score is not None:
                found.append([position, round(score, 1), middle])
    return sorted(found)


def _unusual(cohort: Cohort, measures: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Word the outliers, one entry per session; a lesion load that is out of range is a kind of its own."""
    texts: dict[tuple[str, int], list[str]] = defaultdict(list)
    for entry in measures:
        measure = measure_of(entry["name"])
        for position, score, middle in entry["outliers"]:
            scan = cohort.scans[entry["rows"][position]]
            shown, usual = (
                _show(measure, number, entry["unit"]) for number in (entry["values"][position], middle)
            )
            what = measure.title.lower() + (f" by {entry['model']}" if entry["model"] else "")
            reference = entry["references"][entry["reference"][position]]
            what += f" with {reference}" if reference else ""
            side = "above" if score > 0 else "below"
            kind = "lesions" if entry["name"] == LOAD else "outlier"
            texts[kind, scan.session].append(
                f"{scan.key}: {what} is {shown}, far {side} this cohort's median of {usual} (z = {score:+.1f})"
            )
    for (kind, session), lines in sorted(texts.items()):
        yield {"kind": kind, "session": session, "who": cohort.name_of(session), "texts": lines}


def _problems(cohort: Cohort, links: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """List failures first, then what is missing, then warnings."""
    for subject, text in cohort.unreadable:
        yield {"kind": "failed", "session": None, "who": f"sub-{subject}", "texts": [text]}
    for wanted in ("failed", "missing", "warning"):
        for number, session in enumerate(cohort.sessions):
            for kind, lines in session.problems:
                if kind == wanted:
                    yield {"kind": kind, "session": number, "who": cohort.name_of(number), "texts": lines}
    for subject in cohort.subjects:
        if subject not in links:
            yield {"kind": "missing", "session": None, "who": f"sub-{subject}", "texts": [NO_PAGE]}


def _map(cohort: Cohort, model: str) -> dict[str, Any]:
    """Project a model's embeddings, as they are and with each contrast's mean taken away."""
    rows, features = cohort.embeddings(model)
    contrasts = np.array([cohort.scans[row].suffix for row in rows])
    views = []
    for shown in (features, centre_groups(features, contrasts)):
        scores, explained = principal_components(shown)
        views.append(
            {"x": scores[:, 0].tolist(), "y": scores[:, 1].tolist(), "explained": explained.tolist()}
        )
    return {"model": model, "rows": rows.tolist(), "plain": views[0], "centred": views[1]}


def _ratings(cohort: Cohort, ratings: Sequence[Rating]) -> dict[str, Any]:
    """Give the ratings by the numbers of the scans; of scans that are not here, only how many there are."""
    numbers = {
        (
            f"sub-{cohort.subject_of(index)}",
            f"ses-{cohort.sessions[scan.session].session}"
            if cohort.sessions[scan.session].session is not None
            else "n/a",
            scan.key,
        ): index
        for index, scan in enumerate(cohort.scans)
    }
    rows = [[numbers[r.place], r.rater, r.rating, r.note] for r in ratings if r.place in numbers]
    return {"rows": rows, "elsewhere": len(ratings) - len(rows), **agreement(ratings)}


def _outputs(cohort: Cohort) -> dict[str, Any]:
    """Count what was made of the scans, per model, kind and contrast."""
    totals = Counter(scan.suffix for scan in cohort.scans if scan.suffix)
    contrasts = sorted(totals, key=rank)
    kinds = dict.fromkeys((model, role) for model, role, _ in sorted(cohort.made))
    rows = [
        {"model": model, "role": role, "made": [cohort.made[model, role, contrast] for contrast in contrasts]}
        for model, role in kinds
    ]
    scans = [totals[contrast] for contrast in contrasts]
    incomplete = any(row["made"] != scans for row in rows)
    return {"contrasts": contrasts, "scans": scans, "rows": rows, "incomplete": incomplete}


def _levels(words: Iterable[str]) -> dict[str, Any]:
    """Write words as numbers."""
    given = list(words)
    levels = sorted(set(given), key=rank)
    index = {level: number for number, level in enumerate(levels)}
    return {"levels": levels, "values": [index[word] for word in given]}


def _show(measure: Measure, number: float, unit: str) -> str:
    return measure.show(Metric("", "", measure.name, repr(number), unit))
