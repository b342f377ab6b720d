"""Gains of a sharpening view, fitted before the view is trained: `bidsrep.models.views.Gains`.

For given gains, the squared error of an image is a quadratic form of a dozen numbers. These are computed once for some
hundred images, after which thousands of steps on all of them take seconds; mini-batch by mini-batch, gains that are
large and of opposite signs would not be found within the steps of a training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bidsrep.models.views import ViewHead, bands
from bidsrep.training.glances import ERROR_FLOOR

LOGGER = logging.getLogger("bidsrep")
FEWEST_VOXELS = 20_000
"""Images with less brain say little."""
FIRST = 1_000_000
"""Number of the first image: training draws others."""
DECIBELS = 4.342944819


@dataclass(frozen=True)
class Quadratics:
    """Errors of ``N`` images as functions of gains ``g`` ``(K,)``: ``before - 2 pull.g + g.gram g``.

    ``energies`` ``(N, 3, K / 3)`` are what `Gains` sees of each.
    """

    gram: Tensor
    pull: Tensor
    before: Tensor
    energies: Tensor

    def change(self, gains: Tensor) -> Tensor:
        """Logarithm ``(N,)`` of the share of the squared error that gains ``(N, K)`` leave."""
        g = gains.double()
        after = self.before - 2 * (g * self.pull).sum(1) + torch.einsum("bi,bij,bj->b", g, self.gram, g)
        return ((after.clamp(min=0) + ERROR_FLOOR) / (self.before + ERROR_FLOOR)).log()

    def best(self) -> Tensor:
        """The gains ``(N, K)`` that suit each image best."""
        eye = torch.eye(self.pull.shape[1], dtype=torch.float64)
        return torch.linalg.solve(self.gram + 1e-7 * eye, self.pull)


def fit_gains(head: ViewHead, objective: Any, images: int) -> tuple[float, float]:
    """Fit a view's gains to images of an objective that has ``target_superres``.

    Returns
    -------
    tuple of float
        Decibels that the gains bring to these images in the mean, and those that the best gains of each would.

    Raises
    ------
    ValueError
        If the view does not sharpen.
    """
    if head.gains is None:
        raise ValueError("the view has no bands (sharpen) to give gains to")
    found = list(_draw(head, objective, images))
    data = Quadratics(*(torch.stack(values) for values in zip(*found, strict=True)))
    optimiser = torch.optim.LBFGS(
        head.gains.parameters(),
        max_iter=2000,
        history_size=50,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        assert head.gains is not None
        size = torch.stack([values.square().sum() for values in head.gains.parameters()]).sum()
        value = data.change(head.gains.of_energies(data.energies)).mean() + 1e-5 * size
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        reached = -DECIBELS * data.change(head.gains.of_energies(data.energies)).mean().item()
        possible = -DECIBELS * data.change(data.best()).mean().item()
    LOGGER.info("gains: %.2f dB on %d images; the best of each image: %.2f dB", reached, len(found), possible)
    return reached, possible


def _draw(head: ViewHead, objective: Any, images: int) -> Iterator[tuple[Tensor, ...]]:
    assert head.gains is not None
    for number in range(images):
        batch = objective.sample(FIRST + number, 0)
        image, brain = batch["image"][:1], batch["brain"][:1] > 0
        voxels = int(brain.sum())
        if voxels < FEWEST_VOXELS:
            continue
        apart = bands(image, head.sharpen)
        values = torch.stack([band[brain] for band in apart]).double()
        missing = (batch["target_superres"][:1] - image)[brain].double()
        energies = head.gains.energies(apart, image)[0]
        yield (
            values @ values.T / voxels,
            values @ missing / voxels,
            missing.square().sum() / voxels,
            energies,
        )
