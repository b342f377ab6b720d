"""The figures of a report: images (paths or volumes) in, one SVG file out.

Nothing here reads or writes anything else, and the same images give the same bytes. Every function
returns the path it wrote.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from bidsrep.imaging.quality import correlation
from bidsrep.imaging.transforms import read_itk
from bidsrep.imaging.volume import Volume
from bidsrep.reports.cuts import Cut, Frame, View, head_box, plan
from bidsrep.reports.lesions import plot_lesions
from bidsrep.reports.panels import (
    MARGIN_MM,
    Gray,
    Image,
    annotate,
    diverging,
    inside_of,
    load,
    overview,
    place,
    widen,
)
from bidsrep.reports.svg import GUTTER, Figure, Strip

__all__ = ["plot_brain_mask", "plot_lesions", "plot_registration", "plot_synthesis"]

MASK_ROWS: tuple[tuple[View, int], ...] = (("axial", 8), ("sagittal", 6))
DIFFERENCE_RANGE = 0.4
"""Full colour of a difference, in units of the white matter's median."""


def plot_brain_mask(scan: Image, mask: Image, out_file: Path, *, title: str = "", note: str = "") -> Path:
    """Draw a brain mask's outline on the scan it was made from, on the scan's own grid.

    Parameters
    ----------
    scan, mask : path or Volume
        On one grid; the mask is the brain where it is above one half.
    title, note : str
        What the scan is; what is known of the mask (its volume is added).
    """
    scan, mask = load(scan), load(mask)
    frame, inside = Frame.of(scan), mask.data > 0.5
    brain = frame.extent(inside, mask.affine)
    show = head_box(scan, frame, brain)
    gray = Gray.of(scan, inside)
    volume = f"brain {inside.sum() * mask.voxel_ml:,.0f} ml" if inside.any() else "the mask is empty"
    figure = Figure(title, " · ".join(filter(None, (volume, note))), f"Brain mask on {title or 'the scan'}")
    for view, count in MASK_ROWS:
        cuts = plan(frame, view, count, brain, show)
        strip, pixel = place(figure, cuts)
        figure.pictures(strip, [gray(cut.sample(scan, pixel)) for cut in cuts])
        figure.begin("over")
        figure.outlines(strip, [cut.sample(mask, pixel) for cut in cuts], "brain")
        figure.end()
        annotate(figure, strip, cuts)
    return figure.save(out_file)


def plot_registration(
    reference: Image,
    moving: Image,
    transform: np.ndarray | str | PathLike[str] | None,
    mask: Image,
    out_file: Path,
    *,
    title: str = "",
    note: str = "",
) -> Path:
    """Show a scan on its reference before and after registration; the pictures blink under the pointer.

    Parameters
    ----------
    reference, moving : path or Volume
        Each on its own grid; both whole heads or both skull-stripped.
    transform : ndarray (4, 4) or path
        RAS+ mm of the reference to RAS+ mm of the moving scan, or an ITK text transform; None if the
        two are aligned already (then there is no difference between before and after).
    mask : path or Volume
        The reference's brain, on any grid in the reference's space; its outline is drawn on all.
    """
    reference, moving, mask = load(reference), load(moving), load(mask)
    matrix = transform if isinstance(transform, np.ndarray) or transform is None else read_itk(transform)
    frame, inside = Frame.of(reference), mask.data > 0.5
    brain = widen(frame.extent(inside, mask.affine), MARGIN_MM)
    cuts = overview(frame, brain, axial=4)
    figure = Figure(
        title,
        note or "point at the figure to blink between the two",
        f"Registration: {title}, before and after",
    )
    fixed, moved = Gray.of(reference, inside_of(reference, mask)), Gray.of(moving)
    first = None
    for name, remark, step in (("before", "by the headers", None), ("after", "registered", matrix)):
        strip, pixel = place(figure, cuts, gutter=True)
        figure.gutter(strip, name, remark)
        if first is None:
            first = strip, figure.pictures(strip, [fixed(cut.sample(reference, pixel)) for cut in cuts])
        else:
            figure.repeat(first[1], first[0], strip)
        figure.text(GUTTER + 6, strip.top + 16, "reference", "tag")
        figure.begin("flick")
        figure.pictures(strip, [moved(cut.sample(moving, pixel, step)) for cut in cuts])
        figure.text(GUTTER + 6, strip.top + 16, "moving", "tag")
        figure.end()
        figure.outlines(strip, [cut.sample(mask, pixel) for cut in cuts], "brain")
        annotate(figure, strip, cuts)
    return figure.save(out_file)


