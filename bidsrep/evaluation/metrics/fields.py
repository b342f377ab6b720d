"""How much of a bias field was missed."""

import numpy as np

from bidsrep.evaluation.metrics._checks import check_one_grid


def norm_l2(estimate: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """normL2 of Brain-ID's bias field table: min_w |w estimate - truth| / |truth|, whatever the scale.

    `bidsrep.tasks.bias.normalised_l2` in double precision: 0 (to 1e-5, its offset) for a perfect field.

    Parameters
    ----------
    estimate, truth : ndarray, (X, Y, Z)
        Multiplicative fields on one grid.
    mask : ndarray, (X, Y, Z), optional
        The brain, the paper's domain; everywhere without it, as in the released code.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    import torch

    from bidsrep.tasks.bias import normalised_l2

    fields = (estimate, truth) if mask is None else (estimate, truth, np.asarray(mask) > 0)
    check_one_grid(*fields)
    return float(
        normalised_l2(*(torch.from_numpy(np.array(x, dtype=np.float64))[None, None] for x in fields))
    )
