"""The first three principal components of dense features: what tells most voxels apart, as colour."""

from dataclasses import dataclass
from typing import Self

import numpy as np

COUNT = 3
SHOWN = (2.0, 98.0)
"""Percentiles of a component between which its colour goes from none to full."""

DIGITS = 6
"""Digits after the point that axes are kept to: the last bits depend on the machine's arithmetic."""


@dataclass(frozen=True)
class Components:
    """Three axes in the space of features, and what is shown along them.

    Parameters
    ----------
    mean : ndarray, (C,)
        The mean feature.
    axes : ndarray, (C, 3)
        Unit vectors, perpendicular to each other, the one of the largest variance first.
    low, high : ndarray, (3,)
        Coordinates along the axes that become no colour and full colour.
    explained : ndarray, (3,)
        Share of the features' variance along each axis.
    """

    mean: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    explained: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Self:
        """Find the axes for a sample of features, (N, C); the same sample gives the same axes.

        An axis has two directions. The one taken is that in which the mean feature lies: in scans of one
        head it is the same, so that they have the same colours if their features are the same.
        """
        sample = features.astype(np.float64)
        mean = sample.mean(axis=0)
        centred = sample - mean
        # Not a product of matrices: the order in which a library for these adds depends on its threads.
        variances, vectors = np.linalg.eigh(np.einsum("ni,nj->ij", centred, centred) / len(sample))
        kept = min(COUNT, len(mean))  # of fewer channels the last colours stay dark
        axes, explained = np.zeros((len(mean), COUNT)), np.zeros(COUNT)
        axes[:, :kept] = np.round(vectors[:, ::-1][:, :kept], DIGITS)
        axes *= np.where(mean @ axes < 0, -1.0, 1.0)
        explained[:kept] = variances[::-1][:kept] / max(variances.sum(), np.finfo(np.float64).tiny)
        low, high = np.percentile(np.einsum("ni,ik->nk", centred, axes), SHOWN, axis=0)
        return cls(mean, axes, low, high, explained)

    def colour(self, features: np.ndarray) -> np.ndarray:
        """Colour features (C, ...): (..., 3), uint8; the first component is red, then green, then blue."""
        along = np.einsum("c...,ck->...k", features, self.axes) - self.mean @ self.axes
        part = (along - self.low) / np.maximum(self.high - self.low, np.finfo(np.float32).tiny)
        return np.rint(255 * np.clip(part, 0, 1)).astype(np.uint8)
