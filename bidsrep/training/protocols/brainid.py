"""Robustness of dense features (Brain-ID, section 4.2 and Table 1), and their agreement between contrasts.

Of every person there is a clean T1w: the real scan, or, of a label map, a simulated one. Images that show the
same anatomy again are given to the network, too, and each voxel's features compared with those of the clean
image at the place that the voxel shows:

- intra-subject: the T1w deformed, then corrupted at level "medium"; no contrast is synthesised;
- contrasts: the same brain painted as a T2w or FLAIR, without deformation or artefacts (not in the paper);
- inter-subject: the first person's T1w, the others being brought to it by an affine registration.

The paper maps features back by the inverse deformation. Here the clean features are sampled through the
deformation itself, ``F(I)(phi(x))`` against ``F(I o phi)(x)``: the same pairs of places without the error of a
numerical inverse; means weigh the voxels of the deformed instead of those of the clean brain, and it is the
clean features that are interpolated. Images and features are ``(X, Y, Z)`` and ``(C, X, Y, Z)``, 1 mm RAS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bidsrep.evaluation.features import compare_channels
from bidsrep.evaluation.results import Published, Result
from bidsrep.imaging.grids import bounding_box, pad_to_multiple
from bidsrep.imaging.template import affine_to_template
from bidsrep.imaging.volume import Volume
from bidsrep.models.framed import MARGIN_VOXELS
from bidsrep.models.model import Model
from bidsrep.synth.contrast import paint_labels, paint_mixture
from bidsrep.synth.corruption import Level, corrupt, sample_corruption
from bidsrep.synth.deformation import DeformationConfig, sample_deformation, source_coordinates, warp
from bidsrep.synth.equations import TOP, TYPICAL_FLAIR, TYPICAL_T2W, typical_contrast
from bidsrep.synth.filters import soften
from bidsrep.synth.generator import GeneratorConfig, Source, Subject, deform_subject, normalise
from bidsrep.synth.physics import Sequence
from bidsrep.training.anatomies import Anatomy, LabelTable
from bidsrep.training.protocols.anatomies import Anatomies, Scale
from bidsrep.training.representation import make_source

SAMPLES: dict[Scale, int] = {"sloppy": 1, "compact": 3, "full": 10}
"""Deformed images of a person; the paper has 10 of each of 100."""
SLOPPY_CHANNELS = 4
"""Of so many channels the sloppy scale takes SSIM; there is no MS-SSIM then."""
DEFORMATION = DeformationConfig(flip_probability=0.0, shift_fraction=0.0)
"""The published ranges; a head is not mirrored, which would make it another one."""
LEVEL: Level = "medium"
ROOM = 1.5
"""Sides of the deformed field of view: the largest deformations leave the clean one."""
STILL = GeneratorConfig(
    deformation=DeformationConfig(0.0, 0.0, 0.0, nonlinear_std_mm=0, flip_probability=0, shift_fraction=0),
    lesion_probability=0.0,
    rim_mm=0.0,
)
INTRA, INTER = "intra-subject: deformed, medium corruption", "inter-subject: affine"
PUBLISHED: Published = {
    (INTRA, "l1"): 0.011,
    (INTRA, "ssim"): 0.858,
    (INTRA, "ms_ssim"): 0.921,
    (INTER, "l1"): 0.014,
    (INTER, "ssim"): 0.843,
    (INTER, "ms_ssim"): 0.913,
}
"""Brain-ID's own figures: 100 persons of ADNI, features on a scale that the paper does not tell."""

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Clean:
    """A person's brain without artefacts: ``T1w``, ``T2w`` and ``FLAIR``, normalised as at inference."""

    name: str
    images: dict[str, Tensor]
    brain: Tensor


@dataclass(frozen=True)
class View:
    """Another image of a clean brain.

    Parameters
    ----------
    group, scan
        What it is measured as.
    image, brain
        ``(X, Y, Z)``, normalised; boolean.
    coordinates
        ``(X, Y, Z, 3)``: where its voxels lie, in voxels of the clean image; None for the same grid.
    """

    group: str
    scan: str
    image: Tensor
    brain: Tensor
    coordinates: Tensor | None = None


def robustness(anatomies: Anatomies, models: Mapping[str, Model]) -> Iterator[Result]:
    """L1, SSIM, MS-SSIM and correlation of features, for every view of every person.

    Baseline ``intensity``: the same of the images themselves.
    """
    systems: dict[str, Features] = {name: partial(features_of, model) for name, model in models.items()}
    systems["intensity"] = lambda image: image[None]
    reference = None
    for anatomy, table in anatomies.load():
        clean = clean_brain(anatomy, table)
        known = {name: features(clean.images["T1w"]) for name, features in systems.items()}
        for view in views(clean, anatomies, reference):
            for name, features in systems.items():
                figures = compare_view(features, known[name], clean, view, sloppy=anatomies.scale == "sloppy")
                for metric, value in figures.items():
                    yield Result(name, view.group, view.scan, metric, value, seed=anatomies.seed)
        reference = reference or clean


