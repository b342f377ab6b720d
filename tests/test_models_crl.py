"""CRL: the authors' numbers and checkpoints, the guarded ratio, the attention that works, volumes of slices."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.errors import UsageError, WeightsError
from bidsrep.models import crl
from bidsrep.models.crl import CRL, STANDARD_CONTRASTS, slices_of, volume_of
from bidsrep.models.crl_network import CRLNetwork, acquisition_vector
from bidsrep.models.registry import load_model
from bidsrep.models.weights import load_strictly, write_weights

SMALL = {"f_maps": 8, "num_resblocks": 2, "attention_heads": 2, "heads": {"image": 1}}
MPRAGE = AcquisitionParameters(2.3, 0.003, 0.9)


def random_network(seed: int = 0, **architecture) -> CRLNetwork:
    torch.manual_seed(seed)
    return CRLNetwork(**{**SMALL, **architecture})


def model_of(network: CRLNetwork, **card) -> CRL:
    return CRL(network, {"weights": {"id": "test"}, "architecture": SMALL, **card})


def vectors(*parameters: AcquisitionParameters) -> Tensor:
    return torch.stack([acquisition_vector(p) for p in parameters])


@pytest.fixture(scope="module")
def published(test_data: Path) -> tuple[CRLNetwork, dict[str, Tensor]]:
    """The authors' checkpoint, and what their code gave with it."""
    state, architecture, _ = CRL.read_checkpoint([test_data / "fixtures" / "crl_epoch-last.pth"])
    network = CRL.build(architecture).eval()
    load_strictly(network, state, "fixture")
    arrays = np.load(test_data / "fixtures" / "crl_forward.npz")
    return network, {name: torch.tensor(arrays[name]) for name in arrays.files}


