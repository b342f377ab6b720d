"""Linear alignment by mutual information on a few thousand points: the start for ANTs, and its stand-in.

The scheme of Collignon et al. (1995) and SPM's ``spm_coreg``: Powell's method on the parameters of a
rigid motion (and scales, against a template), from coarse to fine, with points jittered off the grid so that grid effects do not
favour the identity. Half a second on one core.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from nibabel.eulerangles import euler2mat
from scipy import ndimage, optimize

from bidsrep.imaging.quality import BINS
from bidsrep.imaging.resample import FWHM
from bidsrep.imaging.volume import Volume

POINTS = 20_000
MIN_OVERLAP = 0.5  # of the points; alignments that push more of the brain out of view are no answer


@dataclass(frozen=True)
class Points:
    """Samples of the fixed image, and the moving image to compare them with.

    Parameters
    ----------
    positions : ndarray, (N, 3)
        In the fixed image, RAS+ mm.
    bins : ndarray, (N,)
        Histogram bin of the fixed image at each position.
    moving : Volume
        Smoothed to the scale of comparison.
    limits : tuple of float
        Intensities of the moving image at the first and last bin.
    """

    positions: np.ndarray
    bins: np.ndarray
    moving: Volume
    limits: tuple[float, float]

    @classmethod
    def draw(cls, fixed: Volume, moving: Volume, mask: np.ndarray, scale: float, seed: int) -> "Points":
        """Draw up to 20,000 points of a mask of the fixed image, both images smoothed to `scale` mm."""
        rng = np.random.default_rng(seed)
        inside = np.argwhere(mask)
        if len(inside) > POINTS:
            inside = inside[rng.choice(len(inside), POINTS, replace=False)]
        voxels = inside + rng.uniform(-0.5, 0.5, inside.shape)
        values = ndimage.map_coordinates(
            _smooth(fixed, scale), voxels.T, output=np.float64, order=1, mode="nearest"
        )
        low, high = np.percentile(values, [0.5, 99.5])
        scaled = (values - low) * (BINS / max(high - low, 1e-30))
        bins = np.clip(scaled, 0, BINS - 1).astype(np.int64)
        blurred = _smooth(moving, scale)
        bright = blurred[blurred > blurred.min()]
        limits = np.percentile(bright if bright.size else blurred, [0.5, 99.5])
        return cls(apply_affine(fixed.affine, voxels), bins, moving.replace(blurred), (limits[0], limits[1]))

    @cached_property
    def _rows(self) -> np.ndarray:
        """The positions as (3, N), as they are read thousands of times."""
        return np.ascontiguousarray(self.positions.T)

    def information(self, matrix: np.ndarray) -> tuple[float, float]:
        """Return mutual information (nats) and normalised mutual information under a matrix (4, 4).

        The latter is (H(A) + H(B)) / H(A, B) (Studholme et al., Pattern Recognition 1999, eq. 4),
        from 1 up; unlike the former it does not grow when the overlap shrinks to something simple.
        Both are 0 where less than half of the points meet the moving image.
        """
        to_voxels = np.linalg.inv(self.moving.affine) @ matrix
        voxels = to_voxels[:3, :3] @ self._rows + to_voxels[:3, 3:]
        size = np.reshape(self.moving.shape, (3, 1))
        bins = self.bins
        if (voxels.min(axis=1) < -0.5).any() or (voxels.max(axis=1) > size[:, 0] - 0.5).any():
            met = ((voxels >= -0.5) & (voxels <= size - 0.5)).all(axis=0)
            if met.mean() < MIN_OVERLAP:
                return 0.0, 0.0
            voxels, bins = voxels[:, met], bins[met]
        values = ndimage.map_coordinates(self.moving.data, voxels, output=np.float64, order=1, mode="nearest")
        low, high = self.limits
        # Each value is shared between the two nearest bins: the histogram, and the cost, is smooth.
        place = np.clip((values - low) * ((BINS - 1) / max(high - low, 1e-30)), 0, BINS - 1 - 1e-6)
        lower = place.astype(np.int64)
        upper_weight = place - lower
        cell = bins * BINS + lower
        counts = np.bincount(cell, weights=1 - upper_weight, minlength=BINS * BINS)
        counts += np.bincount(cell + 1, weights=upper_weight, minlength=BINS * BINS)
        joint = counts.reshape(BINS, BINS) / len(bins)
        fixed, moving = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
        both = _entropy(joint.ravel())
        return fixed + moving - both, (fixed + moving) / both if both > 0 else 0.0


def align(
    fixed: Volume,
    moving: Volume,
    mask: np.ndarray,
    start: np.ndarray,
    scales: tuple[float, ...] = (8.0, 4.0, 2.0),
    seed: int = 0,
    freedom: int = 6,
) -> np.ndarray:
    """Find the linear motion that maximises normalised mutual information: (4, 4), fixed to moving.

    Parameters
    ----------
    fixed, moving : Volume
        On reduced grids (2 mm or so).
    mask : ndarray of bool
        Where the fixed image is looked at.
    start : ndarray, (4, 4)
        The motion to begin with.
    scales : tuple of float
        FWHM in mm to which both images are smoothed, from coarse to fine; the first step of the
        search is as many mm, degrees and percent.
    seed : int
        Of the choice of points.
    freedom : int
        6 rigid, 7 with one scale, 9 with one per axis of the fixed image's world.
    """
    center = apply_affine(fixed.affine, np.argwhere(mask)).mean(axis=0)
    parameters = np.zeros(freedom)
    for scale in scales:
        points = Points.draw(fixed, moving, mask, scale, seed)

        def cost(values: np.ndarray, points: Points = points) -> float:
            return -points.information(start @ motion(values, center))[1]

        options: dict[str, Any] = {
            "xtol": 0.02,
            "ftol": 1e-5,
            "maxiter": 8,
            "direc": np.eye(freedom) * scale,
        }
        parameters = optimize.minimize(cost, parameters, method="Powell", options=options).x
    return start @ motion(parameters, center)


def motion(parameters: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the matrix (4, 4) of a motion about `center` (3,; mm).

    `parameters`: 3 shifts (mm), 3 rotations (degrees), then no, one or three scales (percent, on a
    logarithmic axis).
    """
    linear = euler2mat(*np.deg2rad(parameters[3:6]))
    if len(parameters) > 6:
        linear = linear * np.exp(np.asarray(parameters[6:]) / 100.0)
    return from_matvec(linear, parameters[:3] + center - linear @ center)


def _smooth(volume: Volume, fwhm: float) -> np.ndarray:
    """Smooth to a resolution of `fwhm` mm, counting the voxel size as resolution already there."""
    sigma = np.sqrt(np.maximum(fwhm**2 - volume.spacing**2, 0.0)) / FWHM / volume.spacing
    return ndimage.gaussian_filter(volume.data, sigma) if sigma.any() else volume.data


def _entropy(probabilities: np.ndarray) -> float:
    present = probabilities[probabilities > 0]
    return float(-(present * np.log(present)).sum())
