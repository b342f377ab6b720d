"""The generators of subjects and heads: targets, lesions, normalisation, distance."""

import numpy as np
import pytest
import torch

from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.equations import HEALTHY, TYPICAL_MPRAGE, tissue_signal
from bidsrep.synth.generator import (
    FLAIR_LESION,
    SIMULATED_FLAIR,
    SIMULATED_T1W,
    GeneratorConfig,
    Source,
    deform_subject,
    normalise,
    sample_acquisition,
    sample_image,
)
from bidsrep.synth.heads import HeadConfig, brain_of, normalise_head, sample_head, signed_distance
from bidsrep.synth.physics.tissues import tissue_table

TISSUES = ("background", "csf", "gm", "wm", "lesion", "extracerebral")
SHAPE = (24, 24, 24)
STILL = DeformationConfig(
    rotation_degrees=0, shear=0, scaling=0, nonlinear_std_mm=0, flip_probability=0, shift_fraction=0
)


def nested(size: int = 32, lesion: bool = True) -> torch.Tensor:
    """Indices into TISSUES: nested balls of skin, fluid, cortex, white matter, with a lesion inside."""
    axes = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij")
    radius = torch.sqrt(sum(a**2 for a in axes))
    labels = torch.zeros(size, size, size, dtype=torch.uint8)
    for limit, value in ((15, 5), (12, 1), (11, 2), (9, 3)):
        labels[radius < limit] = value
    if lesion:
        labels[13:16, 13:16, 13:16] = 4
    return labels[None]


def label_source() -> Source:
    return Source(1.0, labels=nested(), tissues=TISSUES)


def t1w_source() -> Source:
    labels = nested(lesion=False)[0].long()
    t1w = torch.tensor([0, 0.25, 0.6, 1.0, 1.0, 0])[labels][None]
    rim = (255 - signed_distance(labels.eq(0) | labels.eq(5))[None].clamp(min=0)).clamp(0, 255)
    return Source(1.0, t1w=t1w, rim=rim, tissue_means=(0.25, 0.6, 1.0))


@pytest.mark.parametrize("source", [label_source(), t1w_source()], ids=["labels", "t1w"])
def test_targets_have_white_matter_at_one(source: Source) -> None:
    config = GeneratorConfig(deformation=STILL, lesion_probability=0, rim_mm=0)
    subject = deform_subject(source, torch.Generator().manual_seed(0), SHAPE, 1.0, config, [])
    centre = (slice(8, 10), slice(12, 14), slice(12, 14))
    assert subject.t1w[centre].mean().item() == pytest.approx(1, abs=0.05)
    assert subject.flair[centre].mean().item() == pytest.approx(SIMULATED_FLAIR[2], abs=0.08)
    assert subject.t1w[~subject.brain].abs().max() == 0


def test_real_scans_are_brought_to_one_contrast() -> None:
    """The target has the levels of an MPRAGE, what is painted from still has its own."""
    still = GeneratorConfig(deformation=STILL, lesion_probability=0)
    source = t1w_source()
    subject = deform_subject(source, torch.Generator().manual_seed(0), SHAPE, 1.0, still, [])
    assert subject.mixture is not None
    for own, wanted in zip(source.tissue_means, SIMULATED_T1W, strict=True):
        there = (subject.mixture - own).abs() < 0.002
        assert there.sum() > 20
        assert subject.t1w[there].mean().item() == pytest.approx(wanted, abs=0.01)
    order = subject.mixture[subject.brain].argsort()
    assert (subject.t1w[subject.brain][order].diff() >= -1e-5).all()


def test_the_target_has_the_levels_of_the_signal_equation() -> None:
    table = tissue_table(3.0)
    rows = torch.tensor([[t.pd, t.r1, t.r2, t.r2s - t.r2, t.mt] for t in (table[n] for n in HEALTHY)])
    signal = tissue_signal(rows, TYPICAL_MPRAGE)
    assert (signal / signal[2]).tolist() == pytest.approx(SIMULATED_T1W, abs=0.005)


def test_lesions_of_a_label_map_darken_t1w_and_brighten_flair() -> None:
    config = GeneratorConfig(deformation=STILL, lesion_probability=0)
    subject = deform_subject(label_source(), torch.Generator(), SHAPE, 1.0, config, [])
    inside = subject.lesion > 0.5
    assert 10 < inside.sum() < 60
    assert subject.t1w[inside].mean() < 0.8
    assert subject.flair[inside].mean() > 1 + 0.8 * FLAIR_LESION


