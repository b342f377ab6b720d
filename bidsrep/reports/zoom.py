"""The figure of a super-resolved scan: what the network saw, what it made of it, and the difference, enlarged."""

from pathlib import Path

import numpy as np

from bidsrep.imaging.volume import Volume
from bidsrep.reports.cuts import AXES, Cut, Frame, View
from bidsrep.reports.panels import Gray, Image, annotate, diverging, inside_of, load
from bidsrep.reports.reportlets import match
from bidsrep.reports.svg import Figure, Strip

VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
SIZE_MM = (84.0, 56.0)
"""Width and height of what is shown of the brain."""

PIXELS_PER_VOXEL = 2
BESIDE_MM = 8.0
"""From the middle of the brain to the sagittal cut: beside the gap between the hemispheres."""

DIFFERENCE_RANGE = 0.2
"""Full colour of a difference, as a fraction of the brain's 99.5th percentile, which is 1 in these images."""


def plot_superres(
    source: Image, superres: Image, mask: Image, out_file: Path, *, title: str = "", source_name: str = ""
) -> Path:
    """Show the middle of a brain enlarged, as it was resampled and as it was super-resolved.

    Parameters
    ----------
    source : path or Volume
        What the network saw: the scan on the reference grid; `source_name` is its contrast.
    superres : path or Volume
        What the network made of it, on the same grid.
    mask : path or Volume
        The brain, on the same grid.
    """
    source, superres, mask = load(source), load(superres), load(mask)
    frame, brain = Frame.of(source), inside_of(superres, mask)
    middle = frame.extent(mask.data > 0.5, mask.affine).mean(axis=0)
    cuts = [_around(frame, view, middle) for view in VIEWS]
    figure = Figure(title, "the middle of the brain, enlarged", f"Super-resolution: {title}, enlarged")
    for image, made in ((source, "input, resampled"), (superres, "super-resolved")):
        strip, pixel = _place(figure, cuts)
        gray = Gray.of(image, brain)
        figure.pictures(strip, [gray(cut.sample(image, pixel)) for cut in cuts])
        figure.gutter(strip, source_name or "scan", made)
        annotate(figure, strip, cuts)
    if brain is not None and source.shape == superres.shape:
        _draw_difference(figure, cuts, source, superres, brain)
    return figure.save(out_file)


def _around(frame: Frame, view: View, middle: np.ndarray) -> Cut:
    """Plan the cut of one view through the middle of the brain (frame mm)."""
    normal, across, up = AXES[view]
    width, height = SIZE_MM
    position = middle[normal] - (BESIDE_MM if view == "sagittal" else 0.0)
    position = float(np.round(position / frame.spacing[normal]) * frame.spacing[normal])
    left, bottom = float(middle[across] - width / 2), float(middle[up] - height / 2)
    return Cut(frame, view, position, (left, left + width, bottom, bottom + height))


def _place(figure: Figure, cuts: list[Cut]) -> tuple[Strip, float]:
    """Make room for a row; give the size of a pixel (mm), too: what is finer would only be interpolated."""
    pixel = float(min(cuts[0].frame.spacing)) / PIXELS_PER_VOXEL
    shapes = [(round(cut.size[1] / pixel), round(cut.size[0] / pixel)) for cut in cuts]
    return figure.place(shapes, gutter=True), pixel


def _draw_difference(
    figure: Figure, cuts: list[Cut], source: Volume, superres: Volume, brain: np.ndarray
) -> None:
    """Draw the super-resolved image less the input, which is brought to its scale."""
    scaled, fit = match(source, superres, brain)
    difference = superres.replace(np.where(brain, superres.data - scaled.data, 0))
    strip, pixel = _place(figure, cuts)
    figure.pictures(strip, [diverging(cut.sample(difference, pixel), DIFFERENCE_RANGE) for cut in cuts])
    figure.gutter(strip, "difference", f"r = {fit:.3f}", "orange: brighter", "than the input")
