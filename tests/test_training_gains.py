"""Gains of a sharpening view: what they depend on, and that fitting finds them."""

from __future__ import annotations

import pytest
import torch

from bidsrep.models.views import Gains, ViewHead, bands
from bidsrep.synth.corruption import CorruptionParameters, add_noise_at_resolution
from bidsrep.synth.filters import upsample
from bidsrep.training.gains import fit_gains

SIGMAS = (0.7, 1.2, 2.0)
SHAPE = (32, 36, 32)


def detail(seed: int) -> torch.Tensor:
    """An image ``(X, Y, Z)`` with detail of all sizes, above zero."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (tuple(-(-side // step) for side in SHAPE) for step in (2, 3, 6))
    scales = [upsample(torch.randn(*size, generator=generator), SHAPE) for size in sizes]
    return (4 + sum(scales)).clamp(min=0.1)


def coarse(image: torch.Tensor, size: float, axes: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    """The image in voxels of ``size`` along some axes, interpolated back."""
    sizes = tuple(size if axis in axes else 1.0 for axis in range(3))
    return add_noise_at_resolution(
        image, CorruptionParameters(sizes, sizes, 0.56, 1.0, torch.zeros(2, 2, 2), 0.0, 0), 1.0
    )


class Scans:
    """An objective: images of voxels of 2 or 4 mm, with what they were."""

    def sample(self, number: int, step: int) -> dict[str, torch.Tensor]:
        clean = detail(number % 1000)
        return {
            "image": coarse(clean, 2.0 + 2 * (number % 2))[None, None],
            "target_superres": clean[None, None],
            "brain": torch.ones(1, 1, *SHAPE),
        }


def random_gains() -> Gains:
    torch.manual_seed(0)
    gains = Gains(SIGMAS)
    torch.nn.init.normal_(gains.last.weight)
    return gains


def test_they_start_at_zero() -> None:
    image = detail(0)[None, None]
    assert all(gain.item() == 0 for gain in Gains(SIGMAS)(bands(image, SIGMAS), image))


def test_the_scale_of_the_image_does_not_matter() -> None:
    gains, image = random_gains(), coarse(detail(1), 3.0)[None, None]
    first, second = (torch.stack(gains(bands(x, SIGMAS), x)) for x in (image, 7 * image))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_axes_are_treated_alike() -> None:
    gains, image = random_gains(), coarse(detail(2), 5.0, axes=(2,))[None, None]
    turned = image.transpose(2, 4).contiguous()
    first, second = (torch.stack(gains(bands(x, SIGMAS), x)).reshape(3, -1) for x in (image, turned))
    torch.testing.assert_close(first, second.flip(0), rtol=1e-3, atol=1e-4)


def test_energies_tell_thick_slices_from_their_plane() -> None:
    image = coarse(detail(3), 5.0, axes=(2,))[None, None]
    energies = Gains(SIGMAS).energies(bands(image, SIGMAS), image)[0, :, 0]
    assert energies[2] < energies[:2].min() - 0.1


def test_fitting_comes_close_to_the_best_of_each_image() -> None:
    torch.manual_seed(0)
    head = ViewHead(4, 1, 1, f_maps=8, num_levels=2, residual=True, sharpen=SIGMAS)
    reached, possible = fit_gains(head, Scans(), 12)
    assert possible >= reached > 0.95 * possible > 2
    clean = detail(77)
    image = coarse(clean, 2.0)[None, None]
    with torch.no_grad():
        sharper = head.glance(image)[0, 0]
    inner = (slice(4, -4),) * 3
    error, before = ((x - clean)[inner].square().mean() for x in (sharper, image[0, 0]))
    assert error < 0.5 * before


def test_a_view_without_bands_has_no_gains() -> None:
    with pytest.raises(ValueError, match="sharpen"):
        fit_gains(ViewHead(4, 1, 1, f_maps=8, num_levels=2), Scans(), 1)
