"""Metrics against examples that are worked out here, by hand or by brute force, and their properties."""

from itertools import product

import numpy as np
import pytest

from bidsrep.evaluation.metrics import _checks, identity, images, lesions, overlap
from bidsrep.evaluation.metrics.fields import norm_l2
from bidsrep.evaluation.metrics.identity import contrast_invariance, icc_2_1, icc_3_1, identify
from bidsrep.evaluation.metrics.images import correlation, mean_absolute_error, ms_ssim, psnr, ssim
from bidsrep.evaluation.metrics.lesions import average_precision, detect_lesions, roc_auc
from bidsrep.evaluation.metrics.overlap import (
    average_surface_distance,
    dice_scores,
    hausdorff_95,
    volume_error,
)

RNG = np.random.default_rng(0)
SHAPE = (14, 13, 15)
IMAGE = RNG.uniform(0, 1, SHAPE)
NOISY = IMAGE + RNG.normal(0, 0.1, SHAPE)
OTHER_SHAPE = np.zeros((14, 13, 16))


def boxes(shape: tuple[int, int, int], *corners: tuple[slice, slice, slice]) -> np.ndarray:
    """A mask of boxes."""
    mask = np.zeros(shape, dtype=bool)
    for box in corners:
        mask[box] = True
    return mask


HALF = boxes(SHAPE, (slice(None), slice(None), slice(7)))


def message(constant: str) -> str:
    """The part of an error message before what it fills in, as a pattern."""
    return constant.split("{")[0].replace("(", r"\(").replace(")", r"\)") or "."


class TestIntensities:
    def test_constant_error(self) -> None:
        assert mean_absolute_error(IMAGE + 0.1, IMAGE) == pytest.approx(0.1)
        # 10 log10(1 / 0.1^2) = 20 dB, and 20 log10(2) = 6.02 dB more for twice the peak.
        assert psnr(IMAGE + 0.1, IMAGE, peak=1) == pytest.approx(20)
        assert psnr(IMAGE - 0.1, IMAGE, peak=2) == pytest.approx(20 + 20 * np.log10(2))

    def test_equal_images(self) -> None:
        assert mean_absolute_error(IMAGE, IMAGE) == 0
        assert psnr(IMAGE, IMAGE, peak=1) == float("inf")
        assert correlation(IMAGE, IMAGE) == pytest.approx(1)

    def test_only_the_mask_counts(self) -> None:
        damaged = np.where(HALF, IMAGE + 0.1, 99)
        assert mean_absolute_error(damaged, IMAGE, HALF) == pytest.approx(0.1)
        assert psnr(damaged, IMAGE, HALF.astype(np.uint8), peak=1) == pytest.approx(20)
        assert correlation(damaged, IMAGE, HALF) == pytest.approx(1)

    def test_psnr_keeps_its_value_when_images_and_peak_are_scaled(self) -> None:
        assert psnr(7 * NOISY, 7 * IMAGE, peak=7) == pytest.approx(psnr(NOISY, IMAGE, peak=1))

    @pytest.mark.parametrize("peak", [0, -1, float("nan")])
    def test_peak_must_be_positive(self, peak: float) -> None:
        with pytest.raises(ValueError, match="peak must be positive"):
            psnr(IMAGE, IMAGE, peak=peak)

    def test_arrays_must_fit(self) -> None:
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            mean_absolute_error(IMAGE, OTHER_SHAPE)
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            psnr(IMAGE, IMAGE, OTHER_SHAPE, peak=1)
        with pytest.raises(ValueError, match=message(_checks.EMPTY_MASK)):
            mean_absolute_error(IMAGE, IMAGE, np.zeros(SHAPE))


