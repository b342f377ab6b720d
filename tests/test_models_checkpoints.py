"""The authors' checkpoint formats: read safely, in full or not at all, with their numbers."""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import random_network

from bidsrep.errors import WeightsError
from bidsrep.models.checkpoints import convert, infer_architecture, network_arguments, read_checkpoint
from bidsrep.models.lean import lean_features
from bidsrep.models.registry import load_model
from bidsrep.models.weights import read_card, read_weights

PEPSI = argparse.Namespace(
    task="uni-feat-anat-flair-aux", num_groups=8, unit_feat=True, nested=argparse.Namespace(a=[1])
)
BRAINID = argparse.Namespace(task="feat-anat", unit_feat=False)


def save(path: Path, state: dict, settings: argparse.Namespace = PEPSI, **more) -> Path:
    content = {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 7, "args": settings,
               "best_val_stats": None, **more}  # fmt: skip
    torch.save(content, path)
    return path


def state_of(model: str = "pepsi", **architecture) -> dict[str, torch.Tensor]:
    architecture = {"f_maps": 8, "num_levels": 3, **architecture}
    return random_network(model, **architecture).state_dict()


class TestFormats:
    def test_pretraining_file(self, tmp_path):
        state = state_of()
        path = convert("pepsi", [save(tmp_path / "a.pth", state)], tmp_path, "mine", "self-trained")
        assert path == tmp_path / "mine.safetensors"
        found, card = read_weights(path)
        assert all(torch.equal(found[key], state[key]) for key in state)
        assert card["architecture"]["unit_features"] is True
        assert card["architecture"]["heads"] == {"image": 1, "aux_image": 1, "pathol": 1}
        assert card["training"]["converted_from"] == ["a.pth"]

    def test_fine_tuned_pair(self, tmp_path):
        state = state_of("brainid")
        backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
        # The second file of a pair has no "head." before its names.
        head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
        files = [
            save(tmp_path / "checkpoint_feat_epoch_3.pth", backbone, BRAINID),
            save(tmp_path / "checkpoint_epoch_3.pth", head, BRAINID),
        ]
        for order in (files, files[::-1]):
            found, card = read_weights(convert("brainid", order, tmp_path, "tuned", "self-trained"))
            assert found.keys() == state.keys()
            assert card["architecture"]["heads"] == {"image": 1}

    def test_backbone_alone_gives_features_only(self, tmp_path):
        backbone = {key: value for key, value in state_of().items() if key.startswith("backbone.")}
        path = convert("pepsi", [save(tmp_path / "f.pth", backbone)], tmp_path, "bare", "self-trained")
        model = load_model("pepsi", path)
        volume = torch.rand(1, 1, 8, 8, 8)
        assert model.predict(volume) == {}
        assert model.features(volume).shape == (1, 8, 8, 8, 8)

    def test_head_that_reads_the_image(self, tmp_path):
        state = state_of("brainid")
        state["head.final_conv_image.weight"] = torch.rand(1, 9, 1, 1, 1)
        path = convert("brainid", [save(tmp_path / "sr.pth", state, BRAINID)], tmp_path, "sr", "self-trained")
        assert read_card(path)["architecture"]["with_image"] == ["image"]
        assert list(load_model("brainid", path).predict(torch.rand(8, 8, 8))) == ["superres"]

    @pytest.mark.parametrize(("width", "levels"), [(8, 5), (16, 2), (32, 3)])
    def test_width_and_depth_from_shapes(self, tmp_path, width, levels):
        path = save(tmp_path / "a.pth", state_of(f_maps=width, num_levels=levels))
        architecture = infer_architecture("pepsi", read_checkpoint([path]))
        assert (architecture["f_maps"], architecture["num_levels"]) == (width, levels)

    def test_brainid_ignores_the_settings_its_code_ignores(self, tmp_path):
        settings = argparse.Namespace(task="feat-anat", num_groups=4, num_levels=2)
        path = save(tmp_path / "a.pth", state_of("brainid"), settings)
        assert infer_architecture("brainid", read_checkpoint([path]))["num_groups"] == 8

    def test_heads_as_a_list_have_one_channel_each(self):
        arguments = network_arguments({"f_maps": 8, "heads": ["image", "pathol"]})
        assert arguments == {"outputs": {"image": 1, "pathol": 1}, "f_maps": 8}