def features_of(model: Model, image: Tensor) -> Tensor:
    """Dense features ``(C, X, Y, Z)`` of an image ``(X, Y, Z)``."""
    padded, keep = pad_to_multiple(image.numpy(), model.divisor)
    with torch.inference_mode():
        return model.features(torch.from_numpy(padded)[None, None])[0].float().cpu()[:, *keep]


def compare_view(
    features: Features, known: Tensor, clean: Clean, view: View, *, sloppy: bool = False
) -> dict[str, float]:
    """`compare_channels` of a view's features and the clean image's, ``known``, at the places it shows."""
    expected, brain = known, clean.brain
    if view.coordinates is not None:
        expected = warp(known, view.coordinates)
        brain = warp(clean.brain[None].float(), view.coordinates)[0] > 0.5
    brain = brain & view.brain
    step = max(1, len(known) // SLOPPY_CHANNELS) if sloppy else 1
    found = features(view.image)
    return compare_channels(found.numpy(), expected.numpy(), brain.numpy(), ssim_step=step, scales=not sloppy)


def views(clean: Clean, anatomies: Anatomies, reference: Clean | None) -> Iterator[View]:
    """Everything that is compared with one clean brain; ``reference`` is another person's."""
    for number in range(SAMPLES[anatomies.scale]):
        yield deformed(clean, anatomies.generator(clean.name, number), f"{clean.name} sample {number + 1}")
    for contrast in ("T2w", "FLAIR"):
        group = f"contrasts: {contrast} and T1w"
        yield View(group, clean.name, clean.images[contrast], clean.brain)
    if reference is not None:
        yield registered(clean, reference, anatomies.seed, sloppy=anatomies.scale == "sloppy")


def clean_brain(anatomy: Anatomy, table: LabelTable | None) -> Clean:
    """The images of an anatomy, with the margin around the brain that the app leaves."""
    source = make_source(anatomy, table, 1.0)
    subject = still(source, torch.Generator(), STILL)
    images = {
        "T1w": subject.t1w if source.t1w is None else source.t1w[0],
        "T2w": painted(subject, source, TYPICAL_T2W),
        "FLAIR": painted(subject, source, TYPICAL_FLAIR),
    }
    box = bounding_box(subject.brain.numpy(), MARGIN_VOXELS)
    scaled = {name: normalise(image, subject.brain)[box] for name, image in images.items()}
    return Clean(anatomy.name, scaled, subject.brain[box])


def still(
    source: Source, generator: torch.Generator, config: GeneratorConfig, priors: Collection[Tensor] = ()
) -> Subject:
    """An anatomy on its own grid of 1 mm; ``config`` deforms nothing, and may draw lesions."""
    volume = source.t1w if source.labels is None else source.labels
    assert volume is not None
    x, y, z = volume.shape[1:]
    return deform_subject(source, generator, (x, y, z), 1.0, config, list(priors))


def deformed(clean: Clean, generator: torch.Generator, scan: str, level: Level = LEVEL) -> View:
    """Draw a deformation and a corruption, and make the image."""
    x, y, z = (math.ceil(ROOM * n) for n in clean.brain.shape)
    draw = sample_deformation(generator, (x, y, z), torch.zeros(3), DEFORMATION)
    coordinates = source_coordinates(draw, (x, y, z), 1.0, tuple(clean.brain.shape))
    brain = warp(clean.brain[None].float(), coordinates)[0] > 0.5
    box = bounding_box(brain.numpy(), MARGIN_VOXELS)
    coordinates, brain = coordinates[box], brain[box]
    image = warp(clean.images["T1w"][None], coordinates)[0] * brain
    parameters = sample_corruption(generator, tuple(image.shape), 1.0, level)
    image, _ = corrupt(TOP * image, parameters, 1.0)  # noise is given on the generator's scale
    return View(INTRA, scan, normalise(image, brain), brain, coordinates)


def registered(clean: Clean, reference: Clean, seed: int, *, sloppy: bool = False) -> View:
    """The reference's T1w as a view of another brain, by twelve parameters (ANTs)."""
    (moving, moving_brain), (fixed, fixed_brain) = (
        (Volume(one.images["T1w"].numpy(), np.eye(4)), one.brain.numpy()) for one in (clean, reference)
    )
    found = affine_to_template(moving, fixed, fixed_brain, moving_brain, seed=seed, sloppy=sloppy)
    axes = [torch.arange(n, dtype=torch.float32) for n in fixed.shape]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    matrix = torch.from_numpy(found.matrix).float()
    coordinates = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    return View(INTER, clean.name, reference.images["T1w"], reference.brain, coordinates)


def painted(subject: Subject, source: Source, sequence: Sequence) -> Tensor:
    """A typical brain's contrast on a subject, without texture of its own."""
    contrast = typical_contrast(sequence, source.tissues, source.names or source.tissues)
    flat = torch.zeros(subject.brain.shape)
    if subject.labels is not None:
        return soften(paint_labels(subject.labels, contrast, flat))
    assert subject.mixture is not None
    return paint_mixture(subject.mixture, subject.tissue_means, contrast, flat)