class TestStructuralSimilarity:
    def test_constant_images_differ_in_luminance_alone(self) -> None:
        # No variance: SSIM = (2 a b + c1) / (a^2 + b^2 + c1) with c1 = (0.01 x 2)^2.
        a, b, c1 = 0.8, 0.5, 0.0004
        expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
        found = ssim(np.full(SHAPE, a), np.full(SHAPE, b), data_range=2)
        assert found == pytest.approx(expected)

    def test_equal_images_score_one(self) -> None:
        assert ssim(IMAGE, IMAGE, HALF, data_range=1) == pytest.approx(1)

    def test_opposite_images_score_less_than_nothing(self) -> None:
        centred = IMAGE - 0.5
        assert ssim(0.5 + centred, 0.5 - centred, data_range=1) < -0.5

    def test_symmetric_and_scaled_with_its_range(self) -> None:
        found = ssim(NOISY, IMAGE, data_range=1)
        assert 0 < found < 1
        assert ssim(IMAGE, NOISY, data_range=1) == pytest.approx(found)
        assert ssim(50 * NOISY, 50 * IMAGE, data_range=50) == pytest.approx(found)

    def test_the_map_is_monais(self) -> None:
        import torch
        from monai.metrics.regression import compute_ssim_and_cs

        pair = (torch.from_numpy(x)[None, None] for x in (NOISY, IMAGE))
        expected, _ = compute_ssim_and_cs(
            *pair, spatial_dims=3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3
        )
        inner = expected[0, 0].numpy()
        assert inner.shape == (4, 3, 5)
        assert ssim(NOISY, IMAGE, data_range=1) == pytest.approx(inner.mean(), abs=1e-5)
        # Of the mask's planes 0 to 6 along z, 5 and 6 have whole windows: planes 0 and 1 of the map.
        assert ssim(NOISY, IMAGE, HALF, data_range=1) == pytest.approx(inner[:, :, :2].mean(), abs=1e-5)

    def test_slices_have_two_dimensional_windows(self) -> None:
        import torch
        from monai.metrics.regression import compute_ssim_and_cs

        pair = (torch.from_numpy(x[..., 0])[None, None] for x in (NOISY, IMAGE))
        expected, _ = compute_ssim_and_cs(
            *pair, spatial_dims=2, kernel_size=(11,) * 2, kernel_sigma=(1.5,) * 2
        )
        assert ssim(NOISY[..., 0], IMAGE[..., 0], data_range=1) == pytest.approx(
            float(expected.mean()), abs=1e-5
        )
        assert psnr(NOISY[..., 0], IMAGE[..., 0], peak=1) == psnr(NOISY[..., :1], IMAGE[..., :1], peak=1)
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            ms_ssim(NOISY[..., 0], IMAGE[..., 0], data_range=1)

    def test_three_scales_are_monais(self) -> None:
        import torch
        from monai.metrics.regression import compute_ms_ssim

        truth = RNG.uniform(0, 1, (45, 44, 46))  # the least size, and an odd one
        predicted = truth + RNG.normal(0, 0.2, truth.shape)
        weights = (0.2, 0.3, 0.5)
        pair = (torch.from_numpy(x)[None, None] for x in (predicted, truth))
        expected = float(compute_ms_ssim(*pair, spatial_dims=3, weights=weights))
        assert ms_ssim(predicted, truth, data_range=1, weights=weights) == pytest.approx(expected, abs=1e-5)

    def test_two_scales_of_constants(self) -> None:
        # Contrast and structure of constants are 1; luminance counts at the coarser scale, to its weight.
        ones = np.ones((22, 22, 22))
        luminance = (2 * 0.5 + 0.0001) / (1.25 + 0.0001)
        assert ms_ssim(ones, ones / 2, data_range=1, weights=(0.4, 0.6)) == pytest.approx(luminance**0.6)

    def test_one_scale_is_ssim(self) -> None:
        assert ms_ssim(NOISY, IMAGE, data_range=1, weights=(1.0,)) == ssim(NOISY, IMAGE, data_range=1)

    def test_opposite_images_score_nothing(self) -> None:
        assert ms_ssim(IMAGE, 1 - IMAGE, data_range=1, weights=(1.0,)) == 0

    def test_five_scales_name_the_size_they_need(self) -> None:
        small = np.broadcast_to(0.0, (176, 200, 175))
        with pytest.raises(ValueError, match=r"at least 176 voxels .* got \(176, 200, 175\)"):
            ms_ssim(small, small, data_range=1)

    def test_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="data_range must be positive"):
            ssim(IMAGE, IMAGE, data_range=0)
        with pytest.raises(ValueError, match="at least 11 voxels"):
            ssim(IMAGE[:10], IMAGE[:10], data_range=1)
        with pytest.raises(ValueError, match=images.NO_WINDOW):
            ssim(IMAGE, IMAGE, boxes(SHAPE, np.s_[:5, :, :]), data_range=1)
        for arguments in ((IMAGE, OTHER_SHAPE), (IMAGE, IMAGE, OTHER_SHAPE)):
            with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
                ssim(*arguments, data_range=1)
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            ms_ssim(IMAGE, OTHER_SHAPE, data_range=1)


