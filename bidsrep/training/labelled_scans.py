"""Labelled scans made ready for training, the way the app makes them ready for its networks.

Conformed, brain-extracted, on a 1 mm RAS grid around the brain, normalised; the label on the same grid by
nearest neighbour. What is made is kept in a folder, to look at and for the next run.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bidsrep.bids.derivatives import find_brain_mask
from bidsrep.bids.files import write_json
from bidsrep.bids.scans import Scan, parse_name
from bidsrep.errors import ImageError, InputError
from bidsrep.imaging.brainmask import is_stripped, mask_from_distance, mask_from_nonzero
from bidsrep.imaging.conform import conform
from bidsrep.imaging.grids import Grid, bounding_box, crop, reference_grid
from bidsrep.imaging.normalise import normalise
from bidsrep.imaging.resample import coverage, resample, resample_brain, resample_labels, resample_mask
from bidsrep.imaging.tissues import tissue_means
from bidsrep.imaging.volume import Volume
from bidsrep.models.framed import MARGIN_VOXELS
from bidsrep.models.library import find_weights
from bidsrep.models.weights import read_card
from bidsrep.tasks.segmentation import IGNORED, to_classes
from bidsrep.training.labelled import SYNTHESIS, Labelled

LOGGER = logging.getLogger("bidsrep.training")
SPACING_MM = 1.0
CACHED_IMAGES = 192
LEAST_STRUCTURES = 4
MUCH_LOST = 0.1
DTYPES: dict[str, type] = {"image": np.float32, "mask": np.uint8, "label": np.int32}
WHITE = (0.9, 1.1)  # of the white-matter mean of a T1w
BRIGHTEST = 4.0  # of white matter; vessels are brighter and teach nothing
LEAST_VOXELS = 1000  # of a brain whose white matter can be told

OUTSIDE = "is nowhere inside the field of view of {}"
REMEDY_OUTSIDE = "Check the label's header, and the space entity in its name"
LOST = "%s: %.0f %% of the label's %.1f ml lie outside the brain of %s"
NOT_LABELS = "holds values that are not FreeSurfer's (such as {})"
REMEDY_LABELS = "Give a segmentation with FreeSurfer's values, or name its desc with --label"
NO_SCAN = "{}: of {} labelled scans none can be used. The first: {}"


@dataclass(frozen=True)
class Example:
    """A prepared scan: three files on one 1 mm RAS grid, ``<stem>_{image,mask,label}.nii``."""

    name: str
    subject: str
    stem: Path

    def file(self, kind: str) -> Path:
        """The file of a kind: image, mask or label."""
        return self.stem.with_name(f"{self.stem.name}_{kind}.nii")

    def load(self) -> dict[str, Tensor]:
        """Image (0 to 2), brain mask (0 or 1) and label, each ``(1, X, Y, Z)`` float32."""
        return {kind: _read(str(self.file(kind))) for kind in ("image", "mask", "label")}


@lru_cache(maxsize=CACHED_IMAGES)
def _read(path: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(Volume.load(path).data))[None]


def prepare_examples(
    pairs: Sequence[Labelled], labels_dir: Path | None, task: str, folder: Path, device: str = "cpu"
) -> list[Example]:
    """Prepare every pair in ``folder``; what cannot be used is left out, with a warning.

    Raises
    ------
    InputError
        If nothing can be used.
    """
    examples: list[Example] = []
    problems: list[InputError] = []
    for pair in pairs:
        example = Example(pair.name, pair.scan.subject, folder / pair.name)
        stamp = _stamp(pair, labels_dir, task)
        record = example.stem.with_name(f"{pair.name}_made.json")
        try:
            if not record.is_file() or json.loads(record.read_text()) != stamp:
                LOGGER.info("preparing %s", pair.name)
                kinds = DTYPES | ({"label": np.float32} if task in SYNTHESIS else {})
                for kind, volume in prepare(pair, labels_dir, task, device).items():
                    volume.save(example.file(kind), kinds[kind])
                write_json(record, stamp)
        except InputError as error:
            LOGGER.warning("%s Left out: %s", error, pair.name)
            problems.append(error)
            continue
        examples.append(example)
    if not examples:
        raise InputError(NO_SCAN.format(folder, len(pairs), problems[0]))
    return examples


def _stamp(pair: Labelled, labels_dir: Path | None, task: str) -> dict[str, Any]:
    """Tells whether what was prepared is still that of the same files, and of the same network for the brain."""
    scans = [scan for scan in (pair.scan, pair.owner, pair.white) if scan is not None]
    masks = [_given_mask(scan, labels_dir) for scan in scans]
    files = [*(scan.path for scan in scans), pair.label, *(mask for mask in masks if mask is not None)]
    network = read_card(find_weights("brainmask"))["weights"]["sha256"] if None in masks else ""
    return {
        "task": task,
        "values": list(pair.values),
        "matrix": pair.matrix.round(6).tolist(),
        "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in dict.fromkeys(files)],
        "brainmask": network,
        "interpolation": "cubic",
    }


def _given_mask(scan: Scan, labels_dir: Path | None) -> Path | None:
    given = find_brain_mask({"labels": labels_dir}, scan) if labels_dir is not None else None
    return given.path if given is not None else None


def prepare(pair: Labelled, labels_dir: Path | None, task: str, device: str = "cpu") -> dict[str, Volume]:
    """Image, brain mask and label of one pair on the scan's 1 mm RAS grid, cropped to the brain.

    Raises
    ------
    ImageError
        If the scan cannot be used, or the label does not lie in it or does not hold what it should.
    """
    scan, mask = read_brain(pair.scan, labels_dir, device)
    grid = reference_grid(scan, mask, SPACING_MM)
    moved, inside = resample_brain(scan, scan.replace(mask), grid)
    try:
        image = moved.replace(normalise(moved.data, inside))
        box = bounding_box(inside, MARGIN_VOXELS)
    except ValueError as error:
        raise ImageError(pair.scan.path, f"cannot be normalised ({error})", "Look at its brain") from error
    matrix = pair.matrix
    if pair.owner is not None:
        matrix = matrix @ _motion(pair.scan, pair.owner, labels_dir, device)
    if task in SYNTHESIS:
        label = _target(pair, grid, matrix, inside, labels_dir, device)
    else:
        label = _label(pair, grid, matrix, inside, task)
    volumes = {"image": image, "mask": image.replace(inside), "label": image.replace(label)}
    return {kind: crop(volume, box) for kind, volume in volumes.items()}


@lru_cache(maxsize=4)  # the scans of a session are registered to one another
def read_brain(scan: Scan, labels_dir: Path | None, device: str) -> tuple[Volume, np.ndarray]:
    """A conformed scan and its brain mask on its own grid: given with the labels, stripped, or found.

    Raises
    ------
    ImageError
        If the scan cannot be read, or no brain is found in it.
    """
    volume, report = conform(scan.path)
    for warning in report["warnings"]:
        LOGGER.debug("%s: %s", scan.path.name, warning)
    given = _given_mask(scan, labels_dir)
    try:
        if given is not None:
            other = Volume.load(given)
            return volume, resample_mask(other.data > 0, other, volume)
        if is_stripped(volume):
            return volume, mask_from_nonzero(volume)
        from bidsrep.models.brainmask import BrainMask
        from bidsrep.models.registry import load_model

        model = load_model("brainmask", device=device)
        assert isinstance(model, BrainMask)
        return volume, mask_from_distance(model.distance(volume), volume, model.threshold_mm)
    except (InputError, ValueError) as error:
        raise ImageError(scan.path, str(error)) from error


def _motion(scan: Scan, owner: Scan, labels_dir: Path | None, device: str) -> np.ndarray:
    """RAS mm of a scan to RAS mm of the scan the label was drawn on: rigid, as the app registers a session."""
    from bidsrep.imaging.registration import register_rigid

    (fixed, fixed_mask), (moving, moving_mask) = (read_brain(s, labels_dir, device) for s in (scan, owner))
    return register_rigid(fixed, moving, fixed_mask, moving_mask).matrix


def _label(pair: Labelled, grid: Grid, matrix: np.ndarray, inside: np.ndarray, task: str) -> np.ndarray:
    """A lesion mask (0, 1) or a segmentation (FreeSurfer's values) on the grid: float32 (X, Y, Z)."""
    label = Volume.load(pair.label)
    values = np.nan_to_num(label.data)
    if task == "lesion":
        wanted = np.isin(np.rint(values), pair.values) if pair.values else values > 0
        values = wanted.astype(np.float32)
    moved = resample_labels(np.rint(values), label, grid, matrix)
    if values.any() and not (moved.any() and coverage(label, grid, matrix)[inside].any()):
        raise ImageError(pair.label, OUTSIDE.format(pair.scan.path.name), REMEDY_OUTSIDE)
    if task == "seg":
        moved = to_freesurfer(pair.label, moved)
        _check_structures(pair.label, moved)
        return moved
    native_ml, kept_ml = values.sum() * label.voxel_ml, (moved * inside).sum() * SPACING_MM**3 / 1000
    if native_ml > 0 and kept_ml < (1 - MUCH_LOST) * native_ml:
        LOGGER.warning(LOST, pair.label, 100 * (1 - kept_ml / native_ml), native_ml, pair.scan.path.name)
    return moved * inside


def to_freesurfer(path: Path, labels: np.ndarray) -> np.ndarray:
    """FreeSurfer's values for a segmentation whose name says MUSE (Doshi et al., 2016); others as they are.

    What has no counterpart, such as the vermis or the basal forebrain, becomes unknown.
    """
    parsed = parse_name(path.name)
    named = (parsed.entities.get(key, "") for key in ("desc", "seg", "label")) if parsed else ()
    if not any("muse" in name.lower() for name in named):
        return labels
    lines = (files("bidsrep") / "data" / "muse.tsv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t"))
    table = np.full(max(int(row["index"]) for row in rows) + 1, IGNORED, dtype=labels.dtype)
    table[0] = 0
    for row in rows:
        if row["freesurfer"] != "n/a":
            table[int(row["index"])] = int(row["freesurfer"])
    known = (labels > 0) & (labels < len(table))
    return np.where(known, table[np.where(known, labels, 0).astype(int)], np.where(labels == 0, 0, IGNORED))


