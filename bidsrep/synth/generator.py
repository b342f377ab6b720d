"""One subject's examples: a deformed anatomy, its targets, and several images of it in different contrasts.

The intra-subject mini-batch of Brain-ID and PEPSI: every image of a batch shows the same anatomy under the
same deformation, with its own contrast, artefacts and lesion brightness. Volumes are ``(X, Y, Z)`` RAS;
targets have white matter at 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bidsrep.synth.contrast import Contrast, paint_labels, paint_mixture, piecewise_linear, sample_contrast
from bidsrep.synth.corruption import Level, corrupt, sample_corruption, undegraded
from bidsrep.synth.deformation import DeformationConfig, sample_deformation, source_coordinates, warp
from bidsrep.synth.equations import equation_contrast, typical_levels
from bidsrep.synth.pathology import encode_pathology, procedural_lesions, smooth_noise, transplanted_lesions
from bidsrep.synth.random import coin, integer, uniform_scalar

# Simulated targets, white matter 1: an MPRAGE and a FLAIR at 3 T (CSF, grey, white).
SIMULATED_T1W = (0.25, 0.64, 1.0)
SIMULATED_FLAIR = (0.20, 1.25, 1.0)
# Lesions in the targets: T1-dark, FLAIR-bright, proportional to the anomaly probability.
T1W_LESION, FLAIR_LESION = -0.35, 0.75
# Length over which tissue properties vary (mm).
TEXTURE_MM = (8.0, 30.0)


@dataclass(frozen=True)
class GeneratorConfig:
    """Ranges of the representation generator.

    ``clinical`` is the share of contrast draws with the tissue order of a real sequence, ``equations`` the
    share of those that come from signal equations; ``texture`` scales smooth variation within tissues, in
    units of their voxel-wise spread. ``thick`` is the share of 2D protocols with thick slices; ``rim_mm`` how
    much fluid an imperfect brain mask may leave around the brain.
    """

    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    clinical: float = 0.6
    equations: float = 0.5
    texture: float = 0.0
    thick: float = 0.6
    lesion_probability: float = 0.6
    transplant_probability: float = 0.4
    large_lesion_probability: float = 0.15
    rim_mm: float = 6.0
    clean_probability: float = 0.1
    levels: tuple[Level, ...] = ("mild", "medium", "severe")


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
    original label map.
    """

    spacing: float
    labels: Tensor | None = None
    tissues: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    t1w: Tensor | None = None
    rim: Tensor | None = None
    tissue_means: tuple[float, float, float] = SIMULATED_T1W
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Acquisition:
    """One acquired-looking image of a subject ``(X, Y, Z)`` and how it came about.

    ``clean`` is the same contrast without voxel-wise noise, blur and bias field; ``log_bias`` the logarithm
    of the field that the image was multiplied by. Both images are normalised as at inference.
    """

    image: Tensor
    clean: Tensor
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
    acquisition = sample_acquisition(subject, source, generator, spacing, config, level)
    return acquisition.image, acquisition.contrast


def sample_acquisition(
    subject: Subject,
    source: Source,
    generator: torch.Generator,
    spacing: float,
    config: GeneratorConfig,
    level: Level | None = None,
) -> Acquisition:
    """Draw a contrast and artefacts of ``level`` (one of the configuration's without it); make the image."""
    if coin(generator, config.clinical * config.equations):
        contrast = equation_contrast(generator, source.tissues, source.names or source.tissues)
    else:
        rest = config.clinical * (1 - config.equations) / max(1e-6, 1 - config.clinical * config.equations)
        contrast = sample_contrast(generator, rest, source.tissues)
    noise = torch.randn(subject.brain.shape, generator=generator)
    if config.texture:
        scale = uniform_scalar(generator, *TEXTURE_MM) / spacing
        noise = noise + config.texture * smooth_noise(noise.shape, scale, generator)
    image, grey, white = _paint(subject, source, contrast, noise)
    clean = _paint(subject, source, contrast, torch.zeros_like(noise))[0]
    if bool((subject.lesion > 0).any()):
        encoded = encode_pathology(image, subject.lesion, white, grey, generator)
        clean = (clean + encoded - image).clamp(min=0)
        image = encoded
    if level is None:
        level = config.levels[integer(generator, 0, len(config.levels))]
    if coin(generator, config.clean_probability):
        level = "none"
    parameters = sample_corruption(generator, tuple(image.shape), spacing, level, config.thick)
    image, log_bias = corrupt(image * subject.brain, parameters, spacing)
    clean, _ = corrupt(clean * subject.brain, undegraded(parameters, spacing), spacing)
    return Acquisition(normalise(image, subject.brain), normalise(clean, subject.brain), log_bias, contrast)


