"""Heads of a run on other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bidsrep.errors import UsageError
from bidsrep.models.network import Network
from bidsrep.models.registry import load_model
from bidsrep.models.weights import read_card, write_weights
from bidsrep.training.graft import export_onto, resolved_views
from bidsrep.training.join import fit_join, logistic
from bidsrep.training.recipe import Recipe, Stage

BACKBONE = {"f_maps": 8, "num_levels": 2}
VIEW = {"factor": 2, "f_maps": 8, "num_levels": 2}


def run(tmp_path: Path, views: dict[str, Any]) -> tuple[Path, Recipe, Network]:
    """A checkpoint of Brain-ID's recipe with structures and lesions on one view."""
    heads = {"seg": 33, "pathol": 1}
    torch.manual_seed(1)
    network = Network(heads, views=views, **BACKBONE)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "last.ckpt")
    architecture = {**BACKBONE, "heads": heads, "views": views}
    recipe = Recipe(
        "brainid", "views", architecture, (Stage(7, (16, 16, 16)),), seed=3, held_out=("sub-7", "sub-9")
    )
    return tmp_path / "last.ckpt", recipe, network


@pytest.fixture
def base(tmp_path: Path) -> Path:
    heads = {"image": 1, "aux_image": 1, "pathol": 1}
    torch.manual_seed(2)
    network = Network(heads, unit_features=True, **BACKBONE)
    card = {
        "weights": {
            "id": "bidsrep-pepsi-1",
            "model": "pepsi",
            "license": "CC0-1.0",
            "status": "self-trained",
        },
        "architecture": {**BACKBONE, "unit_features": True, "heads": heads},
        "training": {"machine": "a small one", "held_out": ["sub-8", "sub-9"]},
        "figures": {"t1w": "good"},
    }
    return write_weights(tmp_path / "base" / "pepsi.safetensors", network.state_dict(), card)


def test_the_head_is_the_run_s_and_all_else_the_base_s(base: Path, tmp_path: Path) -> None:
    checkpoint, recipe, network = run(tmp_path, {"seg": VIEW, "pathol": {"of": "seg"}})
    weights, card_file = export_onto(
        checkpoint, recipe, base, ["pathol"], tmp_path / "out", edition="2", training={"data": "cubes"}
    )
    made, image = load_model("pepsi", weights=weights), torch.rand(1, 1, 20, 20, 20)
    before = load_model("pepsi", weights=base).predict(image)
    after = made.predict(image)
    assert torch.equal(after["T1w"], before["T1w"])
    with torch.no_grad():
        expected = torch.sigmoid(network.head.views["pathol"](None, image))
    torch.testing.assert_close(after["lesion"], expected, atol=2e-3, rtol=0)  # half precision
    card = read_card(weights)
    assert card_file.exists()
    assert card["weights"]["id"] == "bidsrep-pepsi-2"
    assert card["training"] == {
        "machine": "a small one",
        "recipe": "views",
        "iterations": 7,
        "seed": 3,
        "held_out": ["sub-9"],
        "initial": "bidsrep-pepsi-1 (all but pathol)",
        "initial_sha256": read_card(base)["weights"]["sha256"],
        "data": "cubes",
    }
    kept = {key for key in load_file(base) if "pathol" not in key}
    assert all(torch.equal(load_file(base)[key], load_file(weights)[key]) for key in kept)


@pytest.mark.parametrize(
    ("head", "views", "message"),
    [
        ("seg", {"seg": VIEW, "pathol": {"of": "seg"}}, "pepsi has no such head"),
        ("pathol", {"seg": VIEW}, "not a head of the run views that has a view; it has seg"),
        ("pathol", {"pathol": {**VIEW, "hidden": 4}}, "reads the features"),
    ],
)
def test_what_does_not_fit_is_refused(
    head: str, views: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    checkpoint, recipe, _ = run(tmp_path, views)
    with pytest.raises(UsageError, match=message):
        export_onto(checkpoint, recipe, base, [head], tmp_path / "out", edition="2", training={})
    assert not (tmp_path / "out").exists()


def test_a_view_of_another_has_its_settings() -> None:
    assert resolved_views({"a": VIEW, "b": {"of": "a", "hidden": 4}}) == {
        "a": VIEW,
        "b": {**VIEW, "hidden": 4},
    }


class Images:
    """An objective whose lesions are where the image is bright."""

    def sample(self, index: int, step: int) -> dict[str, torch.Tensor]:
        image = torch.rand(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(index))
        return {"image": image, "brain": torch.ones_like(image), "lesion": (image > 0.9).float()}


def test_a_joined_head_is_a_sum_of_logits_and_keeps_reading_the_features(base: Path, tmp_path: Path) -> None:
    checkpoint, recipe, network = run(tmp_path, {"seg": VIEW, "pathol": {"of": "seg"}})
    join = (Images(), 3)
    weights, _ = export_onto(
        checkpoint, recipe, base, ["pathol"], tmp_path / "out", edition="2", training={}, join=join
    )
    made, before = load_model("pepsi", weights=weights), load_model("pepsi", weights=base)
    a, b, c = fit_join(network, before.network, *join)
    image = torch.rand(1, 1, 20, 20, 20)
    with torch.no_grad():
        view = network.head.views["pathol"](None, image)
    linear = torch.logit(before.predict(image)["lesion"].double())
    found = made.predict(image)
    torch.testing.assert_close(
        found["lesion"], torch.sigmoid(a * view + b * linear + c).float(), atol=3e-3, rtol=0
    )
    assert torch.equal(found["FLAIR"], before.predict(image)["FLAIR"])
    assert read_card(weights)["training"]["joined"].endswith("(n = 3 images)")
    again = (checkpoint, recipe, weights, ["pathol"], tmp_path / "again")
    with pytest.raises(UsageError, match="has a view already"):
        export_onto(*again, edition="3", training={}, join=join)


def test_the_regression_finds_known_slopes() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(20_000, 2))
    chance = 1 / (1 + np.exp(-(values @ [1.5, -0.7] - 2)))
    labels = generator.uniform(size=20_000) < chance
    assert logistic(values, labels, np.ones(20_000)) == pytest.approx((1.5, -0.7, -2), abs=0.12)
    kept = labels | (generator.uniform(size=20_000) < 0.25)  # a quarter of the negatives, each for four
    weights = np.where(labels, 1.0, 4.0)[kept]
    assert logistic(values[kept], labels[kept], weights) == pytest.approx((1.5, -0.7, -2), abs=0.2)
