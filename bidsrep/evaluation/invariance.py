"""How much the features of two contrasts of one head agree: the contrast-invariance score.

Features are compared on a lattice, every few voxels of the common grid, which is enough for a mean and
small enough to keep. A lattice is a table: one voxel a row.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np


@dataclass(frozen=True)
class FeatureLattice:
    """Features of some voxels of a grid.

    Parameters
    ----------
    voxels : ndarray, (N,), int64
        Flat indices into the grid (C order), increasing.
    features : ndarray, (N, C), float16 or float32
        Their features.
    """

    voxels: np.ndarray
    features: np.ndarray

    @classmethod
    def sample(
        cls,
        features: np.ndarray,
        mask: np.ndarray,
        step: int = 4,
        box: tuple[slice, ...] = (slice(None),) * 3,
        stride: int = 1,
    ) -> Self:
        """Take every `step`-th voxel of the grid along each axis, inside a mask.

        Parameters
        ----------
        features : ndarray, (C, X', Y', Z')
            Features of the part of the grid that `box` cuts out.
        mask : ndarray, (X, Y, Z)
            The brain, on the whole grid; it must lie inside `box`.
        stride : int
            How many voxels a feature stands for; above 1 the features are interpolated linearly at the
            lattice's voxels, which are then `stride` apart.
        """
        step = max(step, stride)
        chosen = np.zeros(mask.shape, dtype=bool)
        chosen[::step, ::step, ::step] = mask[::step, ::step, ::step] > 0
        if stride > 1:
            corner = np.array([part.start or 0 for part in box])
            places = (np.argwhere(chosen) - corner + 0.5) / stride - 0.5
            return cls(np.flatnonzero(chosen), _interpolate(features, places))
        return cls(np.flatnonzero(chosen), features[:, chosen[box]].T)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the table (``.npz``); features are kept in half precision."""
        path = Path(path)
        np.savez(path, voxels=self.voxels, features=self.features.astype(np.float16))
        return path

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as table:
            return cls(table["voxels"], table["features"].astype(np.float32))


def compare_features(one: FeatureLattice, two: FeatureLattice) -> dict[str, float]:
    """Compare the features of two scans of one head where both have them.

    Returns
    -------
    dict
        ``feature_cosine``: mean cosine similarity of the same voxel in both scans.
        ``feature_cosine_chance``: the same for unrelated voxels, which is high for features that hardly
        differ between voxels.
        ``contrast_invariance``: (cosine - chance) / (1 - chance): 1 for features that do not depend on
        the contrast, 0 for features that tell no voxel from another.
    """
    _, rows_one, rows_two = np.intersect1d(one.voxels, two.voxels, assume_unique=True, return_indices=True)
    if not len(rows_one):
        nan = float("nan")
        return {"feature_cosine": nan, "feature_cosine_chance": nan, "contrast_invariance": nan}
    a, b = _unit(one.features[rows_one]), _unit(two.features[rows_two])
    cosine = float(np.einsum("nc,nc->n", a, b).mean())
    chance = float(a.mean(axis=0) @ b.mean(axis=0))  # the mean over all pairs of voxels
    score = (cosine - chance) / (1.0 - chance) if chance < 1.0 else float("nan")
    return {"feature_cosine": cosine, "feature_cosine_chance": chance, "contrast_invariance": score}


def _interpolate(features: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Features (N, C) at fractional indices (N, 3) of (C, X, Y, Z); edges held."""
    from scipy.ndimage import map_coordinates

    columns = [map_coordinates(channel, places.T, order=1, mode="nearest") for channel in features]
    return np.stack(columns, axis=1)


def _unit(features: np.ndarray) -> np.ndarray:
    """Scale every row (N, C) to length 1; a row of zeros stays."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