class TestDice:
    # Background: 3 and 4 voxels, 3 common: 6/7. Class 1: 4 and 3, 2 common: 4/7. Class 2: 1 and 0: 0.
    # Class 3: 0 and 1: 0. Class 9: in neither.
    predicted = np.array([0, 0, 0, 1, 1, 1, 1, 2]).reshape(2, 2, 2)
    truth = np.array([0, 0, 0, 0, 1, 1, 3, 1]).reshape(2, 2, 2)

    def test_by_hand(self) -> None:
        found = dice_scores(self.predicted, self.truth, (0, 1, 2, 3, 9))
        assert dict(found.per_class) == pytest.approx(
            {0: 6 / 7, 1: 4 / 7, 2: 0, 3: 0, 9: np.nan}, nan_ok=True
        )
        assert found.n_absent == 1
        assert found.mean == pytest.approx((4 / 7) / 3)
        assert found.mean_with_background == pytest.approx((10 / 7) / 4)
        assert found.mean_of_all == pytest.approx((10 / 7) / 5)

    def test_symmetric_and_one_for_the_truth(self) -> None:
        there, back = (
            dice_scores(*pair, (0, 1, 2, 3))
            for pair in ((self.predicted, self.truth), (self.truth, self.predicted))
        )
        assert there == back
        assert dice_scores(self.truth, self.truth, (0, 1, 2, 3)).mean == 1

    def test_background_may_have_another_number(self) -> None:
        found = dice_scores(self.predicted, self.truth, (0, 1), background=1)
        assert found.mean == pytest.approx(6 / 7)

    def test_nothing_there_is_nan(self) -> None:
        found = dice_scores(self.predicted, self.truth, (7, 8))
        assert np.isnan([found.mean, found.mean_with_background]).all()
        assert found.n_absent == 2

    def test_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            dice_scores(self.predicted, IMAGE, (1,))
        with pytest.raises(ValueError, match=overlap.NO_CLASSES):
            dice_scores(self.predicted, self.truth, ())


