"""Turn a finished training run into weights: one safetensors file and its card."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bidsrep.bids.files import sha256_file
from bidsrep.models.registry import model_class
from bidsrep.models.weights import card_path, load_strictly, read_card, write_weights
from bidsrep.training.recipe import Recipe
from bidsrep.training.run import network_state, steps_taken

NO_LICENSE = "not stated"
WHOLE_HEAD = "whole head"
BRAIN = "brain only, divided by the 99.5th percentile inside the brain, clipped to [0, 2]"


def export_weights(
    checkpoint: Path,
    recipe: Recipe,
    out: Path,
    *,
    edition: str,
    training: dict[str, Any],
    inputs: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
    license: str | None = None,  # noqa: A002 (the card's word)
    start: Mapping[str, Any] | None = None,
    average_with: Path | None = None,
) -> tuple[Path, Path]:
    """Write ``<model>.safetensors`` (float32, fixed order: the same bytes each time) and ``<model>.toml``.

    Parameters
    ----------
    checkpoint
        Lightning checkpoint of the run.
    recipe
        Recipe the run followed.
    out
        Folder to write to.
    edition
        Goes into the weights' id, ``bidsrep-<model>-<edition>``.
    training
        What the card says about data and steps (``data``, ``licences``, ``persons``, ``hours`` ...).
    inputs
        What the network expects (``resolution_mm`` ...); as the recipe's last stage had it, unless given.
    figures
        Measured figures, each with its data and n in its name or value.
    license
        What the card says of the weights' licence; not stated, unless given.
    start
        What is known of the weights that the run began with (``id``, ``sha256``, ``license``, ``held_out``).
    average_with
        Weights of the same architecture that each of these is averaged with, say those that the run started
        from (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

    Raises
    ------
    ValueError
        If a weight is not finite, or the weights to average with are of another architecture.
    WeightsError
        If the checkpoint is not of the recipe's architecture.
    """
    state = {key: value.float().contiguous() for key, value in sorted(network_state(checkpoint).items())}
    if bad := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{checkpoint}: {bad[0]} holds NaN or Inf; the run diverged")
    held_out: Collection[str] = recipe.held_out
    if average_with is not None:
        state = _averaged(state, average_with)
        other = read_card(average_with) if card_path(average_with).is_file() else {}
        held_out = kept_aside(held_out, other)
        training = {
            "averaged_with": f"half of each weight is that of sha256 {sha256_file(average_with)}",
            **training,
        }
    model = model_class(recipe.model)
    load_strictly(model.build(recipe.architecture), state, checkpoint)
    unknown = NO_LICENSE
    if start:
        held_out = kept_aside(held_out, {"training": start})
        known = {"initial": start.get("id"), "initial_sha256": start.get("sha256")}
        training = {**{key: value for key, value in known.items() if value}, **training}
        unknown = f"{NO_LICENSE}; started from {start.get('id')} ({start.get('license') or NO_LICENSE})"
    architecture = dict(recipe.architecture)
    heads = {name: int(channels) for name, channels in architecture.pop("heads").items()}
    card = {
        "weights": {
            "id": f"bidsrep-{recipe.model}-{edition}",
            "model": recipe.model,
            "license": license or unknown,
            "status": "self-trained",
        },
        "architecture": {**architecture, "heads": heads},
        "input": inputs or expected_input(recipe),
        "training": {
            "recipe": recipe.name,
            **_steps(checkpoint, recipe),
            "seed": recipe.seed,
            "held_out": list(held_out),
            **training,
        },
        "figures": figures or {},
    }
    weights = write_weights(out / f"{recipe.model}.safetensors", state, card)
    return weights, card_path(weights)


def expected_input(recipe: Recipe) -> dict[str, Any]:
    """What the network was trained to see in the recipe's last stage."""
    stage, whole = recipe.stages[-1], recipe.model == "brainmask"
    given = {"resolution_mm": stage.spacing, "frame": "RAS", "content": WHOLE_HEAD if whole else BRAIN}
    # A mask is found on whole heads, on as large a grid as was trained on.
    return given | ({"field_of_view_mm": [side * stage.spacing for side in stage.shape]} if whole else {})


def kept_aside(held_out: Collection[str], card: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that neither a run nor the weights of the card were trained on: nobody, where the card does not say."""
    before = card.get("training", {}).get("held_out", ())
    return tuple(name for name in held_out if name in before)


def _averaged(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    other = load_file(path)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in other.items()}:
        raise ValueError(f"{path}: weights of another architecture cannot be averaged with")
    return {key: ((value + other[key].float()) / 2).contiguous() for key, value in state.items()}


def _steps(checkpoint: Path, recipe: Recipe) -> dict[str, Any]:
    """How many steps were taken, and whether the run was stopped before its end."""
    taken = steps_taken(checkpoint)
    stopped = {"stopped": f"after {taken} of {recipe.iterations} steps"} if taken < recipe.iterations else {}
    return {"iterations": taken, **stopped}