@pytest.mark.parametrize("seed", range(3))
def test_a_lesion_of_a_label_map_is_painted_once(seed: int) -> None:
    """What the sequence makes of it, not twice as far from white matter."""
    still = GeneratorConfig(
        deformation=STILL, lesion_probability=0, clinical=1, equations=1, clean_probability=1, rim_mm=0
    )
    source = label_source()
    subject = deform_subject(source, torch.Generator(), SHAPE, 1.0, still, [])
    image, contrast = sample_image(subject, source, torch.Generator().manual_seed(seed), 1.0, still)
    inside = subject.labels == TISSUES.index("lesion")
    assert contrast.lesion is not None
    levels = image[inside].mean() / image[subject.labels == TISSUES.index("csf")].mean()
    assert levels.item() == pytest.approx(contrast.lesion / contrast.means[0], rel=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_images_are_empty_outside_the_brain_and_scaled_inside(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    subject = deform_subject(t1w_source(), generator, SHAPE, 1.0, GeneratorConfig(), [])
    image, _ = sample_image(subject, t1w_source(), generator, 1.0, GeneratorConfig())
    assert image[~subject.brain].abs().max() == 0
    assert torch.isfinite(image).all()
    assert torch.quantile(image[subject.brain], 0.995).item() == pytest.approx(1, abs=0.02)


def test_an_own_contrast_on_the_grid_is_the_scan_itself() -> None:
    source = t1w_source()
    shifted = DeformationConfig(
        rotation_degrees=0, shear=0, scaling=0, nonlinear_std_mm=0, flip_probability=0, shift_fraction=1
    )
    config = GeneratorConfig(
        deformation=shifted, lesion_probability=0, rim_mm=0, clean_probability=1, on_grid=True, own_contrast=1
    )
    generator = torch.Generator().manual_seed(3)
    subject = deform_subject(source, generator, SHAPE, 1.0, config, [])
    found = sample_acquisition(subject, source, generator, 1.0, config)
    assert found.clean is not None
    assert source.t1w is not None
    inside = subject.brain
    field = found.log_bias.exp() * subject.mixture
    torch.testing.assert_close(
        (found.image / field)[inside].std() / (found.image / field)[inside].mean(),
        torch.tensor(0.0),
        rtol=0,
        atol=2e-2,
    )
    places = (subject.mixture[inside][:, None] - source.t1w.unique()[None]).abs().min(1).values
    assert places.max() < 1e-4  # not a mean of two voxels among them


@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_without_grain_nothing_but_resolution_is_lost(grain: float) -> None:
    config = GeneratorConfig(
        deformation=STILL, lesion_probability=0, rim_mm=0, clean_probability=1, texture=1.0, grain=grain
    )
    source, generator = t1w_source(), torch.Generator().manual_seed(3)
    subject = deform_subject(source, generator, SHAPE, 1.0, config, [])
    found = sample_acquisition(subject, source, generator, 1.0, config)
    assert found.clean is not None
    assert torch.equal(found.image, found.clean) == (not grain)


def test_images_of_one_subject_differ_in_contrast_not_in_anatomy() -> None:
    generator = torch.Generator().manual_seed(0)
    config = GeneratorConfig(clinical=1.0, clean_probability=1.0, lesion_probability=0)
    subject = deform_subject(t1w_source(), generator, SHAPE, 1.0, config, [])
    names = {sample_image(subject, t1w_source(), generator, 1.0, config)[1].name for _ in range(12)}
    assert len(names) > 1


def test_normalise_ignores_scale() -> None:
    image, brain = torch.rand(10, 10, 10) + 0.1, torch.ones(10, 10, 10, dtype=torch.bool)
    torch.testing.assert_close(normalise(image, brain), normalise(37 * image, brain))


def test_signed_distance_of_a_ball() -> None:
    size = 40
    axes = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    distance = signed_distance(torch.from_numpy(radius < 12), spacing=2.0).numpy()
    np.testing.assert_allclose(distance, 2 * (12 - radius), atol=2.0)
    assert ((distance > 0) == (radius < 12)).all()


def test_brain_has_no_holes_and_no_stray_pieces() -> None:
    labels = nested()[0]
    labels[16, 16, 16] = 0
    labels[1:3, 1:3, 1:3] = 3
    inside = torch.tensor([False, True, True, True, True, False])
    brain = brain_of(labels, inside, torch.tensor([False, False, True, True, False, False]))
    assert brain[16, 16, 16]
    assert not brain[1:3, 1:3, 1:3].any()


@pytest.mark.parametrize("seed", range(4))
def test_heads_come_with_the_distance_of_their_brain(seed: int) -> None:
    labels = nested()
    inside = torch.tensor([False, True, True, True, True, False])
    distance = signed_distance(inside[labels[0].long()])[None]
    config = HeadConfig(deformation=STILL, crop_probability=0, deface_probability=0)
    image, target = sample_head(
        labels, distance, inside, torch.Generator().manual_seed(seed), SHAPE, 1.0, config
    )
    assert image.shape == target.shape == (1, *SHAPE)
    assert image.min() >= 0
    assert image.max() <= 1
    brain = inside[labels[0].long()][4:28, 4:28, 4:28]
    assert ((target[0] > 0) == brain).float().mean() > 0.98


def test_normalise_head_handles_an_empty_image() -> None:
    assert normalise_head(torch.zeros(4, 4, 4)).abs().max() == 0
