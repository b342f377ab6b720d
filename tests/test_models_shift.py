"""A grid's sides must not move what a network finds: odd sides shift the coarse levels."""

import numpy as np
import pytest
import torch

from bidsrep.imaging.grids import pad_to_multiple
from bidsrep.imaging.volume import Volume
from bidsrep.models.registry import load_model


@pytest.mark.parametrize("shape", [(8, 16, 24), (9, 17, 23), (1, 2, 3)])
def test_padding_is_undone(shape: tuple[int, int, int]) -> None:
    data = np.random.default_rng(0).random(shape)
    padded, keep = pad_to_multiple(data, 8)
    assert all(side % 8 == 0 for side in padded.shape)
    assert padded.sum() == pytest.approx(data.sum())
    np.testing.assert_array_equal(padded[keep], data)


@pytest.mark.parametrize("shape", [(78, 60, 40), (79, 90, 81), (20, 100, 33)])
def test_brain_mask_works_on_sides_that_divide(shape: tuple[int, int, int]) -> None:
    model = load_model("brainmask")
    scan = Volume(np.ones(shape, np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    grid = model._working_grid(scan)
    trained = [round(extent / model.resolution_mm) for extent in model.card["input"]["field_of_view_mm"]]
    assert all(side % model.divisor == 0 for side in grid.shape)
    assert all(side >= max(least, n) for side, least, n in zip(grid.shape, trained, shape, strict=True))


def test_odd_sides_shift_and_even_sides_do_not() -> None:
    """Why the padding is there: a symmetric input comes out asymmetric on odd sides alone."""
    from bidsrep.models.unet import UNet3D

    torch.manual_seed(0)
    network = UNet3D(f_maps=8, num_levels=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # kernels that are the same in both directions
            if parameter.ndim == 5:
                parameter.copy_((parameter + parameter.flip(2)) / 2)
        for side, symmetric in ((24, True), (23, False)):
            image = torch.zeros(1, 1, side, 16, 16)
            image[:, :, side // 4 : side - side // 4] = 1
            out = network(image)
            error = (out - out.flip(2)).abs().max() / out.abs().max()
            assert (error < 1e-3) == symmetric
