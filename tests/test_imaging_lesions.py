"""Lesions: what counts as one, and how large it is."""

import numpy as np
import pytest

from bidsrep.imaging.lesions import find_lesions

SHAPE = (30, 30, 30)


@pytest.fixture
def probability() -> np.ndarray:
    """Lesions of 1000, 27 and 1 voxels, and a large faint one."""
    p = np.zeros(SHAPE, np.float32)
    p[20:23, 20:23, 20:23] = 0.6
    p[2:12, 2:12, 2:12] = 0.9
    p[15, 2, 28] = 1.0
    p[15:29, 2:10, 15:25] = 0.3
    return p


def test_largest_first_with_volumes(probability):
    lesions = find_lesions(probability, 0.001, min_volume_ml=0)
    assert lesions.volumes_ml.tolist() == pytest.approx([1.0, 0.027, 0.001])
    assert lesions.count == 3
    assert lesions.total_ml == pytest.approx(1.028)
    assert lesions.labels[5, 5, 5] == 1
    assert lesions.labels[15, 2, 28] == 3
    assert lesions.labels.dtype == np.int32


def test_small_ones_are_dropped_and_the_minimum_is_kept(probability):
    assert find_lesions(probability, 0.001).count == 2
    assert find_lesions(probability, 0.001, min_volume_ml=0.027).count == 2
    assert find_lesions(probability, 0.001, min_volume_ml=0.028).count == 1


def test_threshold(probability):
    assert find_lesions(probability, 0.001, threshold=0.7).count == 1
    assert find_lesions(probability, 0.001, threshold=0.3).count == 3


def test_only_within_the_brain(probability):
    brain = np.zeros(SHAPE, bool)
    brain[:15] = True
    lesions = find_lesions(probability, 0.001, within=brain)
    assert lesions.count == 1
    assert not (lesions.mask & ~brain).any()


def test_corner_contact_is_one_lesion():
    p = np.zeros(SHAPE)
    p[5, 5, 5] = p[6, 6, 6] = 1
    assert find_lesions(p, 0.01).count == 1


def test_none_at_all():
    lesions = find_lesions(np.zeros(SHAPE), 0.001)
    assert (lesions.count, lesions.total_ml) == (0, 0.0)
    assert not lesions.mask.any()
