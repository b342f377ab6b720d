"""The figure of a bias field: the scan, the scan divided by the field, and the field as colour."""

from pathlib import Path

import numpy as np

from bidsrep.imaging.volume import Volume
from bidsrep.reports.cuts import Cut, Frame
from bidsrep.reports.panels import (
    MARGIN_MM,
    Gray,
    Image,
    annotate,
    color_of,
    inside_of,
    load,
    overview,
    place,
    sequential,
    widen,
)
from bidsrep.reports.svg import Figure

LEAST_FACTOR = 1.05
"""The colours reach this far at least: a field that is flat is drawn as one colour."""

PERCENTILES = (1, 99)
"""Of the field inside the brain: what lies beyond has the colours at the ends."""


def plot_bias(
    source: Image, bias: Image, mask: Image, out_file: Path, *, title: str = "", source_name: str = ""
) -> Path:
    """Show a scan before and after it is divided by a bias field, and the field.

    Parameters
    ----------
    source : path or Volume
        The scan on the reference grid; `source_name` is its contrast.
    bias : path or Volume
        The field, a positive factor, on the same grid; 0 outside the brain. Its scale has no meaning: it is shown
        in units of its median.
    mask : path or Volume
        The brain, on the same grid.
    """
    source, bias, mask = load(source), load(bias), load(mask)
    frame, brain = Frame.of(source), inside_of(bias, mask)
    inside = (bias.data > 0) if brain is None else brain & (bias.data > 0)
    field = _relative(bias, inside)
    cuts = overview(frame, widen(frame.extent(mask.data > 0.5, mask.affine), MARGIN_MM), axial=5)
    low, high = np.percentile(field.data[inside], PERCENTILES) if inside.any() else (1.0, 1.0)
    top = max(float(high), 1 / float(low), LEAST_FACTOR)
    told = f"the field goes from {low:.2f} to {high:.2f} (1st to 99th percentile, its median is 1)"
    figure = Figure(title, told, f"Bias field: {title}")
    gray = Gray.of(source, inside_of(source, mask))
    images = [(source, source_name or "scan", "input")]
    if field.shape == source.shape:
        corrected = source.replace(source.data / field.data)
        images.append((corrected, source_name or "scan", "corrected"))
    for image, *words in images:
        strip, pixel = place(figure, cuts, gutter=True)
        figure.pictures(strip, [gray(cut.sample(image, pixel)) for cut in cuts])
        figure.gutter(strip, *words)
        annotate(figure, strip, cuts)
    strip, pixel = place(figure, cuts, gutter=True)
    shown = bias.replace(inside)
    figure.pictures(strip, [_tile(cut, field, shown, pixel, top) for cut in cuts])
    figure.gutter(strip, "bias field", "yellow: brighter", "than it should be")
    ramp = [color_of(color) for color in sequential(np.linspace(0, 1, 24))]
    figure.color_bar(8, (strip.top + strip.bottom) / 2 + 40, ramp, f"{1 / top:.2f}", f"{top:.2f}")
    annotate(figure, strip, cuts)
    return figure.save(out_file)


def _relative(bias: Volume, inside: np.ndarray) -> Volume:
    """Divide a field by its median inside the brain; 1 outside, so that the border is no edge."""
    median = float(np.median(bias.data[inside])) if inside.any() else 1.0
    return bias.replace(np.where(inside, bias.data / median, 1.0))


def _tile(cut: Cut, field: Volume, inside: Volume, pixel: float, top: float) -> np.ndarray:
    """Colour a cut of the field from 1 / top to top, by its logarithm: (rows, columns, 3), uint8."""
    factor = np.maximum(cut.sample(field, pixel), np.finfo(np.float32).tiny)
    colours = sequential(0.5 + 0.5 * np.clip(np.log(factor) / np.log(top), -1, 1))
    colours[cut.sample(inside, pixel, order=0) < 0.5] = 0
    return colours
