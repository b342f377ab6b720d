"""Muon for convolution weights, AdamW for the rest, as one optimiser.

Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a weight matrix by
the nearest semi-orthogonal matrix, found with five Newton-Schulz steps. `torch.optim.Muon` takes matrices
only; here a convolution's weight is the matrix of its output channels by everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration, from the same source.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of a matrix ``(M, N)`` towards 1 (to about 0.7 to 1.2)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class MuonWithAdamW(torch.optim.AdamW):
    """AdamW whose first parameter group, convolution weights, takes Muon's steps.

    Parameters
    ----------
    network
        Module to train: see `split_parameters`.
    lr
        Learning rate of AdamW.
    head_lr
        Learning rate of AdamW for output layers (``head.*``); 0: ``lr``. In a run of a few hundred steps a weight
        moves by their number times the rate at most, and new heads have far to go.
    muon_lr
        Learning rate of Muon.
    momentum
        Nesterov momentum of Muon.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        muon_lr: float = 0.02,
        momentum: float = 0.9,
        head_lr: float = 0.0,
    ) -> None:
        kernels, others = split_parameters(network.named_parameters())
        heads = {id(value) for name, value in network.named_parameters() if name.startswith("head.")}
        groups = [
            {"params": kernels, "lr": muon_lr},
            {"params": [value for value in others if id(value) not in heads], "lr": lr},
            {"params": [value for value in others if id(value) in heads], "lr": head_lr or lr},
        ]
        super().__init__(groups, lr=lr, weight_decay=0.0)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step; the kernels' gradients are used up, so AdamW leaves them alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum" not in state:
                # AdamW expects a count of steps of every parameter that has a state, when it is loaded.
                state.update(momentum=torch.zeros_like(parameter), step=torch.zeros(()))
            velocity = state["momentum"].mul_(self.momentum).add_(parameter.grad)
            nesterov = parameter.grad + self.momentum * velocity
            flat = nesterov.reshape(len(nesterov), -1)
            scale = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
            parameter.add_(orthogonalise(flat).reshape(parameter.shape), alpha=-group["lr"] * scale)
            parameter.grad = None
        super().step()
        return loss


def split_parameters(
    named: Iterable[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Tell the weights of 3D convolutions, wider than one voxel, from everything else that is trained."""
    kernels: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for _, parameter in named:
        if parameter.requires_grad:
            (kernels if parameter.ndim == 5 and max(parameter.shape[2:]) > 1 else others).append(parameter)
    return kernels, others
