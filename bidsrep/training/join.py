"""Join a head on the features with a view of the same task: a weighted sum of their logits.

The view knows where in the brain a voxel lies and is coarse; the head on the features is sharp and knows nothing but
the voxel. How much each counts is found by a logistic regression on generated images, whose three numbers do not
overfit; the sum is itself a `ViewHead`, whose hidden layer holds the head on the features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bidsrep.models.network import Network
from bidsrep.training.glances import LESION
from bidsrep.training.module import Objective

NEGATIVES = 40_000
"""Voxels without a lesion that are taken of every image; the others count through their weight."""
STEPS = 50
HIDDEN = 2
"""Units of the hidden layer that hold a linear head: one for either sign."""
SLOPE = 0.01  # of the hidden layer's leaky rectifier
HEAD = "pathol"


def fit_join(
    viewed: Network, linear: Network, objective: Objective, images: int
) -> tuple[float, float, float]:
    """Weights of the view's and of the linear head's logits, and a constant, over ``images`` generated ones.

    Parameters
    ----------
    viewed
        Its head `HEAD` has a view that reads the image alone.
    linear
        Its head `HEAD` reads the features.
    objective
        Draws images with ``image``, ``brain`` and ``lesion`` (see `bidsrep.training.representation`).
    images
        How many.
    """
    generator = torch.Generator().manual_seed(0)
    logits, labels, weights = [], [], []
    for number in range(images):
        batch = objective.sample(number, 0)
        image, brain = batch["image"][:1], batch["brain"][0, 0] > 0
        with torch.no_grad():
            view = viewed.head.views[HEAD](None, image)[0, 0][brain]
            features = linear.backbone(image)
            flat = linear.head.stream(features, image, {HEAD})[HEAD][0, 0][brain]
        lesion = batch["lesion"][0, 0][brain] > LESION
        without = (~lesion).nonzero()[:, 0]
        kept = without[torch.randperm(len(without), generator=generator)[:NEGATIVES]]
        chosen = torch.cat([lesion.nonzero()[:, 0], kept])
        logits.append(torch.stack([view, flat], 1)[chosen])
        labels.append(lesion[chosen])
        weights.append(torch.where(lesion[chosen], 1.0, len(without) / max(1, len(kept))))
    return logistic(*(torch.cat(parts).double().numpy() for parts in (logits, labels, weights)))


def logistic(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Two slopes and a constant of the weighted logistic regression of ``labels`` on ``values`` ``(N, 2)``."""
    design = np.column_stack([values, np.ones(len(values))])
    found = np.array([0.5, 0.5, 0.0])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-(design @ found).clip(-30, 30)))
        slope = design.T @ (weights * (labels - probability))
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-6 * np.eye(3), slope)
        found = found + step * min(
            1.0, 1 / max(1e-9, np.abs(step).max())
        )  # no step beyond 1: it may overshoot
    return float(found[0]), float(found[1]), float(found[2])


def joined(
    view: dict[str, Tensor], weight: Tensor, bias: Tensor, join: tuple[float, float, float]
) -> dict[str, Tensor]:
    """State of a `ViewHead` with a hidden layer of 2 that gives ``a * view + b * linear + c``.

    Parameters
    ----------
    view
        State of the view's head, without a hidden layer, names without the head's.
    weight, bias
        Of the convolution ``(1, C, 1, 1, 1)`` on the features.
    join
        The numbers that `fit_join` finds.
    """
    of_view, of_linear, constant = join
    maps = view["coarse.weight"].shape[1]
    unseen = weight.new_zeros(1, 1 + maps, 1, 1, 1)  # image and maps: the coarse part has them
    first = torch.cat([weight, unseen], dim=1)
    # A leaky rectifier of x less that of -x is (1 + slope) x.
    last = of_linear / (1 + SLOPE) * torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1)
    return {
        **{name: value for name, value in view.items() if not name.startswith("coarse.")},
        "coarse.weight": of_view * view["coarse.weight"],
        "coarse.bias": of_view * view["coarse.bias"] + constant,
        "fine.0.weight": torch.cat([first, -first]),
        "fine.0.bias": torch.cat([bias, -bias]),
        "fine.2.weight": last,
    }