def _paint(
    subject: Subject, source: Source, contrast: Contrast, noise: Tensor
) -> tuple[Tensor, float, float]:
    """The contrast on a subject ``(X, Y, Z)``, and its means of grey and white matter."""
    if subject.labels is not None:
        image = paint_labels(subject.labels, contrast, noise)
        grey, white = (_tissue_mean(image, subject.labels, source.tissues, name) for name in ("gm", "wm"))
        return image, grey, white
    assert subject.mixture is not None
    image = paint_mixture(subject.mixture, subject.tissue_means, contrast, noise)
    return image, contrast.means[1], contrast.means[2]


def normalise(image: Tensor, brain: Tensor) -> Tensor:
    """Divide by the 99.5th percentile inside the brain, clip to [0, 2], 0 outside; what inference does."""
    values = image[brain]
    if not len(values):
        return image
    step = max(1, len(values) // 100_000)
    top = torch.quantile(values[::step], 0.995).clamp(min=1e-6)
    return (image / top).clamp(0, 2) * brain


def _from_labels(source: Source, coordinates: Tensor) -> Subject:
    assert source.labels is not None
    labels = warp(source.labels.float(), coordinates, "nearest")[0].round().int()
    tissue = torch.tensor(
        [
            ("background", "csf", "gm", "wm", "lesion").index(t) if t != "extracerebral" else 0
            for t in source.tissues
        ]
    )
    kind = tissue[labels.long()]
    labels = torch.where(kind > 0, labels, 0)
    t1w, flair = (
        torch.tensor(typical_levels(source.tissues, source.names or source.tissues, *target))[labels.long()]
        for target in (("T1w", SIMULATED_T1W), ("FLAIR", SIMULATED_FLAIR))
    )
    # Lesions start as white matter (1 in both); `_with_lesions` changes them.
    t1w, flair = (torch.where(kind == 4, 1.0, target) * (kind > 0) for target in (t1w, flair))
    # Partial volume: a half-voxel blur of the hard labels, kept inside the brain.
    brain = kind > 0
    subject = Subject(
        brain,
        _soften(t1w) * brain,
        _soften(flair) * brain,
        torch.zeros(t1w.shape),
        labels,
        None,
        SIMULATED_T1W,
    )
    lesion = (kind == 4).float()
    return _with_lesions(subject, lesion) if bool(lesion.any()) else subject


def _from_t1w(source: Source, coordinates: Tensor, rim_mm: float) -> Subject:
    assert source.t1w is not None
    assert source.rim is not None
    t1w, distance = warp(torch.cat([source.t1w, source.rim]), coordinates)
    # Beyond the volume the warp gives 0, which would read as "inside": the rim map is stored as 255 - mm.
    brain = (255 - distance) <= max(rim_mm, 0.25)
    inside = (255 - distance) < 0.5
    csf = source.tissue_means[0]
    t1w = torch.where(inside, t1w, torch.full_like(t1w, csf)) * brain
    knots = torch.tensor([0.0, *source.tissue_means, 1.0 + (1 - source.tissue_means[1])])
    csf_f, gm_f, wm_f = SIMULATED_FLAIR
    flair = piecewise_linear(t1w, knots, torch.tensor([csf_f, csf_f, gm_f, wm_f, wm_f - 0.05])) * brain
    return Subject(brain, t1w.clamp(0, 1.6), flair, torch.zeros(t1w.shape), None, t1w, source.tissue_means)


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


def _tissue_mean(image: Tensor, labels: Tensor, tissues: tuple[str, ...], name: str) -> float:
    chosen = torch.tensor([tissue == name for tissue in tissues])[labels.long()]
    return float(image[chosen].mean()) if bool(chosen.any()) else 0.0


def _soften(image: Tensor) -> Tensor:
    weights = torch.tensor([0.15, 0.7, 0.15])
    out = image[None, None]
    for axis in range(3):
        view = [1, 1, 1, 1, 1]
        view[2 + axis] = 3
        padding = [0] * 3
        padding[axis] = 1
        out = F.conv3d(out, weights.view(view), padding=padding)
    return out[0, 0]
