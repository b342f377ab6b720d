"""The figure of a segmentation: outlines and transparent colours of the structures over the scan."""

from pathlib import Path

import numpy as np

from bidsrep.evaluation.volumes import structures
from bidsrep.labels import load_labels
from bidsrep.reports.cuts import Cut, Frame, cuts_at, plan
from bidsrep.reports.panels import MARGIN_MM, Gray, Image, annotate, inside_of, load, place, widen
from bidsrep.reports.svg import Figure

BESIDE = (0.32, 0.44, 0.62)
"""Where the sagittal cuts lie, as parts of the brain's width: none of them in the gap between the hemispheres."""

FILL, LINE = 90, 255
"""Opacity of a structure and of its outline, of 255."""


def plot_segmentation(
    source: Image, segmentation: Image, mask: Image, out_file: Path, *, labels: str, title: str = ""
) -> Path:
    """Draw a segmentation over the scan it was made from, in three views.

    Parameters
    ----------
    source : path or Volume
        The scan on the reference grid.
    segmentation, mask : path or Volume
        Values of the table `labels`, such as ``aseg``; the brain. On the same grid.
    """
    source, segmentation, mask = load(source), load(segmentation), load(mask)
    values = np.rint(segmentation.data).astype(np.int32)
    table = [label for label in load_labels(labels) if label.index > 0]
    numbers = np.array([label.index for label in table])
    frame = Frame.of(source)
    box = widen(frame.extent(mask.data > 0.5, mask.affine), MARGIN_MM)
    found = set(np.unique(values).tolist())
    drawn = [s for s in structures(load_labels(labels)) if found & set(s.indices)]
    count = sum(number in found for number in numbers.tolist())
    told = f"{count} label{'' if count == 1 else 's'} · point at the figure to hide them"
    figure = Figure(title, told, f"Segmentation: {title}, {count} labels over the scan")
    gray, palette = Gray.of(source, inside_of(source, mask)), _palette([label.color for label in table])
    for cuts in (plan(frame, "axial", 6, box), _beside(frame, box)):
        strip, pixel = place(figure, cuts)
        figure.pictures(strip, [gray(cut.sample(source, pixel)) for cut in cuts])
        figure.begin("over")
        tiles = [np.rint(cut.sample(segmentation, pixel, order=0)).astype(np.int32) for cut in cuts]
        figure.labels(strip, [_numbered(tile, numbers) for tile in tiles], palette)
        figure.end()
        annotate(figure, strip, cuts)
    figure.legend([(structure.colors, structure.name) for structure in drawn])
    return figure.save(out_file)


def _beside(frame: Frame, box: np.ndarray) -> list[Cut]:
    """Plan three coronal and three sagittal cuts through a box."""
    places = [float(box[0, 0] + part * (box[1, 0] - box[0, 0])) for part in BESIDE]
    return [*plan(frame, "coronal", 3, box), *cuts_at(frame, "sagittal", places, box)]


def _palette(colors: list[str]) -> np.ndarray:
    """Give every colour twice, for the structure and for its outline, after one that is nothing: (1 + 2 N, 4)."""
    rows = [bytes(4)]
    for color in colors:
        rgb = bytes.fromhex(color.removeprefix("#"))
        rows += [rgb + bytes([FILL]), rgb + bytes([LINE])]
    return np.array([list(row) for row in rows], dtype=np.uint8)


def _numbered(tile: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Number a cut's values (rows, columns) as the palette does; values that are not in the table are nothing."""
    order = np.argsort(numbers)
    place_of = np.minimum(np.searchsorted(numbers, tile, sorter=order), len(numbers) - 1)
    row = order[place_of]
    known = numbers[row] == tile
    return np.where(known, 1 + 2 * row + _edges(tile), 0).astype(np.uint8)


def _edges(tile: np.ndarray) -> np.ndarray:
    """Find the pixels (rows, columns; bool) that differ from one of their four neighbours."""
    around = np.pad(tile, 1, mode="edge")
    middle = (slice(1, -1), slice(1, -1))
    shifts = [
        (slice(0, -2), middle[1]),
        (slice(2, None), middle[1]),
        (middle[0], slice(0, -2)),
        (middle[0], slice(2, None)),
    ]
    return np.logical_or.reduce([around[shift] != tile for shift in shifts])
