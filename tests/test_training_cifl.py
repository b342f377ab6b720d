"""CIFL's contrastive loss and both phases of its training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bidsrep
from bidsrep.errors import InputError, UsageError
from bidsrep.models.cifl import CIFL
from bidsrep.synth.generator import GeneratorConfig, Source
from bidsrep.synth.shapes import ShapesConfig
from bidsrep.tasks.tissue import CHANNELS
from bidsrep.training.cifl import (
    PairObjective,
    TissueObjective,
    build_network,
    build_objective,
    contrastive_loss,
    sample_t1w,
)
from bidsrep.training.recipe import Recipe, Stage, read_recipe

RECIPES = Path(bidsrep.__file__).parent / "data" / "recipes"
SHAPE = (16, 16, 16)
ARCHITECTURE = {"heads": {"tissue": 4}, "head": {"f_maps": 8, "num_levels": 2}, "features": 4, "f_maps": 8,
                "dilations": [1, 1, 2, 1]}  # fmt: skip
TISSUES = ("background", "csf", "gm", "wm")


def recipe(phase: str = "pretrain", **generator) -> Recipe:
    base = read_recipe(RECIPES / "cifl-compact.toml")
    stage = Stage(4, SHAPE, 1.0, 2)
    losses = {**base.losses, "phase": phase}
    return replace(base, architecture=ARCHITECTURE, stages=(stage,), losses=losses, generator=generator)


def head() -> Source:
    axis = torch.linspace(-1, 1, 24)
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2).sqrt()
    labels = (radius < 0.9).int() + (radius < 0.7).int() + (radius < 0.45).int()
    return Source(1.0, labels=labels[None], tissues=TISSUES)


class TestLoss:
    @pytest.mark.parametrize("alpha", ["1", "0.1", "1.0/0.1"])
    @pytest.mark.parametrize("gamma", ["1", "0.1", "0.01"])
    @pytest.mark.parametrize(("reading", "named"), [("channel", "spatial"), ("voxel", "voxelmean")])
    def test_numbers_of_the_stated_formula(self, test_data, alpha, gamma, reading, named) -> None:
        known = np.load(test_data / "fixtures" / "cifl_loss.npz")
        a, b = (alpha.split("/") * 2)[:2]
        first, second = (torch.from_numpy(known[k]).double()[None, ..., None] for k in ("f1", "f2"))
        found = contrastive_loss(first, second, reading, float(a), float(b), float(gamma))["loss"]
        assert float(found) == pytest.approx(
            float(known[f"loss_{named}_ta{a}_tb{b}_tg{gamma}"]), rel=1e-6, abs=1e-8
        )

    def test_is_lowest_where_contrasts_agree_and_channels_differ(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, 4, 6, 6, 6, generator=generator)
        other = torch.randn(1, 4, 6, 6, 6, generator=generator)
        alike = contrastive_loss(features, features)
        assert alike["loss"] < contrastive_loss(features, other)["loss"]
        collapsed = features[:, :1].expand(-1, 4, -1, -1, -1)
        assert alike["loss"] < contrastive_loss(collapsed, collapsed)["loss"]

    @pytest.mark.parametrize("reading", ["channel", "voxel", "correlation"])
    def test_only_the_voxels_of_the_weight_count(self, reading) -> None:
        generator = torch.Generator().manual_seed(0)
        first, second = torch.randn(2, 1, 3, 6, 5, 4, generator=generator)
        weight = torch.zeros(1, 1, 6, 5, 4)
        weight[:, :, :3] = 1
        inside = contrastive_loss(first[:, :, :3], second[:, :, :3], reading)["loss"]
        torch.testing.assert_close(contrastive_loss(first, second, reading, weight=weight)["loss"], inside)

    def test_nearly_constant_maps_gain_nothing_by_correlation(self) -> None:
        generator = torch.Generator().manual_seed(0)
        first, second = torch.randn(2, 1, 4, 6, 6, 6, generator=generator)
        offset = 100 * torch.eye(4)[:1, :, None, None, None]
        plain, shifted = (contrastive_loss(first + k * offset, second + k * offset) for k in (0, 1))
        assert shifted["similarity"] > plain["similarity"] + 0.2
        plain, shifted = (
            contrastive_loss(first + k * offset, second + k * offset, "correlation") for k in (0, 1)
        )
        torch.testing.assert_close(shifted["similarity"], plain["similarity"], atol=1e-3, rtol=0)

    def test_unknown_reading(self) -> None:
        with pytest.raises(ValueError, match="normalisation"):
            contrastive_loss(torch.ones(1, 2, 2, 2, 2), torch.ones(1, 2, 2, 2, 2), "other")


class TestPretraining:
    def objective(self, share: float) -> PairObjective:
        config = GeneratorConfig(lesion_probability=0)
        return PairObjective({1.0: [head()]}, config, recipe(), ShapesConfig(labels=6), share)

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_pairs_are_two_contrasts_of_one_geometry(self, share: float) -> None:
        batch = self.objective(share).sample(0, 0)
        assert batch["first"].shape == batch["second"].shape == (2, 1, *SHAPE)
        assert not torch.allclose(batch["first"], batch["second"])
        again = self.objective(share).sample(0, 0)
        torch.testing.assert_close(batch["first"], again["first"], rtol=0, atol=0)

    def test_the_brain_s_outline_is_not_the_same_edge_in_every_image(self) -> None:
        objective = self.objective(1.0)
        greys = []
        for number in range(8):
            batch = objective.sample(number, 0)
            outside = batch["weight"] == 0
            greys += [float(batch[name][outside].unique().max()) for name in ("first", "second")]
        assert len(set(greys)) > 4

    def test_lowers_the_loss_on_shapes_it_has_not_seen(self) -> None:
        torch.manual_seed(0)
        objective, network = self.objective(0.0), build_network(recipe())
        assert not any(value.requires_grad for value in network.head.parameters())
        unseen = [objective.sample(1000 + n, 0) for n in range(4)]

        def loss() -> float:
            with torch.no_grad():
                return sum(float(objective.loss(network, batch, 0)["loss"]) for batch in unseen)

        before = loss()
        optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=3e-3)
        for step in range(25):
            optimiser.zero_grad()
            objective.loss(network, objective.sample(step, 0), 0)["loss"].backward()
            optimiser.step()
        assert loss() < 0.95 * before

    def test_two_processes_share_the_gradient_of_one(self) -> None:
        """The loss is a mean over pairs: the mean of two halves' gradients is that of the whole batch."""
        torch.manual_seed(0)
        objective, network = self.objective(0.0), build_network(recipe())
        whole = objective.sample(0, 0)

        def gradient(part: slice) -> torch.Tensor:
            network.zero_grad()
            objective.loss(network, {key: value[part] for key, value in whole.items()}, 0)["loss"].backward()
            return network.backbone.convs[0].weight.grad.clone()

        halves = (gradient(slice(0, 1)) + gradient(slice(1, 2))) / 2
        torch.testing.assert_close(halves, gradient(slice(0, 2)), rtol=1e-4, atol=1e-7)

    def test_anatomies_are_asked_for_where_they_are_needed(self) -> None:
        with pytest.raises(InputError, match="--data"):
            build_objective(recipe(anatomy_share=0.5), [])
        assert isinstance(build_objective(recipe(anatomy_share=0.0), []), PairObjective)

    def test_unknown_phase(self) -> None:
        with pytest.raises(UsageError, match="phase"):
            build_network(recipe("other"))


