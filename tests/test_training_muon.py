"""Muon: orthogonal steps for kernels, AdamW for the rest."""

import copy

import torch

from bidsrep.models.network import Network
from bidsrep.training.muon import MuonWithAdamW, orthogonalise, split_parameters


def test_orthogonalised_matrix_has_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 50), (50, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(*shape, generator=generator)))
        assert 0.5 < values.min() <= values.max() < 1.4


def test_output_layers_and_norms_are_left_to_adamw() -> None:
    network = Network({"image": 1}, f_maps=8, num_levels=2)
    kernels, others = split_parameters(network.named_parameters())
    assert len(kernels) + len(others) == len(list(network.parameters()))
    assert all(parameter.ndim == 5 and parameter.shape[-1] == 3 for parameter in kernels)


def test_a_step_moves_every_parameter_downhill() -> None:
    torch.manual_seed(0)
    network = Network({"image": 1}, f_maps=8, num_levels=2)
    optimiser = MuonWithAdamW(network, lr=1e-3, muon_lr=0.01)
    image, target = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    losses = []
    before = [parameter.clone() for parameter in network.parameters()]
    for _ in range(15):
        loss = (network(image)["image"] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_loaded_state_goes_on_alike() -> None:
    torch.manual_seed(0)
    network = Network({"image": 1}, f_maps=8, num_levels=2)
    image = torch.rand(1, 1, 16, 16, 16)

    def step(network: Network, optimiser: MuonWithAdamW) -> None:
        optimiser.zero_grad()
        network(image)["image"].square().mean().backward()
        optimiser.step()

    optimiser = MuonWithAdamW(network, lr=1e-3)
    step(network, optimiser)
    other = Network({"image": 1}, f_maps=8, num_levels=2)
    other.load_state_dict(network.state_dict())
    resumed = MuonWithAdamW(other, lr=1e-3)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    step(network, optimiser)
    step(other, resumed)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_output_layers_can_have_a_rate_of_their_own() -> None:
    network = Network({"image": 1, "seg": 5}, f_maps=8, num_levels=2)
    optimiser = MuonWithAdamW(network, lr=1e-3, muon_lr=0.02, head_lr=0.03)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        if name.startswith("head."):
            assert rates[id(parameter)] == 0.03
        else:
            assert rates[id(parameter)] in (1e-3, 0.02)
