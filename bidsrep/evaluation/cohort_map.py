"""A map of a cohort: rows of features (N, C) in the two dimensions they differ most in."""

import numpy as np


def principal_components(features: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Project centred rows onto their first principal components.

    Signs are fixed (the largest loading of a component is positive), so the same rows always give the
    same map.

    Parameters
    ----------
    features : ndarray, (N, C)
        Finite.
    count : int
        Components wanted; those that do not exist are zero.

    Returns
    -------
    tuple of ndarray
        Scores (N, count), and the share of the variance of each component (count,).
    """
    rows = np.asarray(features, dtype=np.float64)
    centred = rows - rows.mean(axis=0) if len(rows) else rows
    scores, explained = np.zeros((len(rows), count)), np.zeros(count)
    total = float((centred**2).sum())
    if not total > 0:
        return scores, explained
    wide = rows.shape[1] > len(rows)
    squares, axes = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    order = np.argsort(squares)[::-1][:count]
    for index, axis in enumerate(order):
        if squares[axis] <= 1e-12 * total:
            break
        loading = centred.T @ axes[:, axis] / np.sqrt(squares[axis]) if wide else axes[:, axis]
        scores[:, index] = centred @ loading * np.sign(loading[np.abs(loading).argmax()])
        explained[index] = squares[axis] / total
    return scores, explained


def centre_groups(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Take the mean of its group from every row: what is left does not tell the group."""
    rows = np.array(features, dtype=np.float64)
    for group in np.unique(groups):
        rows[groups == group] -= rows[groups == group].mean(axis=0)
    return rows
