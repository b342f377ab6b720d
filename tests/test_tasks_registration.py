"""Deformable registration on features: a known deformation comes back, without folds, with its inverse."""

import pytest
import torch
import torch.nn.functional as F

from bidsrep.synth.deformation import integrate_velocity
from bidsrep.tasks.registration import (
    Level,
    RegistrationSettings,
    jacobian,
    reduce_to,
    register_features,
    warp_features,
)

SHAPE = (32, 36, 28)
SPACING = 2.0
EXTENT = tuple((n - 1) * SPACING for n in SHAPE)
QUICK = RegistrationSettings(levels=(Level(8.0, 30), Level(4.0, 30)), smoothness=0.03)


def features(seed: int = 0, channels: int = 6) -> torch.Tensor:
    """Draw unit features ``(1, C, X, Y, Z)`` that vary over some 6 mm."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels, *(n // 3 + 1 for n in SHAPE), generator=generator)
    return F.normalize(F.interpolate(coarse, SHAPE, mode="trilinear", align_corners=True), dim=1)


def bend(size_mm: float = 3.0, seed: int = 1) -> torch.Tensor:
    """Draw a smooth invertible displacement ``(1, 3, X, Y, Z)``, mm, that leaves the border alone."""
    generator = torch.Generator().manual_seed(seed)
    velocity = torch.zeros(1, 3, 5, 5, 5)
    velocity[..., 1:-1, 1:-1, 1:-1] = size_mm * torch.randn(1, 3, 3, 3, 3, generator=generator)
    velocity = F.interpolate(velocity, SHAPE, mode="trilinear", align_corners=True)
    return integrate_velocity(velocity, torch.tensor(EXTENT))


def inner(field: torch.Tensor) -> torch.Tensor:
    """Cut the outer three voxels off: near the border features run out of the field of view."""
    return field[..., 3:-3, 3:-3, 3:-3]


@pytest.fixture(scope="module")
def found():
    """A pair of which one is the other, bent; the deformation, and what was found."""
    moving, truth = features(), bend()
    fixed = F.normalize(warp_features(moving, truth, EXTENT), dim=1)
    return moving, fixed, truth, register_features(moving, fixed, SPACING, settings=QUICK)


def test_a_known_deformation_is_recovered(found):
    _, _, truth, result = found
    error = inner(result.displacement(SHAPE) - truth[0]).norm(dim=0)
    size = inner(truth[0]).norm(dim=0)
    assert size.max() > 5
    assert error.mean() < 0.3 * size.mean()


def test_quality_says_what_was_gained(found):
    moving, fixed, _, result = found
    quality = result.quality
    assert quality["similarity_before"] < quality["similarity_after"] <= 1
    warped = warp_features(moving, result.displacement(SHAPE)[None], EXTENT)
    alike = (F.normalize(warped, dim=1) * fixed).sum(dim=1).mean()
    assert 1 - alike < 0.2 * (1 - (moving * fixed).sum(dim=1).mean())


def test_nothing_folds(found):
    _, fixed, _, result = found
    assert jacobian(result.displacement(SHAPE), EXTENT).min() > 0
    assert result.quality["folded"] == 0
    finest = reduce_to(fixed, [SPACING] * 3, QUICK.levels[-1].spacing_mm).shape[2:]
    determinant = jacobian(result.displacement(finest), EXTENT)
    assert result.quality["jacobian_min"] == pytest.approx(float(determinant.min()), abs=1e-4)


def test_the_inverse_undoes_the_deformation(found):
    result = found[3]
    forward = result.displacement(SHAPE)[None]
    back = result.displacement(SHAPE, inverse=True)[None]
    left = forward + warp_features(back, forward, EXTENT)  # there and back again
    assert inner(forward).norm(dim=1).max() > 4
    assert inner(left).norm(dim=1).mean() < 0.05
    assert inner(left).norm(dim=1).max() < 0.5


def test_the_same_pair_gives_the_same_bits(found):
    moving, fixed, _, result = found
    again = register_features(moving, fixed, SPACING, settings=QUICK)
    assert torch.equal(again.velocity, result.velocity)


def test_displacements_are_mm_whatever_the_voxels():
    moving, truth = features(), bend(3.0)
    fixed = F.normalize(warp_features(moving, truth, EXTENT), dim=1)
    half = tuple(n // 2 for n in SHAPE)
    result = register_features(moving, fixed, SPACING, settings=QUICK)
    coarse = result.displacement(half)
    assert coarse.shape == (3, *half)
    assert torch.allclose(coarse[:, 0, 0, 0], result.displacement(SHAPE)[:, 0, 0, 0], atol=1e-5)
    assert coarse.abs().mean() == pytest.approx(float(result.displacement(SHAPE).abs().mean()), rel=0.1)


def test_alike_images_stay_where_they_are():
    image = features()
    result = register_features(image, image, SPACING, settings=QUICK)
    assert result.displacement(SHAPE).norm(dim=0).mean() < 0.1
    assert result.quality["similarity_before"] == pytest.approx(1, abs=1e-4)


def test_what_the_mask_leaves_out_does_not_pull():
    moving = features()
    fixed = F.normalize(warp_features(moving, bend(), EXTENT), dim=1)
    mask = torch.zeros(1, 1, *SHAPE)
    fixed[..., :14, :, :] = moving[..., :14, :, :]
    mask[..., :10, :, :] = 1
    result = register_features(moving, fixed, SPACING, mask, QUICK)
    assert result.displacement(SHAPE)[:, :10].norm(dim=0).mean() < 0.2
    assert result.quality["similarity_before"] == pytest.approx(1, abs=1e-3)


def test_more_smoothness_moves_less():
    moving = features()
    fixed = F.normalize(warp_features(moving, bend(), EXTENT), dim=1)
    stiff = RegistrationSettings(levels=QUICK.levels, smoothness=30.0)
    loose, hard = (register_features(moving, fixed, SPACING, settings=s) for s in (QUICK, stiff))
    assert hard.displacement(SHAPE).norm(dim=0).mean() < 0.7 * loose.displacement(SHAPE).norm(dim=0).mean()


def test_averaging_keeps_the_field_of_view():
    ramp = torch.linspace(0, 1, 33)[None, None, :, None, None].expand(1, 1, 33, 5, 5)
    reduced = reduce_to(ramp, [1.0, 1.0, 1.0], 4.0)
    assert reduced.shape == (1, 1, 9, 2, 2)
    middle = reduced[0, 0, 1:-1, 0, 0]
    assert torch.allclose(middle, torch.linspace(0, 1, 9)[1:-1], atol=1e-4)


def test_jacobian_of_stretching_is_its_factor():
    x = torch.linspace(0, EXTENT[0], SHAPE[0])[:, None, None].expand(SHAPE)
    displacement = torch.stack([0.2 * x, torch.zeros(SHAPE), torch.zeros(SHAPE)])
    assert torch.allclose(jacobian(displacement, EXTENT), torch.tensor(1.2), atol=1e-4)
    assert (jacobian(-10 * displacement, EXTENT) < 0).all()


@pytest.mark.parametrize(
    ("moving", "fixed"), [((1, 6, 8, 8, 8), (1, 6, 8, 8, 9)), ((2, 6, 8, 8, 8), (2, 6, 8, 8, 8))]
)
def test_features_of_different_grids_are_refused(moving, fixed):
    with pytest.raises(ValueError, match="one grid"):
        register_features(torch.zeros(moving), torch.zeros(fixed))
