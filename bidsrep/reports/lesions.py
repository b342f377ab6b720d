"""The figure of a lesion map: where the lesions are, how many and how large."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bidsrep.imaging.grids import to_ras
from bidsrep.imaging.volume import Volume
from bidsrep.reports.cuts import AXES, LETTER, Cut, Frame, View, cuts_at, plan
from bidsrep.reports.panels import MARGIN_MM, Gray, Image, annotate, inside_of, load, place, widen
from bidsrep.reports.svg import Figure, Strip

VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
AXIAL = 7
APART_MM = 5.0
"""Axial cuts chosen for what they show are at least this far apart."""


@dataclass(frozen=True)
class LesionLoad:
    """How much lesion a mask holds: in all (ml), the number of lesions, and the largest of them (ml)."""

    volume: float
    count: int
    largest: float

    @classmethod
    def of(cls, mask: Volume) -> "LesionLoad":
        """Measure a mask; voxels that share a corner belong to one lesion."""
        from scipy import ndimage

        labels, count = ndimage.label(mask.data > 0.5, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        return cls(
            float(sizes.sum() * mask.voxel_ml), int(count), float(sizes.max(initial=0) * mask.voxel_ml)
        )

    def __str__(self) -> str:
        if not self.count:
            return "no lesion"
        lesions = "1 lesion" if self.count == 1 else f"{self.count} lesions"
        return f"{lesions}, {self.volume:.2f} ml (largest {self.largest:.2f} ml)"


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
    burden, frame = LesionLoad.of(lesions), Frame.of(mask)
    box = widen(frame.extent(mask.data > 0.5, mask.affine), MARGIN_MM)
    figure = Figure(
        title, " · ".join(filter(None, (str(burden), note))), f"Lesions on {title or 'the scan'}: {burden}"
    )
    gray = Gray.of(background, inside_of(background, mask))
    focus = _focus(frame, lesions, box)
    beside = [*cuts_at(frame, "coronal", focus[1:2], box), *cuts_at(frame, "sagittal", focus[:1], box)]
    ahead = [cut for view in VIEWS for cut in plan(frame, view, 1, box)]
    strip, pixel = place(figure, [*ahead, *beside], gutter=True)
    figure.gutter(strip, "overview", "projections of all,", "the largest lesion")
    glass = [_project(soft, mask, cut, shape) for cut, shape in zip(ahead, strip.shapes, strict=False)]
    pictures = [tint(heat) for heat, _ in glass] + [
        _rgb(gray(cut.sample(background, pixel))) for cut in beside
    ]
    figure.pictures(strip, pictures)
    figure.outlines(strip.part(0, 3), [brain for _, brain in glass], "brain")
    _overlay(figure, strip.part(3, 5), beside, lesions, pixel)
    for index, cut in enumerate(ahead):
        figure.text(strip.left[index] + 5, strip.bottom - 6, f"all {LETTER[cut.view]}", "cap")
    annotate(figure, strip.part(3, 5), beside)
    cuts = cuts_at(frame, "axial", _busiest(frame, lesions, box), box)
    strip, pixel = place(figure, cuts, gutter=True)
    figure.gutter(strip, "axial", "the most affected" if burden.count else "evenly spread")
    figure.pictures(strip, [gray(cut.sample(background, pixel)) for cut in cuts])
    _overlay(figure, strip, cuts, lesions, pixel)
    annotate(figure, strip, cuts)
    return figure.save(out_file)


def tint(heat: np.ndarray) -> np.ndarray:
    """Colour probabilities (rows, columns) from black over red to white, uint8 RGB."""
    ramp = np.clip(heat[..., None] * np.array([2.0, 1.35, 1.15]) - np.array([0.0, 0.65, 0.55]), 0, 1)
    return (ramp * 255).astype(np.uint8)


def _overlay(figure: Figure, strip: Strip, cuts: list[Cut], lesions: Volume, pixel: float) -> None:
    figure.begin("over")
    figure.outlines(strip, [cut.sample(lesions, pixel) for cut in cuts], "lesion")
    figure.end()


def _rgb(tile: np.ndarray) -> np.ndarray:
    return np.repeat(tile[..., None], 3, axis=2)


def _focus(frame: Frame, lesions: Volume, box: np.ndarray) -> np.ndarray:
    """Find the middle of the largest lesion, or of the box if there is none: (3,), frame mm."""
    from scipy import ndimage

    labels, count = ndimage.label(lesions.data > 0.5, structure=np.ones((3, 3, 3)))
    if not count:
        return box.mean(axis=0)
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return frame.extent(largest, lesions.affine).mean(axis=0)


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
