"""The lean forward gives what the plain one gives."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bidsrep.models.lean import group_norm_affine, lean_features, max_pool, measure
from bidsrep.models.lean_conv import Operand, convolve, nearest_indices
from bidsrep.models.unet import UNet3D

SIDES = st.integers(4, 11)
ATOL = 1e-5


def make_unet(seed: int = 0, **architecture) -> UNet3D:
    torch.manual_seed(seed)
    unet = UNet3D(**architecture).requires_grad_(False)
    for name, value in unet.named_parameters():
        if "groupnorm" in name:
            torch.nn.init.normal_(value, 0.5, 0.3)
    return unet


def exact(unet: UNet3D, image: torch.Tensor) -> torch.Tensor:
    """The plain forward in double precision."""
    result = unet.double()(image.double())
    unet.float()
    return result


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.std())


class TestFeatures:
    @pytest.mark.parametrize(
        ("width", "levels", "shape"),
        [
            (8, 1, (5, 6, 7)),
            (8, 3, (13, 14, 15)),
            (16, 2, (9, 10, 11)),
            (16, 3, (16, 12, 20)),
            (8, 5, (16, 17, 18)),
            (16, 4, (24, 15, 27)),
        ],
    )
    def test_equal_to_plain(self, width, levels, shape):
        unet = make_unet(f_maps=width, num_levels=levels)
        image = torch.rand(1, 1, *shape)
        expected = exact(unet, image)
        # As near to the exact result as the plain float32 forward is (rounding grows with depth).
        tolerance = max(1e-5, 2 * worst(unet(image), expected))
        assert worst(lean_features(unet, image), expected) <= tolerance

    @settings(max_examples=15, deadline=None)
    @given(
        shape=st.tuples(SIDES, SIDES, SIDES),
        width=st.sampled_from([8, 16]),
        levels=st.integers(1, 3),
        unit=st.booleans(),
    )
    def test_any_size(self, shape, width, levels, unit):
        unet = make_unet(f_maps=width, num_levels=levels, unit_features=unit)
        image = torch.rand(1, 1, *shape)
        expected = exact(unet, image)
        tolerance = max(3e-5, 4 * worst(unet(image), expected))
        difference = (lean_features(unet, image) - expected).abs()
        if unit:  # to divide by a norm makes a voxel's error as much larger as its norm is small
            norms = exact(make_unet(f_maps=width, num_levels=levels), image).norm(dim=1, keepdim=True)
            difference = difference * (norms / norms.mean()).clamp(max=1)
        assert float(difference.max() / expected.std()) <= tolerance

    def test_unit_features_have_unit_norm(self):
        features = lean_features(
            make_unet(f_maps=8, num_levels=2, unit_features=True), torch.rand(1, 1, 8, 9, 10)
        )
        torch.testing.assert_close(features.norm(dim=1), torch.ones(1, 8, 9, 10))

    def test_each_image_of_a_batch_for_itself(self):
        unet = make_unet(f_maps=8, num_levels=3)
        images = torch.rand(2, 1, 12, 10, 11)
        alone = torch.cat([lean_features(unet, image[None]) for image in images])
        torch.testing.assert_close(lean_features(unet, images), alone)

    def test_several_input_channels(self):
        unet = make_unet(in_channels=4, f_maps=8, num_levels=2)
        image = torch.rand(1, 4, 8, 9, 10)
        kept = image.clone()
        assert worst(lean_features(unet, image), exact(unet, image)) < ATOL
        assert torch.equal(image, kept)

    def test_bf16_is_near(self):
        unet = make_unet(f_maps=16, num_levels=3)
        image = torch.rand(1, 1, 16, 18, 17)
        features = lean_features(unet, image, torch.bfloat16)
        assert features.dtype == torch.bfloat16
        expected = exact(unet, image)
        assert ((features - expected) ** 2).mean().sqrt() / expected.std() < 0.03

    def test_large_offset_keeps_precision(self):
        # The first GroupNorm removes offset and scale; sums in float32 would not.
        unet = make_unet(f_maps=8, num_levels=2)
        image = torch.rand(1, 1, 16, 16, 16)
        shifted = 1000 + 10 * image
        assert worst(lean_features(unet, shifted), exact(unet, shifted)) < 1e-3

    def test_too_small_is_refused(self):
        with pytest.raises(ValueError, match="at least 16 voxels"):
            lean_features(make_unet(f_maps=8, num_levels=5), torch.rand(1, 1, 15, 20, 20))

    def test_constant_image_gives_finite_features(self):
        assert lean_features(make_unet(f_maps=8, num_levels=2), torch.ones(1, 1, 8, 8, 8)).isfinite().all()


def reference_convolution(operands: list[Operand]) -> torch.Tensor:
    """What `convolve` should give, ``(X, Y, Z, O)`` float64."""
    total = 0
    for operand in operands:
        data = operand.data.double() * operand.scale.double() + operand.shift.double()
        upsampled = F.interpolate(data.permute(3, 0, 1, 2)[None], size=operand.grid, mode="nearest")
        total = total + F.conv3d(upsampled, operand.weight.double(), padding=1)
    return F.leaky_relu(total, 0.01)[0].permute(1, 2, 3, 0)


def make_operand(grid, channels, coarse=False, out=8) -> Operand:
    size = tuple(n // 2 for n in grid) if coarse else grid
    weight = torch.randn(out, channels, 3, 3, 3) / 10
    return Operand(
        torch.randn(*size, channels), torch.rand(channels) + 0.5, torch.randn(channels), weight, grid
    )


class TestConvolution:
    @pytest.mark.parametrize("grid", list(itertools.product((6, 7), (8, 9), (4, 5))))
    @pytest.mark.parametrize("channels", [3, 8])  # direct, Winograd
    def test_upsampled_operand(self, grid, channels):
        torch.manual_seed(0)
        operands = [make_operand(grid, channels), make_operand(grid, 2 * channels, coarse=True)]
        expected = reference_convolution(operands)
        found, moments = convolve(operands)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(moments.total, expected.sum((0, 1, 2)), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(moments.squares, (expected**2).sum((0, 1, 2)), atol=1e-4, rtol=1e-5)
        assert moments.voxels == grid[0] * grid[1] * grid[2]

    @pytest.mark.parametrize("channels", [3, 8])
    @pytest.mark.parametrize("block_bytes", [1, 20_000, 60_000, 10**8])
    def test_block_size_changes_nothing(self, channels, block_bytes):
        torch.manual_seed(0)
        grid = (10, 12, 6)
        operands = [make_operand(grid, channels), make_operand(grid, channels, coarse=True)]
        expected = reference_convolution(operands)
        found, _ = convolve(operands, block_bytes=block_bytes)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("block_bytes", [1, 60_000])
    def test_result_may_overwrite_the_input(self, block_bytes):
        torch.manual_seed(0)
        operand = make_operand((11, 9, 6), 8)
        expected = reference_convolution([operand])
        found, _ = convolve([operand], out=operand.data, block_bytes=block_bytes)
        assert found is operand.data
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


class TestStatistics:
    @settings(max_examples=20, deadline=None)
    @given(have=st.integers(1, 40), odd=st.booleans())
    def test_nearest_indices_are_those_of_torch(self, have, odd):
        want = 2 * have + odd
        row = torch.arange(float(have))[None, None]
        assert nearest_indices(have, want).tolist() == F.interpolate(row, size=want)[0, 0].tolist()

    @pytest.mark.parametrize("size", [(8, 10, 12), (9, 10, 13), (9, 11, 13)])
    def test_moments_of_the_upsampled_tensor(self, size):
        coarse = torch.randn(4, 5, 6, 3)
        upsampled = F.interpolate(coarse.permute(3, 0, 1, 2)[None].double(), size=size)[0]
        moments = measure(coarse, size)
        torch.testing.assert_close(moments.total, upsampled.sum((1, 2, 3)))
        torch.testing.assert_close(moments.squares, (upsampled**2).sum((1, 2, 3)))
        assert moments.voxels == upsampled[0].numel()

    def test_group_norm(self):
        norm = torch.nn.GroupNorm(8, 24)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        # Groups of 3 straddle the border between 8 and 16 channels.
        data = torch.randn(6, 4, 8, 24) * torch.arange(1, 25) + 5
        parts = [measure(part) for part in data.split([8, 16], dim=-1)]
        scale, shift = group_norm_affine(norm, parts)
        expected = norm(data.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
        torch.testing.assert_close(data * scale + shift, expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9)])
    def test_max_pool(self, size):
        data = torch.randn(*size, 3)
        expected = F.max_pool3d(data.permute(3, 0, 1, 2)[None], 2)[0].permute(1, 2, 3, 0)
        assert torch.equal(max_pool(data), expected)