class TestAuthorsNumbers:
    def test_features_and_codes(self, published) -> None:
        network, known = published
        with torch.no_grad():
            torch.testing.assert_close(network.encoder(known["img_a"]), known["feat"], atol=1e-5, rtol=0)
            torch.testing.assert_close(network.code(known["cond"]), known["code"], atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        ("image", "source", "target", "end"),
        [("img_a", [0, 6], [8, 4], ""), ("img_b", [2, 3], [0, 1], "2")],
    )
    def test_ratio(self, published, image: str, source: list[int], target: list[int], end: str) -> None:
        network, known = published
        with torch.no_grad():
            predicted, content = network(known[image], known["cond"][source], known["cond"][target])
        torch.testing.assert_close(predicted, known[f"pred{end}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(content, known[f"content{end}"], atol=2e-4, rtol=1e-5)

    def test_attention_over_pixels(self, published) -> None:
        reference, known = published
        network = CRLNetwork(f_maps=32, num_resblocks=6, fusion="pixels").eval()
        network.load_state_dict(reference.state_dict())
        with torch.no_grad():
            predicted, content = network(known["img_a"], known["cond"][[0, 6]], known["cond"][[8, 4]])
        torch.testing.assert_close(content.movedim(1, -1), known["xattn_bhwc"], atol=1e-5, rtol=0)
        torch.testing.assert_close(predicted, known["xattn_pred"], atol=1e-5, rtol=0)

    def test_parameters_are_scaled_as_published(self, published) -> None:
        _, known = published
        second, ninth = AcquisitionParameters(2.479, 0.01042), AcquisitionParameters(8.0, 0.09998, 2.025)
        wanted = vectors(STANDARD_CONTRASTS["T1w"], second, STANDARD_CONTRASTS["T2w"], ninth)
        torch.testing.assert_close(wanted, known["cond"][[0, 1, 6, 8]])

    def test_the_standard_flair_nulls_fluid(self) -> None:
        flair, t1_of_fluid = STANDARD_CONTRASTS["FLAIR"], 4.2
        inverted, repeated = np.exp(-np.array([flair.inversion_time, flair.repetition_time]) / t1_of_fluid)
        assert abs(1 - 2 * inverted + repeated) < 0.01


class TestCheckpoints:
    def test_full_size_key_list_fits_the_full_size_network(self, test_data: Path) -> None:
        listed = json.loads((test_data / "fixtures" / "crl_models.json").read_text())
        with torch.device("meta"):
            network = CRLNetwork()
        found = {key: list(value.shape) for key, value in network.state_dict().items()}
        # The list abbreviates the residual blocks after the first.
        assert len(found) == listed["n_keys"]
        assert {key: found[key] for key in listed["full_keys"]} == listed["full_keys"]
        sizes = {
            name: sum(p.numel() for p in getattr(network, name).parameters())
            for name in ("encoder", "codemapping_mlp", "cross_attn", "imnet")
        }
        assert sizes | {"total": sum(sizes.values())} == listed["full_params"]

    def test_paper_s_depths(self) -> None:
        def layers(variant: str) -> list[int]:
            state = random_network(variant=variant).state_dict()
            return [
                sum(key.startswith(f"{mlp}.layers") and key.endswith("weight") for key in state)
                for mlp in ("codemapping_mlp", "imnet")
            ]

        assert layers("paper") == [4, 5]
        assert layers("code") == [5, 6]

    def write(self, path: Path, **changes) -> Path:
        state = random_network().state_dict()
        encoder = {"name": "ResNet-32-256", "args": {"n_resblocks": 2, "n_feats": 8, "res_scale": 0.25}}
        model = {"name": "crl", "args": {"encoder_spec": encoder}, "sd": state}
        torch.save({"model": {**model, **changes}, "optimizer": {}, "epoch": 3}, path)
        return path

    def test_architecture_is_read_from_shapes_and_settings(self, tmp_path: Path) -> None:
        state, architecture, notes = CRL.read_checkpoint([self.write(tmp_path / "epoch-last.pth")])
        assert (architecture["f_maps"], architecture["num_resblocks"]) == (8, 2)
        assert architecture["res_scale"] == 0.25
        assert notes == {"epoch": 3}
        load_strictly(CRL.build(architecture), state, tmp_path)

    @pytest.mark.parametrize("drop", ["encoder.head.0.weight", "imnet.layers.0.weight"])
    def test_other_networks_are_refused_by_the_missing_tensor(self, tmp_path: Path, drop: str) -> None:
        state = {key: value for key, value in random_network().state_dict().items() if key != drop}
        with pytest.raises(WeightsError, match=f"not a checkpoint of CRL .*{drop} is missing"):
            CRL.read_checkpoint([self.write(tmp_path / "a.pth", sd=state)])

    def test_nan_is_refused(self, tmp_path: Path) -> None:
        state = random_network().state_dict()
        state["imnet.layers.2.bias"][0] = float("nan")
        with pytest.raises(WeightsError, match=r"imnet\.layers\.2\.bias"):
            CRL.read_checkpoint([self.write(tmp_path / "a.pth", sd=state)])

    def test_other_files_and_several_are_refused(self, tmp_path: Path) -> None:
        torch.save({"model": random_network().state_dict()}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"no entry model\.sd"):
            CRL.read_checkpoint([tmp_path / "a.pth"])
        with pytest.raises(WeightsError, match="2 were given"):
            CRL.read_checkpoint([tmp_path / "a.pth", tmp_path / "b.pth"])

    @pytest.mark.parametrize(
        "wrong", [{"variant": "draft"}, {"fusion": "sum"}, {"heads": {"lesion": 1}}, {"attention_heads": 3}]
    )
    def test_an_architecture_that_no_crl_has_is_refused(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))[:4].strip("{'")):
            random_network(**wrong)

    def test_weights_are_loaded_by_the_registry(self, tmp_path: Path) -> None:
        network = random_network()
        card = {
            "weights": {"id": "random-crl", "model": "crl", "status": "random", "license": "CC0-1.0"},
            "architecture": {**SMALL, "fusion": "ratio"},
        }
        path = write_weights(tmp_path / "crl.safetensors", network.state_dict(), card)
        model = load_model("crl", path)
        assert [task.name for task in model.outputs] == ["T1w", "FLAIR", "T2w"]
        volume = torch.rand(1, 1, 8, 9, 3)
        expected = model_of(network).predict(volume, source=MPRAGE)
        torch.testing.assert_close(model.predict(volume, source=MPRAGE), expected)


class TestRatio:
    """The code's fusion, and its guard."""

    @pytest.mark.parametrize("positive", [False, True])
    def test_content_stays_finite_where_the_code_is_zero(self, positive: bool) -> None:
        network = random_network(positive=positive, guard=0.01)
        torch.nn.init.zeros_(network.codemapping_mlp.layers[-1].weight)
        with torch.no_grad():
            network.codemapping_mlp.layers[-1].bias.copy_(
                torch.tensor([0, -0.0, 1e-9, -1e-9, -50, 3, -3, 0.5])
            )
            code = network.code(vectors(MPRAGE))
            _, content = network(torch.rand(1, 1, 8, 8), vectors(MPRAGE), vectors(MPRAGE))
        assert code.abs().min() >= 0.01
        assert torch.isfinite(content).all()
        if positive:
            assert (code > 0).all()
        else:
            assert code[0].tolist() == pytest.approx([0.01, 0.01, 0.01, -0.01, -50, 3, -3, 0.5])

    def test_same_parameters_leave_the_features(self) -> None:
        network, image = random_network(), torch.rand(1, 1, 8, 8)
        with torch.no_grad():
            predicted, _ = network(image, vectors(MPRAGE), vectors(MPRAGE))
            torch.testing.assert_close(predicted, network.imnet(network.encoder(image)))

    def test_unused_attention_takes_no_gradient(self) -> None:
        for fusion, used in (("ratio", False), ("attention", True)):
            network = random_network(fusion=fusion)
            network(torch.rand(1, 1, 8, 8), vectors(MPRAGE), vectors(MPRAGE))[0].mean().backward()
            trained = [p for p in network.parameters() if p.requires_grad]
            assert all(p.grad is not None for p in trained)
            assert any(p.requires_grad for p in network.cross_attn.parameters()) is used


