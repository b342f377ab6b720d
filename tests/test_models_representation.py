"""`load_model`, features, predictions, the brain mask's distance."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from random_weights import write_random_cifl, write_random_crl, write_random_weights

import bidsrep
from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.errors import UsageError, WeightsError
from bidsrep.imaging.volume import Volume
from bidsrep.models import registry, representation
from bidsrep.models.device import resolve_device, resolve_precision
from bidsrep.models.registry import load_model
from bidsrep.models.representation import RepresentationModel

SHAPE = (9, 10, 12)


@pytest.fixture(scope="module")
def pepsi(tmp_path_factory) -> RepresentationModel:
    return load_model("pepsi", write_random_weights(tmp_path_factory.mktemp("pepsi"), "pepsi"))


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


class TestLoading:
    def test_package_exports_it(self):
        assert bidsrep.load_model is load_model

    def test_loaded_once_per_process(self, tmp_path):
        path = write_random_weights(tmp_path, "brainid")
        assert load_model("brainid", path) is load_model("brainid", str(path))

    def test_changed_weights_are_loaded_again(self, tmp_path):
        first = load_model("brainid", write_random_weights(tmp_path, "brainid", seed=0, num_levels=2))
        second = load_model("brainid", write_random_weights(tmp_path, "brainid", seed=1, num_levels=3))
        assert second is not first

    def test_card_comes_along(self, pepsi):
        assert pepsi.card["weights"]["id"] == "random-pepsi"
        assert len(pepsi.card["weights"]["sha256"]) == 64

    def test_unknown_model(self):
        with pytest.raises(UsageError, match="There is no model 'nix'; there are: pepsi, brainid, seqinv"):
            load_model("nix")

    def test_weights_of_another_model(self, tmp_path):
        path = write_random_weights(tmp_path, "brainid")
        with pytest.raises(WeightsError, match="weights of brainid, not of pepsi"):
            load_model("pepsi", path)

    def test_card_with_an_impossible_architecture(self, tmp_path):
        path = write_random_weights(tmp_path, "pepsi")
        card = path.with_suffix(".toml")
        card.write_text(card.read_text().replace("f_maps = 8", "f_maps = 12"))
        with pytest.raises(WeightsError, match=r"\[architecture\]"):
            load_model("pepsi", path)

    def test_card_of_another_architecture(self, tmp_path):
        path = write_random_weights(tmp_path, "pepsi", num_levels=3)
        card = path.with_suffix(".toml")
        card.write_text(card.read_text().replace("num_levels = 3", "num_levels = 4"))
        with pytest.raises(WeightsError, match=r"missing, the first is backbone\.encoders\.3"):
            load_model("pepsi", path)

    def test_every_registered_model_has_a_class(self):
        for name in registry.MODELS:
            assert registry.model_class(name).name == name


class TestFeatures:
    def test_shape_type_and_norm(self, pepsi, volume):
        features = pepsi.features(volume)
        assert features.shape == (1, 8, *SHAPE)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=1), torch.ones(1, *SHAPE))

    def test_arrays_are_taken_too(self, pepsi, volume):
        assert torch.equal(pepsi.features(volume[0, 0].numpy()), pepsi.features(volume))

    def test_scale_and_offset_do_not_matter(self, pepsi, volume):
        # The first layer standardises the volume.
        torch.testing.assert_close(pepsi.features(3 * volume + 2), pepsi.features(volume), atol=2e-2, rtol=0)

    def test_small_and_large_volumes_agree(self, pepsi, volume, monkeypatch):
        plain = pepsi.features(volume)
        monkeypatch.setattr(representation, "PLAIN_BELOW_BYTES", 0)
        torch.testing.assert_close(pepsi.features(volume), plain, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("shape", [(8, 8), (1, 2, 8, 8, 8), (8, 8, 8, 8)])
    def test_wrong_shape(self, pepsi, shape):
        with pytest.raises(ValueError, match="a volume is"):
            pepsi.features(torch.rand(shape))

    def test_too_small(self, pepsi):
        with pytest.raises(ValueError, match="3x8x8 voxels, but pepsi needs at least 4"):
            pepsi.features(torch.rand(3, 8, 8))


class TestPredictions:
    def test_native_outputs(self, pepsi, volume):
        predicted = pepsi.predict(volume)
        assert list(predicted) == ["T1w", "FLAIR", "lesion"]
        assert {value.shape for value in predicted.values()} == {(1, 1, *SHAPE)}
        assert all(float(value.min()) >= 0 for value in predicted.values())
        assert float(predicted["lesion"].max()) <= 1

    def test_from_features(self, pepsi, volume):
        predicted = pepsi.predict_from(pepsi.features(volume), volume)
        for name, value in pepsi.predict(volume).items():
            torch.testing.assert_close(predicted[name], value)

    def test_chosen_tasks(self, pepsi, volume):
        assert list(pepsi.predict(volume, ["lesion"])) == ["lesion"]
        with pytest.raises(
            WeightsError, match="random-pepsi: these weights predict T1w, FLAIR, lesion, not seg"
        ):
            pepsi.predict(volume, ["seg"])

    def test_bf16(self, tmp_path, volume):
        path = write_random_weights(tmp_path, "brainid", num_levels=2)
        exact = load_model("brainid", path).predict(volume)["T1w"]
        rounded = load_model("brainid", path, precision="bf16").predict(volume)["T1w"]
        assert rounded.dtype == torch.float32
        assert (rounded - exact).abs().mean() < 0.05 * exact.std()


class TestDevices:
    def test_auto_takes_what_there_is(self):
        assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_missing_gpu(self):
        with pytest.raises(UsageError, match="sees no CUDA device"):
            resolve_device("cuda:0")

    @pytest.mark.parametrize("name", ["gpu", "", "meta"])
    def test_not_a_device(self, name):
        with pytest.raises(UsageError, match="is not one of auto, cpu"):
            resolve_device(name)

    def test_auto_precision_is_exact_unless_the_card_allows_more(self):
        cpu = torch.device("cpu")
        assert resolve_precision("auto", {}, cpu) == torch.float32
        assert resolve_precision("bf16", {}, cpu) == torch.bfloat16
        assert resolve_precision("fp32", {"figures": {"bf16_safe": True}}, cpu) == torch.float32
        with pytest.raises(UsageError, match="is not one of auto, fp32"):
            resolve_precision("fp16", {}, cpu)

    def test_out_of_gpu_memory_falls_back_aloud(self, tmp_path, volume, monkeypatch, caplog):
        model = load_model("brainid", write_random_weights(tmp_path, "brainid"))
        expected = model.features(volume)
        forward, calls = model._forward, []

        def fail_first(batch):
            calls.append(batch)
            if len(calls) == 1:
                raise torch.cuda.OutOfMemoryError
            return forward(batch)

        monkeypatch.setattr(model, "_forward", fail_first)
        logger = logging.getLogger("bidsrep")
        monkeypatch.setattr(logger, "propagate", True)  # the command line switches it off
        with caplog.at_level(logging.WARNING, logger="bidsrep"):
            assert torch.equal(model.features(volume), expected)
        assert "going on with the CPU" in caplog.text
        assert "9x10x12" in caplog.text


@pytest.mark.parametrize(("name", "step"), [("seqinv", "_compute"), ("crl", "_contents"), ("cifl", "_run")])
def test_every_system_goes_on_without_gpu_memory(tmp_path, monkeypatch, caplog, name, step):
    write = {"crl": write_random_crl, "cifl": write_random_cifl}
    model = load_model(name, write[name](tmp_path) if name in write else None)
    volume = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    more = {"source": AcquisitionParameters(2.0, 0.003, 0.9)} if name == "crl" else {}
    compute, failed = getattr(model, step), []

    def fail_first(*given, **named):
        if not failed:
            failed.append(True)
            raise torch.cuda.OutOfMemoryError
        return compute(*given, **named)

    expected = model.features(volume, **more)
    monkeypatch.setattr(model, step, fail_first)
    monkeypatch.setattr(logging.getLogger("bidsrep"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="bidsrep"):
        assert torch.equal(model.features(volume, **more), expected)
    assert failed
    assert "32x32x32" in caplog.text


class TestBrainMask:
    @pytest.fixture(scope="class")
    def brainmask(self, tmp_path_factory):
        return load_model("brainmask", write_random_weights(tmp_path_factory.mktemp("mask"), "brainmask"))

    def test_on_the_scans_own_grid(self, brainmask):
        affine = nib.affines.from_matvec([[0, 0, 4.0], [-1.5, 0, 0], [0, 1.5, 0]], [3, 4, 5])
        scan = Volume(np.random.default_rng(0).uniform(0, 100, (20, 24, 7)), affine)
        distance = brainmask.distance(scan)
        assert distance.shape == scan.shape
        np.testing.assert_array_equal(distance.affine, affine)
        assert np.abs(distance.data).max() <= 15

    def test_smaller_than_the_network_is_deep(self, brainmask):
        scan = Volume(np.random.default_rng(0).uniform(0, 100, (5, 5, 5)), np.eye(4))
        assert brainmask.distance(scan).data.shape == (5, 5, 5)

    def test_orientation_does_not_matter(self, brainmask):
        data = np.random.default_rng(0).uniform(0, 100, (12, 14, 16))
        scan = Volume(data, np.diag([2.0, 2, 2, 1]))
        flipped = Volume(data[::-1], scan.affine @ nib.affines.from_matvec(np.diag([-1, 1, 1]), [11, 0, 0]))
        found = brainmask.distance(flipped).data[::-1]
        np.testing.assert_allclose(found, brainmask.distance(scan).data, atol=1e-4)
