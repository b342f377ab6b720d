"""Training objective of CRL: every contrast of a slice from every other, and one content for all of them.

CRL, MICCAI 2024: ``L1 + lambda * structure``, lambda 0.1. The L1 is the mean over all ordered pairs of
contrasts. The structure loss is the negative Pearson correlation of two contents, per channel over all
pixels of the crop: of all pairs in the paper, of neighbours in the list of contrasts in the released code.
All pairs are the default: they cost one matrix product, and the order of the contrasts means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bidsrep.errors import InputError, UsageError
from bidsrep.models.crl import CRL
from bidsrep.models.crl_network import CRLNetwork
from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.random import coin, integer
from bidsrep.training.crl_contrasts import ContrastConfig
from bidsrep.training.crl_people import acquired_people, has_anatomies, simulated_people
from bidsrep.training.crl_slices import (
    AcquiredPerson,
    Person,
    SimulatedPerson,
    SliceConfig,
    Slices,
    random_turn,
)
from bidsrep.training.recipe import Recipe

NO_PEOPLE = (
    "{}: neither anatomies (make them with `bidsrep-train prepare`) nor a BIDS dataset of sessions with two or "
    "more co-registered, brain-extracted scans"
)
BAD_VARIANT = "[losses] variant: {!r} is not one of paper, code"


class CRLObjective:
    """L1 of all contrasts from all others, and the structure loss of their contents.

    Parameters
    ----------
    people
        Anatomies and acquired sessions to draw slices of.
    recipe
        ``stages`` give the crops (the third side is not used) and their number per mini-batch; ``[generator]``
        is a `SliceConfig`; ``[losses]`` has ``structure`` (lambda) and ``variant`` (``paper`` or ``code``).
    """

    def __init__(self, people: list[Person], recipe: Recipe) -> None:
        self.recipe, self.config = recipe, slice_config(recipe.generator)
        self.kinds = [
            found
            for kind in (SimulatedPerson, AcquiredPerson)
            if (found := [p for p in people if isinstance(p, kind)])
        ]
        self.weight = float(recipe.losses.get("structure", 0.1))
        self.variant = str(recipe.losses.get("variant", "paper"))
        if self.variant not in ("paper", "code"):
            raise UsageError(BAD_VARIANT.format(self.variant))

    def sample(self, index: int, step: int) -> dict[str, Tensor]:
        """A mini-batch: ``source`` and ``target`` ``(N, K, H, W)``, ``parameters`` ``(N, K, 3)``.

        Every example has a generator of its own, so that they are the same however many processes share them.
        """
        stage = self.recipe.stage_at(step)
        examples = []
        for number in range(index * stage.samples, (index + 1) * stage.samples):
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + number)
            examples.append(self.example(generator, (stage.shape[0], stage.shape[1])))
        return {
            name: torch.stack([getattr(example, name) for example in examples])
            for name in ("source", "target", "parameters")
        }

    def example(self, generator: torch.Generator, shape: tuple[int, int]) -> Slices:
        """One slice of somebody."""
        acquired = len(self.kinds) > 1 and coin(generator, self.config.acquired_share)
        people = self.kinds[int(acquired)]
        person = people[integer(generator, 0, len(people))]
        return random_turn(person.slices(generator, shape, self.config), generator)

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """``image`` (L1), ``structure`` and their weighted sum; means over the examples."""
        assert isinstance(network, CRLNetwork)
        image, contents = reconstruction(network, batch["source"], batch["target"], batch["parameters"])
        structure = structure_loss(contents.float(), neighbours=self.variant == "code")
        return {"loss": image + self.weight * structure, "image": image, "structure": structure}


def reconstruction(
    network: CRLNetwork, source: Tensor, target: Tensor, parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean absolute error over all ordered pairs of different contrasts, and the contents.

    Every source is encoded once and decoded to all the other contrasts.

    Parameters
    ----------
    network
        The network.
    source, target
        ``(N, K, H, W)``.
    parameters
        ``(N, K, 3)``.

    Returns
    -------
    error, contents
        A scalar, and ``(N, K, C, H, W)``.
    """
    batch, count, height, width = source.shape
    codes = network.code(parameters.flatten(0, 1))
    images = source.reshape(-1, 1, height, width).contiguous(memory_format=torch.channels_last)
    contents = network.content(network.encoder(images), codes).unflatten(0, (batch, count))
    codes = codes.unflatten(0, (batch, count))
    error = target.new_zeros(())
    for wanted in range(count):
        others = [number for number in range(count) if number != wanted]
        code = codes[:, wanted, None].expand(-1, count - 1, -1)
        predicted = network.decode(contents[:, others].flatten(0, 1), code.flatten(0, 1))
        predicted = predicted.float().unflatten(0, (batch, count - 1))[:, :, 0]
        error = error + (predicted - target[:, wanted, None]).abs().mean()
    return error / count, contents


def structure_loss(contents: Tensor, neighbours: bool = False) -> Tensor:
    """Negative Pearson correlation over pixels of contents ``(N, K, C, H, W)``: a scalar from -1 to 1.

    Mean over examples, channels and pairs: all pairs, or ``neighbours`` in the list.
    """
    values = contents.flatten(3).transpose(1, 2)
    values = values - values.mean(dim=-1, keepdim=True)
    covariance = values @ values.transpose(-1, -2) / values.shape[-1]
    # The square root of 0 has no finite slope, and a channel that is constant over a crop has variance 0.
    spread = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-16).sqrt()
    correlation = covariance / (spread[..., :, None] * spread[..., None, :] + 1e-8)
    count = contents.shape[1]
    first, second = torch.triu_indices(count, count, offset=1)
    if neighbours:
        first = torch.arange(count - 1)
        second = first + 1
    return -correlation[..., first, second].mean()


def build_network(recipe: Recipe) -> CRLNetwork:
    """The untrained network of a recipe."""
    return CRL.build(recipe.architecture)


def build_objective(recipe: Recipe, folders: list[Path]) -> CRLObjective:
    """The objective of a recipe on folders of prepared anatomies and of co-registered BIDS sessions.

    Held-out persons are left out. Folders of lesion masks are passed over: CRL has no lesions to learn.

    Raises
    ------
    InputError
        If nobody is in them.
    """
    people: list[Person] = []
    for folder in folders:
        people += (simulated_people if has_anatomies(folder) else acquired_people)(folder, recipe.held_out)
    if not people:
        raise InputError(NO_PEOPLE.format(", ".join(map(str, folders))))
    return CRLObjective(people, recipe)


def slice_config(values: Mapping[str, Any]) -> SliceConfig:
    """`SliceConfig` from the ``[generator]`` table of a recipe, with the tables ``contrasts`` and ``deformation``."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    contrasts = dict(values.pop("contrasts", {}))
    if "sequences" in contrasts:
        contrasts["sequences"] = tuple(contrasts["sequences"])
    deformation = DeformationConfig(**{"nonlinear_std_mm": 0.0, **values.pop("deformation", {})})
    return SliceConfig(contrasts=ContrastConfig(**contrasts), deformation=deformation, **values)
