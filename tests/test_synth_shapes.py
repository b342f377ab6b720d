"""Random shapes: labels follow their draws, and two images of a geometry share nothing but it."""

from dataclasses import replace

import pytest
import torch

from bidsrep.synth.shapes import (
    ShapeParameters,
    ShapesConfig,
    lattice,
    sample_shape_artefacts,
    sample_shape_contrast,
    sample_shape_pair,
    sample_shapes,
    shape_image,
    shape_labels,
)

SHAPE = (20, 24, 16)
CONFIG = ShapesConfig(
    labels=6, noise_scales_mm=(8.0, 16.0), warp_scales_mm=(8.0, 16.0), warp_std_mm=4.0, bias_scale_mm=12.0
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boundaries(volume: torch.Tensor) -> torch.Tensor:
    return volume.diff(dim=0) != 0


def test_a_draw_is_replayed_and_another_seed_gives_another() -> None:
    first, second, _ = sample_shape_pair(generator(1), SHAPE, 1.0, CONFIG)
    again, _, labels = sample_shape_pair(generator(1), SHAPE, 1.0, CONFIG)
    assert torch.equal(first, again)
    assert not torch.equal(labels, sample_shape_pair(generator(2), SHAPE, 1.0, CONFIG)[2])
    assert first.shape == second.shape == labels.shape == SHAPE


def test_labels_are_many_and_in_pieces() -> None:
    labels = shape_labels(sample_shapes(generator(), SHAPE, 1.0, CONFIG), SHAPE, 1.0)
    assert 3 <= len(labels.unique()) <= CONFIG.labels
    # Smooth noise: most voxels have the label of their neighbour; independent draws would rarely.
    assert boundaries(labels).float().mean() < 0.3


def test_highest_noise_wins() -> None:
    parameters = sample_shapes(generator(), SHAPE, 1.0, CONFIG)
    raised = parameters.noise[0].clone()
    raised[4] += 100
    labels = shape_labels(replace(parameters, noise=(raised, *parameters.noise[1:])), SHAPE, 1.0)
    assert (labels == 4).all()


def test_displacement_moves_a_shape_by_its_millimetres() -> None:
    # Label 1 is ahead in the lower half of x; a constant displacement of 4 mm shifts the border by 2 voxels.
    ramp = torch.linspace(1, -1, 21).view(1, 1, 21, 1, 1) - 0.01
    noise = torch.cat([torch.zeros_like(ramp), ramp])
    shift = torch.zeros(2, 3, 1, 1, 1)
    still = shape_labels(ShapeParameters((noise,), (shift,)), (21, 4, 4), 2.0)
    shift[1, 0] = 4.0
    moved = shape_labels(ShapeParameters((noise,), (shift,)), (21, 4, 4), 2.0)
    assert still[:, 0, 0].sum() == 10
    assert moved[:, 0, 0].sum() == 8


def test_lattice_has_a_node_per_scale() -> None:
    assert lattice((48, 160, 1), 1.0, 32.0) == (2, 5, 1)
    assert lattice((48, 160, 1), 2.0, 32.0) == (3, 10, 1)


@pytest.mark.parametrize("seed", range(3))
def test_contrasts_are_drawn_within_their_ranges(seed: int) -> None:
    contrast = sample_shape_contrast(generator(seed), replace(CONFIG, empty_background=0.0))
    assert contrast.label_means is not None
    assert contrast.label_stds is not None
    assert ((contrast.label_means[1:] >= 25) & (contrast.label_means[1:] <= 225)).all()
    assert ((contrast.label_stds[1:] >= 5) & (contrast.label_stds[1:] <= 25)).all()
    assert contrast.label_means[0] > 0


def test_image_shows_the_drawn_means() -> None:
    plain = replace(CONFIG, blur_mm=0.0, bias_std=0.0, gamma_std=0.0, empty_background=1.0)
    labels = shape_labels(sample_shapes(generator(), SHAPE, 1.0, plain), SHAPE, 1.0)
    contrast = sample_shape_contrast(generator(3), plain)
    artefacts = sample_shape_artefacts(generator(4), SHAPE, 1.0, plain)
    image = shape_image(labels, contrast, artefacts, torch.zeros(SHAPE), 1.0)
    assert contrast.label_means is not None
    present = [int(value) for value in labels.unique() if value]
    brightest = max(float(contrast.label_means[value]) for value in present)
    for value in present:
        expected = torch.full_like(image[labels == value], float(contrast.label_means[value]) / brightest)
        torch.testing.assert_close(image[labels == value], expected, atol=2e-3, rtol=0)
    assert (image[labels == 0] == 0).all()


def test_blur_is_that_of_the_drawn_standard_deviation() -> None:
    labels = (torch.arange(41) == 20).long().view(41, 1, 1).expand(41, 2, 2)
    contrast = replace(
        sample_shape_contrast(generator(), replace(CONFIG, labels=2)),
        label_means=torch.tensor([0.001, 200.0]),
        label_stds=torch.zeros(2),
    )
    config = replace(CONFIG, blur_mm=4.0, bias_std=0.0, gamma_std=0.0)
    artefacts = sample_shape_artefacts(generator(5), (41, 2, 2), 1.0, config)
    drawn = artefacts.thickness[0] * 0.5123  # ln 5 / pi
    profile = shape_image(labels, contrast, artefacts, torch.zeros(41, 2, 2), 1.0)[:, 0, 0]
    position = torch.arange(41) - 20
    width = ((profile * position**2).sum() / profile.sum()).sqrt()
    assert drawn > 0.6
    assert float(width) == pytest.approx(drawn, rel=0.02)


def test_a_single_slice_can_be_drawn() -> None:
    first, second, labels = sample_shape_pair(generator(), (24, 1, 24), 1.0, CONFIG)
    assert first.shape == (24, 1, 24)
    assert len(labels.unique()) > 1
    assert torch.isfinite(first).all()
    assert not torch.equal(first, second)
