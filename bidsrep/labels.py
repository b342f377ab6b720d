"""Label tables: what the numbers of a segmentation mean. The tables are TSV files in ``data/labels``."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from bidsrep.errors import InputError

SEGMENTATIONS = {"seg": "aseg", "tissue": "tissue"}
"""Predictions that are segmentations, and the table (of ``data/labels``) of what their numbers mean."""


@dataclass(frozen=True)
class Label:
    """One row of a label table.

    `hemisphere` is L, R or empty (midline); `mirror` is the value of the same structure on the
    other side (its own value on the midline); `tissue` is csf, gm, wm, lesion, extra or background.
    """

    index: int
    name: str
    abbreviation: str = ""
    color: str = ""
    hemisphere: str = ""
    mirror: int = 0
    tissue: str = ""


class LabelTable:
    """The labels of one segmentation, in the file's order; look them up by value or by name."""

    def __init__(self, name: str, labels: tuple[Label, ...]) -> None:
        self.name, self.labels = name, labels
        self._by_index = {label.index: label for label in labels}
        self._by_name = {label.name: label for label in labels}

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | str) -> Label:
        return self._by_name[key] if isinstance(key, str) else self._by_index[key]

    def indices(self, tissue: str | None = None) -> tuple[int, ...]:
        """List the values, of one tissue if given."""
        return tuple(label.index for label in self.labels if tissue in (None, label.tissue))

    def mirrors(self) -> dict[int, int]:
        """Map every value to the same structure's value on the other side (for left-right flips)."""
        return {label.index: label.mirror for label in self.labels}

    def to_tsv(self) -> str:
        """Give the table as BIDS wants it beside a ``dseg``: index, name, abbreviation, color."""
        rows = ["index\tname\tabbreviation\tcolor"]
        for x in self.labels:
            rows.append("\t".join((str(x.index), x.name, x.abbreviation or "n/a", x.color or "n/a")))
        return "\n".join(rows) + "\n"


def read_labels(path: Path) -> LabelTable:
    """Read a label table: a TSV with at least the columns ``index`` and ``name``."""
    labels = []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            try:
                index, name = int(row["index"]), row["name"]
            except (KeyError, TypeError, ValueError) as error:
                msg = f"{path}: a label table needs the columns 'index' (whole numbers) and 'name'."
                raise InputError(msg) from error
            text = {k: v for k, v in row.items() if k in ("abbreviation", "color", "hemisphere", "tissue")}
            plain = {k: "" if v in (None, "n/a") else v for k, v in text.items()}
            labels.append(Label(index, name, mirror=int(row.get("mirror") or index), **plain))
    return LabelTable(path.stem, tuple(labels))


@cache
def load_labels(name: str) -> LabelTable:
    """Load one of the tables that come with the package, for example ``aseg``."""
    folder = Path(str(files("bidsrep") / "data" / "labels"))
    path = folder / f"{name}.tsv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.tsv")))
        msg = f"there is no label table {name!r}; there are: {known}."
        raise InputError(msg)
    return read_labels(path)
