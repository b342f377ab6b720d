"""The figure of a lesion map: where the lesions are, how many and how large."""

from pathlib import Path

import numpy as np

from bidsrep.imaging.grids import to_ras
from bidsrep.imaging.lesions import Lesions, find_lesions
from bidsrep.imaging.volume import Volume
from bidsrep.reports.cuts import AXES, SIDES, Cut, Frame, View, cuts_at, plan
from bidsrep.reports.panels import MARGIN_MM, Gray, Image, annotate, inside_of, load, place, widen
from bidsrep.reports.svg import Figure, Strip

PROJECTIONS: dict[View, str] = {
    "axial": "from above",
    "coronal": "from behind",
    "sagittal": "from the right",
}
AXIAL = 7
APART_MM = 5.0
"""Axial cuts chosen for what they show are at least this far apart."""


def describe(lesions: Lesions) -> str:
    """Say how many lesions there are and how large they are."""
    if not lesions.count:
        return "no lesion"
    number = "1 lesion" if lesions.count == 1 else f"{lesions.count} lesions"
    return f"{number}, {lesions.total_ml:.2f} ml (largest {lesions.volumes_ml[0]:.2f} ml)"


def plot_lesions(
    background: Image,
    lesions: Image,
    mask: Image,
    out_file: Path,
    *,
    probability: Image | None = None,
    title: str = "",
    note: str = "",
) -> Path:
    """Draw lesions over an image, with their number and volume, and projections of all of them.

    Parameters
    ----------
    background : path or Volume
        The scan the lesions were found on, or any other in its space.
    lesions, mask : path or Volume
        Lesions and brain, on one grid; where they are above one half.
    probability : path or Volume, optional
        On the same grid; shown in the projections instead of the mask.
    """
    background, lesions, mask = load(background), load(lesions), load(mask)
    soft = load(probability) if probability is not None else lesions
    found, frame = find_lesions(lesions.data, lesions.voxel_ml, min_volume_ml=0), Frame.of(mask)
    told = describe(found)
    box = widen(frame.extent(mask.data > 0.5, mask.affine), MARGIN_MM)
    words = " · ".join(filter(None, (told, note)))
    figure = Figure(title, words, f"Lesions on {title or 'the scan'}: {told}")
    gray = Gray.of(background, inside_of(background, mask))
    _draw_overview(figure, frame, box, background, gray, lesions, found, mask, soft)
    cuts = cuts_at(frame, "axial", _busiest(frame, lesions, box), box)
    strip, pixel = place(figure, cuts, gutter=True)
    figure.gutter(strip, "axial", "the most affected" if found.count else "evenly spread")
    figure.pictures(strip, [gray(cut.sample(background, pixel)) for cut in cuts])
    _overlay(figure, strip, cuts, lesions, pixel)
    annotate(figure, strip, cuts)
    return figure.save(out_file)


def tint(heat: np.ndarray) -> np.ndarray:
    """Colour probabilities (rows, columns) from black over red to white, uint8 RGB."""
    ramp = np.clip(heat[..., None] * np.array([2.0, 1.35, 1.15]) - np.array([0.0, 0.65, 0.55]), 0, 1)
    return (ramp * 255).astype(np.uint8)


def _draw_overview(
    figure: Figure,
    frame: Frame,
    box: np.ndarray,
    background: Volume,
    gray: Gray,
    lesions: Volume,
    found: Lesions,
    mask: Volume,
    soft: Volume,
) -> None:
    """Draw three projections of all lesions, and two cuts through the largest one."""
    focus = _focus(frame, found, lesions.affine, box)
    beside = [*cuts_at(frame, "coronal", focus[1:2], box), *cuts_at(frame, "sagittal", focus[:1], box)]
    ahead = [cut for view in PROJECTIONS for cut in plan(frame, view, 1, box)]
    strip, pixel = place(figure, [*ahead, *beside], gutter=True)
    figure.gutter(strip, "overview", "projections of all", *(["+ the largest one"] if found.count else []))
    glass = [_project(soft, mask, cut, shape) for cut, shape in zip(ahead, strip.shapes, strict=False)]
    slices = [_rgb(gray(cut.sample(background, pixel))) for cut in beside]
    figure.pictures(strip, [tint(heat) for heat, _ in glass] + slices)
    figure.outlines(strip.part(0, 3), [brain for _, brain in glass], "glass")
    _overlay(figure, strip.part(3, 5), beside, lesions, pixel)
    for index, cut in enumerate(ahead):
        figure.text(strip.left[index] + 5, strip.bottom - 6, PROJECTIONS[cut.view], "cap")
        figure.sides(strip, index, SIDES[cut.view])
    annotate(figure, strip.part(3, 5), beside)


def _overlay(figure: Figure, strip: Strip, cuts: list[Cut], lesions: Volume, pixel: float) -> None:
    figure.begin("over")
    figure.outlines(strip, [cut.sample(lesions, pixel) for cut in cuts], "lesion")
    figure.end()


def _rgb(tile: np.ndarray) -> np.ndarray:
    return np.repeat(tile[..., None], 3, axis=2)


def _focus(frame: Frame, lesions: Lesions, affine: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Find the middle of the largest lesion, or of the box if there is none: (3,), frame mm."""
    if not lesions.count:
        return box.mean(axis=0)
    return frame.extent(lesions.labels == 1, affine).mean(axis=0)


def _busiest(frame: Frame, lesions: Volume, box: np.ndarray) -> np.ndarray:
    """Choose axial positions (frame mm) by the lesion area they cut, apart from each other."""
    ras = to_ras(lesions)
    area = (ras.data > 0.5).sum(axis=(0, 1))
    to_frame = np.linalg.inv(frame.affine) @ ras.affine
    positions = to_frame[2, 2] * np.arange(len(area)) + to_frame[2, 3]
    chosen: list[float] = []
    for index in np.argsort(-area, kind="stable"):
        if area[index] == 0 or len(chosen) == AXIAL:
            break
        if all(abs(positions[index] - other) >= APART_MM for other in chosen):
            chosen.append(float(positions[index]))
    even = np.linspace(box[0, 2], box[1, 2], AXIAL + 2)[1:-1]
    for position in sorted(even, key=lambda p: -min((abs(p - other) for other in chosen), default=0)):
        if len(chosen) < AXIAL:
            chosen.append(float(position))
    return np.array(sorted(chosen))


def _project(volume: Volume, mask: Volume, cut: Cut, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Project the highest values, and the brain, along the cut's normal onto its window: two tiles."""
    tiles = []
    for source in (volume, mask):
        ras = to_ras(source)
        normal = AXES[cut.view][0]
        flat = ras.data.max(axis=normal, keepdims=True)
        affine = ras.affine.copy()
        middle = cut.position - (np.linalg.inv(cut.frame.affine) @ affine)[normal, 3]
        affine[:3, 3] += cut.frame.affine[:3, normal] * middle  # the flat image lies in the cut's plane
        pixel = cut.size[0] / shape[1]
        tile = cut.sample(Volume(flat, affine), pixel)
        tiles.append(np.clip(tile, 0, 1)[: shape[0], : shape[1]])
    return tiles[0], tiles[1]