class TestAttention:
    """The fusion that takes the paper's idea and keeps the image."""

    def image(self) -> Tensor:
        return torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(1))

    def output(self, fusion: str) -> Tensor:
        network = random_network(fusion=fusion)
        with torch.no_grad():
            network.encoder.head[0].weight.mul_(3)
            return network(self.image(), vectors(MPRAGE), vectors(STANDARD_CONTRASTS["T2w"]))[0]

    def test_image_structure_is_kept_where_the_paper_s_loses_it(self) -> None:
        ours, paper = self.output("attention"), self.output("pixels")
        assert paper.std() < 1e-4 * ours.std()

    def test_both_parameters_matter(self) -> None:
        network = random_network(fusion="attention")
        with torch.no_grad():
            same = network(self.image(), vectors(MPRAGE), vectors(MPRAGE))
            source = network(self.image(), vectors(STANDARD_CONTRASTS["T2w"]), vectors(MPRAGE))
            target = network(self.image(), vectors(MPRAGE), vectors(STANDARD_CONTRASTS["T2w"]))
        assert not torch.allclose(same[0], target[0])
        assert torch.equal(same[1], target[1])  # content does not know the target
        assert not torch.allclose(same[1], source[1])

    def test_a_pixel_does_not_depend_on_the_others(self) -> None:
        network = random_network(fusion="attention")
        features, code = torch.rand(1, 8, 4, 6), torch.rand(1, 8)
        with torch.no_grad():
            whole = network.content(features, code)
            torch.testing.assert_close(network.content(features[:, :, :2, :3], code), whole[:, :, :2, :3])


class TestVolumes:
    def test_slices_and_volumes_are_each_other_s_inverse(self) -> None:
        volume = torch.rand(2, 3, 4, 5, 6)
        assert slices_of(volume).shape == (12, 3, 4, 5)
        assert torch.equal(slices_of(volume)[7], volume[1, :, :, :, 1])
        assert torch.equal(volume_of(slices_of(volume), 2), volume)

    def test_slices_together_are_slices_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, volume = model_of(random_network()), torch.rand(2, 1, 9, 7, 5)
        together = model.predict(volume, source=MPRAGE)
        monkeypatch.setattr(crl, "SLICE_BATCH_BYTES", {"cpu": 1})
        assert model._slices_at_once(volume) == 1
        apart = model.predict(volume, source=MPRAGE)
        assert together["T1w"].shape == (2, 1, 9, 7, 5)
        for name, image in together.items():
            torch.testing.assert_close(image, apart[name])
        one = model.network(volume[:1, :, :, :, 3], vectors(MPRAGE), vectors(STANDARD_CONTRASTS["FLAIR"]))[0]
        torch.testing.assert_close(together["FLAIR"][0, 0, :, :, 3], one[0, 0].clamp(min=0))

    def test_prediction_from_features_is_the_prediction(self) -> None:
        model, volume = model_of(random_network()), torch.rand(6, 7, 4)
        features = model.features(volume, source=MPRAGE)
        assert features.shape == (1, 8, 6, 7, 4)
        assert features.dtype == torch.float32
        direct = model.predict(volume, source=MPRAGE)
        for name, image in model.predict_from(features, volume).items():
            torch.testing.assert_close(image, direct[name])

    def test_any_contrast_to_order(self) -> None:
        model, volume = model_of(random_network()), torch.rand(6, 7, 4)
        other = {"mine": AcquisitionParameters(3.0, 0.08)}
        assert list(model.predict(volume, source=MPRAGE, targets=other)) == ["mine"]
        assert list(model.predict(volume, ["T2w"], source=MPRAGE, targets=other)) == ["T2w", "mine"]
        assert list(model.predict(volume, ["T2w"], source=MPRAGE)) == ["T2w"]
        standard = {"again": STANDARD_CONTRASTS["T2w"]}
        torch.testing.assert_close(
            model.predict(volume, source=MPRAGE, targets=standard)["again"],
            model.predict(volume, ["T2w"], source=MPRAGE)["T2w"],
        )

    def test_without_the_source_s_parameters_nothing_is_guessed(self) -> None:
        model = model_of(random_network())
        for call in (model.features, model.predict):
            with pytest.raises(UsageError, match="TR, TE, TI"):
                call(torch.rand(6, 7, 4))

    def test_unknown_outputs_are_refused(self) -> None:
        with pytest.raises(WeightsError, match="T1w, FLAIR, T2w, not lesion"):
            model_of(random_network()).predict(torch.rand(6, 7, 4), ["lesion"], source=MPRAGE)
