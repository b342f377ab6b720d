"""Contrastive losses on the projections of two views, and what makes them see every process' examples."""

from __future__ import annotations

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.5
REDUNDANCY_WEIGHT = 5e-3


def nt_xent(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Normalised, temperature-scaled cross-entropy (SimCLR; SeqInv's contrastive term).

    Each of the 2 B views has to find the other view of its person among all the others: minus the
    logarithm of ``exp(s / T)`` of that pair over the sum of all its pairs, s being the cosine; averaged.

    Parameters
    ----------
    first, second
        Projections of the two views ``(B, F)``; rows belong together.
    temperature
        T; 0.5 as published.
    """
    views = F.normalize(torch.cat([first, second]), dim=1)
    # Minus infinity takes the view itself out of the sum.
    similarity = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(views), device=views.device).roll(len(first)))


def barlow_twins(first: Tensor, second: Tensor, weight: float = REDUNDANCY_WEIGHT) -> Tensor:
    """Cross-correlation of the two views' features, driven to the identity (the code's alternative).

    ``(sum_i (1 - c_ii)^2 + weight sum_i sum_j!=i c_ij^2) / F`` of standardised ``(B, F)`` projections;
    the division by the number of features keeps it near the size of `nt_xent`. Needs two persons or more.
    """
    first, second = ((view - view.mean(0)) / (view.std(0) + 1e-6) for view in (first, second))
    correlation = first.T @ second / len(first)
    identity = torch.eye(len(correlation), device=correlation.device)
    weights = identity + weight * (1 - identity)
    return (weights * (correlation - identity) ** 2).sum() / len(correlation)


def gathered(views: Tensor) -> Tensor:
    """Rows ``(B, F)`` of this process between those of all others ``(world * B, F)``, in the order of ranks.

    Only this process' rows carry a gradient; see `summed_over_processes`.
    """
    if world_size() == 1:
        return views
    parts = [torch.empty_like(views) for _ in range(world_size())]
    torch.distributed.all_gather(parts, views.detach().contiguous())
    parts[torch.distributed.get_rank()] = views
    return torch.cat(parts)


def summed_over_processes(loss: Tensor) -> Tensor:
    """The same value with a gradient that, *averaged* over processes, is the sum of theirs.

    Every process computes the loss of all rows and differentiates it by its own; the whole gradient is the
    sum of those parts, but distributed training averages.
    """
    world = world_size()
    return world * loss - (world - 1) * loss.detach()


def world_size() -> int:
    """Number of processes that train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