def _check_structures(path: Path, labels: np.ndarray) -> None:
    found = np.unique(labels[labels > 0])
    classes = to_classes(torch.from_numpy(found)).numpy()
    unknown = found[classes == IGNORED]
    if len(np.unique(classes[classes != IGNORED])) < LEAST_STRUCTURES or 2 * len(unknown) > len(found):
        some = ", ".join(f"{value:g}" for value in (unknown if len(unknown) else found)[:5])
        raise ImageError(path, NOT_LABELS.format(some), REMEDY_LABELS)


def _target(
    pair: Labelled,
    grid: Grid,
    matrix: np.ndarray,
    inside: np.ndarray,
    labels_dir: Path | None,
    device: str,
) -> np.ndarray:
    """The scan to synthesise on the grid, scaled to white matter = 1: float32 (X, Y, Z)."""
    moved = resample(conform(pair.label)[0], grid, matrix, order=3, inside=inside).data
    t1w = moved
    assert pair.white is not None
    if pair.white.path != pair.label:
        own = pair.white.path == pair.scan.path
        way = np.eye(4) if own else _motion(pair.scan, pair.white, labels_dir, device)
        t1w = resample(conform(pair.white.path)[0], grid, way, order=3, inside=inside).data
    usable = inside & (t1w > 0)
    if usable.sum() < LEAST_VOXELS:
        raise ImageError(pair.white.path, OUTSIDE.format(pair.scan.path.name), REMEDY_OUTSIDE)
    relative = t1w / tissue_means(t1w[usable])[2]
    white = usable & (relative > WHITE[0]) & (relative < WHITE[1])
    scaled: np.ndarray = moved / max(float(np.median(moved[white])), 1e-6)
    return np.clip(scaled, 0, BRIGHTEST) * inside
