"""Quantitative maps of a head that has none: painted on labels, or on the tissue mixture of a real T1w scan.

Two kinds of variation, both as shares of the tissue table's spread: *between* heads, one draw per tissue (its
two sides agree; half of the variance is common to all tissues, as a method's bias in T1 is), and *within* a
tissue, from voxel to voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.contrast import piecewise_linear
from bidsrep.synth.physics.maps import TissueMaps
from bidsrep.synth.physics.tissues import EXTRACEREBRAL, Tissue, TissueTable
from bidsrep.synth.random import integer, uniform_scalar

# How far PD (p.u.), R1, R2, R2' and MTsat move with a tissue's spread. R1 goes with R2* and MT, against the
# water content (Callaghan et al., NeuroImage 2015); water varies less than rates do.
BETWEEN = (0.3, 1.0, 1.0, 1.0, 1.0)
WITHIN = (-0.4, 1.0, 0.8, 0.8, 1.0)
COARSE_VOXELS = 8
CHRONIC_INFARCT = "chronic_infarct"
FLUID_SHARE = (0.2, 0.95)
"""A chronic infarct is a mixture of fluid and gliosis."""


@dataclass(frozen=True)
class Variation:
    """Standard deviations in units of the tissues' spread: between heads, and within a tissue."""

    between: float = 1.0
    within: float = 0.6


def paint_maps(
    labels: Tensor,
    tissues: tuple[str, ...],
    table: TissueTable,
    generator: torch.Generator,
    variation: Variation | None = None,
) -> TissueMaps:
    """Maps ``(X, Y, Z)`` of a label map.

    Parameters
    ----------
    labels
        Integer ``(X, Y, Z)``: index into ``tissues``.
    tissues
        Name of every label: a tissue of the table, a structure of a label table (``Left-Putamen``), one of the
        classes of prepared anatomies (``background``, ``csf``, ``gm``, ``wm``, ``lesion``, ``extracerebral``:
        a random tissue of those outside the brain), or ``chronic_infarct``.
    table
        Tissue parameters.
    generator
        Randomness (on the CPU).
    variation
        How much heads and voxels differ.
    """
    variation = variation or Variation()
    rows = draw_tissues(tissues, table, generator, variation.between).to(labels.device)
    index = labels.reshape(-1).long()
    values = rows[:, :5].index_select(0, index).T.reshape(5, *labels.shape)
    spread = rows[:, 5].index_select(0, index).reshape(labels.shape)
    shares = torch.tensor(WITHIN).to(labels.device).view(5, 1, 1, 1)
    texture = _texture(labels.shape, generator).to(labels.device) * shares
    return _maps(values * (1 + variation.within * spread * texture).clamp(min=0.1))


def mixture_maps(
    t1w: Tensor,
    tissue_means: tuple[float, float, float],
    table: TissueTable,
    generator: torch.Generator,
    between: float = 1.0,
) -> TissueMaps:
    """Maps of a brain-extracted T1w ``(X, Y, Z)`` (white matter 1, 0 outside the brain).

    As in `bidsrep.synth.contrast.paint_mixture`: an intensity between two of ``tissue_means`` (CSF, grey,
    white) is a linear mixture of the two tissues. Voxels vary as the scan does.
    """
    csf, gm, wm = draw_tissues(("csf", "gm", "wm"), table, generator, between)[:, :5]
    knots = torch.tensor([0.0, *tissue_means, 2 * tissue_means[2] - tissue_means[1]])
    values = torch.stack([csf, csf, gm, wm, wm + (wm - gm) / 3], dim=1)
    maps = torch.stack([piecewise_linear(t1w, knots, row) for row in values])
    maps[0] = torch.where(t1w > 0, maps[0], 0.0)
    return _maps(maps)


def add_lesion(
    maps: TissueMaps,
    lesion: Tensor,
    table: TissueTable,
    generator: torch.Generator,
    tissue: str = "lesion",
    between: float = 1.0,
) -> TissueMaps:
    """Mix a pathological tissue into maps: ``lesion`` ``(X, Y, Z)`` is its share of every voxel, 0 to 1."""
    row = draw_tissues((tissue,), table, generator, between)[0, :5].to(lesion.device)
    before = maps.stack()
    after = torch.stack([row[0], row[1], row[2], row[2] + row[3], row[4]]).view(5, 1, 1, 1)
    return TissueMaps.unstack(before + lesion * (after - before))


def draw_tissues(
    tissues: tuple[str, ...], table: TissueTable, generator: torch.Generator, between: float
) -> Tensor:
    """Values ``(K, 6)`` of one head's tissues: PD, R1, R2, R2' = R2* - R2, MTsat, and the spread."""
    common = torch.randn(5, generator=generator)
    drawn: dict[str, Tensor] = {}
    rows = []
    for name in tissues:
        centre = _centre(name, table, generator)
        if centre.name not in drawn:
            own = torch.randn(5, generator=generator)
            deviation = between * centre.spread * 0.5**0.5 * (common + own) * torch.tensor(BETWEEN)
            values = [centre.pd, centre.r1, centre.r2, centre.r2s - centre.r2, centre.mt, centre.spread]
            drawn[centre.name] = torch.tensor(values) * torch.cat([torch.exp(deviation), torch.ones(1)])
        rows.append(drawn[centre.name])
    return torch.stack(rows)


def _centre(name: str, table: TissueTable, generator: torch.Generator) -> Tissue:
    if name in ("extracerebral", "extra"):
        return table[EXTRACEREBRAL[integer(generator, 0, len(EXTRACEREBRAL))]]
    if name != CHRONIC_INFARCT:
        return table[name]
    fluid, gliosis = table["csf"], table["gliosis"]
    share = uniform_scalar(generator, *FLUID_SHARE)

    def mixed(quantity: str) -> float:
        return share * getattr(fluid, quantity) + (1 - share) * getattr(gliosis, quantity)

    return Tissue(
        name, mixed("pd"), mixed("r1"), mixed("r2"), mixed("r2s"), mixed("mt"), spread=gliosis.spread
    )


def _maps(values: Tensor) -> TissueMaps:
    pd, r1, r2, r2_prime, mt = values.unbind(0)
    return TissueMaps(pd, r1, r2, r2 + r2_prime, mt)


def _texture(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Unit-variance noise ``(5, X, Y, Z)`` of which half is common to the five maps.

    The common part is half smooth, half from voxel to voxel; the maps' own parts are smooth. Own parts are
    needed so that no map is a function of another.
    """
    nodes = [max(2, -(-n // COARSE_VOXELS) + 1) for n in shape]
    control = torch.randn(1, 6, *nodes, generator=generator)
    smooth = F.interpolate(control, tuple(shape), mode="trilinear", align_corners=True)[0]
    smooth = smooth / smooth.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    common = (smooth[5] + torch.randn(shape, generator=generator)) * 0.5**0.5
    return (smooth[:5] + common) * 0.5**0.5