class TestRefusals:
    def convert(self, tmp_path: Path, *paths: Path, model: str = "pepsi") -> None:
        try:
            convert(model, list(paths), tmp_path / "out", "x", "self-trained")
        finally:
            assert not list(tmp_path.glob("out/*"))

    def test_missing_tensor(self, tmp_path):
        state = state_of()
        del state["backbone.encoders.1.basic_module.SingleConv1.conv.weight"]
        with pytest.raises(
            WeightsError, match=r"missing, the first is backbone\.encoders\.1\.basic_module\.SingleC"
        ):
            self.convert(tmp_path, save(tmp_path / "a.pth", state))

    def test_unexpected_tensor(self, tmp_path):
        state = {**state_of(), "head.layers.0.main.weight": torch.zeros(1)}
        with pytest.raises(WeightsError, match=r"too many, the first is head\.layers\.0\.main\.weight"):
            self.convert(tmp_path, save(tmp_path / "a.pth", state))

    def test_wrong_shape(self, tmp_path):
        state = state_of()
        state["head.final_conv_image.weight"] = torch.zeros(1, 7, 1, 1, 1)
        with pytest.raises(WeightsError, match=r"final_conv_image\.weight has shape \(1, 7, 1, 1, 1\)"):
            self.convert(tmp_path, save(tmp_path / "a.pth", state))

    def test_not_a_number(self, tmp_path):
        state = state_of()
        state["head.final_conv_image.bias"][0] = float("nan")
        with pytest.raises(WeightsError, match=r"final_conv_image\.bias holds NaN"):
            self.convert(tmp_path, save(tmp_path / "a.pth", state))

    def test_head_alone(self, tmp_path):
        head = {
            "final_conv_image.weight": torch.zeros(1, 8, 1, 1, 1),
            "final_conv_image.bias": torch.zeros(1),
        }
        with pytest.raises(WeightsError, match="checkpoint_feat_epoch_N"):
            self.convert(tmp_path, save(tmp_path / "a.pth", head))

    def test_the_same_tensors_twice(self, tmp_path):
        path = save(tmp_path / "a.pth", state_of())
        with pytest.raises(WeightsError, match="also in another of the files"):
            self.convert(tmp_path, path, path)

    def test_other_method(self, tmp_path):
        with pytest.raises(WeightsError, match="a checkpoint of pepsi, not of brainid"):
            self.convert(tmp_path, save(tmp_path / "a.pth", state_of()), model="brainid")
        with pytest.raises(WeightsError, match="a checkpoint of brainid, not of pepsi"):
            self.convert(tmp_path, save(tmp_path / "b.pth", state_of("brainid"), BRAINID))

    def test_no_model_entry(self, tmp_path):
        torch.save({"weights": {}, "epoch": 1}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"no `model` entry in it \(it has: weights, epoch\)"):
            self.convert(tmp_path, tmp_path / "a.pth")

    def test_width_that_no_network_has(self, tmp_path):
        state = state_of()
        state["backbone.encoders.0.basic_module.SingleConv2.conv.weight"] = torch.zeros(12, 4, 3, 3, 3)
        with pytest.raises(WeightsError, match="does not fit the network"):
            self.convert(tmp_path, save(tmp_path / "a.pth", state))

    def test_cut_short(self, tmp_path):
        path = save(tmp_path / "a.pth", state_of())
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match="not a PyTorch checkpoint, or cut short"):
            self.convert(tmp_path, path)

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02"])
    def test_not_a_checkpoint(self, tmp_path, content):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=r"a\.pth: "):
            self.convert(tmp_path, tmp_path / "a.pth")

    def test_missing_file(self, tmp_path):
        with pytest.raises(WeightsError, match="no such weights file"):
            self.convert(tmp_path, tmp_path / "a.pth")


class Malicious:
    """Unpickled carelessly, makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class TestMaliciousPickles:
    @pytest.mark.parametrize("place", ["optimizer", "args", "model"])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_nothing_runs(self, tmp_path, place, legacy):
        target = tmp_path / "harm"
        content = {"model": state_of(), "args": PEPSI, "epoch": 1, place: Malicious(target)}
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(WeightsError, match="could run code"):
            read_checkpoint([tmp_path / "a.pth"])
        assert not target.exists()

    def test_bare_pickle(self, tmp_path):
        target = tmp_path / "harm"
        (tmp_path / "a.pth").write_bytes(pickle.dumps(Malicious(target)))
        with pytest.raises(WeightsError):
            read_checkpoint([tmp_path / "a.pth"])
        assert not target.exists()

    def test_renamed_to_safetensors(self, tmp_path):
        target = tmp_path / "harm"
        path = tmp_path / "pepsi.safetensors"
        path.write_bytes(pickle.dumps(Malicious(target)))
        with pytest.raises(WeightsError):
            load_model("pepsi", path)
        assert not target.exists()


@pytest.mark.data
class TestReferenceNumbers:
    """The authors' code gave these outputs for these checkpoints (random weights)."""

    @pytest.fixture(scope="class", params=["pepsi", "brainid"])
    def case(self, request, test_data, tmp_path_factory):
        name = request.param
        folder = test_data / "fixtures"
        path = convert(name, [folder / f"{name}_f8.pth"], tmp_path_factory.mktemp(name), "f8", "official")
        return load_model(name, path), np.load(folder / f"{name}_f8.npz")

    def close(self, found: torch.Tensor, expected: np.ndarray) -> None:
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4, rtol=0)

    def test_features(self, case):
        model, arrays = case
        self.close(model.features(arrays["input"]), arrays["feat"])
        large = model.features(arrays["input64"].astype(np.float32))
        self.close(large[..., ::4, ::4, ::4], arrays["feat64_sub"])

    def test_features_of_every_level(self, case):
        model, arrays = case
        levels = model.network.backbone.get_features(torch.from_numpy(arrays["input"]))
        assert len(levels) == 5
        for number, level in enumerate(levels[:-1]):
            self.close(level, arrays[f"feat_level{number}"])

    def test_heads(self, case):
        model, arrays = case
        volume = torch.from_numpy(arrays["input"])
        raw = model.network.head.stream(model.features(volume), volume)
        predicted = model.predict(volume)
        for task in model.outputs:
            self.close(raw[task.head], arrays[task.head])
            # Intensities are not negative; the reference clamps when it evaluates.
            self.close(predicted[task.name], arrays[task.head].clip(0))

    def test_lean_forward(self, case):
        model, arrays = case
        volume = torch.from_numpy(arrays["input"])
        found = lean_features(model.network.backbone, volume).numpy()
        difference = np.abs(found - arrays["feat"])
        # Where a voxel's features nearly vanish, unit norm magnifies float32's rounding, in the
        # reference too: its own error against double precision reaches 7e-4 in a few voxels.
        assert np.quantile(difference, 0.999) < 1e-4
        assert difference.max() < 3e-3
        image = model.network.head.stream(torch.from_numpy(found), volume)["image"].numpy()
        assert np.quantile(np.abs(image - arrays["image"]), 0.999) < 1e-4