class TestHead:
    def objective(self) -> TissueObjective:
        return TissueObjective({1.0: [head()]}, GeneratorConfig(lesion_probability=0), recipe("heads"))

    def test_examples_are_t1w_with_their_tissues(self) -> None:
        batch = self.objective().sample(0, 0)
        image, classes = batch["image"], batch["classes"]
        means = [float(image[classes == CHANNELS.index(name)].mean()) for name in ("csf", "gm", "wm")]
        assert means == sorted(means)
        assert float(image[classes == 0].abs().max()) == 0

    def test_only_the_head_learns_and_it_learns(self) -> None:
        torch.manual_seed(0)
        objective, network = self.objective(), build_network(recipe("heads"))
        unseen = [objective.sample(1000 + n, 0) for n in range(3)]

        def loss() -> float:
            with torch.no_grad():
                return sum(float(objective.loss(network, batch, 0)["loss"]) for batch in unseen)

        before, features = loss(), [p.clone() for p in network.backbone.parameters()]
        optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
        for step in range(15):
            optimiser.zero_grad()
            objective.loss(network, objective.sample(step, 0), 0)["loss"].backward()
            optimiser.step()
        assert loss() < 0.8 * before
        assert all(torch.equal(a, b) for a, b in zip(features, network.backbone.parameters(), strict=True))

    def test_t1w_means_t1w(self) -> None:
        contrast = sample_t1w(torch.Generator().manual_seed(0), TISSUES)
        assert contrast.means[0] < contrast.means[1] < contrast.means[2]


def test_a_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    from bidsrep.training.run import network_state, pretrain
    from bidsrep.training.trainer import Runtime

    whole = recipe(anatomy_share=0.0)
    whole = replace(whole, precision="32-true", optimiser=replace(whole.optimiser, cosine=False))
    half = replace(whole, stages=(replace(whole.stages[0], iterations=2),))
    runtime = Runtime(device="cpu", tensorboard=False)
    straight = network_state(pretrain(whole, [], tmp_path / "whole", runtime=runtime))
    pretrain(half, [], tmp_path / "parts", runtime=runtime)
    resumed = network_state(pretrain(whole, [], tmp_path / "parts", runtime=runtime))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert set(straight) == set(CIFL.build(ARCHITECTURE).state_dict())
