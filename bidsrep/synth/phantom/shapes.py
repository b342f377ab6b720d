"""Solid shapes by signed distance (negative inside), in mm, RAS+; anti-aliased when put on a grid.

Distances follow Quilez' formulas; those of ellipsoids are approximate away from the surface, which is all that
the anti-aliasing needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Array = np.ndarray
Box = tuple[slice, slice, slice]
Point = tuple[float, float, float]


class Shape(Protocol):
    """Anything with a signed distance and a bounding box."""

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm) at the broadcast of three coordinate arrays (mm)."""
        ...

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper corner (mm) of a box that holds the shape."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """Axis-aligned ellipsoid: centre and radii in mm."""

    centre: Point
    radii: Point

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm), first order in the distance from the surface."""
        offsets = [c - o for c, o in zip((x, y, z), self.centre, strict=True)]
        near = np.sqrt(sum((o / r) ** 2 for o, r in zip(offsets, self.radii, strict=True)))
        slope = np.sqrt(sum((o / r**2) ** 2 for o, r in zip(offsets, self.radii, strict=True)))
        return near * (near - 1) / np.maximum(slope, 1e-6)

    def bounds(self) -> tuple[Array, Array]:
        """Corners (mm) of the enclosing box."""
        centre, radii = np.array(self.centre), np.array(self.radii)
        return centre - radii, centre + radii


@dataclass(frozen=True)
class Tube:
    """A chain of round cones through ``points`` with one radius (mm) per point."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance (mm) to the nearest segment's surface."""
        best: Array | None = None
        for start, end, r0, r1 in zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False):
            axis = np.subtract(end, start)
            along = (x - start[0]) * axis[0] + (y - start[1]) * axis[1] + (z - start[2]) * axis[2]
            along = np.clip(along / float(axis @ axis), 0, 1)
            squared = sum((c - s - along * a) ** 2 for c, s, a in zip((x, y, z), start, axis, strict=True))
            here = np.sqrt(squared) - (r0 + along * (r1 - r0))
            best = here if best is None else np.minimum(best, here)
        if best is None:
            raise ValueError(f"a tube needs at least two points, got {len(self.points)}")
        return best

    def bounds(self) -> tuple[Array, Array]:
        """Corners (mm) of the enclosing box."""
        points, reach = np.array(self.points), max(self.radii)
        return points.min(0) - reach, points.max(0) + reach


@dataclass(frozen=True)
class Canvas:
    """An axis-aligned grid: ``shape`` voxels of ``spacing`` mm, first voxel centre at ``origin`` (RAS+, mm)."""

    origin: Point
    shape: tuple[int, int, int]
    spacing: float

    @property
    def affine(self) -> Array:
        """Voxel to world, 4x4, RAS+ mm."""
        affine = np.diag([self.spacing] * 3 + [1.0])
        affine[:3, 3] = self.origin
        return affine

    @property
    def whole(self) -> Box:
        """The box of all voxels."""
        return (slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2]))

    def box(self, low: Sequence[float] | Array, high: Sequence[float] | Array) -> Box:
        """Voxels between two corners (mm), clipped to the canvas; may be empty."""
        first = np.floor((np.asarray(low) - self.origin) / self.spacing).astype(int)
        last = np.ceil((np.asarray(high) - self.origin) / self.spacing).astype(int) + 1
        first, last = np.clip(first, 0, self.shape), np.clip(last, 0, self.shape)
        a, b, c = (slice(int(f), int(max(f, e))) for f, e in zip(first, last, strict=True))
        return a, b, c

    def mesh(self, box: Box) -> tuple[Array, Array, Array]:
        """Open mesh (three broadcastable float32 arrays) of the voxel centres of a box, in mm."""
        x, y, z = (
            (np.arange(s.start, s.stop) * self.spacing + o).astype(np.float32)
            for s, o in zip(box, self.origin, strict=True)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]


@dataclass(frozen=True)
class Layer:
    """A soft shape of one tissue: ``alpha`` (uint8, 255 = only this tissue) over the voxels of ``box``."""

    tissue: str
    box: Box
    alpha: Array = field(repr=False)


def soft(distance: Array, spacing: float) -> Array:
    """Fraction of a voxel inside a surface at signed ``distance`` (mm), as uint8 0..255."""
    return (np.clip(0.5 - distance / spacing, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw(canvas: Canvas, tissue: str, shape: Shape) -> Layer:
    """Put one shape on the canvas."""
    low, high = shape.bounds()
    box = canvas.box(low - canvas.spacing, high + canvas.spacing)
    return Layer(tissue, box, soft(shape.distance(*canvas.mesh(box)), canvas.spacing))


def mirrored(shape: Ellipsoid | Tube) -> tuple[Ellipsoid | Tube, Ellipsoid | Tube]:
    """The shape and its mirror image at x = 0."""
    if isinstance(shape, Ellipsoid):
        x, y, z = shape.centre
        return shape, Ellipsoid((-x, y, z), shape.radii)
    return shape, Tube(tuple((-x, y, z) for x, y, z in shape.points), shape.radii)


def smooth_union(distances: Iterable[Array], blend: float) -> Array:
    """Union of bodies with fillets of about ``blend`` mm (polynomial smooth minimum)."""
    result: Array | None = None
    for distance in distances:
        if result is None:
            result = distance
            continue
        h = np.maximum(blend - np.abs(result - distance), 0) / blend
        result = np.minimum(result, distance) - h * h * (blend / 4)
    if result is None:
        raise ValueError("nothing to unite")
    return result


def upsample(coarse: Array, factor: int, shape: Sequence[int]) -> Array:
    """Linear interpolation of a lattice with a node at every ``factor``-th voxel of ``shape``, float32.

    The last lattice node must lie at or beyond the last voxel of each axis.
    """
    result = np.asarray(coarse, dtype=np.float32)
    for axis, n in enumerate(shape):
        index = np.arange(n)
        low = index // factor
        weight = ((index % factor) / factor).astype(np.float32)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(result.ndim)])
        first = result.take(low, axis=axis)
        second = result.take(np.minimum(low + 1, result.shape[axis] - 1), axis=axis)
        result = first + weight * (second - first)
    return result


def lattice_shape(shape: Sequence[int], factor: int) -> tuple[int, ...]:
    """Nodes per axis that `upsample` needs for ``shape`` voxels."""
    return tuple((n - 1 + factor - 1) // factor + 1 for n in shape)