def surface_distances(one: np.ndarray, two: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distances (N,) in mm of one mask's surface voxels to the other's, over all pairs."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, step, axis) for axis in range(3) for step in (1, -1)]
        return (np.argwhere(padded & ~np.all(neighbours, axis=0)) - 1) * np.array(spacing)

    pairs = surface(one)[:, None] - surface(two)[None]
    return np.linalg.norm(pairs, axis=2).min(axis=1)


class TestSurfaces:
    spacing = (1.0, 2.0, 2.5)
    cube = boxes((7, 7, 12), np.s_[2:5, 2:5, 1:4])
    shifted = boxes((7, 7, 12), np.s_[2:5, 2:5, 5:8])

    def test_two_cubes_four_voxels_apart(self) -> None:
        # Of the 26 surface voxels of a cube, 9 are 4 voxels of 2.5 mm from the other cube's near face, 8 are
        # 3 and 9 are 2 away: 10, 7.5 and 5 mm, whose mean is 7.5; more than 5 % have 10.
        assert hausdorff_95(self.cube, self.shifted, self.spacing) == pytest.approx(10)
        assert average_surface_distance(self.cube, self.shifted, self.spacing) == pytest.approx(7.5)

    def test_one_stray_voxel_in_a_hundred_does_not_count(self) -> None:
        plate = boxes((10, 10, 9), np.s_[:, :, 0])
        stray = plate.copy()
        stray[4, 4, 8] = True  # 8 voxels of 2.5 mm away
        assert hausdorff_95(stray, plate, self.spacing) == 0
        assert average_surface_distance(stray, plate, self.spacing) == pytest.approx(20 / 201)

    def test_the_worse_direction_counts(self) -> None:
        bar = boxes((3, 3, 21), np.s_[1, 1, :])
        end = boxes((3, 3, 21), np.s_[1, 1, :1])
        # From the bar to its end: 0, 1, ..., 20; the 95th percentile of 21 values is the 20th. Back: 0.
        assert hausdorff_95(bar, end, (1, 1, 1)) == pytest.approx(19)
        assert hausdorff_95(end, bar, (1, 1, 1)) == pytest.approx(19)

    def test_against_all_pairs(self) -> None:
        for density in (0.05, 0.4, 0.8):
            one, two = RNG.random((2, 6, 5, 7)) < density
            there, back = (surface_distances(*pair, self.spacing) for pair in ((one, two), (two, one)))
            worst = max(np.percentile(x, 95) for x in (there, back))
            assert hausdorff_95(one, two, self.spacing) == pytest.approx(worst, rel=1e-5)
            mean = np.concatenate([there, back]).mean()
            assert average_surface_distance(one, two, self.spacing) == pytest.approx(mean, rel=1e-5)

    def test_empty_masks_are_nan(self) -> None:
        empty = np.zeros_like(self.cube)
        for pair in product((self.cube, empty), repeat=2):
            expected = 0.0 if pair[0].any() and pair[1].any() else np.nan
            assert hausdorff_95(*pair, self.spacing) == pytest.approx(expected, nan_ok=True)
            assert average_surface_distance(*pair, self.spacing) == pytest.approx(expected, nan_ok=True)

    def test_spacing_may_come_from_an_affine(self) -> None:
        zooms = np.array([1, 2, 2.5], dtype=np.float32)
        assert hausdorff_95(self.cube, self.shifted, zooms) == pytest.approx(10)  # type: ignore[arg-type]

    @pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, float("nan"))])
    def test_bad_spacing(self, spacing: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match=message(overlap.BAD_SPACING)):
            hausdorff_95(self.cube, self.shifted, spacing)

    def test_arrays_must_fit(self) -> None:
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            average_surface_distance(self.cube, IMAGE, self.spacing)


class TestVolume:
    def test_sign_and_percentage(self) -> None:
        small, large = boxes(SHAPE, np.s_[:2, :2, :2]), boxes(SHAPE, np.s_[:2, :2, :5])
        assert volume_error(large, small, 0.5) == overlap.VolumeError(6.0, 150.0)
        assert volume_error(small, large, 0.5) == overlap.VolumeError(-6.0, -60.0)

    def test_percentage_of_nothing_is_nan(self) -> None:
        found = volume_error(HALF, np.zeros(SHAPE), 0.001)
        assert found.ml == pytest.approx(HALF.sum() * 0.001)
        assert np.isnan(found.percent)

    def test_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="voxel_ml must be positive"):
            volume_error(HALF, HALF, 0)
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            volume_error(HALF, OTHER_SHAPE, 1)


