"""Measures of one session: synthesis against acquired images, features against features."""

import numpy as np
import pytest

from bidsrep.evaluation.invariance import FeatureLattice, compare_features
from bidsrep.evaluation.synthesis import compare_synthesis

RNG = np.random.default_rng(0)
BRAIN = np.ones((8, 8, 8), dtype=bool)


class TestSynthesis:
    image = RNG.uniform(1, 2, (8, 8, 8))

    def test_scale_and_offset_do_not_matter(self):
        result = compare_synthesis(3 * self.image + 7, self.image, BRAIN)
        assert result["correlation"] == pytest.approx(1)
        assert result["mae"] < 1e-9
        assert result["psnr"] > 100

    def test_an_inverted_image_gets_no_credit(self):
        inverted = compare_synthesis(-self.image, self.image, BRAIN)
        constant = compare_synthesis(np.ones_like(self.image), self.image, BRAIN)
        assert inverted["correlation"] == pytest.approx(-1)
        assert inverted["mae"] == pytest.approx(constant["mae"])

    def test_psnr_follows_its_formula(self):
        noisy = self.image + RNG.normal(0, 0.1, self.image.shape)
        truth = self.image / np.percentile(self.image, 99.5)
        slope, offset = np.polyfit(noisy.ravel(), truth.ravel(), 1)
        mse = np.mean((slope * noisy + offset - truth) ** 2)
        assert compare_synthesis(noisy, self.image, BRAIN)["psnr"] == pytest.approx(-10 * np.log10(mse))

    def test_only_the_mask_counts(self):
        mask = BRAIN.copy()
        mask[4:] = False
        damaged = np.where(mask, self.image, 99)
        assert compare_synthesis(damaged, self.image, mask)["mae"] < 1e-9

    def test_an_empty_image_is_nan(self):
        assert np.isnan(compare_synthesis(self.image, 0 * self.image, BRAIN)["psnr"])


class TestInvariance:
    features = RNG.normal(0, 1, (5, 8, 8, 8)).astype(np.float32)

    def lattice(self, features: np.ndarray, step: int = 2) -> FeatureLattice:
        return FeatureLattice.sample(features, BRAIN, step)

    def test_the_same_features_score_one(self):
        assert compare_features(self.lattice(self.features), self.lattice(2 * self.features))[
            "contrast_invariance"
        ] == pytest.approx(1, abs=1e-6)

    def test_unrelated_features_score_about_zero(self):
        other = RNG.normal(0, 1, self.features.shape)
        score = compare_features(self.lattice(self.features, 1), self.lattice(other, 1))[
            "contrast_invariance"
        ]
        assert abs(score) < 0.1

    def test_a_common_offset_does_not_raise_the_score(self):
        other = RNG.normal(0, 1, self.features.shape)
        result = compare_features(self.lattice(self.features + 20, 1), self.lattice(other + 20, 1))
        assert result["feature_cosine"] > 0.99
        assert abs(result["contrast_invariance"]) < 0.1

    def test_only_common_voxels_are_compared(self):
        half = BRAIN.copy()
        half[:4] = False
        spoiled = np.where(half, self.features, 0)
        result = compare_features(self.lattice(self.features), FeatureLattice.sample(spoiled, half, 2))
        assert result["contrast_invariance"] == pytest.approx(1, abs=1e-6)

    def test_coarse_features_are_interpolated_at_the_lattice(self):
        mask = np.zeros((40, 40, 40), bool)
        mask[5:37, 4:36, 8:40] = True
        box = (slice(5, 37), slice(4, 36), slice(8, 40))
        # Every feature is the place of its cube's centre along one axis of the box.
        centres = np.stack(np.meshgrid(*[np.arange(4) * 8 + 3.5] * 3, indexing="ij"))
        lattice = FeatureLattice.sample(centres, mask, step=4, box=box, stride=8)
        found = np.stack(np.unravel_index(lattice.voxels, mask.shape), axis=1)
        assert {int(v) for v in np.diff(np.unique(found[:, 0]))} == {8}
        inner = ((found - [5, 4, 8] >= 4) & (found - [5, 4, 8] < 28)).all(axis=1)
        np.testing.assert_allclose(lattice.features[inner], found[inner] - [5, 4, 8])

    def test_a_cropped_array_gives_the_same_lattice(self):
        inner = np.zeros_like(BRAIN)
        inner[2:7, 1:8, 3:6] = True
        box = (slice(1, 7), slice(1, 8), slice(3, 7))
        whole = FeatureLattice.sample(self.features, inner, 2)
        part = FeatureLattice.sample(self.features[(slice(None), *box)], inner, 2, box)
        assert np.array_equal(whole.voxels, part.voxels)
        assert np.array_equal(whole.features, part.features)

    def test_nothing_in_common_is_nan(self):
        empty = FeatureLattice.sample(self.features, ~BRAIN, 2)
        assert np.isnan(compare_features(self.lattice(self.features), empty)["contrast_invariance"])

    def test_round_trip(self, tmp_path):
        lattice = self.lattice(self.features)
        again = FeatureLattice.load(lattice.save(tmp_path / "lattice.npz"))
        assert np.array_equal(again.voxels, lattice.voxels)
        assert np.allclose(again.features, lattice.features, atol=2e-3)
