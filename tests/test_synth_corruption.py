"""Acquisition artefacts: levels, resolution, conservation of the mean, replay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec

from bidsrep.imaging.grids import Grid
from bidsrep.imaging.resample import resample
from bidsrep.imaging.volume import Volume
from bidsrep.synth.corruption import (
    ISOTROPIC_MM,
    LEVELS,
    acquisition_matrices,
    add_noise_at_resolution,
    corrupt,
    sample_corruption,
    sample_resolution,
)

SHAPE = (20, 22, 24)


def test_a_recorded_draw_replays_to_the_same_image() -> None:
    image = 100 * torch.rand(SHAPE)
    parameters = sample_corruption(torch.Generator().manual_seed(3), SHAPE, 1.0, "severe")
    first, second = (corrupt(image, parameters, 1.0)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_level_none_is_the_identity() -> None:
    image = 100 * torch.rand(SHAPE)
    parameters = sample_corruption(torch.Generator().manual_seed(0), SHAPE, 1.0, "none")
    corrupted, log_bias = corrupt(image, parameters, 1.0)
    torch.testing.assert_close(corrupted, image, atol=1e-3, rtol=0)
    assert log_bias.abs().max() == 0


def test_levels_grow_from_mild_to_severe() -> None:
    for name in ("bias_std", "noise_std"):
        mild, medium, severe = (getattr(LEVELS[level], name)[1] for level in ("mild", "medium", "severe"))
        assert mild < medium < severe


@pytest.mark.parametrize("resolution", [1.0, 2.5, 6.0])
@pytest.mark.parametrize("order", [1, 3])
def test_acquisition_keeps_a_constant(resolution: float, order: int) -> None:
    down, up = acquisition_matrices(30, 1.0, resolution, resolution, 1.0, order)
    torch.testing.assert_close(up @ (down @ torch.ones(30)), torch.ones(30))


def test_splines_bring_back_what_the_app_s_do() -> None:
    """The image that networks learn from, and the one that they are given."""
    shape, thick = (20, 22, 24), (1.0, 1.0, 3.0)
    parameters = sample_corruption(torch.Generator().manual_seed(0), shape, 1.0, "none", order=3)
    parameters = replace(parameters, resolution=thick, thickness=(1.0, 1.0, 0.0))
    image = 100 * torch.rand(shape, generator=torch.Generator().manual_seed(1))
    seen = add_noise_at_resolution(image, parameters, 1.0).numpy()
    scan = Volume(image.numpy()[:, :, 1::3], from_matvec(np.diag(thick), [0, 0, 1]))
    again = resample(scan, Grid(shape, np.eye(4)), order=3).data
    assert np.abs(seen - again).max() < 0.01


def test_thick_slices_lose_detail_along_their_axis_only() -> None:
    parameters = sample_corruption(torch.Generator().manual_seed(0), SHAPE, 1.0, "none")
    thick = type(parameters)(
        **{**parameters.__dict__, "resolution": (1.0, 1.0, 6.0), "thickness": (1.0, 1.0, 6.0)}
    )
    image = 100 * torch.rand(SHAPE)
    blurred = add_noise_at_resolution(image, thick, 1.0)
    along = [blurred.diff(dim=axis).abs().mean() / image.diff(dim=axis).abs().mean() for axis in range(3)]
    assert along[2] < 0.3 < min(along[0], along[1]) + 0.25


def test_clinical_draws_have_one_thick_axis() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        parameters = sample_corruption(generator, SHAPE, 1.0, "mild", clinical=1.0)
        assert sorted(value > 2 for value in parameters.resolution) == [False, False, True]


def test_noise_has_the_drawn_standard_deviation() -> None:
    parameters = sample_corruption(torch.Generator().manual_seed(0), (40, 40, 40), 1.0, "none")
    noisy = type(parameters)(**{**parameters.__dict__, "noise_std": 7.0})
    result = add_noise_at_resolution(torch.full((40, 40, 40), 100.0), noisy, 1.0)
    assert result.std().item() == pytest.approx(7.0, rel=0.03)


def test_isotropic_voxels_and_draws_of_recipes_without_them() -> None:
    for seed in range(20):
        resolution, thickness = sample_resolution(
            torch.Generator().manual_seed(seed), 1.0, 0.5, isotropic=1.0
        )
        assert len({*resolution, *thickness}) == 1
        assert ISOTROPIC_MM[0] <= resolution[0] <= ISOTROPIC_MM[1]
    one, other = (torch.Generator().manual_seed(5) for _ in range(2))
    assert sample_resolution(one, 1.0, 0.5) == sample_resolution(other, 1.0, 0.5, isotropic=0.0)
    assert torch.equal(one.get_state(), other.get_state())
