"""The slice viewer of a subject's page: its images, small enough to travel inside the page.

Volumes are cut to the brain, sampled at `VOXEL_MM` and joined slice by slice to one WebP picture each: some
100 kB. A browser does not let a page read the pixels of a file beside it, so they are part of the page.
Axes are RAS+; the pictures have anterior on top and the patient's left on the left.
"""

import base64
import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bidsrep.bids.names import session_dir
from bidsrep.bids.scans import ParsedName, Session
from bidsrep.errors import ImageError
from bidsrep.imaging.grids import Grid, to_ras
from bidsrep.imaging.resample import resample
from bidsrep.imaging.volume import Volume
from bidsrep.reports.panels import Gray
from bidsrep.reports.results import IMAGES, PREDICTED, SessionResult, named_files, scan_key

LOGGER = logging.getLogger("bidsrep")
VOXEL_MM = 1.5
QUALITY = 68
MOST_IMAGES = 8
"""Acquired scans all come first; what is left is for synthetic images."""

MOST_OVERLAYS = 8
LESION_COLOR = "#ff5c6c"
LESION_SHARE = 0.4
"""Part of a voxel that is lesion for it to be drawn: small lesions do not vanish between larger voxels."""


@dataclass(frozen=True)
class Layer:
    """An image, or what is drawn over it: ``kind`` is acquired, synthetic, lesion or labels."""

    name: str
    kind: str
    path: Path


def viewer_data(out_dir: Path, result: SessionResult) -> dict[str, Any] | None:
    """Give what the viewer shows of one session; None without an image that can be read."""
    order = {
        scan.key: number for number, scan in enumerate(result.scans)
    }  # the reference, which lays the grid, first
    layers = sorted(find_layers(out_dir, result), key=lambda layer: (layer.kind, order.get(layer.name, 0)))
    images = [layer for layer in layers if layer.kind in ("acquired", "synthetic")][:MOST_IMAGES]
    overlays = [layer for layer in layers if layer.kind in ("lesion", "labels")]
    overlays = sorted(overlays, key=lambda layer: layer.kind == "labels")[:MOST_OVERLAYS]
    grid: Grid | None = None
    shown: list[dict[str, str]] = []
    for layer in images:
        if (volume := _load(layer)) is None:
            continue
        grid = grid or _grid_of(volume)
        if grid is None:
            continue
        sampled = resample(volume, grid)
        gray = Gray.of(sampled, sampled.data > 0)
        shown.append(
            {"name": layer.name, "kind": layer.kind, "src": _picture(gray(sampled.data), lossless=False)}
        )
    if grid is None:
        return None
    return {
        "session": result.session,
        "shape": list(grid.shape),
        "affine": [[round(float(x), 5) for x in row] for row in grid.affine[:3]],
        "columns": _columns(grid.shape),
        "images": shown,
        "overlays": [drawn for layer in overlays if (drawn := _overlay(layer, grid)) is not None],
    }


def find_layers(out_dir: Path, result: SessionResult) -> Iterator[Layer]:
    """Find the images on the session's reference grid, and the lesions and labels that belong to them."""
    folder = session_dir(out_dir, Session(result.subject, result.session))
    keys = [scan.key for scan in result.scans]
    for path, name in named_files(folder):
        desc = name.entities.get("desc", "")
        if name.extension not in IMAGES:
            continue
        if desc == "preproc" and scan_key(name, name.suffix) in keys:
            yield Layer(scan_key(name, name.suffix), "acquired", path)
        elif (match := PREDICTED.fullmatch(desc)) and _on_reference(name):
            source = f"{match['model']}, from {scan_key(name, match['suffix'])}"
            if name.entities.get("label") == "lesion" and name.suffix == "mask":
                yield Layer(f"lesions: {source}", "lesion", path)
            elif name.suffix == "dseg":
                yield Layer(f"segmentation: {source}", "labels", path)
            elif name.suffix in ("T1w", "FLAIR") and match["kind"] is None and "label" not in name.entities:
                yield Layer(f"synthetic {name.suffix}: {source}", "synthetic", path)


