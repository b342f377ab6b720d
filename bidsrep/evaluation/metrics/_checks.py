"""What the metrics ask of their arrays."""

from collections.abc import Sequence

import numpy as np

NOT_ONE_GRID = "arrays (X, Y, Z) on one grid are compared, got the shapes {}"
EMPTY_MASK = "the mask is empty: there is nothing to compare"
NOT_POSITIVE = "{} must be positive, got {}"


def check_one_grid(*arrays: np.ndarray, axes: Sequence[int] = (3,)) -> None:
    """Raise ValueError unless all arrays are (X, Y, Z), or have another number of `axes`, and one shape."""
    shapes = [np.shape(array) for array in arrays]
    if len(shapes[0]) not in axes or len(set(shapes)) > 1:
        raise ValueError(NOT_ONE_GRID.format(shapes))


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is above 0 (NaN is not)."""
    if not value > 0:
        raise ValueError(NOT_POSITIVE.format(name, value))


def masks(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Masks on one grid as bool (X, Y, Z): what is above 0."""
    check_one_grid(*arrays)
    return tuple(np.asarray(array) > 0 for array in arrays)


def inside(
    mask: np.ndarray | None, images: Sequence[np.ndarray], axes: Sequence[int] = (3,)
) -> list[np.ndarray]:
    """Values (N,) float64 of images (X, Y, Z) where a mask is above 0; everywhere without a mask."""
    check_one_grid(*images, *(() if mask is None else (mask,)), axes=axes)
    chosen = np.ones(np.shape(images[0]), dtype=bool) if mask is None else np.asarray(mask) > 0
    if not chosen.any():
        raise ValueError(EMPTY_MASK)
    return [np.asarray(image)[chosen].astype(np.float64) for image in images]