def drawn(*rows: str) -> np.ndarray:
    """A picture as a slice (X, Y, 1): voxels that are not dots."""
    return np.array([[letter != "." for letter in row] for row in rows])[:, :, None]


class TestLesionDetection:
    truth = drawn(
        "AAAA....B.",
        "AAAA......",
        "AAAA....CC",
        "........CC",
        "D.........",
        ".D...E....",
    )
    predicted = drawn(
        "11......2.",
        "..........",
        "....3.....",  # beside A, not on it
        ".......444",
        "..........",
        "5....6..77",
    )
    # Voxels of 0.5 ml. True: A 12, C 4, D 2 (touching by a corner), B 1 and E 1 voxels. The prediction touches
    # A (2 of 12), C (2 of 4), B and E (all), not D, to which 5 lies beside. False are 3 (1 voxel), 5 (1), 7 (2).

    def test_by_hand(self) -> None:
        found = detect_lesions(self.predicted, self.truth, 0.5, min_volume_ml=0)
        assert found.true_ml.tolist() == [6, 2, 1, 0.5, 0.5]
        assert found.found.tolist() == [True, True, False, True, True]
        assert found.sensitivity == pytest.approx(4 / 5)
        assert found.false_positives == 3
        assert found.false_positive_ml == pytest.approx(2.0)
        assert found.positive_predictive_value == pytest.approx(4 / 7)
        assert found.f1 == pytest.approx(2 * (4 / 5) * (4 / 7) / (4 / 5 + 4 / 7))
        assert found.found_above(1.0).tolist() == [True, True, False]

    def test_small_ones_do_not_count_but_cover(self) -> None:
        found = detect_lesions(self.predicted, self.truth, 0.5, min_volume_ml=1)
        # True: A, C, D. Predicted: 1, 4, 7; 2 and 6 on B and E are neither right nor wrong.
        assert found.found.tolist() == [True, True, False]
        assert sorted(found.predicted_ml) == [1, 1, 1.5]
        assert found.false_positives == 1
        speck = drawn("A..") & False
        speck[0, 0] = True
        whole = drawn("AAA")
        assert detect_lesions(speck, whole, 0.5, min_volume_ml=1).found.tolist() == [True]
        assert detect_lesions(whole, speck, 0.5, min_volume_ml=1).false_positives == 0

    def test_share(self) -> None:
        found = detect_lesions(self.predicted, self.truth, 0.5, min_volume_ml=0, min_share=0.5)
        assert found.found.tolist() == [False, True, False, True, True]
        # Of 4 two thirds lie on C: enough for a half, not for all.
        assert found.positive_predictive_value == pytest.approx(4 / 7)
        strict = detect_lesions(self.predicted, self.truth, 0.5, min_volume_ml=0, min_share=1)
        assert strict.positive_predictive_value == pytest.approx(3 / 7)

    def test_images_can_change_places(self) -> None:
        there = detect_lesions(self.predicted, self.truth, 0.5, 0.0, 0.3)
        back = detect_lesions(self.truth, self.predicted, 0.5, 0.0, 0.3)
        assert there.sensitivity == back.positive_predictive_value
        assert there.f1 == pytest.approx(back.f1)

    def test_nothing_there(self) -> None:
        empty = np.zeros_like(self.truth)
        missed = detect_lesions(empty, self.truth, 0.5, 0)
        assert (missed.sensitivity, missed.f1) == (0, 0)
        assert np.isnan(missed.positive_predictive_value)
        invented = detect_lesions(self.truth, empty, 0.5, 0)
        assert (invented.positive_predictive_value, invented.f1, invented.false_positives) == (0, 0, 5)
        assert np.isnan(invented.sensitivity)
        assert np.isnan(detect_lesions(empty, empty, 0.5, 0).f1)

    def test_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            detect_lesions(self.truth, IMAGE, 0.5)
        with pytest.raises(ValueError, match="voxel_ml must be positive"):
            detect_lesions(self.truth, self.truth, 0)
        with pytest.raises(ValueError, match=message(lesions.BAD_SHARE)):
            detect_lesions(self.truth, self.truth, 1, min_share=50)


