"""Deformations: parity of the affine part, diffeomorphic integration, replayed draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bidsrep.synth.deformation import (
    DeformationConfig,
    DeformationParameters,
    affine_matrix,
    integrate_velocity,
    sample_deformation,
    source_coordinates,
    warp,
)

SHAPE = (12, 14, 16)


def draw(seed: int = 0, **config: float) -> DeformationParameters:
    generator = torch.Generator().manual_seed(seed)
    return sample_deformation(generator, SHAPE, torch.zeros(3), DeformationConfig(**config))


def identity() -> DeformationParameters:
    zero, control = torch.zeros(3), torch.zeros(3, 2, 2, 2)
    return DeformationParameters(zero, zero, torch.ones(3), zero, control, flip=False)


def test_affine_matrix_is_the_reference_s(test_data: Path) -> None:
    ops = np.load(test_data / "fixtures" / "ops.npz")
    ours = affine_matrix(*(torch.tensor(ops[f"affine_{name}"]) for name in ("rot", "shear", "scale")))
    np.testing.assert_allclose(ours, ops["affine_A"], atol=1e-12)


def test_same_seed_gives_the_same_draw() -> None:
    first, second, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.matrix(), second.matrix())
    assert torch.equal(first.control_field, second.control_field)
    assert not torch.equal(first.matrix(), other.matrix())


def test_identity_draw_keeps_the_volume() -> None:
    volume = torch.rand(1, *SHAPE)
    coordinates = source_coordinates(identity(), SHAPE, 1.0, SHAPE)
    torch.testing.assert_close(warp(volume, coordinates), volume, atol=1e-5, rtol=0)


def test_coarser_spacing_covers_the_same_field_of_view() -> None:
    coordinates = source_coordinates(identity(), (6, 7, 8), 2.0, SHAPE)
    assert coordinates[0, 0, 0].tolist() == [0.5, 0.5, 0.5]
    assert coordinates[-1, -1, -1].tolist() == [10.5, 12.5, 14.5]


def test_flip_mirrors_left_and_right_only() -> None:
    volume = torch.rand(1, *SHAPE)
    parameters = DeformationParameters(**{**identity().__dict__, "flip": True})
    flipped = warp(volume, source_coordinates(parameters, SHAPE, 1.0, SHAPE))
    torch.testing.assert_close(flipped, volume.flip(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_integrated_field_does_not_fold(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(1, 3, 4, 4, 4, generator=generator)
    velocity = torch.nn.functional.interpolate(coarse, (24, 24, 24), mode="trilinear", align_corners=True)
    flow = integrate_velocity(velocity, torch.tensor([46.0] * 3))[0]
    gradients = torch.stack([flow.diff(dim=axis + 1)[:, :23, :23, :23] / 2 for axis in range(3)], dim=-1)
    jacobian = torch.linalg.det((gradients.permute(1, 2, 3, 0, 4) + torch.eye(3)).double())
    assert jacobian.min() > 0
    assert jacobian.std() > 0.01


def test_integration_of_a_constant_is_a_translation() -> None:
    velocity = torch.full((1, 3, 8, 8, 8), 1.5)
    flow = integrate_velocity(velocity, torch.tensor([7.0] * 3))
    torch.testing.assert_close(flow, velocity, atol=1e-4, rtol=0)


def test_outside_the_source_is_zero() -> None:
    coordinates = torch.full((1, 1, 1, 3), -5.0)
    assert warp(torch.ones(1, *SHAPE), coordinates).item() == 0
