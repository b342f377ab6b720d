"""Deformable registration on features that do not depend on the contrast.

CIFL's paper trains VoxelMorph on its features. Here every pair is optimised by itself: with unit features
the similarity is a product, its gradient is exact, and no training set of the right anatomy is needed. The
deformation is a stationary velocity field, integrated by scaling and squaring (Arsigny et al., MICCAI 2006),
so that it can be inverted and does not fold. Features are ``(1, C, X, Y, Z)`` on one grid: scans of
different heads are aligned linearly and resampled before; displacements are mm along the grid's axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.deformation import integrate_velocity

DIFFERENT_GRIDS = "features to be registered are (1, C, X, Y, Z) on one grid, got {} and {}"


@dataclass(frozen=True)
class Level:
    """A stretch of the optimisation on a grid of about ``spacing_mm``, for ``iterations`` steps."""

    spacing_mm: float
    iterations: int


@dataclass(frozen=True)
class RegistrationSettings:
    """How to search.

    Parameters
    ----------
    levels
        From coarse to fine. The velocity has a node every second voxel of a level.
    smoothness
        Weight of the diffusion regularisation, the mean squared gradient of the velocity (mm per mm).
    step
        Step of the optimiser (Adam), as a fraction of the level's voxel.
    squarings
        Steps of the integration.
    """

    levels: tuple[Level, ...] = (Level(8.0, 40), Level(4.0, 40), Level(2.0, 20))
    smoothness: float = 0.3
    step: float = 0.1
    squarings: int = 6


SLOPPY = RegistrationSettings(levels=(Level(8.0, 5),))
"""Enough to see that everything runs."""


@dataclass(frozen=True)
class Deformation:
    """A velocity field ``(1, 3, x, y, z)`` in mm over a field of view, and how well it did.

    ``extent_mm`` is the distance between the first and last voxel centre along each axis. ``quality`` is
    JSON-ready: ``similarity_before`` and ``similarity_after`` (mean product of the features),
    ``jacobian_min`` and ``folded`` (share of voxels that are turned inside out); all on the finest level.
    """

    velocity: Tensor
    extent_mm: tuple[float, float, float]
    squarings: int = 6
    quality: dict[str, float] = field(default_factory=dict)

    def displacement(self, shape: Iterable[int], inverse: bool = False) -> Tensor:
        """Displacement ``(3, X, Y, Z)`` on a grid of ``shape`` voxels over the same field of view, mm.

        It leads from the fixed to the moving image; the ``inverse`` from the moving to the fixed. Integrated
        on that grid: on the fewer nodes of the search the two would undo each other less exactly.
        """
        velocity = resize(-self.velocity if inverse else self.velocity, shape)
        with torch.no_grad():
            return integrate_velocity(velocity, torch.tensor(self.extent_mm), self.squarings)[0]


def register_features(
    moving: Tensor,
    fixed: Tensor,
    spacing: float | tuple[float, float, float] = 1.0,
    mask: Tensor | None = None,
    settings: RegistrationSettings | None = None,
) -> Deformation:
    """Find the deformation that makes the features of two images most alike.

    Parameters
    ----------
    moving, fixed
        Features ``(1, C, X, Y, Z)`` on the same grid.
    spacing
        Voxel size, mm.
    mask
        Weight ``(1, 1, X, Y, Z)`` of the fixed image's voxels, its brain for instance.
    settings
        How to search.
    """
    if moving.shape != fixed.shape or len(fixed) != 1 or fixed.ndim != 5:
        raise ValueError(DIFFERENT_GRIDS.format(tuple(moving.shape), tuple(fixed.shape)))
    settings = settings or RegistrationSettings()
    sizes = [spacing] * 3 if isinstance(spacing, float | int) else list(spacing)
    x, y, z = ((n - 1) * size for n, size in zip(fixed.shape[2:], sizes, strict=True))
    extent = (x, y, z)
    weight = torch.ones_like(fixed[:, :1]) if mask is None else mask.to(fixed)
    velocity = fixed.new_zeros(1, 3, 2, 2, 2)
    before = after = 0.0
    # Coarse levels are made from the finest one: full resolution is looked at once.
    finest = min(level.spacing_mm for level in settings.levels)
    moving, fixed, weight = (reduce_to(volume, sizes, finest) for volume in (moving, fixed, weight))
    shape = fixed.shape[2:]
    sizes = [length / (n - 1) for length, n in zip(extent, shape, strict=True)]
    for level in settings.levels:
        pair = [reduce_to(volume, sizes, level.spacing_mm) for volume in (moving, fixed, weight)]
        velocity, before, after = _search(pair[0], pair[1], pair[2], velocity, extent, level, settings)
    found = Deformation(velocity, extent, settings.squarings)
    determinant = jacobian(found.displacement(shape), extent)
    quality = {
        "similarity_before": round(before, 5),
        "similarity_after": round(after, 5),
        "jacobian_min": round(float(determinant.min()), 5),
        "folded": round(float((determinant <= 0).float().mean()), 8),
    }
    return Deformation(velocity, extent, settings.squarings, quality)


def reduce_to(volume: Tensor, spacing: Iterable[float], wanted_mm: float) -> Tensor:
    """Average ``(1, C, X, Y, Z)`` over voxels of about ``wanted_mm``; the outer voxel centres stay in place."""
    shape = []
    for axis, size in enumerate(spacing):
        n = volume.shape[2 + axis]
        factor = max(1, round(wanted_mm / size))
        window = [1, 1, 1]
        # Odd windows keep the centres where they are.
        window[axis] = factor + 1 - factor % 2
        padding = [w // 2 for w in window]
        volume = F.avg_pool3d(volume, window, 1, padding, count_include_pad=False)
        shape.append(max(2, round((n - 1) / factor) + 1))
    return resize(volume, shape)


def resize(volume: Tensor, shape: Iterable[int]) -> Tensor:
    """Interpolate ``(1, C, X, Y, Z)`` on another grid over the same field of view (outer voxel centres)."""
    return F.interpolate(volume, tuple(shape), mode="trilinear", align_corners=True)


def warp_features(volume: Tensor, displacement: Tensor, extent_mm: tuple[float, float, float]) -> Tensor:
    """Sample ``(1, C, X, Y, Z)`` where a displacement ``(1, 3, X, Y, Z)`` in mm leads; edges are held."""
    axes = [torch.linspace(-1, 1, n, device=volume.device) for n in displacement.shape[2:]]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    to_unit = 2 / torch.tensor(extent_mm, device=volume.device)
    grid = identity + displacement.permute(0, 2, 3, 4, 1) * to_unit
    # torch orders grid coordinates from the last axis to the first.
    return F.grid_sample(volume, grid.flip(-1), padding_mode="border", align_corners=True)


def jacobian(displacement: Tensor, extent_mm: tuple[float, float, float]) -> Tensor:
    """Determinant of the Jacobian of ``x + u(x)``, ``(X - 1, Y - 1, Z - 1)``, by forward differences."""
    _, *shape = displacement.shape
    x, y, z = (n - 1 for n in shape)
    columns = []
    for axis, (n, extent) in enumerate(zip(shape, extent_mm, strict=True)):
        column = displacement.diff(dim=axis + 1)[:, :x, :y, :z] * (n - 1) / extent
        column[axis] += 1
        columns.append(column)
    # The triple product: much faster than a decomposition per voxel.
    return (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=0)).sum(dim=0)


def _search(
    moving: Tensor,
    fixed: Tensor,
    weight: Tensor,
    velocity: Tensor,
    extent: tuple[float, float, float],
    level: Level,
    settings: RegistrationSettings,
) -> tuple[Tensor, float, float]:
    """Optimise on one level; the velocity, and the similarity without it and with it."""
    shape = fixed.shape[2:]
    nodes = [max(2, (n + 1) // 2) for n in shape]
    moving, fixed = F.normalize(moving, dim=1), F.normalize(fixed, dim=1)
    fixed = fixed * weight / weight.sum().clamp(min=1e-6)
    velocity = resize(velocity, nodes).requires_grad_(True)
    extent_mm = torch.tensor(extent)
    optimiser = torch.optim.Adam([velocity], lr=settings.step * level.spacing_mm)

    def similarity() -> Tensor:
        flow = resize(integrate_velocity(velocity, extent_mm, settings.squarings), shape)
        # Between voxels interpolated features are shorter: without their length, nodes would stay at voxels.
        warped = F.normalize(warp_features(moving, flow, extent), dim=1)
        return (warped * fixed).sum()

    for _ in range(level.iterations):
        optimiser.zero_grad()
        (settings.smoothness * _roughness(velocity, extent) - similarity()).backward()
        optimiser.step()
    with torch.no_grad():
        return velocity.detach(), float((moving * fixed).sum()), float(similarity())


def _roughness(velocity: Tensor, extent: tuple[float, float, float]) -> Tensor:
    """Mean squared gradient of a velocity field, summed over axes and components."""
    total = velocity.new_zeros(())
    for axis, size in enumerate(extent):
        step = size / (velocity.shape[2 + axis] - 1)
        total = total + 3 * (velocity.diff(dim=2 + axis) / step).square().mean()
    return total