class TestProbabilityMaps:
    probability = np.round(RNG.uniform(0, 1, (5, 4, 6)), 1)  # many ties
    truth = (probability + RNG.normal(0, 0.4, probability.shape)) > 0.7
    brain = RNG.random(probability.shape) < 0.7

    def voxels(self) -> tuple[np.ndarray, np.ndarray]:
        values, lesion = self.probability[self.brain], self.truth[self.brain]
        return values[lesion], values[~lesion]

    def test_roc_auc_is_the_share_of_pairs_in_order(self) -> None:
        ones, zeros = self.voxels()
        pairs = np.sign(ones[:, None] - zeros[None])
        assert roc_auc(self.probability, self.truth, self.brain) == pytest.approx(((pairs + 1) / 2).mean())

    def test_average_precision_threshold_by_threshold(self) -> None:
        ones, zeros = self.voxels()
        area, before = 0.0, 0.0
        for threshold in sorted(set(np.concatenate([ones, zeros])), reverse=True):
            hits, alarms = (ones >= threshold).sum(), (zeros >= threshold).sum()
            area += (hits / len(ones) - before) * hits / (hits + alarms)
            before = hits / len(ones)
        assert average_precision(self.probability, self.truth, self.brain) == pytest.approx(area)

    def test_small_example(self) -> None:
        # Falling: lesion, (lesion, other) tied, other. Of 4 pairs 3 are in order and one tied: 3.5 / 4.
        # Precision is 1 up to recall 1/2 and 2/3 up to recall 1: 1/2 + 1/3.
        probability = np.array([0.9, 0.5, 0.5, 0.1]).reshape(4, 1, 1)
        truth = np.array([1, 1, 0, 0]).reshape(4, 1, 1)
        assert roc_auc(probability, truth) == pytest.approx(3.5 / 4)
        assert average_precision(probability, truth) == pytest.approx(5 / 6)

    def test_only_the_order_counts(self) -> None:
        for metric in (roc_auc, average_precision):
            expected = metric(self.probability, self.truth)
            assert metric(np.exp(3 * self.probability), self.truth) == pytest.approx(expected)
        opposite = roc_auc(-self.probability, self.truth)
        assert opposite == pytest.approx(1 - roc_auc(self.probability, self.truth))

    def test_bounds(self) -> None:
        assert roc_auc(self.truth, self.truth) == average_precision(self.truth, self.truth) == 1
        constant = np.ones(self.truth.shape)
        assert roc_auc(constant, self.truth) == pytest.approx(0.5)
        assert average_precision(constant, self.truth) == pytest.approx(self.truth.mean())

    def test_all_or_nothing_is_nan(self) -> None:
        nothing = np.zeros(self.truth.shape)
        assert np.isnan(roc_auc(self.probability, nothing))
        assert np.isnan(roc_auc(self.probability, nothing + 1))
        assert np.isnan(average_precision(self.probability, nothing))

    def test_what_cannot_be_compared(self) -> None:
        for metric in (roc_auc, average_precision):
            with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
                metric(self.probability, self.truth, HALF)
            with pytest.raises(ValueError, match=lesions.NOT_FINITE):
                metric(np.full(self.truth.shape, np.nan), self.truth)


