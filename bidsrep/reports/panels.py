"""What the figures share: grey scales, rows of cuts, and the marks on them."""

from collections.abc import Sequence
from os import PathLike

import numpy as np

from bidsrep.imaging.volume import Volume
from bidsrep.reports.cuts import LETTER, SIDES, Cut, Frame, cuts_at, plan
from bidsrep.reports.svg import GUTTER, WIDTH, Figure, Strip

Image = Volume | str | PathLike[str]
MARGIN_MM = 6.0
ENOUGH = 200_000  # voxels, for the percentile of a grey scale
"""What is shown around the brain."""

VIRIDIS = np.array(
    [[68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128], [94, 201, 98],
     [173, 220, 48], [253, 231, 37]]
)  # fmt: skip
"""Colours that differ as evenly for the colour-blind: matplotlib's viridis (CC0) at nine points."""


def load(image: Image) -> Volume:
    """Read an image unless it is in memory already."""
    return image if isinstance(image, Volume) else Volume.load(image)


class Gray:
    """The grey scale of one image: `low` is black, `high` is white."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, max(high, low + 1e-6)

    @classmethod
    def of(cls, volume: Volume, brain: np.ndarray | None = None) -> "Gray":
        """Choose a scale that shows the brain: a quarter above its 98th percentile is white.

        Not a higher percentile: a mask that leaks holds fat and vessels, which would darken the brain.
        """
        values = volume.data[brain] if brain is not None and brain.any() else volume.data[volume.data > 0]
        values = values[:: max(1, values.size // ENOUGH)]
        values = values[np.isfinite(values)]
        if not values.size:
            return cls(0.0, 1.0)
        darkest = float(np.percentile(volume.data[::2, ::2, ::2], 1))
        return cls(min(darkest, 0.0) * 0.5, 1.25 * float(np.percentile(values, 98)))

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Turn intensities (rows, columns) into grey levels, uint8."""
        return (np.clip((tile - self.low) / (self.high - self.low), 0, 1) * 255).astype(np.uint8)


def diverging(tile: np.ndarray, limit: float) -> np.ndarray:
    """Colour signed values (rows, columns): blue below zero, black at zero, orange above; uint8 RGB."""
    amount = np.clip(tile / limit, -1, 1)[..., None]
    below, above = np.array([74, 163, 255]), np.array([255, 150, 40])
    return (np.abs(amount) ** 0.8 * np.where(amount < 0, below, above)).astype(np.uint8)


def sequential(part: np.ndarray) -> np.ndarray:
    """Colour parts of a range, 0 to 1 (...): (..., 3), uint8; from violet over green to yellow."""
    places = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(part, places, VIRIDIS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def color_of(rgb: np.ndarray) -> str:
    """Write a colour (3; uint8) as SVG does: ``#ff9628``."""
    return "#" + "".join(f"{channel:02x}" for channel in rgb)


def overview(frame: Frame, box: np.ndarray, axial: int) -> list[Cut]:
    """Plan axial cuts through a box, one coronal, and one sagittal cut beside the midline."""
    beside = float(box[0, 0] + 0.42 * (box[1, 0] - box[0, 0]))
    return [
        *plan(frame, "axial", axial, box),
        *plan(frame, "coronal", 1, box),
        *cuts_at(frame, "sagittal", [beside], box),
    ]


def place(figure: Figure, cuts: Sequence[Cut], gutter: bool = False) -> tuple[Strip, float]:
    """Make room for cuts; give the strip and the size of a pixel (mm), about one to a figure's unit."""
    width = WIDTH - (GUTTER if gutter else 0.0)
    pixel = sum(cut.size[0] for cut in cuts) / (1.15 * width)
    shapes = [(max(round(cut.size[1] / pixel), 1), max(round(cut.size[0] / pixel), 1)) for cut in cuts]
    return figure.place(shapes, gutter), pixel


def annotate(figure: Figure, strip: Strip, cuts: Sequence[Cut]) -> None:
    """Write where every cut lies, and the sides on the first tile of each view."""
    figure.captions(strip, [f"{LETTER[cut.view]} {cut.world:+.0f} mm" for cut in cuts])
    seen = set()
    for index, cut in enumerate(cuts):
        if cut.view not in seen:
            figure.sides(strip, index, SIDES[cut.view])
            seen.add(cut.view)


def widen(box: np.ndarray, margin: float) -> np.ndarray:
    """Widen a box (2, 3) by `margin` mm on every side."""
    return box + np.array([[-margin], [margin]])


def inside_of(volume: Volume, mask: Volume) -> np.ndarray | None:
    """Give a mask as booleans if it is on the volume's grid, else nothing."""
    same = volume.shape == mask.shape and np.allclose(volume.affine, mask.affine, atol=1e-3)
    return mask.data > 0.5 if same else None
