"""Heads with a view of their own."""

from __future__ import annotations

import pytest
import torch

from bidsrep.errors import UsageError
from bidsrep.models.detail import CENTRE, SCALE, DetailHead
from bidsrep.models.network import Network
from bidsrep.models.views import ViewHead, class_shares
from bidsrep.training.glances import glance_losses, lesion_share_loss, share_loss, squared_share
from bidsrep.training.recipe import Recipe, Stage
from bidsrep.training.run import build_network, freeze

HEADS = {"image": 1, "seg": 3, "superres": 1, "bias_field_log": 1}
VIEWS = {
    "seg": {"factor": 3, "f_maps": 8, "num_levels": 2, "hidden": 4},
    "bias_field_log": {"factor": 4, "f_maps": 8, "num_levels": 2},
    "superres": {"fold": 2, "f_maps": 8, "blocks": 2},
}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    network = Network(HEADS, views=VIEWS, f_maps=8, num_levels=2)
    for view in network.head.views.values():  # what starts at zero could hide a mistake
        for parameter in view.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("shape", [(24, 24, 24), (19, 22, 25)])
def test_rows_give_what_the_whole_gives(network: Network, shape: tuple[int, int, int]) -> None:
    image = torch.rand(1, 1, *shape)
    whole = network(image)
    with torch.no_grad():
        streamed = network.head.stream(network.backbone(image), image)
    assert set(streamed) == set(HEADS)
    for name, values in streamed.items():
        assert values.shape == (1, HEADS[name], *shape)
        torch.testing.assert_close(values, whole[name], atol=2e-5, rtol=1e-4)


def test_a_view_of_means_follows_a_ramp() -> None:
    """Interpolation puts a mean where its voxels' centre was: no shift of half a voxel."""
    head = ViewHead(8, 1, factor=3, f_maps=8, num_levels=2)
    ramp = torch.arange(24.0)[None, None, :, None, None].expand(1, 1, 24, 12, 12)
    again = head._interpolated(head.pooled(ramp), 0, (24, 12, 12))
    torch.testing.assert_close(again[:, :, 1:-1], ramp[:, :, 1:-1])


def test_super_resolution_starts_as_its_input() -> None:
    torch.manual_seed(0)
    network = Network(HEADS, views=VIEWS, f_maps=8, num_levels=2)
    image = torch.rand(1, 1, 16, 16, 16)
    assert torch.equal(network(image)["superres"], image)


def test_only_the_heads_that_are_asked_for(network: Network) -> None:
    assert set(network(torch.rand(1, 1, 16, 16, 16), ["seg"])) == {"seg"}


@pytest.mark.parametrize("shape", [(12, 16, 10), (11, 13, 9)])
def test_detail_folds_blocks_and_puts_them_back(shape: tuple[int, int, int]) -> None:
    head = DetailHead(4, 1, fold=2, f_maps=8, blocks=0)
    with torch.no_grad():  # the first block's voxels through both convolutions, each to its own place
        for layer in (head.first, head.last):
            layer.weight.zero_()
            layer.bias.zero_()
            for number in range(8):
                layer.weight[number, number, 1, 1, 1] = 1.0
        head.first.bias.fill_(CENTRE)
    image = torch.rand(2, 1, *shape)
    torch.testing.assert_close(head(None, image), image * (1 + SCALE))


def test_detail_takes_no_other_number_of_channels() -> None:
    with pytest.raises(ValueError, match="one channel, not 2"):
        DetailHead(4, 2)


def test_shares_of_classes() -> None:
    classes = torch.zeros(1, 1, 4, 2, 2, dtype=torch.uint8)
    classes[0, 0, 0] = 1
    classes[0, 0, 2, 0, 0] = 255
    shares = class_shares(classes, 3, 2)
    assert shares.shape == (1, 3, 2, 1, 1)
    assert shares[0, :, 0, 0, 0].tolist() == [0.5, 0.5, 0.0]
    assert shares[0, :, 1, 0, 0].tolist() == [0.875, 0.0, 0.0]  # an eighth is unknown


