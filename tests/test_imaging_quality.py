"""Agreement of images: properties the measures must have."""

import numpy as np
import pytest

from bidsrep.imaging.quality import correlation, covered_fraction, dice, mutual_information

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(20, 20, 20))
OTHER = RNG.normal(size=(20, 20, 20))
MASK = RNG.random((20, 20, 20)) > 0.5


def test_correlation_ignores_scale_and_sees_sign():
    assert correlation(IMAGE, 3 * IMAGE + 7) == pytest.approx(1)
    assert correlation(IMAGE, -IMAGE) == pytest.approx(-1)
    assert abs(correlation(IMAGE, OTHER)) < 0.05
    assert correlation(IMAGE, OTHER, MASK) == pytest.approx(np.corrcoef(IMAGE[MASK], OTHER[MASK])[0, 1])


def test_correlation_with_a_constant_is_undefined():
    assert np.isnan(correlation(IMAGE, np.ones_like(IMAGE)))


def test_mutual_information_is_blind_to_contrast():
    own = mutual_information(IMAGE, IMAGE)
    assert mutual_information(IMAGE, -IMAGE) == pytest.approx(own, rel=0.02)
    assert own > 2
    assert mutual_information(IMAGE, OTHER) < 0.1
    assert mutual_information(IMAGE, np.ones_like(IMAGE)) == pytest.approx(0)


def test_mutual_information_is_symmetric_and_masked():
    assert mutual_information(IMAGE, OTHER, MASK) == pytest.approx(mutual_information(OTHER, IMAGE, MASK))
    half = np.where(MASK, IMAGE, OTHER)
    assert mutual_information(IMAGE, half, MASK) > 2 * mutual_information(IMAGE, half)


def test_dice():
    assert dice(MASK, MASK) == 1
    assert dice(MASK, ~MASK) == 0
    assert dice(np.zeros_like(MASK), np.zeros_like(MASK)) == 1
    one, two = np.zeros((2, 10, 1, 1), bool)
    one[:6], two[3:9] = True, True
    assert dice(one, two) == 0.5
    assert dice(one, two, within=one & two) == 1


def test_covered_fraction():
    view = np.zeros_like(MASK)
    view[:10] = True
    assert covered_fraction(np.ones_like(MASK), view) == 0.5
    assert covered_fraction(np.zeros_like(MASK), view) == 0


def test_different_grids_and_empty_masks_are_refused():
    with pytest.raises(ValueError, match="one grid"):
        correlation(IMAGE, IMAGE[1:])
    with pytest.raises(ValueError, match="empty"):
        correlation(IMAGE, IMAGE, np.zeros_like(MASK))