def plot_synthesis(
    source: Image,
    synthetic: Mapping[str, Image],
    mask: Image,
    out_file: Path,
    *,
    acquired: Mapping[str, Image] | None = None,
    title: str = "",
    note: str = "",
    source_name: str = "",
) -> Path:
    """Show an input above the contrasts predicted from it, and how they differ from acquired ones.

    Parameters
    ----------
    source : path or Volume
        What the network saw; `source_name` is its contrast.
    synthetic : mapping
        Contrast (``T1w``) to predicted image; the median of the white matter is 1.
    mask : path or Volume
        The brain.
    acquired : mapping, optional
        Contrast to acquired image, where there is one. It is scaled to the prediction by a line
        fitted inside the brain before the two are subtracted. If it is the source itself, it is not
        shown again.
    """
    given, source, mask = source, load(source), load(mask)
    frame = Frame.of(source)
    cuts = overview(frame, widen(frame.extent(mask.data > 0.5, mask.affine), MARGIN_MM), axial=5)
    figure = Figure(title, note, f"Synthetic images: {title}")
    strip = _strip_of(figure, cuts, source, Gray.of(source, inside_of(source, mask)))
    figure.gutter(strip, source_name or "input", "input" if source_name else "")
    annotate(figure, strip, cuts)
    for contrast, image in synthetic.items():
        predicted = load(image)
        brain = inside_of(predicted, mask)
        strip = _strip_of(figure, cuts, predicted, Gray.of(predicted, brain))
        figure.gutter(strip, contrast, "synthetic")
        real = (acquired or {}).get(contrast)
        if real is not None:
            shown = real is given or (not isinstance(real, Volume) and str(real) == str(given))
            _compare(figure, cuts, "" if shown else contrast, load(real), predicted, brain)
    return figure.save(out_file)


def _strip_of(figure: Figure, cuts: Sequence[Cut], volume: Volume, gray: Gray) -> Strip:
    strip, pixel = place(figure, cuts, gutter=True)
    figure.pictures(strip, [gray(cut.sample(volume, pixel)) for cut in cuts])
    return strip


def _compare(
    figure: Figure,
    cuts: Sequence[Cut],
    contrast: str,
    real: Volume,
    predicted: Volume,
    brain: np.ndarray | None,
) -> None:
    """Add the acquired image (unless `contrast` is empty) and the difference to it."""
    comparable = brain is not None and real.shape == predicted.shape
    if contrast:
        strip = _strip_of(figure, cuts, real, Gray.of(real, brain if comparable else None))
        figure.gutter(strip, contrast, "acquired")
    if brain is None or not comparable:
        return
    scaled, fit = match(real, predicted, brain)
    difference = predicted.replace(np.where(brain, predicted.data - scaled.data, 0))
    strip, pixel = place(figure, cuts, gutter=True)
    figure.pictures(strip, [diverging(cut.sample(difference, pixel), DIFFERENCE_RANGE) for cut in cuts])
    figure.gutter(strip, "difference", f"r = {fit:.2f}", "blue: too dark")
    shades = diverging(np.linspace(-DIFFERENCE_RANGE, DIFFERENCE_RANGE, 15)[None], DIFFERENCE_RANGE)[0]
    colors = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in shades]
    middle = (strip.top + strip.bottom) / 2
    figure.color_bar(8, middle + 32, colors, f"−{DIFFERENCE_RANGE:g}", f"+{DIFFERENCE_RANGE:g}")


def match(real: Volume, predicted: Volume, brain: np.ndarray) -> tuple[Volume, float]:
    """Scale an acquired image to a prediction inside the brain; give their correlation (Pearson), too.

    Mean and standard deviation are made the same (the reduced major axis: either image has errors); the
    slope is never negative, so that a prediction of the wrong sign shows as one.
    """
    x, y = real.data[brain].astype(np.float64), predicted.data[brain].astype(np.float64)
    if not x.size or x.std() == 0 or y.std() == 0:
        return real.replace(np.zeros_like(real.data)), float("nan")
    scaled = (real.data - x.mean()) * (y.std() / x.std()) + y.mean()
    return real.replace(np.where(brain, scaled, 0)), correlation(x, y)
