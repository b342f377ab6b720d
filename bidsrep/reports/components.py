"""The figure of a scan's features: their first three principal components as red, green and blue."""

from pathlib import Path

import numpy as np

from bidsrep.evaluation.components import Components
from bidsrep.imaging.grids import Grid
from bidsrep.reports.cuts import AXES, Cut, Frame
from bidsrep.reports.panels import MARGIN_MM, annotate, overview, widen
from bidsrep.reports.svg import Figure

COLOURS = ("red", "green", "blue")


def plot_components(
    features: np.ndarray,
    sample: np.ndarray,
    mask: np.ndarray,
    box: tuple[slice, slice, slice],
    affine: np.ndarray,
    out_file: Path,
    *,
    title: str = "",
) -> Path:
    """Draw features as colour, on the cuts that the figure of the synthetic images has.

    Parameters
    ----------
    features : ndarray, (C, X', Y', Z')
        One feature a voxel, of the part of the grid that `box` cuts out. Only what is drawn is projected.
    sample : ndarray, (N, C)
        Features of some voxels of the brain, to find the components of.
    mask : ndarray of bool, (X, Y, Z)
        The brain on the whole grid, which is a RAS grid; it lies inside `box`.
    affine : ndarray, (4, 4)
        Voxels of the whole grid to RAS+ mm.
    title : str
        Which features they are.
    """
    found = Components.fit(sample)
    x, y, z = mask.shape
    frame = Frame.of(Grid((x, y, z), affine))
    cuts = overview(frame, widen(frame.extent(mask, affine), MARGIN_MM), axial=5)
    tiles = [_tile(cut, found, features, mask[box], box) for cut in cuts]
    shares = [f"{name}: {100 * share:.0f} %" for name, share in zip(COLOURS, found.explained, strict=True)]
    told = (
        f"the three principal components hold {100 * found.explained.sum():.0f} % of the features' variance"
    )
    figure = Figure(title, told, f"Features: {title}, the first three principal components as colour")
    strip = figure.place([tile.shape[:2] for tile in tiles], gutter=True)
    figure.pictures(strip, tiles)
    figure.gutter(strip, "features", *shares)
    annotate(figure, strip, cuts)
    return figure.save(out_file)


def _tile(
    cut: Cut, found: Components, features: np.ndarray, inside: np.ndarray, box: tuple[slice, slice, slice]
) -> np.ndarray:
    """Colour the voxels a cut goes through: (rows, columns, 3), uint8; black outside the brain."""
    normal = AXES[cut.view][0]
    index = round(cut.position / cut.frame.spacing[normal]) - box[normal].start
    index = min(max(index, 0), inside.shape[normal] - 1)
    # Views: `take` would first copy all features of a network that computes row by row.
    colours = found.colour(np.moveaxis(features, normal + 1, 0)[index])
    colours[~np.moveaxis(inside, normal, 0)[index]] = 0
    return colours[:, ::-1].transpose(1, 0, 2)
