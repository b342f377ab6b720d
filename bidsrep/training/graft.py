"""Put heads of a training run onto other weights: the heads that have a view read the image, no backbone's features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bidsrep.errors import UsageError
from bidsrep.models.model import Model
from bidsrep.models.network import Network
from bidsrep.models.registry import model_class
from bidsrep.models.weights import card_path, load_strictly, read_weights, write_weights
from bidsrep.training.export import kept_aside
from bidsrep.training.join import HEAD as LESION_HEAD
from bidsrep.training.join import HIDDEN, fit_join, joined
from bidsrep.training.module import Objective
from bidsrep.training.recipe import Recipe
from bidsrep.training.run import build_network, network_state, steps_taken

NO_VIEW = "--heads {}: not a head of the run {} that has a view; it has {}"
READS_FEATURES = (
    "--heads {}: it reads the features of the backbone it was trained on, and cannot be put onto another"
)
NOT_OF_MODEL = "--heads {}: {} has no such head"
NOT_LINEAR = "--join: the lesion head of the weights that it is put onto has a view already"
HEAD = "head.final_conv_{}."


def export_onto(
    checkpoint: Path,
    recipe: Recipe,
    base: Path,
    heads: Collection[str],
    out: Path,
    *,
    edition: str,
    training: Mapping[str, Any],
    join: tuple[Objective, int] | None = None,
) -> tuple[Path, Path]:
    """Write ``base`` with some heads of a run instead of, or beside, its own; the rest stays bit for bit.

    The heads are stored in half precision. The base's card is kept, figures included, where it does not speak of the
    weights as a whole; figures of heads that are replaced have to be measured anew.

    Parameters
    ----------
    checkpoint, recipe
        The run, and what it followed; it may be of another model.
    base
        Weights to start from.
    heads
        Names of heads with views.
    out
        Folder to write to.
    edition
        Goes into the weights' id.
    training
        What the card says of the run besides.
    join
        Join the view of lesions with the base's own head on the features, over so many images of an objective
        (`bidsrep.training.join`), instead of replacing it.

    Raises
    ------
    UsageError
        If a head has no view of its own, reads features, or the base's model has no use for it.
    WeightsError
        If the result does not make a whole network.
    """
    state, card = read_weights(base)
    model = model_class(card["weights"]["model"])
    views = _usable_views(recipe, heads, model)
    trained = network_state(checkpoint)
    if join and LESION_HEAD in heads:
        network = model.build(card["architecture"])
        load_strictly(network, state, base)
        trained, numbers = _join(network, trained, recipe, *join)
        views[LESION_HEAD] = {**views[LESION_HEAD], "hidden": HIDDEN}
        training = {**training, "joined": numbers}
    architecture = dict(card["architecture"])
    for head in heads:
        prefix = HEAD.format(head)
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        state |= {key: _stored(key, value) for key, value in trained.items() if key.startswith(prefix)}
        architecture["heads"] = {**dict(architecture["heads"]), head: recipe.architecture["heads"][head]}
        architecture["views"] = {**architecture.get("views", {}), head: views[head]}
        if head in architecture.get("with_image", ()):
            architecture["with_image"] = [name for name in architecture["with_image"] if name != head]
    if bad := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{checkpoint}: {bad[0]} holds NaN or Inf; the run diverged")
    load_strictly(model.build(architecture), state, checkpoint)
    weights = {**card["weights"], "id": f"bidsrep-{model.name}-{edition}"}
    aside = kept_aside(recipe.held_out, card)
    record = {**_record(checkpoint, recipe, heads, card["weights"]), "held_out": list(aside), **training}
    card = {
        **card,
        "weights": weights,
        "architecture": architecture,
        "training": {**card.get("training", {}), **record},
    }
    path = write_weights(out / f"{model.name}.safetensors", state, card)
    return path, card_path(path)


def _usable_views(recipe: Recipe, heads: Collection[str], model: type[Model]) -> dict[str, dict[str, Any]]:
    """Settings of the run's views; all ``heads`` have one, and mean something to the model.

    Raises
    ------
    UsageError
        If not.
    """
    views = resolved_views(recipe.architecture.get("views", {}))
    known = {task.head for task in model.tasks}
    for head in heads:
        if head not in views:
            raise UsageError(NO_VIEW.format(head, recipe.name, ", ".join(views) or "none"))
        if views[head].get("hidden"):
            raise UsageError(READS_FEATURES.format(head))
        if head not in known:
            raise UsageError(NOT_OF_MODEL.format(head, model.name))
    return views


def _record(
    checkpoint: Path, recipe: Recipe, heads: Collection[str], start: Mapping[str, Any]
) -> dict[str, Any]:
    """What the card's ``[training]`` says of the run, and of the weights with the id and checksum of ``start``."""
    return {
        "recipe": recipe.name,
        "iterations": steps_taken(checkpoint),
        "seed": recipe.seed,
        "initial": f"{start['id']} (all but {', '.join(sorted(heads))})",
        "initial_sha256": start["sha256"],
    }


def _join(
    base: nn.Module, trained: dict[str, Tensor], recipe: Recipe, objective: Objective, images: int
) -> tuple[dict[str, Tensor], str]:
    """The run's tensors with its head of lesions joined with the base's, and what the card says of it."""
    prefix = HEAD.format(LESION_HEAD)
    viewed = build_network(recipe)
    assert isinstance(base, Network)
    assert isinstance(viewed, Network)
    linear = base.head.get_submodule(prefix.removeprefix("head.").removesuffix("."))
    if not isinstance(linear, nn.Conv3d):
        raise UsageError(NOT_LINEAR)
    viewed.load_state_dict(trained)
    numbers = fit_join(viewed.eval(), base.eval(), objective, images)
    view = {key.removeprefix(prefix): value for key, value in trained.items() if key.startswith(prefix)}
    head = joined(view, linear.weight.detach(), torch.as_tensor(linear.bias).detach(), numbers)
    said = "{:.3f} of the view's logit, {:.3f} of that of the head on the features, {:+.3f}".format(*numbers)
    others = {key: value for key, value in trained.items() if not key.startswith(prefix)}
    return {**others, **{prefix + key: value for key, value in head.items()}}, f"{said} (n = {images} images)"


def _stored(key: str, value: Tensor) -> Tensor:
    """Views in half precision; a hidden layer, which is small, as it is."""
    return value if ".fine." in key else value.half()


def resolved_views(views: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of every view, where one is ``of`` another those of both."""
    found: dict[str, dict[str, Any]] = {}
    for name, settings in views.items():
        own = dict(settings)
        other = own.pop("of", None)
        found[name] = {**found[other], **own} if other else own
    return found
