"""Anatomies to generate from: a BIDS derivatives dataset made by ``bidsrep-train prepare``.

One session of a subject holds either a label map (``sub-X[_ses-Y]_dseg.nii.gz``, values explained by ``dseg.tsv``
at the root) or a brain-extracted T1w scan with white matter at 1 (``_desc-brain_T1w.nii.gz``, whose sidecar gives the
tissue means that turn it into generation labels); optionally ``_FLAIR`` and ``_label-lesion_probseg``.
All images are 1 mm, RAS, float or integer. Who is trained on, held out or measured are subjects, with all sessions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KINDS = {"labels": "dseg", "t1w": "desc-brain_T1w"}
"""What an anatomy is, and how its file's name ends."""
ACQUIRED = ("brain", "preproc")
"""Values of ``desc`` that do not mean a synthetic image."""
LEAST_LESION = 0.001
"""Smallest anomaly probability in a lesion that somebody drew; outside it is 0."""
TISSUES = ("background", "csf", "gm", "wm", "extracerebral")


@dataclass(frozen=True)
class LabelTable:
    """Values of the label maps with their tissue class and name; ``index`` numbers the values from 0."""

    values: np.ndarray
    tissues: tuple[str, ...]
    names: tuple[str, ...] = ()

    def index(self, labels: np.ndarray) -> np.ndarray:
        """Replace label values by their position in the table (unknown values become background)."""
        lookup = np.zeros(int(self.values.max()) + 1, dtype=np.uint8)
        lookup[self.values] = np.arange(len(self.values), dtype=np.uint8)
        labels = np.where((labels < 0) | (labels > self.values.max()), 0, labels)
        return lookup[labels]

    def of_tissue(self, *names: str) -> Tensor:
        """Boolean ``(K,)``: which table rows have one of the tissues."""
        return torch.tensor([tissue in names for tissue in self.tissues])


@dataclass(frozen=True)
class Anatomy:
    """A person, at one time: generation labels or a real T1w; tensors are ``(1, X, Y, Z)``, 1 mm RAS."""

    name: str
    labels: Tensor | None = None
    t1w: Tensor | None = None
    tissue_means: tuple[float, float, float] | None = None
    flair: Tensor | None = None
    lesion: Tensor | None = None


def read_label_table(path: Path) -> LabelTable:
    """Read ``dseg.tsv`` with the columns index, name, tissue."""
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["index"]))
    values = np.array([int(row["index"]) for row in rows])
    if values[0] != 0:
        raise ValueError(f"{path}: the first index must be 0 (background), got {values[0]}")
    tissues, names = (tuple(row[column] for row in rows) for column in ("tissue", "name"))
    return LabelTable(values, tissues, names)


def load_anatomies(
    folder: Path, kind: str = "any", persons: Collection[str] | None = None
) -> tuple[list[Anatomy], LabelTable | None]:
    """Load every subject of a prepared dataset, or only ``persons``; ``kind`` is ``labels``, ``t1w`` or ``any``.

    Raises
    ------
    FileNotFoundError
        If the folder holds no such anatomy.
    """
    table_path = folder / "dseg.tsv"
    table = read_label_table(table_path) if table_path.exists() else None
    anatomies = []
    for name, found, stem in find_anatomies(folder, persons):
        if found == "labels" and kind in ("labels", "any") and table:
            labels = torch.from_numpy(table.index(_read(Path(f"{stem}_dseg.nii.gz")).astype(np.int64)))[None]
            anatomies.append(Anatomy(name, labels=labels))
        elif found == "t1w" and kind in ("t1w", "any"):
            sidecar = json.loads(Path(f"{stem}_desc-brain_T1w.json").read_text())
            means = tuple(float(value) for value in sidecar["TissueMeans"])
            t1w = _read(Path(f"{stem}_desc-brain_T1w.nii.gz"))
            anatomies.append(
                Anatomy(
                    name,
                    t1w=torch.from_numpy(t1w.astype(np.float32))[None],
                    tissue_means=(means[0], means[1], means[2]),
                    flair=_optional(Path(f"{stem}_desc-brain_FLAIR.nii.gz")),
                    lesion=_optional(Path(f"{stem}_label-lesion_probseg.nii.gz")),
                )
            )
    if not anatomies:
        raise FileNotFoundError(f"{folder}: no anatomies; make them with `bidsrep-train prepare`")
    return anatomies, table


def find_anatomies(folder: Path, persons: Collection[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """Everybody (``sub-X``, or those of ``persons``) of a prepared dataset, the kind and the start of the files' names.

    Several of one name are a person's sessions.
    """
    for subject in sorted(folder.glob("sub-*")):
        if persons is not None and subject.name not in persons:
            continue
        for visit in (subject, *sorted(subject.glob("ses-*"))):
            name = subject.name if visit == subject else f"{subject.name}_{visit.name}"
            stem = f"{visit / 'anat' / name}"
            kinds = (kind for kind, ending in KINDS.items() if Path(f"{stem}_{ending}.nii.gz").exists())
            yield from ((subject.name, kind, stem) for kind in kinds)


def _read(path: Path) -> np.ndarray:
    import nibabel as nib

    return np.asanyarray(nib.load(path).dataobj)


def _optional(path: Path) -> Tensor | None:
    return torch.from_numpy(_read(path).astype(np.float32))[None] if path.exists() else None
