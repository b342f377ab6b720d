"""Regions and regional means."""

import numpy as np
import pytest

from bidsrep.imaging.regions import (
    coarse_regional_means,
    label_regions,
    regional_means,
    standard_regions,
)
from bidsrep.imaging.tissues import tissue_classes

SHAPE = (12, 10, 8)
RNG = np.random.default_rng(0)
T1W = RNG.uniform(0, 1.2, SHAPE)
MASK = np.zeros(SHAPE, bool)
MASK[1:11, 1:9, 1:7] = True
LESION = RNG.random(SHAPE) > 0.8


def test_standard_regions_partition_the_brain():
    regions = standard_regions(MASK, tissue_classes(T1W, MASK), LESION)
    assert len(regions) == 4 + 8 + 8 + 1
    for parts in (
        ["csf", "gm", "wm"],
        ["left_brain", "right_brain"],
        [name for name in regions if name.count("_") == 2],
    ):
        total = sum(regions[name].astype(int) for name in parts)
        assert np.array_equal(total, MASK.astype(int))
    assert np.array_equal(regions["lesion"], LESION & MASK)


def test_sides_follow_ras():
    regions = standard_regions(MASK, tissue_classes(T1W, MASK))
    assert np.argwhere(regions["left_brain"])[:, 0].max() < np.argwhere(regions["right_gm"])[:, 0].min()
    octant = np.argwhere(regions["right_anterior_superior"])
    assert octant.min(axis=0).tolist() == [6, 5, 4]
    assert "lesion" not in regions


def test_regional_means_equal_the_plain_loop():
    features = RNG.normal(size=(5, *SHAPE)).astype(np.float32)
    regions = {**standard_regions(MASK, tissue_classes(T1W, MASK), LESION), "nothing": np.zeros(SHAPE, bool)}
    means, voxels = regional_means(features, regions)
    assert means.shape == (len(regions), 5)
    for row, count, mask in zip(means, voxels, regions.values(), strict=True):
        assert count == mask.sum()
        if count:
            assert np.allclose(row, features[:, mask].mean(axis=1), atol=1e-6)
        else:
            assert np.isnan(row).all()


def test_regions_of_a_label_map():
    labels = RNG.choice([0, 2, 41], SHAPE)
    regions = label_regions(labels, {2: "left white matter", 41: "right white matter"})
    means, voxels = regional_means(labels[None].astype(float), regions)
    assert means.ravel().tolist() == pytest.approx([2, 41])
    assert voxels.sum() == (labels > 0).sum()


def test_empty_brain_gives_empty_regions():
    _, voxels = regional_means(T1W[None], standard_regions(np.zeros(SHAPE, bool)))
    assert not voxels.any()


def test_without_tissue_classes_there_are_no_tissues():
    assert not {"csf", "left_gm"} & set(standard_regions(MASK))


def test_coarse_means_equal_fine_ones_where_features_are_constant_in_each_cube():
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(3, 2, 3, 2))
    fine = coarse.repeat(4, 1).repeat(4, 2).repeat(4, 3)[:, :7, :11, :8]
    regions = {"some": rng.random((7, 11, 8)) < 0.4, "nothing": np.zeros((7, 11, 8), bool)}
    means, voxels = coarse_regional_means(coarse, regions, 4)
    expected, counts = regional_means(fine, regions)
    np.testing.assert_allclose(means, expected)
    np.testing.assert_array_equal(voxels, counts)
