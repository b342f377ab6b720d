"""CIFL: the network, its features and its heads."""

import numpy as np
import pytest
import torch
from random_weights import write_random_cifl

from bidsrep.models.cifl import CIFL, CIFLBackbone
from bidsrep.models.registry import load_model


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("unit_norm", ["voxel", "channel"])
def test_features_have_unit_norm_at_full_resolution(dimensions: int, unit_norm: str) -> None:
    torch.manual_seed(0)
    backbone = CIFLBackbone(features=5, f_maps=8, dimensions=dimensions, unit_norm=unit_norm)
    with torch.no_grad():
        features = backbone(image(9, 10, 11))
    assert features.shape == (1, 5, 9, 10, 11)
    norm = features.norm(dim=1) if unit_norm == "voxel" else features.flatten(2).norm(dim=2)
    torch.testing.assert_close(norm, torch.ones_like(norm))


def test_two_dimensional_networks_keep_slices_apart() -> None:
    torch.manual_seed(0)
    backbone = CIFLBackbone(f_maps=8, dimensions=2, slice_axis=1)
    volume = image(8, 6, 8)
    with torch.no_grad():
        whole, alone = backbone(volume), backbone(volume[:, :, :, 2:3])
    torch.testing.assert_close(whole[:, :, :, 2:3], alone)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_what_flat_kernels_give(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images, a few slices at a time, and the gradients, too."""
    monkeypatch.setattr("bidsrep.models.cifl.SLICES_BYTES", 3 * 4 * 8 * 9 * 10)
    torch.manual_seed(0)
    backbone = CIFLBackbone(f_maps=8, dimensions=2, slice_axis=axis, dilations=(1, 2, 4))
    volumes = torch.rand(2, 1, 9, 10, 11)
    first = backbone.convs[0].weight
    found = []
    for way in (backbone._convolved, lambda x: backbone._slicewise(x, axis)):
        features = way(volumes)
        found.append((features.detach(), *torch.autograd.grad((features**2).sum(), first)))
    for flat, slicewise in zip(*found, strict=True):
        torch.testing.assert_close(slicewise, flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dilations", [(1,) * 8, (1, 2, 4, 1)])
def test_features_look_as_far_as_they_say(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    backbone = CIFLBackbone(f_maps=8, dilations=dilations)
    side = 2 * backbone.reach + 5
    volume = image(side, 3, 3)
    changed = volume.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        difference = (backbone(volume) - backbone(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert (difference[backbone.reach + 1 :] == 0).all()
    assert difference[backbone.reach] > 0


def test_the_border_of_the_volume_leaves_no_trace() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        features = CIFLBackbone(f_maps=8)(torch.full((1, 1, 12, 12, 12), 0.7))
    assert features.flatten(2).std(dim=2).max() < 1e-5


@pytest.mark.parametrize("wrong", [{"dimensions": 4}, {"slice_axis": 3}, {"unit_norm": "none"}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="is "):
        CIFLBackbone(**wrong)


class TestModel:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        return load_model("cifl", write_random_cifl(tmp_path_factory.mktemp("cifl")))

    def test_predictions_are_made_of_the_features_alone(self, model) -> None:
        volume = image(16, 16, 16)
        features = model.features(volume)
        assert features.shape == (1, 4, 16, 16, 16)
        assert features.dtype == torch.float32
        seen = model.predict(volume)["tissue"]
        other = model.predict_from(features, torch.zeros_like(volume))["tissue"]
        torch.testing.assert_close(seen, other)

    def test_tissues_are_labels(self, model) -> None:
        tissue = model.predict(image(16, 16, 16))["tissue"]
        assert tissue.shape == (1, 1, 16, 16, 16)
        assert set(tissue.unique().tolist()) <= {0, 1, 2, 3}

    def test_arrays_are_taken_as_well(self, model) -> None:
        volume = image(16, 16, 16)
        torch.testing.assert_close(
            model.features(volume[0, 0].numpy().astype(np.float32)), model.features(volume)
        )

    def test_without_heads_any_size_does(self) -> None:
        card = {"weights": {"id": "x"}, "architecture": {"heads": {}}}
        model = CIFL(CIFL.build({"heads": {}, "f_maps": 4}), card)
        assert model.divisor == 1
        assert model.outputs == ()
        assert model.features(image(5, 7, 9)).shape == (1, 6, 5, 7, 9)