def _on_reference(name: ParsedName) -> bool:
    """Tell whether a prediction lies on the reference grid: it names a space, as all that are not native do."""
    return "space" in name.entities


def _load(layer: Layer) -> Volume | None:
    try:
        return to_ras(Volume.load(layer.path))
    except (ImageError, OSError) as error:
        LOGGER.debug("%s: not shown in the viewer (%s).", layer.path, error)
        return None


def _grid_of(volume: Volume) -> Grid | None:
    """Lay the viewer's grid around what is not zero in the reference, which has no skull."""
    inside = np.isfinite(volume.data) & (volume.data != 0)
    if not inside.any():
        return None
    ranges = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    low, high = np.array(ranges).T
    size = (high - low + 1) * volume.spacing
    affine = volume.affine.copy()
    affine[:3, 3] = volume.affine[:3, :3] @ low + volume.affine[:3, 3]
    affine[:3, :3] = volume.affine[:3, :3] / volume.spacing * VOXEL_MM
    x, y, z = (int(np.ceil(length / VOXEL_MM)) for length in size)
    return Grid((x, y, z), affine)


def _overlay(layer: Layer, grid: Grid) -> dict[str, Any] | None:
    """Sample a mask or labels; labels are numbered in the order of their table, from 1."""
    volume = _load(layer)
    if volume is None:
        return None
    if layer.kind == "lesion":
        drawn = resample(volume, grid, antialias=False).data > LESION_SHARE
        if not drawn.any():
            return None
        labels = [{"name": "lesion", "color": LESION_COLOR}]
        return {"name": layer.name, "labels": labels, "src": _picture(drawn.astype(np.uint8), lossless=True)}
    values = np.rint(resample(volume, grid, order=0).data).astype(int)
    table = _label_table(layer.path)
    numbers = [number for number in np.unique(values) if number > 0][:255]
    drawn = np.zeros(values.shape, np.uint8)
    for index, number in enumerate(numbers, start=1):
        drawn[values == number] = index
    labels = [table.get(number, {"name": f"label {number}", "color": ""}) for number in numbers]
    return {"name": layer.name, "labels": labels, "src": _picture(drawn, lossless=True)} if numbers else None


def _label_table(path: Path) -> dict[int, dict[str, str]]:
    """Read the names and colours of labels; what is no colour is left out."""
    table = {}
    try:
        with path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".tsv").open(
            encoding="utf-8", newline=""
        ) as stream:
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
                color = row.get("color") or ""
                good = len(color) == 7 and color[0] == "#" and color[1:].isalnum()
                table[int(row["index"])] = {"name": row.get("name") or "", "color": color if good else ""}
    except (OSError, ValueError, KeyError):
        LOGGER.debug("%s: no table of its labels.", path)
    return table


def _columns(shape: tuple[int, int, int]) -> int:
    """Choose how many slices stand beside each other, for a picture about as wide as high."""
    return max(int(np.ceil(np.sqrt(shape[2] * shape[1] / shape[0]))), 1)


def _picture(data: np.ndarray, *, lossless: bool) -> str:
    """Join axial slices (X, Y, Z; uint8) row by row, and write them as a data URI."""
    from PIL import Image

    x, y, z = data.shape
    columns = _columns((x, y, z))
    joined = np.zeros((-(-z // columns) * y, columns * x), np.uint8)
    for index in range(z):
        row, column = divmod(index, columns)
        joined[row * y : (row + 1) * y, column * x : (column + 1) * x] = data[:, ::-1, index].T
    buffer = io.BytesIO()
    if lossless:  # PNG of one channel is smaller than WebP of three
        Image.fromarray(joined).save(buffer, "png", optimize=True)
    else:
        Image.fromarray(joined).save(buffer, "webp", quality=QUALITY, method=2)
    kind = "png" if lossless else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
