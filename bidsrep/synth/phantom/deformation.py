"""Anatomical variation: an affine map and a diffeomorphic displacement, from a person's space to the template's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from bidsrep.synth.phantom.shapes import Array, Canvas

LATTICE = Canvas(origin=(-120.0, -160.0, -200.0), shape=(31, 39, 43), spacing=8.0)
"""Where the displacement is kept (mm, person's space); it covers the head and the field of view around it."""


@dataclass(frozen=True)
class Deformation:
    """``template = matrix @ (x + displacement(x))``, from a point ``x`` of the person's space (mm, RAS+)."""

    matrix: Array
    displacement: Array = field(repr=False)

    def __call__(self, points: Array) -> Array:
        """Map points ``(..., 3)`` in mm to template space."""
        index = np.moveaxis((points - np.array(LATTICE.origin)) / LATTICE.spacing, -1, 0)
        moved = np.stack(
            [ndimage.map_coordinates(d, index, order=1, mode="nearest") for d in self.displacement], axis=-1
        )
        return (points + moved) @ self.matrix[:3, :3].T + self.matrix[:3, 3]


def identity_deformation() -> Deformation:
    """The template itself."""
    return Deformation(np.eye(4), np.zeros((3, *LATTICE.shape), dtype=np.float32))


def sample_deformation(
    rng: np.random.Generator, size: float = 0.93, coarse_mm: float = 3.0, fine_mm: float = 1.2
) -> Deformation:
    """Draw a person.

    Parameters
    ----------
    rng : numpy Generator
        Source of randomness.
    size : float
        Mean linear size relative to the template. The MNI template holds 1.88 l inside its mask, an adult's brain
        with its fluid about 1.5 l.
    coarse_mm, fine_mm : float
        SD of the velocity field at 32 mm and at 10 mm smoothness, in mm.
    """
    scale = rng.normal(1.0, 0.03, 3) / size
    shear = rng.normal(0.0, 0.02, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(scale) @ np.array([[1, shear[0], shear[1]], [0, 1, shear[2]], [0, 0, 1]])
    velocity = np.zeros((3, *LATTICE.shape))
    for sd, width in ((coarse_mm, 32.0), (fine_mm, 10.0)):
        noise = rng.standard_normal(velocity.shape)
        for axis in range(3):
            smooth = ndimage.gaussian_filter(noise[axis], width / LATTICE.spacing)
            velocity[axis] += sd * smooth / smooth.std()
    return Deformation(matrix, integrate_velocity(velocity, LATTICE.spacing).astype(np.float32))


def integrate_velocity(velocity: Array, spacing: float, steps: int = 6) -> Array:
    """Scaling and squaring of a stationary velocity field ``(3, X, Y, Z)`` in mm (Arsigny et al., MICCAI 2006)."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in velocity.shape[1:]), indexing="ij"))
    flow = velocity / 2**steps
    for _ in range(steps):
        index = grid + flow / spacing
        flow = flow + np.stack(
            [ndimage.map_coordinates(component, index, order=1, mode="nearest") for component in flow]
        )
    return flow


def rotation_matrix(degrees: tuple[float, float, float]) -> Array:
    """Right-handed rotations about x, then y, then z; 3x3."""
    result = np.eye(3)
    for axis, angle in enumerate(degrees):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = cos
        turn[i, j], turn[j, i] = -sin, sin
        result = turn @ result
    return result


def sample_pose(rng: np.random.Generator, degrees: float, millimetres: float) -> Array:
    """Rigid head position, 4x4: rotations and shifts with the given SDs, clipped at twice that."""
    angles = np.clip(rng.normal(0, degrees, 3), -2 * degrees, 2 * degrees)
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix((float(angles[0]), float(angles[1]), float(angles[2])))
    pose[:3, 3] = np.clip(rng.normal(0, millimetres, 3), -2 * millimetres, 2 * millimetres)
    return pose
