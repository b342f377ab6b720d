"""From an anatomy in template space to the voxels of a scan: head position, slices, coil, noise.

A scan's world is the scanner's (mm, RAS+). Its voxels are sampled once from the template-space signal, through head
position and anatomical deformation, so nothing is interpolated twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bidsrep.synth.phantom.deformation import Deformation, rotation_matrix
from bidsrep.synth.phantom.shapes import Array, Canvas, lattice_shape, upsample
from bidsrep.synth.phantom.tissues import Sequence

LATTICE_STEP = 6
"""Coordinates are exact at every sixth voxel and linear in between: the deformation is smooth over 10 mm."""


@dataclass(frozen=True)
class ScanProtocol:
    """What the operator sets: sequence, matrix, voxel size (mm), axis codes, noise and shading.

    ``noise`` is the SD in each receive channel as a fraction of the white-matter signal, ``bias`` the SD of the
    logarithm of the coil's sensitivity; ``subslices`` samples of equal weight are averaged through the third axis.
    """

    suffix: str
    sequence: Sequence
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    axes: str = "RAS"
    subslices: int = 1
    noise: float = 0.03
    bias: float = 0.12


@dataclass(frozen=True)
class ScanPlacement:
    """Where the slices and the head were: grid ``affine`` and ``pose`` (person's space to scanner world), 4x4."""

    affine: Array
    pose: Array


def grid_affine(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    axes: str = "RAS",
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Array:
    """Affine of a grid whose middle is at ``centre`` (mm) and whose axes point to ``axes`` before the rotation.

    >>> grid_affine((3, 3, 3), (1, 1, 2), "RAS")[:3, 3]
    array([-1., -1., -2.])
    """
    columns = np.zeros((3, 3))
    for column, code in enumerate(axes):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        columns[row, column] = 1 if code in "RAS" else -1
    affine = np.eye(4)
    affine[:3, :3] = rotation_matrix(degrees) @ columns * np.array(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def template_index(
    affine: Array, shape: tuple[int, ...], pose: Array, deformation: Deformation, canvas: Canvas
) -> Array:
    """Canvas voxel coordinates ``(3, X, Y, Z)``, float32, of every voxel of a scan."""
    nodes = lattice_shape(shape, LATTICE_STEP)
    index = np.stack(np.meshgrid(*(LATTICE_STEP * np.arange(n) for n in nodes), indexing="ij"), axis=-1)
    to_person = np.linalg.inv(pose) @ affine
    points = deformation(index @ to_person[:3, :3].T + to_person[:3, 3])
    lattice = (points - np.array(canvas.origin)) / canvas.spacing
    return np.stack([upsample(lattice[..., axis], LATTICE_STEP, shape) for axis in range(3)])


def sample(volume: Array, index: Array, order: int = 1) -> Array:
    """Interpolate a canvas volume at voxel coordinates ``(3, X, Y, Z)``; beyond the canvas its border goes on."""
    return ndimage.map_coordinates(volume, index, order=order, mode="nearest", prefilter=False)


def acquire(
    signal: Array,
    canvas: Canvas,
    deformation: Deformation,
    placement: ScanPlacement,
    protocol: ScanProtocol,
    rng: np.random.Generator,
    gain: float = 400.0,
) -> Array:
    """Magnitude image ``(X, Y, Z)`` int16; ``signal`` is on the canvas, white matter = 1, and becomes ``gain``."""
    parts = protocol.subslices
    fine = placement.affine.copy()
    fine[:3, 2] /= parts
    # The first subslice lies before the slice's middle.
    fine[:3, 3] -= fine[:3, 2] * (parts - 1) / 2
    shape = (*protocol.shape[:2], protocol.shape[2] * parts)
    image = sample(signal, template_index(fine, shape, placement.pose, deformation, canvas))
    image = image.reshape(*protocol.shape, parts).mean(-1)
    image *= coil_sensitivity(placement.affine, protocol, rng)
    return np.clip(np.round(gain * rician(image, protocol.noise, rng)), 0, 32767).astype(np.int16)


def coil_sensitivity(affine: Array, protocol: ScanProtocol, rng: np.random.Generator) -> Array:
    """Smooth positive field ``(X, Y, Z)``: a random shading, and the fall towards the neck where a head coil ends."""
    nodes = lattice_shape(protocol.shape, LATTICE_STEP)
    control = protocol.bias * rng.standard_normal((4, 4, 4))
    position = np.stack(np.meshgrid(*(np.linspace(0, 3, n) for n in nodes), indexing="ij"))
    shading = np.exp(ndimage.map_coordinates(control, position, order=3, mode="nearest"))
    index = np.stack(np.meshgrid(*(LATTICE_STEP * np.arange(n) for n in nodes), indexing="ij"), axis=-1)
    height = index @ affine[2, :3] + affine[2, 3]
    neck = 0.25 + 0.75 / (1 + np.exp(-(height + 105) / 10))
    return upsample(shading * neck, LATTICE_STEP, protocol.shape)


def rician(image: Array, sd: float, rng: np.random.Generator) -> Array:
    """Magnitude of the complex signal with independent noise in both channels (Gudbjartsson and Patz, MRM 1995)."""
    real = image + sd * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = sd * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)
