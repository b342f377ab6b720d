"""The head around a brain: cavity, skull, scalp, face, eyes, airways, jaw and neck, as layers of soft shapes.

Everything is in the brain template's own space (mm, RAS+, MNI); deformation comes later. The shapes are drawn by
hand from atlas positions: they give an image the parts that confuse a skull stripper (bright fat next to dark
bone, eyes, muscle, air), not anatomical detail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bidsrep.synth.phantom.shapes import (
    Array,
    Canvas,
    Ellipsoid,
    Layer,
    Tube,
    draw,
    lattice_shape,
    mirrored,
    smooth_union,
    soft,
    upsample,
)

COARSE_MM = 2.0
"""Spacing at which the distances to the brain and to the skin are computed before they are interpolated."""

CLOSING_MM = 7.0


@dataclass(frozen=True)
class HeadShape:
    """One draw of the individual sizes, in mm."""

    cerebrospinal_gap: float
    skull: float
    scalp: float
    fat: float
    eye_radius: float
    eye_distance: float
    face_width: float
    nose: float
    neck: float


def sample_head_shape(rng: np.random.Generator) -> HeadShape:
    """Draw sizes around those of an adult."""
    return HeadShape(
        cerebrospinal_gap=rng.uniform(1.0, 2.5),
        skull=rng.uniform(5.5, 8.0),
        scalp=rng.uniform(5.0, 7.5),
        fat=rng.uniform(2.2, 3.8),
        eye_radius=rng.uniform(11.8, 12.8),
        eye_distance=rng.uniform(31.0, 34.0),
        face_width=rng.uniform(58.0, 64.0),
        nose=rng.uniform(14.0, 19.0),
        neck=rng.uniform(52.0, 60.0),
    )


def head_layers(mask: Array, canvas: Canvas, shape: HeadShape, rng: np.random.Generator) -> list[Layer]:
    """Layers from the skin inward, to be painted in order; the brain itself comes on top of them.

    Parameters
    ----------
    mask : (X, Y, Z) bool ndarray
        Brain on the canvas.
    canvas : Canvas
        Grid in template space.
    shape : HeadShape
        Sizes.
    rng : numpy Generator
        For the pattern of fat between muscles.
    """
    coarse, cavity = cavity_distance(mask, canvas)
    skin = skin_distance(coarse, cavity, shape)
    factor = max(1, round(COARSE_MM / canvas.spacing))
    cavity_fine = upsample(cavity, factor, canvas.shape)
    skin_fine = upsample(skin, factor, canvas.shape)
    spacing = canvas.spacing

    def whole(tissue: str, distance: Array) -> Layer:
        return Layer(tissue, canvas.whole, soft(distance, spacing))

    gap, skull = shape.cerebrospinal_gap, shape.skull
    septa = upsample(_noise(coarse.shape, 3.0 / COARSE_MM, rng), factor, canvas.shape)
    _, _, z = canvas.mesh(canvas.whole)
    # Deep fat fills what noise leaves of the muscle, and only below the vault.
    deep_fat = np.maximum(skin_fine + shape.fat, 1.6 - 1.3 * septa + np.maximum(z + 30, 0) / 20)
    layers = [
        whole("fat", skin_fine),
        whole("muscle", skin_fine + shape.fat),
        whole("fat", deep_fat),
    ]
    layers += _airways(canvas) + _jaw(canvas) + _spine(canvas)
    # The base is thinner than the vault; below it come muscle, fat and air.
    thickness = 4.0 + (skull - 4.0) * np.clip((z + 45) / 25, 0, 1)
    layers.append(whole("bone", cavity_fine - gap - thickness))
    # Marrow between the two tables of the vault.
    middle, half = gap + skull / 2, skull / 2 - 1.8
    thin = np.maximum(np.abs(cavity_fine - middle) - half, np.clip((-25 - z) / 10, -3, 3))
    layers.append(whole("marrow", thin))
    layers += _base(canvas) + _sinuses(canvas) + _orbits(canvas, shape)
    layers.append(whole("csf", cavity_fine - gap))
    layers += _cord(canvas)
    layers.append(_sagittal_sinus(canvas, cavity_fine, gap))
    return layers


def cavity_distance(mask: Array, canvas: Canvas) -> tuple[Canvas, Array]:
    """Signed distance (mm) to the closed and smoothed brain surface, on a coarse lattice of the canvas."""
    factor = max(1, round(COARSE_MM / canvas.spacing))
    spacing = canvas.spacing * factor
    x, y, z = lattice_shape(canvas.shape, factor)
    coarse = Canvas(canvas.origin, (x, y, z), spacing)
    small = np.zeros(coarse.shape, dtype=bool)
    part = mask[::factor, ::factor, ::factor]
    small[tuple(slice(0, n) for n in part.shape)] = part
    # Closing bridges the fissures and the gap under the occipital lobes.
    outside = ndimage.distance_transform_edt(~small) * spacing
    closed = ndimage.distance_transform_edt(outside <= CLOSING_MM) * spacing > CLOSING_MM
    closed |= small
    distance = (ndimage.distance_transform_edt(~closed) - ndimage.distance_transform_edt(closed)) * spacing
    return coarse, ndimage.gaussian_filter(distance, 3.0 / spacing).astype(np.float32)


def skin_distance(coarse: Canvas, cavity: Array, shape: HeadShape) -> Array:
    """Signed distance (mm) to the skin: vault, face, nose, chin, ears and neck in one smooth body."""
    x, y, z = coarse.mesh(coarse.whole)
    vault = cavity - (shape.cerebrospinal_gap + shape.skull + shape.scalp)
    face = Ellipsoid((0, 38, -60), (shape.face_width, 48, 60))
    chin = Ellipsoid((0, 68, -108), (24, 18, 15))
    neck = Tube(((0, -32, -75), (0, -34, -120), (0, -36, -260)), (shape.neck, shape.neck - 2, shape.neck + 6))
    body = smooth_union([s.distance(x, y, z) for s in (face, chin, neck)] + [vault], blend=22)
    nose = Tube(((0, 82, -28), (0, 86 + shape.nose, -54), (0, 84, -60)), (5, 8, 10))
    lips = Ellipsoid((0, 86, -84), (22, 8, 9))
    body = smooth_union([body, nose.distance(x, y, z), lips.distance(x, y, z)], blend=8)
    ears = [e.distance(x, y, z) for e in mirrored(Ellipsoid((78, -24, -42), (9, 15, 27)))]
    return smooth_union([body, *ears], blend=5)


def _airways(canvas: Canvas) -> list[Layer]:
    pharynx = Tube(((0, 12, -52), (0, -6, -80), (0, -4, -110), (0, 2, -170)), (8, 7, 7, 8))
    nasal = Ellipsoid((0, 56, -54), (15, 30, 17))
    septum = Ellipsoid((0, 58, -54), (1.2, 34, 17))
    turbinates = [t for z in (-50, -60) for t in mirrored(Tube(((7, 36, z), (7, 72, z)), (4.0, 3.2)))]
    mouth = Tube(((-12, 64, -80), (0, 76, -80), (12, 64, -80)), (1.5, 2.0, 1.5))
    maxillary, walls = (mirrored(Ellipsoid((29, 52, -60), (13 + w, 17 + w, 17 + w))) for w in (0.0, 1.5))
    layers = [draw(canvas, "mucosa", Ellipsoid((0, 56, -54), (17.5, 33, 19.5)))]
    layers += [draw(canvas, "air", s) for s in (nasal, pharynx, mouth)]
    layers += [draw(canvas, "mucosa", s) for s in (septum, *turbinates)]
    layers += [draw(canvas, "bone", s) for s in walls]
    return layers + [draw(canvas, "air", s) for s in maxillary]


def _jaw(canvas: Canvas) -> list[Layer]:
    ramus_and_body = ((50, 8, -52), (48, 12, -92), (32, 56, -104), (10, 74, -108), (0, 76, -108))
    teeth = ((24, 50, -86), (20, 66, -86), (9, 76, -86), (0, 78, -86))
    palate = Ellipsoid((0, 54, -73), (22, 24, 2.5))
    layers = [draw(canvas, "bone", palate)]
    for sign in (1, -1):
        jaw = tuple((sign * x, y, z) for x, y, z in ramus_and_body)
        layers.append(draw(canvas, "bone", Tube(jaw, (6.0, 6.5, 8.0, 8.5, 8.5))))
        layers.append(draw(canvas, "marrow", Tube(jaw, (3.6, 3.8, 5.2, 5.8, 5.8))))
        arch = tuple((sign * x, y, z) for x, y, z in teeth)
        layers.append(draw(canvas, "bone", Tube(arch, (5.5, 5.5, 5.0, 5.0))))
        cheek = ((sign * 66, 6, -44), (sign * 62, 36, -46), (sign * 46, 62, -50))
        layers.append(draw(canvas, "bone", Tube(cheek, (3.0, 3.5, 6.0))))
    return layers


def _spine(canvas: Canvas) -> list[Layer]:
    layers = []
    for z in range(-98, -200, -17):
        body = Ellipsoid((0, -27, z), (12, 10, 8.5))
        layers.append(draw(canvas, "bone", body))
        layers.append(draw(canvas, "marrow", Ellipsoid(body.centre, (10, 8.2, 6.8))))
        spine = Tube(((0, -58, z - 4), (0, -72, z - 9)), (4.0, 3.5))
        layers.append(draw(canvas, "bone", spine))
        layers += [draw(canvas, "bone", s) for s in mirrored(Ellipsoid((20, -40, z), (8, 9, 6)))]
    return layers


def _base(canvas: Canvas) -> list[Layer]:
    """Clivus and petrous bones, with marrow."""
    layers = []
    clivus = ((0, 2, -36), (0, -14, -62))
    petrous = ((12, -12, -42), (46, -24, -46))
    for points, bone, marrow in ((clivus, (8.0, 6.0), (5.5, 4.0)), (petrous, (6.0, 8.0), (3.0, 4.0))):
        layers += [draw(canvas, "bone", side) for side in mirrored(Tube(points, bone))]
        layers += [draw(canvas, "marrow", side) for side in mirrored(Tube(points, marrow))]
    return layers


def _sinuses(canvas: Canvas) -> list[Layer]:
    """Air in the bone: frontal, sphenoid, ethmoid, and the mastoid cells."""
    holes = [
        Ellipsoid((0, 20, -36), (11, 12, 9)),
        Ellipsoid((0, 46, -36), (10, 17, 8)),
        *mirrored(Ellipsoid((9, 79, -16), (9, 5, 9))),
        *mirrored(Ellipsoid((54, -30, -46), (8, 10, 11))),
        *mirrored(Tube(((82, -18, -40), (58, -18, -40)), (3.0, 3.0))),
    ]
    bones = [Ellipsoid((0, 46, -36), (13, 20, 11)), *mirrored(Ellipsoid((54, -30, -47), (14, 16, 17)))]
    return [draw(canvas, "bone", s) for s in bones] + [draw(canvas, "air", s) for s in holes]


def _orbits(canvas: Canvas, shape: HeadShape) -> list[Layer]:
    layers = []
    for sign in (1, -1):
        x, y, z, r = sign * shape.eye_distance, 55.0, -36.0, shape.eye_radius
        apex = (sign * 14.0, 22.0, -28.0)
        centre = (x, y, z)
        cone = ((x, y, z), (sign * 25.0, 40.0, -33.0), apex)
        layers.append(draw(canvas, "bone", Tube(cone, (r + 4.5, 15.0, 6.5))))
        layers.append(draw(canvas, "fat", Tube(cone, (r + 2.5, 13.0, 4.5))))
        for dx, dz in ((0, 9.5), (0, -9.5), (9.5, 0), (-9.5, 0)):
            belly = (x * 0.82 + dx, 38.0, -33.0 + dz)
            path = ((x + dx, y - 2, z + dz), belly, apex)
            layers.append(draw(canvas, "muscle", Tube(path, (1.2, 2.2, 1.2))))
        layers.append(draw(canvas, "muscle", Ellipsoid(centre, (r, r, r))))
        layers.append(draw(canvas, "vitreous", Ellipsoid(centre, (r - 1.2, r - 1.2, r - 1.2))))
        layers.append(draw(canvas, "lens", Ellipsoid((x, y + 0.62 * r, z), (4.6, 2.2, 4.6))))
        nerve = (
            (sign * 0.9 * shape.eye_distance, y - r, z),
            (sign * 20.0, 32.0, -31.0),
            (sign * 8.0, 10.0, -22.0),
        )
        layers.append(draw(canvas, "csf", Tube(nerve, (2.6, 2.4, 2.2))))
        layers.append(draw(canvas, "wm", Tube(nerve, (1.7, 1.7, 1.7))))
    return layers


def _cord(canvas: Canvas) -> list[Layer]:
    path = ((0, -42, -66), (0, -44, -100), (0, -46, -240))
    return [
        draw(canvas, "bone", Tube(path[1:], (11.0, 11.0))),
        draw(canvas, "csf", Tube(path, (10.0, 8.0, 8.0))),
        draw(canvas, "wm", Tube(path, (6.5, 5.2, 5.2))),
    ]


def _sagittal_sinus(canvas: Canvas, cavity: Array, gap: float) -> Layer:
    box = canvas.box((-8, -140, -10), (8, 70, 110))
    x, _, _ = canvas.mesh(box)
    distance = np.sqrt(x**2 + (cavity[box] - gap) ** 2) - 3.2
    return Layer("flow", box, soft(distance, canvas.spacing))


def _noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """Smooth Gaussian noise of unit variance; ``sigma`` in voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return noise / noise.std()
