"""The way to ANTs and back: images with LPS geometry, transforms, single-threaded by default."""

import os
from types import ModuleType
from typing import Any

import numpy as np

from bidsrep.imaging.transforms import from_itk_parameters
from bidsrep.imaging.volume import Volume

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"


def import_ants(threads: int = 1) -> ModuleType:
    """Import antspyx with at most `threads` threads.

    ITK reads the number when it makes its thread pool, at the first filter of the process: later
    calls cannot change it. One thread gives the same bits every time; more need not.
    """
    os.environ.setdefault(_THREADS, str(threads))
    import ants

    return ants


def set_seed(seed: int) -> None:
    """Fix the seed of the next registrations; without it ANTs takes the clock.

    antspyx 0.6 swallows the `random_seed` its documentation promises, and reads this setting alone.
    With ``on=False`` the function has no side effect but this (else it reseeds numpy, too).
    """
    from ants import config

    config.set_ants_deterministic(on=False, seed_value=seed + 1)  # 0 would mean "by the clock"


def to_ants(volume: Volume) -> Any:
    """Return an ANTs image of a volume whose axes are perpendicular."""
    ants = import_ants()
    lps = _LPS @ volume.affine
    spacing = volume.spacing
    return ants.from_numpy(
        volume.data,
        origin=lps[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=lps[:3, :3] / spacing,
    )


def matrix_of(path: str) -> np.ndarray:
    """Read a transform ANTs wrote (``.mat``): (4, 4), fixed to moving, RAS+ mm."""
    transform = import_ants().read_transform(path)
    return from_itk_parameters(
        f"{transform.transform_type}_double_3_3", transform.parameters, transform.fixed_parameters
    )