def test_shares_of_an_odd_size_stay_on_the_glance_s_grid(network: Network) -> None:
    image = torch.rand(1, 1, 19, 22, 25)
    shares = class_shares(torch.zeros(1, 1, 19, 22, 25), 3, 3)
    assert network.head.glance(image)["seg"].shape == shares.shape == (1, 3, 7, 8, 9)


def test_the_share_loss_is_least_at_the_truth() -> None:
    torch.manual_seed(1)
    shares = torch.softmax(3 * torch.randn(1, 3, 4, 4, 4), 1)
    best = share_loss(shares.log(), shares)
    assert share_loss(shares.log() + 0.5 * torch.randn_like(shares), shares) > best
    hard = (shares > 0.5).float()
    assert share_loss(100 * (hard - 0.5), hard) < 1e-4


def test_unknown_voxels_count_in_no_share_loss() -> None:
    raw = torch.randn(1, 3, 4, 4, 4)
    shares = torch.softmax(torch.randn(1, 3, 4, 4, 4), 1)
    shares[:, :, 2:] = 0
    changed = raw.clone()
    changed[:, :, 2:] += torch.randn(1, 3, 2, 4, 4)
    torch.testing.assert_close(share_loss(raw, shares), share_loss(changed, shares))


def test_glances_train_views_without_the_backbone(network: Network) -> None:
    batch = {
        "image": torch.rand(1, 1, 24, 24, 24),
        "classes": torch.randint(0, 3, (1, 1, 24, 24, 24)),
        "log_bias": 0.1 * torch.randn(1, 1, 24, 24, 24),
        "brain": torch.ones(1, 1, 24, 24, 24),
        "target_superres": torch.rand(1, 1, 24, 24, 24),
    }
    losses = glance_losses(network.head, batch, {"glance": True, "heads": list(VIEWS)})
    assert set(losses) == set(VIEWS)
    sum(losses.values()).backward()
    moved = {name for name, value in network.named_parameters() if value.grad is not None}
    assert moved
    assert all(name.startswith(tuple(f"head.final_conv_{name}." for name in VIEWS)) for name in moved)


def test_the_squared_share_tells_what_of_the_error_is_left() -> None:
    torch.manual_seed(2)
    clean, brain = torch.rand(2, 1, 8, 8, 8), (torch.rand(2, 1, 8, 8, 8) > 0.3).float()
    lost = torch.randn_like(clean)
    image = clean + lost * torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1, 1)
    assert squared_share(image, image, clean, brain).tolist() == pytest.approx([1, 1])
    assert squared_share(clean, image, clean, brain).tolist() == pytest.approx([0, 0], abs=1e-3)
    half = (image + clean) / 2 + (1 - brain)  # what is outside the brain does not count
    assert squared_share(half, image, clean, brain).tolist() == pytest.approx([0.25, 0.25], abs=1e-3)


def test_super_resolution_that_does_nothing_has_lost_nothing(network: Network) -> None:
    view = network.head.views["superres"]
    for parameter in view.last.parameters():
        torch.nn.init.zeros_(parameter)
    batch = {"image": torch.rand(1, 1, 16, 16, 16), "brain": torch.ones(1, 1, 16, 16, 16)}
    batch["target_superres"] = torch.rand(1, 1, 16, 16, 16)
    assert glance_losses(network.head, batch, {"heads": ["superres"]})["superres"].item() == pytest.approx(0)


def shared() -> Network:
    """Two heads that read one view."""
    views = {"seg": VIEWS["seg"], "pathol": {"of": "seg", "hidden": 0}}
    return Network({"seg": 3, "pathol": 1}, views=views, f_maps=8, num_levels=2)


