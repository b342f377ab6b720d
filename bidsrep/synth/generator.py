"""One subject's examples: a deformed anatomy, its targets, and several images of it in different contrasts.

The intra-subject mini-batch of Brain-ID and PEPSI: every image of a batch shows the same anatomy under the
same deformation, with its own contrast, artefacts and lesion brightness. Volumes are ``(X, Y, Z)`` RAS;
targets have white matter at 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bidsrep.synth.contrast import Contrast, paint_labels, paint_mixture, piecewise_linear, sample_contrast
from bidsrep.synth.corruption import Level, corrupt, sample_corruption, undegraded
from bidsrep.synth.deformation import DeformationConfig, sample_deformation, source_coordinates, warp
from bidsrep.synth.equations import equation_contrast, typical_levels
from bidsrep.synth.filters import soften
from bidsrep.synth.pathology import encode_pathology, procedural_lesions, smooth_noise, transplanted_lesions
from bidsrep.synth.random import coin, integer, uniform_scalar
from bidsrep.synth.ventricles import widen

# CSF, grey and white matter of the targets. The T1w's are what `TYPICAL_MPRAGE` gives at 3 T; real scans are
# brought to them, for an output cannot follow every scanner's own contrast, and its users want one.
SIMULATED_T1W = (0.20, 0.69, 1.0)
SIMULATED_FLAIR = (0.20, 1.25, 1.0)
# Lesions in the targets: T1-dark, FLAIR-bright, proportional to the anomaly probability.
T1W_LESION, FLAIR_LESION = -0.35, 0.75
# Of an image that stays as it was acquired; the means are those of the person's tissues, white matter at this.
OWN_CONTRAST = Contrast("T1w", (0.0, 0.0, 200.0), (0.0, 0.0, 0.0))
# Length over which tissue properties vary (mm).
TEXTURE_MM = (8.0, 30.0)


@dataclass(frozen=True)
class GeneratorConfig:
    """Ranges of the representation generator.

    ``clinical`` is the share of contrast draws with the tissue order of a real sequence, ``equations`` the
    share of those that come from signal equations; ``texture`` scales smooth variation within tissues, in
    units of their voxel-wise spread, which ``grain`` scales. ``thick`` is the share of 2D protocols with thick
    slices, ``blur`` how wide a slice's Gaussian profile is for its thickness (that of a box has the factor 0.56),
    ``isotropic`` the share of large cubic voxels; ``order`` is that of the splines that bring large voxels back
    to the grid, 1 or 3 (the app's); ``rim_mm`` how much fluid an imperfect brain mask may leave around the brain.

    Where detail counts, as in super-resolution, a real T1w must not be smoothed by interpolation: ``on_grid`` rounds
    the places that voxels come from (for a ``deformation`` that only shifts and flips), and ``own_contrast`` is the
    share of images of it that keep its contrast, voxel by voxel. Without ``grain`` the others have the scan's own
    noise only: a network that learns to remove noise takes detail along.
    """

    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    clinical: float = 0.6
    equations: float = 0.5
    texture: float = 0.0
    thick: float = 0.6
    blur: tuple[float, float] = (0.85, 1.15)
    isotropic: float = 0.0
    lesion_probability: float = 0.6
    transplant_probability: float = 0.4
    large_lesion_probability: float = 0.15
    rim_mm: float = 6.0
    clean_probability: float = 0.1
    levels: tuple[Level, ...] = ("mild", "medium", "severe")
    on_grid: bool = False
    own_contrast: float = 0.0
    order: int = 1
    grain: float = 1.0


@dataclass(frozen=True)
class Subject:
    """A deformed anatomy on the target grid, with its targets; ``flipped`` if left and right changed places."""

    brain: Tensor
    t1w: Tensor
    flair: Tensor
    lesion: Tensor
    labels: Tensor | None
    mixture: Tensor | None
    tissue_means: tuple[float, float, float]
    has_flair: bool = True
    flipped: bool = False


@dataclass(frozen=True)
class Source:
    """An anatomy ready to be sampled: ``(1, X, Y, Z)`` tensors at ``spacing`` mm.

    ``labels`` are indices into ``tissues``, ``names`` and ``values``: classes, structures and values of the
    original label map. ``inward`` is `bidsrep.synth.ventricles.inward_field` of the same extent. A real
    ``t1w`` may have a ``flair`` (white matter 1) and a ``lesion`` map, PEPSI's anomaly probability (eq. 1).
    """

    spacing: float
    labels: Tensor | None = None
    tissues: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    t1w: Tensor | None = None
    rim: Tensor | None = None
    tissue_means: tuple[float, float, float] = SIMULATED_T1W
    values: tuple[int, ...] = ()
    inward: Tensor | None = None
    flair: Tensor | None = None
    lesion: Tensor | None = None


@dataclass(frozen=True)
class Acquisition:
    """One acquired-looking image of a subject ``(X, Y, Z)`` and how it came about.

    ``clean`` (if wanted) is the same contrast without noise and blur; ``log_bias`` the logarithm of the field
    that both were multiplied by. Both images are normalised as at inference.
    """

    image: Tensor
    clean: Tensor | None
    log_bias: Tensor
    contrast: Contrast


def deform_subject(
    source: Source,
    generator: torch.Generator,
    shape: tuple[int, int, int],
    spacing: float,
    config: GeneratorConfig,
    lesion_priors: list[Tensor],
) -> Subject:
    """Draw a deformation and lesions, and compute the targets on a grid of ``shape`` voxels of ``spacing`` mm."""
    volume = source.labels if source.labels is not None else source.t1w
    assert volume is not None
    extent = [n * spacing for n in shape]
    slack = torch.tensor(
        [max(0.0, (n * source.spacing - e) / 2) for n, e in zip(volume.shape[1:], extent, strict=True)]
    )
    draw = sample_deformation(generator, tuple(extent), slack + 4, config.deformation)
    coordinates = source_coordinates(draw, shape, spacing, tuple(volume.shape[1:]), source.spacing)
    if draw.widening_mm and source.inward is not None:
        push = draw.widening_mm / source.spacing
        coordinates = widen(coordinates, source.inward, tuple(volume.shape[1:]), push)
    if config.on_grid:
        coordinates = coordinates.round()
    if source.labels is not None:
        subject = _from_labels(source, coordinates)
    else:
        subject = _from_t1w(source, coordinates, uniform_scalar(generator, 0, config.rim_mm))
    subject = replace(subject, flipped=draw.flip)
    if not coin(generator, config.lesion_probability):
        return subject
    return _with_lesions(subject, _draw_lesions(subject, spacing, generator, config, lesion_priors))


def sample_image(
    subject: Subject,
    source: Source,
    generator: torch.Generator,
    spacing: float,
    config: GeneratorConfig,
    level: Level | None = None,
) -> tuple[Tensor, Contrast]:
    """The image and the contrast of `sample_acquisition`."""
    acquisition = sample_acquisition(subject, source, generator, spacing, config, level, with_clean=False)
    return acquisition.image, acquisition.contrast


def sample_acquisition(
    subject: Subject,
    source: Source,
    generator: torch.Generator,
    spacing: float,
    config: GeneratorConfig,
    level: Level | None = None,
    with_clean: bool = True,
) -> Acquisition:
    """Draw a contrast and artefacts of ``level`` (one of the configuration's without it); make the image.

    Without ``with_clean`` the undegraded image is left out, which saves a third of the time.
    """
    if coin(generator, config.clinical * config.equations):
        contrast = equation_contrast(generator, source.tissues, source.names or source.tissues)
    else:
        rest = config.clinical * (1 - config.equations) / max(1e-6, 1 - config.clinical * config.equations)
        contrast = sample_contrast(generator, rest, source.tissues)
    noise = config.grain * torch.randn(subject.brain.shape, generator=generator)
    texture = torch.zeros_like(noise)
    if config.texture:
        scale = uniform_scalar(generator, *TEXTURE_MM) / spacing
        texture = config.texture * smooth_noise(noise.shape, scale, generator)
    if config.own_contrast and subject.mixture is not None and coin(generator, config.own_contrast):
        contrast = replace(OWN_CONTRAST, means=_scaled(subject.tissue_means, OWN_CONTRAST.means[2]))
        image, (_, grey, white) = subject.mixture * contrast.means[2], contrast.means
        clean = image if with_clean else None
    else:
        image, grey, white = _paint(subject, source, contrast, noise + texture)
        clean = _paint(subject, source, contrast, texture)[0] if with_clean else None
    if bool(subject.lesion.any()):
        if contrast.lesion is None:
            encoded = encode_pathology(image, subject.lesion, white, grey, generator)
        else:
            # Within the contrast the lesion is what its relaxation makes it: never as dark as fluid on a T1w.
            encoded = (image + (contrast.lesion - white) * subject.lesion).clamp(min=0)
        clean = None if clean is None else (clean + encoded - image).clamp(min=0)
        image = encoded
    if level is None:
        level = config.levels[integer(generator, 0, len(config.levels))]
    if coin(generator, config.clean_probability):
        level = "none"
    size = tuple(image.shape)
    parameters = sample_corruption(
        generator, size, spacing, level, config.thick, config.blur, config.isotropic, config.order
    )
    image, log_bias = corrupt(image * subject.brain, parameters, spacing)
    top = percentile_of(image, subject.brain)
    if clean is not None:
        # On the scale of the image: what is restored must not become brighter.
        clean, _ = corrupt(clean * subject.brain, undegraded(parameters, spacing), spacing)
        clean = (clean / top).clamp_(0, 2) * subject.brain
    return Acquisition((image / top).clamp_(0, 2) * subject.brain, clean, log_bias, contrast)


def _scaled(values: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    first, second, third = values
    return factor * first, factor * second, factor * third


def _paint(
    subject: Subject, source: Source, contrast: Contrast, noise: Tensor
) -> tuple[Tensor, float, float]:
    """The contrast on a subject ``(X, Y, Z)``, and its means of grey and white matter."""
    if subject.labels is not None:
        image = paint_labels(subject.labels, contrast, noise)
        grey, white = (_tissue_mean(contrast, subject.labels, source.tissues, name) for name in ("gm", "wm"))
        return image, grey, white
    assert subject.mixture is not None
    image = paint_mixture(subject.mixture, subject.tissue_means, contrast, noise)
    return image, contrast.means[1], contrast.means[2]


def normalise(image: Tensor, brain: Tensor) -> Tensor:
    """Divide by the 99.5th percentile inside the brain, clip to [0, 2], 0 outside; what inference does."""
    if not bool(brain.any()):
        return image
    return (image / percentile_of(image, brain)).clamp_(0, 2) * brain


def percentile_of(image: Tensor, brain: Tensor) -> Tensor:
    """The 99.5th percentile inside the brain, at least 1e-6; 1 where there is no brain."""
    # Every second or third voxel along each axis tells the percentile of a large image well enough.
    step = max(1, round((image.numel() / 250_000) ** (1 / 3)))
    values = image[::step, ::step, ::step][brain[::step, ::step, ::step]]
    if not len(values):
        return torch.ones((), device=image.device)
    return values.kthvalue(max(1, math.ceil(0.995 * len(values)))).values.clamp(min=1e-6)


def _from_labels(source: Source, coordinates: Tensor) -> Subject:
    assert source.labels is not None
    labels = warp(source.labels.float(), coordinates, "nearest")[0].to(torch.int32)
    tissues = source.tissues
    inside = torch.tensor([tissue in ("csf", "gm", "wm", "lesion") for tissue in tissues])
    labels = _look_up(torch.where(inside, torch.arange(len(tissues)), 0).int(), labels)
    t1w, flair = (
        _look_up(_levels_of(source, *target), labels)
        for target in (("T1w", SIMULATED_T1W), ("FLAIR", SIMULATED_FLAIR))
    )
    # Partial volume: a half-voxel blur of the hard labels, kept inside the brain.
    brain = labels > 0
    subject = Subject(
        brain,
        soften(t1w) * brain,
        soften(flair) * brain,
        torch.zeros(t1w.shape),
        labels,
        None,
        SIMULATED_T1W,
    )
    lesion = _look_up(torch.tensor([float(tissue == "lesion") for tissue in tissues]), labels)
    return _with_lesions(subject, lesion) if bool(lesion.any()) else subject


def _levels_of(source: Source, kind: str, levels: tuple[float, float, float]) -> Tensor:
    """Every label's intensity in a target; lesions start as white matter (1), `_with_lesions` changes them."""
    typical = typical_levels(source.tissues, source.names or source.tissues, kind, levels)
    of = {"background": 0.0, "extracerebral": 0.0, "lesion": 1.0}
    return torch.tensor(
        [of.get(tissue, value) for tissue, value in zip(source.tissues, typical, strict=True)]
    )


def _look_up(table: Tensor, labels: Tensor) -> Tensor:
    return table.index_select(0, labels.reshape(-1)).reshape(labels.shape)


def _from_t1w(source: Source, coordinates: Tensor, rim_mm: float) -> Subject:
    assert source.t1w is not None
    assert source.rim is not None
    own = {"t1w": source.t1w, "rim": source.rim, "flair": source.flair, "lesion": source.lesion}
    there = {name: volume for name, volume in own.items() if volume is not None}
    warped = dict(zip(there, warp(torch.cat(list(there.values())), coordinates), strict=True))
    t1w, distance = warped["t1w"], warped["rim"]
    # Beyond the volume the warp gives 0, which would read as "inside": the rim map is stored as 255 - mm.
    brain = (255 - distance) <= max(rim_mm, 0.25)
    inside = (255 - distance) < 0.5
    csf = source.tissue_means[0]
    t1w = torch.where(inside, t1w, torch.full_like(t1w, csf)) * brain
    grey = source.tissue_means[1]
    knots = torch.tensor([0.0, *source.tissue_means, 2 - grey, 3 - 2 * grey])
    csf_f, gm_f, wm_f = SIMULATED_FLAIR
    flair_levels = torch.tensor([csf_f, csf_f, gm_f, wm_f, wm_f - 0.05, wm_f - 0.05])
    flair = piecewise_linear(t1w, knots, flair_levels) * brain
    if "flair" in warped:
        flair = torch.where(inside, warped["flair"].clamp(0, 2.5), flair)
    grey = SIMULATED_T1W[1]
    t1w_levels = torch.tensor([0.0, *SIMULATED_T1W, 2 - grey, 3 - 2 * grey])
    target = piecewise_linear(t1w, knots, t1w_levels).clamp(max=1.6)
    lesion = warped.get("lesion", torch.zeros(t1w.shape)) * brain
    # What contrasts are painted from is white matter where the lesion is: it is painted on top (eq. 2).
    mixture = torch.where(lesion > 0, torch.maximum(t1w, torch.tensor(1.0)), t1w)
    return Subject(brain, target, flair, lesion, None, mixture, source.tissue_means)


def _draw_lesions(
    subject: Subject,
    spacing: float,
    generator: torch.Generator,
    config: GeneratorConfig,
    priors: list[Tensor],
) -> Tensor:
    white = (subject.t1w > 0.85) & (subject.t1w < 1.2)
    if priors and coin(generator, config.transplant_probability):
        prior = priors[integer(generator, 0, len(priors))]
        return transplanted_lesions(prior, subject.brain, white, generator)
    return procedural_lesions(white, spacing, generator, large=config.large_lesion_probability)


def _with_lesions(subject: Subject, lesion: Tensor) -> Subject:
    lesion = torch.maximum(lesion * subject.brain, subject.lesion)
    new = lesion - subject.lesion
    return replace(
        subject,
        t1w=(subject.t1w + T1W_LESION * new).clamp(min=0),
        flair=subject.flair + FLAIR_LESION * new,
        lesion=lesion,
    )


def _tissue_mean(contrast: Contrast, labels: Tensor, tissues: tuple[str, ...], name: str) -> float:
    """Mean of a tissue class as painted, from how often each of its labels occurs."""
    assert contrast.label_means is not None
    count = torch.bincount(labels.reshape(-1), minlength=len(tissues)).float()
    count = count * torch.tensor([tissue == name for tissue in tissues])
    return float((count * contrast.label_means).sum() / count.sum()) if bool(count.any()) else 0.0
