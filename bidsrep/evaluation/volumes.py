"""Volumes of segmented structures, and what a network gives for an average brain: something to hold them against.

The average brain is the T1w of ICBM 152 2009a (nonlinear, symmetric; Fonov et al., NeuroImage 2011) that nilearn
ships, stripped and with voxels of 1 mm. Its volumes by the bundled weights are `TABLE`, which this makes again::

    python -c "from bidsrep.evaluation.volumes import write_table; write_table()"
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from bidsrep.imaging.volume import Volume
from bidsrep.labels import SEGMENTATIONS, LabelTable, load_labels

TABLE = "template_volumes.tsv"
COLUMNS = ("model", "weights_sha256", "seg", "index", "name", "volume_ml")
GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "aseg": {
        "cerebral white matter": (2, 41, 77),
        "cerebral cortex": (3, 42),
        "deep grey matter": (10, 49, 11, 50, 12, 51, 13, 52, 26, 58),
        "hippocampus and amygdala": (17, 53, 18, 54),
        "ventricles": (4, 43, 5, 44, 14, 15, 72),
        "cerebellum": (7, 46, 8, 47),
        "brain stem": (16,),
        "CSF outside the ventricles": (24,),
    }
}
"""Values of the main structures, by segmentation; the few others are small. White matter has its hypointensities."""


@dataclass(frozen=True)
class Structure:
    """A structure of one or two sides: `left` and `right` are values of a segmentation.

    On the midline, `left` is the only one.
    """

    name: str
    left: int
    right: int | None
    colors: tuple[str, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        """The values of both sides."""
        return (self.left,) if self.right is None else (self.left, self.right)


def structures(labels: LabelTable) -> list[Structure]:
    """Put the two sides of every structure of a table together, in its order; the background is left out.

    >>> [(s.name, s.left, s.right) for s in structures(load_labels("aseg"))][:2]
    [('cerebral white matter', 2, 41), ('cerebral cortex', 3, 42)]
    """
    found = []
    for label in labels:
        if label.tissue == "background" or label.hemisphere == "R":
            continue
        paired = label.hemisphere == "L" and label.mirror != label.index
        right = labels[label.mirror] if paired else None
        colors = dict.fromkeys(side.color for side in (label, right) if side is not None)
        other = None if right is None else right.index
        found.append(Structure(plain(label.name), label.index, other, tuple(colors)))
    return found


def plain(name: str) -> str:
    """Write the name of a label as people do, without its side.

    >>> plain("Left-Inf-Lat-Vent"), plain("3rd-Ventricle"), plain("CSF")
    ('inferior lateral ventricle', '3rd ventricle', 'CSF')
    """
    short = name.removeprefix("Left-").removeprefix("Right-")
    known = {
        "Inf-Lat-Vent": "inferior lateral ventricle",
        "VentralDC": "ventral diencephalon",
        "Accumbens-area": "accumbens",
        "CSF": "CSF",
        "WM-hypointensities": "white matter hypointensities",
    }
    return known.get(short) or short.replace("-", " ").lower()


def label_volumes(segmentation: Volume) -> dict[int, float]:
    """Measure every value of a segmentation but 0: ml."""
    values = np.rint(segmentation.data[segmentation.data > 0.5]).astype(np.int32)
    return {
        index: float(count) * segmentation.voxel_ml
        for index, count in enumerate(np.bincount(values).tolist())
        if count
    }


@cache
def template_volumes(sha256: str, seg: str) -> Mapping[int, float]:
    """Look up what weights give for the average brain: ml by value; empty if that is not known."""
    with _path().open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        return {
            int(row["index"]): float(row["volume_ml"])
            for row in rows
            if (row["weights_sha256"], row["seg"]) == (sha256, seg)
        }


def measure_template(model_name: str) -> Iterable[tuple[str, ...]]:
    """Segment the average brain with a model's bundled weights; rows of `TABLE`.

    The image is treated as a scan is: cropped to its brain, scaled, filled up to the network's divisor.
    """
    from bidsrep.imaging.grids import bounding_box, pad_to_multiple
    from bidsrep.imaging.normalise import normalise
    from bidsrep.imaging.template import load_template
    from bidsrep.models.registry import load_model

    image, mask = load_template(resolution=1)
    model = load_model(model_name)
    box = bounding_box(mask, margin=8)
    padded, keep = pad_to_multiple(normalise(image.data[box], mask[box]), model.divisor)
    wanted = [task.name for task in model.outputs if task.name in SEGMENTATIONS]
    for name, found in model.predict(padded, wanted).items() if wanted else ():
        labels = np.where(mask[box], found[0, 0].numpy()[keep], 0)
        volumes, seg = label_volumes(Volume(labels, image.affine)), SEGMENTATIONS[name]
        for index, volume in sorted(volumes.items()):
            label = load_labels(seg)[index].name
            yield (model_name, model.card["weights"]["sha256"], seg, str(index), label, f"{volume:.3f}")


def write_table(models: Iterable[str] = ("brainid", "cifl", "seqinv")) -> Path:
    """Write `TABLE` anew, for bundled weights that segment."""
    rows = [row for model in models for row in measure_template(model)]
    lines = ["\t".join(row) for row in (COLUMNS, *rows)]
    _path().write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _path()


def _path() -> Path:
    return Path(str(files("bidsrep") / "data" / TABLE))