class TestFields:
    truth = np.exp(0.3 * RNG.normal(size=SHAPE))

    def test_half_of_the_field_missed(self) -> None:
        # Truth (1, 1), estimate (1, 0): the best w is 1, what is left is (0, 1), so 1 / sqrt(2).
        truth = np.ones((2, 1, 1))
        assert norm_l2(np.array([1.0, 0.0]).reshape(2, 1, 1), truth) == pytest.approx(np.sqrt(0.5))

    def test_scale_does_not_count(self) -> None:
        wrong = self.truth * np.exp(0.1 * RNG.normal(size=SHAPE))
        assert norm_l2(0.01 * self.truth, self.truth) < 1e-4
        assert norm_l2(5 * wrong, self.truth) == pytest.approx(norm_l2(wrong, self.truth))

    def test_only_the_mask_counts(self) -> None:
        damaged = np.where(HALF, self.truth, 9.0)
        assert norm_l2(damaged, self.truth, HALF) < 1e-4 < norm_l2(damaged, self.truth)

    def test_arrays_must_fit(self) -> None:
        with pytest.raises(ValueError, match=message(_checks.NOT_ONE_GRID)):
            norm_l2(self.truth, self.truth, OTHER_SHAPE)


class TestIdentification:
    # On a line: person a at 0 (T1w) and 1 (FLAIR), person b at 1.5 (T1w) and 5 (FLAIR).
    features = np.array([[0.0], [1.0], [1.5], [5.0]])
    people, contrasts = list("aabb"), ["T1w", "FLAIR"] * 2

    def test_by_hand(self) -> None:
        found = identify(self.features, self.people, self.contrasts, "euclidean")
        assert found.own.tolist() == [1, 1, 3.5, 3.5]
        assert found.other.tolist() == [1.5, 4, 1.5, 4]
        assert found.correct.tolist() == [True, True, False, True]
        assert found.accuracy == 0.75

    def test_features_of_the_person_and_of_the_contrast(self) -> None:
        person = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
        contrast = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
        for distance in ("cosine", "euclidean"):
            assert identify(person, self.people, self.contrasts, distance).accuracy == 1
            assert identify(contrast, self.people, self.contrasts, distance).accuracy == 0
            assert identify(person * 0 + 1, self.people, self.contrasts, distance).accuracy == 0

    def test_cosine_does_not_see_lengths(self) -> None:
        features = RNG.normal(size=(12, 3))
        people, contrasts = np.repeat(range(4), 3), np.tile(range(3), 4)
        lengths = RNG.uniform(0.1, 10, (12, 1))
        found = [identify(x, people, contrasts).correct.tolist() for x in (features, lengths * features)]
        assert found[0] == found[1]

    def test_scans_without_company_are_not_scored(self) -> None:
        # The third is alone of its person, the fourth alone in its contrast.
        found = identify(self.features, list("aaba"), ["T1w", "FLAIR", "T1w", "T2w"], "euclidean")
        assert found.scored.tolist() == [True, False, False, False]
        assert found.accuracy == 1
        assert np.isnan(identify(self.features, list("aaaa"), self.contrasts, "euclidean").accuracy)

    def test_what_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match=message(identity.NOT_ROWS)):
            identify(self.features, self.people[:3], self.contrasts)
        with pytest.raises(ValueError, match=message(identity.NOT_ROWS)):
            identify(self.features[:, 0], self.people, self.contrasts)
        with pytest.raises(ValueError, match="no cosine distance"):
            identify(self.features, self.people, self.contrasts)
        with pytest.raises(ValueError, match="got 'l1'"):
            identify(self.features, self.people, self.contrasts, "l1")  # type: ignore[arg-type]


class TestContrastInvariance:
    def test_by_hand(self) -> None:
        # Cosines of the same place: 1 and 0; of all pairs of places: 1, 1, 0, 0. (1/2 - 1/2) / (1 - 1/2) = 0.
        one, two = np.array([[1, 0], [0, 2]]), np.array([[3, 0], [1, 0]])
        assert contrast_invariance(one, two) == pytest.approx(0)
        assert contrast_invariance(one, 5 * one) == pytest.approx(1)

    def test_places_must_be_the_same(self) -> None:
        with pytest.raises(ValueError, match=message(identity.NOT_ROWS)):
            contrast_invariance(np.ones((3, 2)), np.ones((4, 2)))


