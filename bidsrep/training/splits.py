"""Who is held out: subjects, never single sessions or scans, by a seeded draw or by the user's own table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bidsrep.bids.files import write_text
from bidsrep.errors import InputError

NOT_IN_SPLITS = "{}: sub-{} is not in it. Add it with `train` or `validation`, or delete the file."
BAD_SPLITS = "{}: cannot be read as a table with the columns participant_id and split ({})."


def split_subjects(subjects: Sequence[str], share: float, seed: int) -> dict[str, str]:
    """Assign subjects to ``train`` or ``validation``; one subject alone is all for training.

    A ``share`` above 0 holds out at least one of several subjects, and leaves at least one to train on.
    """
    names = sorted(set(subjects))
    held = min(max(1, round(share * len(names))), len(names) - 1) if share > 0 else 0
    order = np.random.default_rng(seed).permutation(len(names))
    return {name: "validation" if order[i] < held else "train" for i, name in enumerate(names)}


def read_or_write_splits(path: Path, subjects: Sequence[str], share: float, seed: int) -> dict[str, str]:
    """`split_subjects`, written to ``path``; a file that is there already is what counts.

    Raises
    ------
    InputError
        If that file is no such table, or lacks a subject.
    """
    if not path.exists():
        splits = split_subjects(subjects, share, seed)
        lines = "".join(f"sub-{name}\t{split}\n" for name, split in splits.items())
        write_text(path, f"participant_id\tsplit\n{lines}")
        return splits
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = {row["participant_id"].removeprefix("sub-"): row["split"]
                    for row in csv.DictReader(stream, delimiter="\t")}  # fmt: skip
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(BAD_SPLITS.format(path, error)) from error
    for name in subjects:
        if rows.get(name) not in ("train", "validation"):
            raise InputError(NOT_IN_SPLITS.format(path, name))
    return {name: rows[name] for name in sorted(set(subjects))}
