"""Intensity scaling and bias field correction."""

import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from bidsrep.imaging.normalise import n4, normalise, normalise_head
from bidsrep.imaging.volume import Volume

RNG = np.random.default_rng(0)
DATA = RNG.gamma(4, 25, (16, 16, 16)).astype(np.float32)
MASK = np.zeros(DATA.shape, bool)
MASK[3:13, 3:13, 3:13] = True


def test_normalised_brain():
    scaled = normalise(DATA, MASK)
    assert scaled.dtype == np.float32
    assert not scaled[~MASK].any()
    assert np.percentile(scaled[MASK], 99.5) == pytest.approx(1, abs=1e-3)
    assert scaled.min() >= 0
    assert scaled.max() <= 2


def test_normalise_ignores_scale_and_what_is_outside():
    elsewhere = np.where(MASK, 7 * DATA, 1e6)
    assert np.allclose(normalise(DATA, MASK), normalise(elsewhere, MASK), atol=1e-6)


def test_outliers_are_clipped_and_negatives_vanish():
    data = DATA.copy()
    data[5, 5, 5], data[6, 6, 6] = 1e9, -50
    scaled = normalise(data, MASK)
    assert scaled[5, 5, 5] == 2
    assert scaled[6, 6, 6] == 0


@pytest.mark.parametrize("data", [np.zeros_like(DATA), -DATA])
def test_nothing_to_scale_is_refused(data):
    with pytest.raises(ValueError, match="no voxel"):
        normalise(data, MASK)
    with pytest.raises(ValueError, match="no voxel"):
        normalise_head(data)


def test_empty_mask_is_refused():
    with pytest.raises(ValueError, match="no voxel"):
        normalise(DATA, np.zeros_like(MASK))


def test_normalised_head_ends_at_one():
    scaled = normalise_head(np.where(MASK, DATA, -5))
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert scaled.dtype == np.float32


@pytest.fixture(scope="module")
def biased() -> tuple[Volume, np.ndarray, np.ndarray]:
    """Two tissues in a ball of 70 mm, with a bias field of up to a factor of 2, on thick tilted slices."""
    pytest.importorskip("ants")
    affine = from_matvec(euler2mat(0.1, 0.1, 0.1) @ np.diag([-3.0, -3.0, 5.0]), [60, 60, -60])
    x, y, z = np.moveaxis(
        np.moveaxis(np.indices((40, 40, 24)), 0, -1) * [3, 3, 5] - [60, 60, 60], -1, 0
    ).astype(float)
    radius = np.sqrt(x**2 + y**2 + z**2)
    tissue = np.where(radius < 35, 1.0, 0.7) * (radius < 55)
    field = np.exp(0.005 * x + 0.003 * y)
    noise = np.random.default_rng(1).normal(0, 0.01, tissue.shape)
    return Volume(100 * (tissue * field + noise), affine), radius < 54, field


def test_n4_finds_the_field_and_keeps_the_mean(biased):
    volume, brain, true = biased
    corrected, field = n4(volume, brain)
    assert field.shape == volume.shape
    error = np.log(field.data / true)[brain]
    assert error.std() < 0.25 * np.log(true[brain]).std()
    assert np.log(field.data[brain]).mean() == pytest.approx(0, abs=0.05)
    assert corrected.data[brain].mean() == pytest.approx(volume.data[brain].mean(), rel=1e-3)
    assert np.isfinite(corrected.data).all()


@pytest.mark.parametrize(("sloppy", "iterations"), [(False, [25, 25, 25]), (True, [5])])
def test_sloppiness_reaches_n4(biased, monkeypatch, sloppy, iterations):
    import ants

    asked = []

    def nothing_found(image, **options):
        asked.append(options["convergence"]["iters"])
        return image * 0 + 1

    monkeypatch.setattr(ants, "n4_bias_field_correction", nothing_found)
    volume, brain, _ = biased
    corrected, field = n4(volume, brain, sloppy=sloppy)
    assert asked == [iterations]
    assert np.allclose(field.data, 1)
    assert np.allclose(corrected.data, volume.data)
