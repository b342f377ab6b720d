"""A synthetic person: head layers, brain, lesions and deformation, and what a scan of them shows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from bidsrep.synth.phantom.brain import (
    Lesion,
    Template,
    individual_fractions,
    paint_lesions,
    sample_lesions,
    ventricle_distance,
)
from bidsrep.synth.phantom.deformation import Deformation, sample_deformation
from bidsrep.synth.phantom.head import head_layers, sample_head_shape
from bidsrep.synth.phantom.scan import ScanPlacement, ScanProtocol, acquire, sample, template_index
from bidsrep.synth.phantom.shapes import Array, Canvas, Layer, lattice_shape, upsample
from bidsrep.synth.phantom.tissues import TISSUES, Sequence, tissue_signals

DSEG_LABELS = {"background": 0, "gm": 1, "wm": 2, "csf": 3, "lesion": 7}
"""Values of the tissue segmentation: the BIDS table of common image-derived labels."""

PADDING_MM = (0.0, 22.0, 90.0)
"""Room for the face in front of, and for the neck below, the template's own field of view."""


@dataclass(frozen=True)
class Person:
    """Everything that stays the same between two scans of one person; arrays are on ``canvas``, template space."""

    canvas: Canvas
    layers: tuple[Layer, ...] = field(repr=False)
    texture: Array = field(repr=False)
    mask: Array = field(repr=False)
    gm: Array = field(repr=False)
    wm: Array = field(repr=False)
    lesions: tuple[Lesion, ...]
    deformation: Deformation

    def lesion_map(self, count: int | None = None, growth: float = 1.0) -> Array:
        """Lesion fraction ``(X, Y, Z)`` on the canvas of the first ``count`` lesions, grown by ``growth``."""
        return paint_lesions(self.lesions[:count], self.wm, self.canvas.spacing, growth)

    def signal(self, sequence: Sequence, lesion: Array) -> Array:
        """Noise-free signal ``(X, Y, Z)`` float32 on the canvas; white matter is 1."""
        signals = tissue_signals(sequence)
        image = np.zeros(self.canvas.shape, dtype=np.float32)
        overlay = Layer("lesion", self.canvas.whole, (lesion * 255).astype(np.uint8))
        for layer in (*self.layers, overlay):
            value = signals[layer.tissue] / signals["wm"]
            variation = TISSUES[layer.tissue].texture
            target = value * (1 + variation * self.texture[layer.box]) if variation else value
            part = image[layer.box]
            part += (layer.alpha * np.float32(1 / 255)) * (target - part)
        return np.maximum(image, 0, out=image)

    def scan(
        self, protocol: ScanProtocol, placement: ScanPlacement, lesion: Array, rng: np.random.Generator
    ) -> Array:
        """Simulated image ``(X, Y, Z)`` int16 of a protocol."""
        signal = self.signal(protocol.sequence, lesion)
        return acquire(signal, self.canvas, self.deformation, placement, protocol, rng)

    def truth(self, shape: tuple[int, int, int], placement: ScanPlacement, lesion: Array) -> dict[str, Array]:
        """Brain mask, lesion mask and tissue segmentation (uint8, see `DSEG_LABELS`) on a scan's grid."""
        index = template_index(placement.affine, shape, placement.pose, self.deformation, self.canvas)
        mask = (sample(self.mask.astype(np.float32), index) >= 0.5).astype(np.uint8)
        result = {"mask": mask}
        box = ndimage.find_objects(mask)[0]
        inner = index[(slice(None), *box)]
        gm, wm, sick = (sample(volume, inner) for volume in (self.gm, self.wm, lesion))
        winner = np.argmax([1 - gm - wm, gm, wm], axis=0)
        labels = np.array([DSEG_LABELS[name] for name in ("csf", "gm", "wm")], dtype=np.uint8)[winner]
        labels[sick >= 0.5] = DSEG_LABELS["lesion"]
        dseg = np.zeros(shape, dtype=np.uint8)
        dseg[box] = labels * mask[box]
        result["dseg"] = dseg
        result["lesion"] = (dseg == DSEG_LABELS["lesion"]).astype(np.uint8)
        return result


def make_person(template: Template, rng: np.random.Generator, lesions: int = 14) -> Person:
    """Draw a person from a population's tissue maps.

    Parameters
    ----------
    template : Template
        Tissue probabilities, axis-aligned RAS+, MNI space.
    rng : numpy Generator
        Source of all randomness.
    lesions : int
        How many lesions to draw; a scan may show fewer (`Person.lesion_map`).
    """
    canvas = head_canvas(template)
    gm, wm = individual_fractions(template, rng)
    distance = ventricle_distance(gm, wm, template.mask, template.spacing)
    gm, wm, mask = (_place(volume, template, canvas) for volume in (gm, wm, template.mask))
    mask = mask > 0
    layers = head_layers(mask, canvas, sample_head_shape(rng), rng)
    layers.append(
        Layer("gm", canvas.whole, (gm / np.maximum(1 - wm, 1e-3) * 255).clip(0, 255).astype(np.uint8))
    )
    layers.append(Layer("wm", canvas.whole, (wm * 255).astype(np.uint8)))
    spots = sample_lesions(wm, _place(distance, template, canvas), canvas.affine, lesions, rng)
    return Person(canvas, tuple(layers), _texture(canvas, rng), mask, gm, wm, spots, sample_deformation(rng))


def head_canvas(template: Template) -> Canvas:
    """The template's grid, extended for face and neck."""
    spacing = template.spacing
    pad = [round(mm / spacing) for mm in PADDING_MM]
    shape = [n + p for n, p in zip(template.mask.shape, pad, strict=True)]
    origin = template.affine[:3, 3] - [0, 0, pad[2] * spacing]
    return Canvas(
        (float(origin[0]), float(origin[1]), float(origin[2])), (shape[0], shape[1], shape[2]), spacing
    )


def _place(volume: Array, template: Template, canvas: Canvas) -> Array:
    """Copy a template volume onto the canvas; 0 around it."""
    first = np.round((template.affine[:3, 3] - canvas.origin) / canvas.spacing).astype(int)
    result = np.zeros(canvas.shape, dtype=np.float32)
    result[tuple(slice(f, f + n) for f, n in zip(first, volume.shape, strict=True))] = volume
    return result


def _texture(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Smooth noise ``(X, Y, Z)`` of about unit variance, 4 mm grain: muscle and marrow are not uniform."""
    factor = max(1, round(4 / canvas.spacing))
    return upsample(rng.standard_normal(lattice_shape(canvas.shape, factor)), factor, canvas.shape)
