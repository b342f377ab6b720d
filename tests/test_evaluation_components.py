"""Features as colour: the axes, their directions, and that they repeat."""

import os
import subprocess
import sys

import numpy as np
import pytest

from bidsrep.evaluation.components import Components

RNG = np.random.default_rng(0)
SPREAD = np.array([5.0, 3.0, 2.0, 0.1, 0.1, 0.1])
TURN = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
SAMPLE = (RNG.normal(size=(4000, 6)) * SPREAD + 4) @ TURN.T

SCRIPT = """
import hashlib
import numpy as np
from bidsrep.evaluation.components import Components
features = np.random.default_rng(1).normal(size=(20000, 64)).astype(np.float32).cumsum(axis=1)
print(hashlib.sha256(Components.fit(features).colour(features.T).tobytes()).hexdigest())
"""


def test_axes_are_those_of_the_largest_variance():
    found = Components.fit(SAMPLE)
    np.testing.assert_allclose(np.abs(np.diag(TURN.T @ found.axes)), 1, atol=0.01)
    np.testing.assert_allclose(found.explained, SPREAD[:3] ** 2 / (SPREAD**2).sum(), atol=0.02)


def test_axes_point_to_where_the_mean_lies():
    assert (SAMPLE.mean(axis=0) @ Components.fit(SAMPLE).axes > 0).all()
    np.testing.assert_allclose(Components.fit(-SAMPLE).axes, -Components.fit(SAMPLE).axes)


def test_scans_with_the_same_features_have_the_same_colours():
    one, other = Components.fit(SAMPLE[::2]), Components.fit(SAMPLE[1::2])
    difference = one.colour(SAMPLE.T).astype(int) - other.colour(SAMPLE.T)
    assert np.abs(difference).mean() < 6


def test_the_ends_of_the_range_are_no_colour_and_full_colour():
    colours = Components.fit(SAMPLE).colour(SAMPLE.T)
    assert colours.dtype == np.uint8
    assert colours.shape == (4000, 3)
    for level in (0, 255):
        np.testing.assert_allclose((colours == level).mean(axis=0), 0.02, atol=0.003)


def test_images_are_coloured_as_lists_of_voxels_are():
    found, image = Components.fit(SAMPLE), SAMPLE.T.reshape(6, 40, 100)
    assert np.array_equal(found.colour(image).reshape(-1, 3), found.colour(SAMPLE.T))


@pytest.mark.parametrize("channels", [1, 2])
def test_of_fewer_channels_the_last_colours_stay_dark(channels):
    colours = Components.fit(SAMPLE[:, :channels]).colour(SAMPLE[:, :channels].T)
    assert (colours.max(axis=0) > 0).tolist() == [n < channels for n in range(3)]


def test_constant_features_have_no_colour():
    constant = np.ones((50, 5), dtype=np.float32)
    found = Components.fit(constant)
    assert np.isfinite(found.explained).all()
    assert not found.colour(constant.T).any()


def test_processes_with_other_numbers_of_threads_give_the_same_bytes():
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert len(found) == 1
