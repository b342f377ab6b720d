"""Rigid registration of two scans of one head, whatever their contrasts.

A coarse search from the better of two starts (the headers as they are; the brains' centres on top of
each other), then ANTs on a 2 mm grid: four CPU seconds. Scans of one session mostly share the
scanner's coordinates, so the headers usually win, and the search only mends movement between scans.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from bidsrep.imaging._ants import import_ants, matrix_of, set_seed, to_ants
from bidsrep.imaging.grids import reference_grid
from bidsrep.imaging.mutual import Points, align
from bidsrep.imaging.resample import resample, resample_mask
from bidsrep.imaging.transforms import rotation_deg, write_itk
from bidsrep.imaging.volume import Volume

SPACING = 2.0  # mm, of the grid on which images are compared
MARGIN = 14.0  # mm kept around the brain
BORDER = 6.0  # mm by which the fixed mask is widened: the brain's outline is what aligns best
# On the 2 mm grid: 100 iterations at 4 mm, 50 at 2 mm, a quarter of the voxels. Coarser levels, and
# the 10 % that are enough at 1 mm, leave the metric a few hundred voxels, and it runs away.
ITERATIONS, SHRINK, SMOOTH, SAMPLING = (100, 50), (2, 1), (1, 0), 0.25
SLOPPY_ITERATIONS = (10, 0)  # enough to see that everything runs, not to trust the result
# Relative gain in mutual information below which the headers are left alone: measured on bids-ms, such
# gains go with motions of less than half a millimetre, in either direction of the truth.
MIN_GAIN = 0.01
_COARSE, _FINE = (8.0, 4.0), (2.0,)
_SLOPPY_COARSE = (8.0,)


@dataclass(frozen=True)
class Registration:
    """The alignment of a moving to a fixed image.

    Parameters
    ----------
    matrix : ndarray, (4, 4)
        RAS+ mm of the fixed image to RAS+ mm of the moving image; `resample` and ITK files take it so.
    quality : dict
        JSON-ready: ``mutual_information_before`` (headers as they are) and ``_after``, in nats, over
        the fixed brain and 6 mm around it; ``start`` (header or centre), ``method`` (ants, search, start
        or header: what gave the matrix), ``displacement_mm`` (of the brain's centre), ``rotation_deg``;
        ``warnings``.
    """

    matrix: np.ndarray
    quality: dict[str, Any] = field(default_factory=dict)


def register_rigid(
    fixed: Volume,
    moving: Volume,
    fixed_mask: np.ndarray | None = None,
    moving_mask: np.ndarray | None = None,
    seed: int = 0,
    threads: int = 1,
    sloppy: bool = False,
) -> Registration:
    """Find the rigid motion between two scans of one head by mutual information.

    Parameters
    ----------
    fixed, moving : Volume
        On their native grids.
    fixed_mask, moving_mask : ndarray of bool, optional
        The brain on each grid; without it, whatever is brighter than air.
    seed : int
        Of the metric's random samples: the same seed gives the same matrix (with one thread, bit by
        bit).
    threads : int
        For ANTs; counts only if nothing in this process used ITK before.
    sloppy : bool
        Search at 8 mm only and give ANTs a twentieth of its iterations: for tests of the rest.
    """
    fixed_mask = foreground(fixed) if fixed_mask is None else np.asarray(fixed_mask, dtype=bool)
    moving_mask = foreground(moving) if moving_mask is None else np.asarray(moving_mask, dtype=bool)
    small_fixed, brain = _reduced(fixed, fixed_mask)
    small_moving, moving_brain = _reduced(moving, moving_mask)
    around = ndimage.binary_dilation(brain, iterations=round(BORDER / SPACING))
    centers = [_center(small_fixed, brain), _center(small_moving, moving_brain)]
    points = Points.draw(small_fixed, small_moving, around, SPACING, seed)

    starts = {"header": np.eye(4), "centre": from_matvec(np.eye(3), centers[1] - centers[0])}
    coarse = Points.draw(small_fixed, small_moving, around, _COARSE[0], seed)
    start = max(starts, key=lambda name: coarse.information(starts[name])[1])
    found = {"start": starts[start]}
    scales = _SLOPPY_COARSE if sloppy else _COARSE
    found["search"] = align(small_fixed, small_moving, around, starts[start], scales, seed)
    warnings = []
    try:
        found["ants"] = _ants_rigid(
            small_fixed, small_moving, around, found["search"], seed, threads, iterations(sloppy)
        )
    except Exception as error:  # noqa: BLE001 - ITK raises RuntimeError for most, but not for all
        warnings.append(f"ANTs failed ({' '.join(str(error).split())[:160]}); a plain search stands in")
        found["search"] = align(small_fixed, small_moving, around, found["search"], _FINE, seed)
    scores = {name: points.information(matrix) for name, matrix in found.items()}
    method = max(scores, key=lambda name: scores[name][1])
    before = points.information(np.eye(4))[0]
    if scores[method][0] < before * (1 + MIN_GAIN):
        found["header"], scores["header"], method = np.eye(4), (before, 0.0), "header"
    matrix = found[method]
    quality = {
        "mutual_information_before": round(before, 5),
        "mutual_information_after": round(scores[method][0], 5),
        "start": start,
        "method": method,
        "displacement_mm": round(float(np.linalg.norm(apply_affine(matrix, centers[0]) - centers[0])), 3),
        "rotation_deg": round(rotation_deg(matrix), 3),
        "warnings": warnings,
    }
    return Registration(matrix, quality)


def foreground(volume: Volume) -> np.ndarray:
    """Return what is brighter than air, roughly: the largest piece above a tenth of the bright end."""
    bright = volume.data > 0.1 * np.percentile(volume.data, 99)
    labels, count = ndimage.label(bright)
    if count < 2:
        return bright
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def _reduced(volume: Volume, mask: np.ndarray) -> tuple[Volume, np.ndarray]:
    """Return a volume and its mask on a 2 mm grid around the mask."""
    grid = reference_grid(volume, mask, spacing=SPACING, margin=MARGIN)
    return resample(volume, grid), resample_mask(mask, volume, grid)


def _center(volume: Volume, mask: np.ndarray) -> np.ndarray:
    return apply_affine(volume.affine, np.argwhere(mask)).mean(axis=0)


def iterations(sloppy: bool) -> tuple[int, ...]:
    """Return the iterations of ANTs at 4 and at 2 mm."""
    return SLOPPY_ITERATIONS if sloppy else ITERATIONS


def _ants_rigid(
    fixed: Volume,
    moving: Volume,
    mask: np.ndarray,
    start: np.ndarray,
    seed: int,
    threads: int,
    steps: tuple[int, ...] = ITERATIONS,
) -> np.ndarray:
    matrix = ants_linear("Rigid", fixed, moving, mask, start, seed, threads, steps)
    # Remove rounding; refuse what is not rigid.
    left, scales, right = np.linalg.svd(matrix[:3, :3])
    if not np.allclose(scales, 1.0, atol=1e-3) or np.linalg.det(matrix[:3, :3]) < 0:
        msg = f"the result is not rigid (scales {scales})"
        raise ValueError(msg)
    return from_matvec(left @ right, matrix[:3, 3])


def ants_linear(
    kind: str,
    fixed: Volume,
    moving: Volume,
    mask: np.ndarray,
    start: np.ndarray,
    seed: int = 0,
    threads: int = 1,
    steps: tuple[int, ...] = ITERATIONS,
) -> np.ndarray:
    """Run one linear stage of ANTs (``"Rigid"`` or ``"Affine"``) on 2 mm grids, from a good start.

    `steps` are the iterations at 4 and at 2 mm. Returns the matrix (4, 4) from the fixed to the moving image, RAS+ mm.
    """
    ants = import_ants(threads)
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        initial = write_itk(Path(folder) / "start.txt", start)
        result = ants.registration(
            to_ants(fixed),
            to_ants(moving),
            type_of_transform=kind,
            initial_transform=[str(initial)],
            mask=to_ants(fixed.replace(mask)),
            aff_metric="mattes",
            aff_sampling=32,
            aff_random_sampling_rate=SAMPLING,
            aff_iterations=steps,
            aff_shrink_factors=SHRINK,
            aff_smoothing_sigmas=SMOOTH,
            singleprecision=False,
            outprefix=str(Path(folder) / "out"),
        )
        matrix = np.eye(4)
        for path in result["fwdtransforms"]:
            matrix = matrix @ matrix_of(path)
    return matrix
