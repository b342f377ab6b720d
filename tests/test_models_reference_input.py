"""What the authors' demos feed their networks."""

import numpy as np
import pytest
import torch

from bidsrep.errors import InputError
from bidsrep.imaging.volume import Volume
from bidsrep.models.reference_input import gaussian_blur, reference_input, zoom


@pytest.fixture
def scan() -> Volume:
    return Volume(np.random.default_rng(0).uniform(10, 90, (10, 12, 14)), np.diag([1.0, 1, 1, 1]))


class TestReferenceInput:
    def test_one_mm_ras_is_only_scaled(self, scan):
        prepared = reference_input(scan)
        np.testing.assert_allclose(
            prepared.data, (scan.data - scan.data.min()) / np.ptp(scan.data), atol=1e-6
        )
        np.testing.assert_array_equal(prepared.affine, scan.affine)

    def test_axes_become_ras(self, scan):
        turned = Volume(
            scan.data.transpose(2, 0, 1)[::-1], np.eye(4)[:, [2, 0, 1, 3]] @ np.diag([-1, 1, 1, 1])
        )
        prepared = reference_input(turned)
        assert prepared.shape == scan.shape
        np.testing.assert_allclose(np.diag(prepared.affine)[:3], 1)

    def test_affine_follows_the_crop(self, scan):
        # Deliberately unlike the reference, whose cropped outputs are shifted in space.
        whole, cropped = reference_input(scan), reference_input(scan, window=10)
        assert cropped.shape == (10, 10, 10)
        np.testing.assert_array_equal(cropped.data, whole.data[:, 1:11, 2:12])
        np.testing.assert_array_equal(cropped.affine[:3, 3], [0, 1, 2])

    def test_constant_image_is_refused(self):
        with pytest.raises(InputError, match=r"constant \(7\)"):
            reference_input(Volume(np.full((8, 8, 8), 7), np.eye(4)))

    def test_not_a_number_becomes_zero(self, scan):
        data = scan.data.copy()
        data[0, 0, 0] = np.nan
        assert np.isfinite(reference_input(scan.replace(data)).data).all()

    def test_positions_are_kept(self):
        # A ramp in mm along z stays that ramp when slices become thinner.
        affine = np.diag([1.0, 1, 3, 1])
        affine[2, 3] = -5
        data = np.broadcast_to(np.arange(8.0), (6, 6, 8))
        prepared = reference_input(Volume(data, affine))
        z = prepared.affine[2, 2] * np.arange(prepared.shape[2]) + prepared.affine[2, 3]
        inside = slice(2, -2)
        np.testing.assert_allclose(prepared.data[0, 0, inside] * 7, ((z + 5) / 3)[inside], atol=1e-5)


class TestOperations:
    def test_blur_keeps_the_sum_inside(self):
        data = torch.zeros(15, 15, 15)
        data[7, 7, 7] = 1
        blurred = gaussian_blur(data, [1.0, 0.0, 2.0])
        assert float(blurred.sum()) == pytest.approx(1)
        assert float(blurred[:, 0, :].sum()) == 0

    def test_no_zoom_is_the_identity(self):
        data = torch.rand(4, 5, 6)
        assert torch.equal(zoom(data, [1.0, 1.0, 1.0]), data)


@pytest.mark.data
class TestReferenceNumbers:
    @pytest.mark.parametrize("name", ["lia3", "ras1", "oblique"])
    def test_prepare_image(self, test_data, name):
        arrays = np.load(test_data / "fixtures" / "prepare_image.npz")
        prepared = reference_input(Volume(arrays[f"{name}_in"], arrays[f"{name}_aff"]))
        np.testing.assert_allclose(prepared.data, arrays[f"{name}_out"][0, 0], atol=1e-5)
        np.testing.assert_allclose(prepared.affine, arrays[f"{name}_out_aff"], atol=1e-5)

    def test_operations(self, test_data):
        arrays = np.load(test_data / "fixtures" / "ops.npz")
        for name in ("zoom", "zoomdown"):
            found = zoom(torch.from_numpy(arrays[f"{name}_in"]), arrays[f"{name}_factor"].tolist())
            np.testing.assert_allclose(found, arrays[f"{name}_out"], atol=1e-6)
        blurred = gaussian_blur(torch.from_numpy(arrays["zoomdown_in"]), arrays["blur_stds"].tolist())
        np.testing.assert_allclose(blurred, arrays["blur_out"], atol=1e-6)
