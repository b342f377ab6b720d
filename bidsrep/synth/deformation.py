"""Random affine and diffeomorphic deformations (Brain-ID, section 3.1; PEPSI uses the same).

What is drawn (`DeformationParameters`) is kept apart from what it does (`source_coordinates`, `warp`), so a
draw can be logged and replayed. Coordinates are voxel indices ``(X, Y, Z, 3)`` of the source volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.filters import upsample
from bidsrep.synth.random import uniform, uniform_scalar

NODE_MM = 4.0
"""Distance between the nodes on which a velocity is integrated: a quarter of its own at the closest."""


@dataclass(frozen=True)
class DeformationConfig:
    """Ranges of the deformation; defaults are Brain-ID's published ones (supplement, Table B.1).

    ``flip_probability`` is a true 0.5: the released code flips with 0.69 (it compares a Gaussian draw with
    0.5). ``integrate`` integrates the velocity field as the paper says; the released code has it switched off.
    ``widening_mm`` is the largest push on the walls of the ventricles, which every second draw leaves alone
    (ours, see `bidsrep.synth.ventricles`).
    """

    rotation_degrees: float = 15.0
    shear: float = 0.2
    scaling: float = 0.2
    control_spacing: tuple[float, float] = (0.03, 0.06)
    nonlinear_std_mm: float = 4.0
    integrate: bool = True
    flip_probability: float = 0.5
    shift_fraction: float = 1.0
    widening_mm: float = 0.0


@dataclass(frozen=True)
class DeformationParameters:
    """One draw: affine part, control-point field (mm), crop centre and left-right flip."""

    rotation: Tensor
    shear: Tensor
    scaling: Tensor
    shift: Tensor
    control_field: Tensor
    flip: bool
    integrate: bool = True
    widening_mm: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)

    def matrix(self) -> Tensor:
        """The 3x3 linear part, target to source: shears, rotations, then one scale per row."""
        return affine_matrix(self.rotation, self.shear, self.scaling)


def affine_matrix(rotation: Tensor, shear: Tensor, scaling: Tensor) -> Tensor:
    """``diag(scaling) @ SHx @ SHy @ SHz @ Rx @ Ry @ Rz`` as the reference builds it; angles in radians."""
    cos, sin = torch.cos(rotation), torch.sin(rotation)
    one = torch.eye(3, dtype=rotation.dtype)
    turns = []
    for axis, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        turn = one.clone()
        # The y rotation has the opposite sign, so that all three are right-handed.
        sign = -1.0 if axis == 1 else 1.0
        turn[i, i] = turn[j, j] = cos[axis]
        turn[i, j], turn[j, i] = -sign * sin[axis], sign * sin[axis]
        turns.append(turn)
    shears = [one.clone() for _ in range(3)]
    shears[0][1, 0], shears[0][2, 0] = shear[1], shear[2]
    shears[1][0, 1], shears[1][2, 1] = shear[0], shear[2]
    shears[2][0, 2], shears[2][1, 2] = shear[0], shear[1]
    linear = shears[0] @ shears[1] @ shears[2] @ turns[0] @ turns[1] @ turns[2]
    return scaling[:, None] * linear


def sample_deformation(
    generator: torch.Generator, extent_mm: tuple[float, ...], slack_mm: Tensor, config: DeformationConfig
) -> DeformationParameters:
    """Draw a deformation.

    Parameters
    ----------
    generator
        Source of randomness.
    extent_mm
        Size of the target field of view per axis (mm); sets the number of control points.
    slack_mm
        How far the crop may leave the source's centre per axis (mm).
    config
        Ranges.
    """
    angle = config.rotation_degrees / 180 * math.pi
    spacing = uniform_scalar(generator, *config.control_spacing)
    control = [max(2, round(spacing * extent)) for extent in extent_mm]
    std = config.nonlinear_std_mm * uniform_scalar(generator, 0, 1)
    return DeformationParameters(
        rotation=uniform(generator, 3, -angle, angle),
        shear=uniform(generator, 3, -config.shear, config.shear),
        scaling=1 + uniform(generator, 3, -config.scaling, config.scaling),
        shift=uniform(generator, 3, -1, 1) * slack_mm * config.shift_fraction,
        control_field=std * torch.randn(3, *control, generator=generator),
        flip=uniform_scalar(generator, 0, 1) < config.flip_probability,
        integrate=config.integrate,
        widening_mm=config.widening_mm
        and max(0.0, uniform_scalar(generator, -config.widening_mm, config.widening_mm)),
    )


def displacement(parameters: DeformationParameters, shape: tuple[int, ...], spacing: float) -> Tensor:
    """The non-linear displacement ``(3, x, y, z)`` in mm on nodes over a grid of ``shape`` voxels of ``spacing`` mm.

    Nodes are the control points, or, where a velocity is integrated, about `NODE_MM` apart.
    """
    control = parameters.control_field
    if not parameters.integrate:
        return control
    nodes = [max(c, math.ceil(n * spacing / NODE_MM)) for c, n in zip(control.shape[1:], shape, strict=True)]
    extent = torch.tensor([(n - 1) * spacing for n in shape], dtype=torch.float32)
    return integrate_velocity(upsample(control, nodes)[None], extent)[0]


def integrate_velocity(velocity: Tensor, extent_mm: Tensor, steps: int = 7) -> Tensor:
    """Scaling and squaring of a stationary velocity field ``(1, 3, X, Y, Z)`` in mm (Arsigny et al., 2006).

    ``extent_mm`` is the distance between the first and the last voxel centre per axis.
    """
    flow = velocity / 2**steps
    identity = _unit_grid(velocity.shape[2:], velocity.device)
    scale = (2 / extent_mm.to(velocity.device)).view(1, 3, 1, 1, 1)
    for _ in range(steps):
        grid = identity + (flow * scale).permute(0, 2, 3, 4, 1)
        flow = flow + _grid_sample(flow, grid, "bilinear", "border")
    return flow


def source_coordinates(
    parameters: DeformationParameters,
    shape: tuple[int, ...],
    spacing: float,
    source_shape: tuple[int, ...],
    source_spacing: float = 1.0,
) -> Tensor:
    """Where each target voxel comes from: ``(X, Y, Z, 3)`` in voxels of the source (not clamped).

    ``A (x - c + F) + c2`` of the reference, in mm about the centres of both volumes.
    """
    matrix = parameters.matrix() / source_spacing
    if parameters.flip:
        matrix = matrix @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    centre = torch.tensor([(n - 1) / 2 for n in source_shape]) + parameters.shift / source_spacing
    x, y, z = (
        ((torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * spacing)[:, None] * matrix[:, axis]
        for axis, n in enumerate(shape)
    )
    position = x[:, None, None] + (y[:, None] + z[None] + centre)[None]
    if bool((parameters.control_field != 0).any()):
        # Interpolation is linear: the matrix is applied to the few nodes, not to every voxel.
        moved = torch.einsum("ij,jxyz->ixyz", matrix, displacement(parameters, shape, spacing))
        position += upsample(moved, shape).movedim(0, -1)
    return position


def warp(volume: Tensor, coordinates: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Sample ``(C, X, Y, Z)`` at voxel ``coordinates`` ``(X', Y', Z', 3)``; 0 outside -> ``(C, X', Y', Z')``."""
    size = torch.tensor(volume.shape[1:], dtype=torch.float32, device=coordinates.device)
    grid = coordinates * (2 / (size - 1)) - 1
    return _grid_sample(volume[None], grid[None], mode, "zeros")[0]


def _unit_grid(shape: tuple[int, ...], device: torch.device) -> Tensor:
    axes = [torch.linspace(-1, 1, n, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]


def _grid_sample(volume: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    # torch orders grid coordinates from the last axis to the first.
    return F.grid_sample(volume, grid.flip(-1), mode=mode, padding_mode=padding, align_corners=True)