def test_heads_that_share_a_view_give_what_each_would_alone() -> None:
    together, image = shared(), torch.rand(1, 1, 18, 18, 18)
    apart = Network(
        {"seg": 3, "pathol": 1},
        views={"seg": VIEWS["seg"], "pathol": {**VIEWS["seg"], "hidden": 0}},
        f_maps=8,
        num_levels=2,
    )
    apart.load_state_dict(
        together.state_dict()
    )  # each has all of its tensors: heads can be taken out of a file
    with torch.no_grad():
        for name, raw in together.head.stream(together.backbone(image), image).items():
            torch.testing.assert_close(raw, apart(image)[name], atol=2e-5, rtol=1e-4)


def test_a_shared_view_sees_the_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = shared(), []
    maps = ViewHead.maps
    monkeypatch.setattr(ViewHead, "maps", lambda head, image: (seen.append(head), maps(head, image))[1])
    network.head.glance(torch.rand(1, 1, 18, 18, 18))
    assert len(seen) == 1


def test_a_view_cannot_be_of_a_head_without_one() -> None:
    with pytest.raises(ValueError, match="view of 'seg': no output before it has a view"):
        Network({"seg": 3, "pathol": 1}, views={"pathol": {"of": "seg"}}, f_maps=8, num_levels=2)


def test_lesion_loss_asks_for_an_empty_map_where_there_is_none() -> None:
    empty = torch.zeros(1, 1, 4, 4, 4)
    assert lesion_share_loss(empty - 10, empty) < 1e-3
    spot = empty.clone()
    spot[..., 0, 0, 0] = 1
    assert lesion_share_loss(20 * spot - 10, spot) < 2e-3
    missed, false = lesion_share_loss(empty - 10, spot), lesion_share_loss(20 * spot - 10, empty)
    assert min(missed, false) > 1


def test_lesions_start_rare_and_train_through_the_view() -> None:
    recipe = Recipe(
        "brainid",
        "tiny",
        {"f_maps": 8, "num_levels": 2, "heads": {"pathol": 1}, "views": {"pathol": VIEWS["seg"]}},
        (Stage(1, (24, 24, 24)),),
    )
    network = build_network(recipe)
    batch = {"image": torch.rand(1, 1, 24, 24, 24), "lesion": (torch.rand(1, 1, 24, 24, 24) > 0.9).float()}
    assert network.head.glance(batch["image"])["pathol"].sigmoid().mean() < 0.05
    losses = glance_losses(network.head, batch, {"glance": True})
    assert set(losses) == {"pathol"}
    losses["pathol"].backward()
    assert (
        network.head.views["pathol"].view.encoders[0].basic_module.SingleConv1.conv.weight.grad.abs().max()
        > 0
    )


def test_frozen_parameters_and_a_prefix_that_fits_none(network: Network) -> None:
    freeze(network, ("backbone.", "head.final_conv_image."))
    assert not network.backbone.encoders[0].basic_module.SingleConv1.conv.weight.requires_grad
    assert network.head.views["seg"].coarse.weight.requires_grad
    with pytest.raises(UsageError, match="begins with 'spine'"):
        freeze(network, ("spine",))


def test_a_card_s_architecture_builds_the_views() -> None:
    from bidsrep.models.brainid import BrainID

    built = BrainID.build({"heads": HEADS, "views": VIEWS, "f_maps": 8, "num_levels": 2})
    assert set(built.state_dict()) == set(Network(HEADS, views=VIEWS, f_maps=8, num_levels=2).state_dict())


@pytest.mark.parametrize(
    ("views", "times"), [({}, 0), ({"seg": {**VIEWS["seg"], "factor": 1}}, 0), (VIEWS, 1)]
)
def test_only_borders_of_coarse_voxels_follow_the_image(
    views: dict[str, dict[str, object]], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' segmentation heads give what they gave."""
    from bidsrep.models import representation
    from bidsrep.models.brainid import BrainID

    seen = []
    monkeypatch.setattr(representation, "follow_intensities", lambda raw, image: seen.append(raw.shape))
    network = Network({"seg": 33}, views=views, f_maps=8, num_levels=2)
    card = {"weights": {"id": "x"}, "architecture": {"heads": {"seg": 33}, "views": views}}
    BrainID(network, card).predict(torch.rand(1, 1, 18, 18, 18), ["seg"])
    assert len(seen) == times