class TestIntraclassCorrelation:
    # Shrout and Fleiss (1979), table 2: six subjects, four judges. Their table 4: .29 and .71. The intervals
    # are those that psych (R) prints for this table.
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])

    def test_published_example(self) -> None:
        absolute, consistent = icc_2_1(self.ratings), icc_3_1(self.ratings)
        assert round(absolute.value, 2) == 0.29
        assert (round(absolute.lower, 3), round(absolute.upper, 2)) == (0.019, 0.76)
        assert round(consistent.value, 2) == 0.71
        assert (round(consistent.lower, 3), round(consistent.upper, 2)) == (0.342, 0.95)

    def test_two_by_two_by_hand(self) -> None:
        # Subjects 1, 3 and 4, 4: mean 3; subjects' means 2, 4 and raters' 2.5, 3.5. Mean squares: subjects
        # 2 (1 + 1) = 4, raters 2 (1/4 + 1/4) = 1, rest 4/4 = 1. ICC(3,1) = 3/5; ICC(2,1) = 3 / (4 + 1 + 0).
        table = np.array([[1, 3], [4, 4]])
        assert icc_3_1(table).value == pytest.approx(3 / 5)
        assert icc_2_1(table).value == pytest.approx(3 / 5)

    def test_offsets_count_for_agreement_alone(self) -> None:
        subjects = np.arange(5.0)[:, None]
        offset = subjects + np.array([0, 3.1])
        assert icc_3_1(offset).value == pytest.approx(1)
        # Mean squares 5 and 0 for subjects and rest, 5/2 x 3.1^2 for raters: 5 / (5 + 3.1^2).
        assert icc_2_1(offset).value == pytest.approx(5 / (5 + 3.1**2))

    def test_scale_and_shift_do_not_count(self) -> None:
        for icc in (icc_2_1, icc_3_1):
            found, scaled = icc(self.ratings), icc(100 - 7 * self.ratings)
            for name in ("value", "lower", "upper"):
                assert getattr(scaled, name) == pytest.approx(getattr(found, name))

    def test_interval_widens_with_its_confidence(self) -> None:
        for icc in (icc_2_1, icc_3_1):
            narrow, wide = icc(self.ratings, 0.5), icc(self.ratings, 0.99)
            assert wide.lower < narrow.lower < narrow.value < narrow.upper < wide.upper

    def test_interval_holds_the_truth_as_often_as_it_says(self) -> None:
        # Subjects' variance 1, raters' 0.25, rest 0.5: agreement 1 / 1.75, consistency 1 / 1.5.
        rng, hits = np.random.default_rng(1), np.zeros(2)
        for _ in range(300):
            table = rng.normal(size=(20, 1)) + rng.normal(0, 0.5, (1, 5)) + rng.normal(0, 0.5**0.5, (20, 5))
            for i, (found, truth) in enumerate(((icc_2_1(table), 1 / 1.75), (icc_3_1(table), 1 / 1.5))):
                hits[i] += found.lower < truth < found.upper
        assert (hits / 300 > 0.9).all()

    def test_no_error_and_no_subjects(self) -> None:
        same = np.repeat(np.array([[0.1], [0.7], [0.3]]), 3, axis=1)
        for icc in (icc_2_1, icc_3_1):
            assert icc(same) == identity.IntraclassCorrelation(1, 1, 1)
            assert np.isnan(icc(np.full((4, 3), 0.1)).value)
            assert np.isnan(icc(np.tile([0.1, 0.4, 0.2], (4, 1))).value)

    def test_what_cannot_be_computed(self) -> None:
        for bad in (self.ratings[:1], self.ratings[:, :1], self.ratings[0], self.ratings * np.nan):
            with pytest.raises(ValueError, match=message(identity.NOT_RATINGS)):
                icc_2_1(bad)
        with pytest.raises(ValueError, match=message(identity.BAD_CONFIDENCE)):
            icc_3_1(self.ratings, 95)
