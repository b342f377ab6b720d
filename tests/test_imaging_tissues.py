"""Tissues of a T1w by its intensities."""

import numpy as np
import pytest

from bidsrep.imaging.tissues import BORDERS, own_borders, tissue_classes, tissue_means
from bidsrep.interfaces.represent import _tissue_classes

MEANS = (0.2, 0.66, 1.0)


@pytest.fixture
def brain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tissues, the T1w (white matter 1) and the mask: slabs of each tissue, noise, and a background of 0."""
    rng = np.random.default_rng(0)
    tissues = np.zeros((30, 20, 20), np.uint8)
    for label, slab in ((1, slice(2, 5)), (2, slice(5, 16)), (3, slice(16, 28))):
        tissues[slab] = label
    mask = tissues > 0
    t1w = np.array([0.0, *MEANS])[tissues] + mask * rng.normal(0, 0.04, tissues.shape)
    return tissues, t1w, mask


def test_classes_by_intensity() -> None:
    values = np.array([0.3, 0.7, 1.0, 0.3]).reshape(4, 1, 1)
    mask = np.array([1, 1, 1, 0], bool).reshape(4, 1, 1)
    assert tissue_classes(values, mask).ravel().tolist() == [1, 2, 3, 0]


def test_means_of_a_known_mixture() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(m, 30, n) for m, n in ((230, 2000), (600, 9000), (1000, 9000))]
    means = tissue_means(np.concatenate(parts).clip(0))
    np.testing.assert_allclose(means, (230, 600, 1000), rtol=0.06)


@pytest.mark.parametrize("scale", [0.6, 0.9, 1.0, 250.0])
def test_own_borders_follow_the_scale(brain, scale: float) -> None:
    tissues, t1w, mask = brain
    low, high = own_borders(scale * t1w, mask)
    assert low == pytest.approx(scale * 0.43, rel=0.06)
    assert high == pytest.approx(scale * 0.83, rel=0.03)
    found = tissue_classes(scale * t1w, mask, (low, high))
    assert (found == tissues).mean() > 0.995


def test_an_empty_image_or_brain_has_the_usual_borders(brain) -> None:
    _, t1w, mask = brain
    assert own_borders(np.zeros_like(t1w), mask) == BORDERS
    assert own_borders(t1w, np.zeros_like(mask)) == BORDERS


def test_the_embedding_classifies_each_synthetic_t1w_on_its_scale(brain) -> None:
    tissues, t1w, mask = brain
    for scale, own in ((1.0, False), (0.7, True)):
        found = _tissue_classes({"T1w": scale * t1w}, mask, own)
        assert (found == tissues).mean() > 0.995
    assert _tissue_classes({"tissue": tissues}, mask, False) is tissues
    assert _tissue_classes({}, mask, False) is None
