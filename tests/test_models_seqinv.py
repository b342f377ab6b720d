"""SeqInv: the reference's numbers, all layouts of its checkpoints, and predictions on images of any size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bidsrep.errors import WeightsError
from bidsrep.imaging.equalise import PERCENTILES, Preparation, equalise, percentile, rescale, standardise
from bidsrep.models.seqinv import SeqInv
from bidsrep.models.seqinv_network import SeqInvNetwork
from bidsrep.models.weights import load_strictly
from bidsrep.models.windows import gaussian, sliding, windows
from bidsrep.tasks.denoising import denoise
from bidsrep.tasks.stroke import STROKE
from bidsrep.tasks.tissue import LABELS, TISSUE, dice_cross_entropy

TINY = {"widths": [2, 3, 4, 6, 16], "heads": {"tissue": 4, "stroke": 2, "denoising": 1}, "head_width": 3}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def make_model(seed: int = 0, **changes) -> SeqInv:
    architecture = {**TINY, **changes}
    torch.manual_seed(seed)
    return SeqInv(SeqInv.build(architecture), {"architecture": architecture, "weights": {"id": "tiny"}})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def fixture(test_data: Path, name: str) -> dict[str, Tensor]:
    with np.load(test_data / "fixtures" / f"seqinv_{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


class TestReferenceNumbers:
    """The authors' code with the same weights on the same arrays."""

    @pytest.fixture(scope="class")
    def network(self, test_data) -> SeqInvNetwork:
        files = [test_data / "fixtures" / f"seqinv_{name}.pth" for name in ("pretrain", "unet_seg")]
        state, architecture, _ = SeqInv.read_checkpoint(files)
        network = SeqInv.build(architecture)
        load_strictly(network, state, "fixtures")
        return network.eval().requires_grad_(False)

    def test_pretraining(self, network, test_data):
        expected = fixture(test_data, "pretrain")
        levels = network.encoder.levels(expected["x"])
        torch.testing.assert_close(network.encoder(expected["x"]), expected["feat_x"], **CLOSE)
        torch.testing.assert_close(levels[0][:, 0], expected["x0_ch0"], **CLOSE)
        for level, channels in ((1, 4), (2, 8), (3, None)):
            torch.testing.assert_close(levels[level][:, :channels], expected[f"x{level}"], **CLOSE)
        torch.testing.assert_close(network.projector(levels[-1]), expected["z_x"], **CLOSE)
        torch.testing.assert_close(network.reconstructor(levels[-1]), expected["recon_x"], **CLOSE)

    @pytest.mark.parametrize(("image", "logits"), [("x", "logits"), ("odd", "logits_odd")])
    def test_unet(self, network, test_data, image, logits):
        expected = fixture(test_data, "unet_seg")
        torch.testing.assert_close(network(expected[image])["tissue"], expected[logits], **CLOSE)

    def test_sliding_windows(self, network, test_data):
        expected = fixture(test_data, "unet_seg")
        found = sliding(network, expected["vol"], 32)["tissue"]
        torch.testing.assert_close(found, expected["sw_logits"], **CLOSE)

    def test_segmentation_loss(self, test_data):
        expected = fixture(test_data, "unet_seg")
        found = dice_cross_entropy(expected["logits"], expected["seg"])
        torch.testing.assert_close(found, expected["dicece"], **CLOSE)

    def test_intensities(self, test_data):
        expected = fixture(test_data, "intensity")
        raw = expected["raw"]
        for high, name in ((99.5, "scaled_05_995"), (95, "scaled_05_95")):
            scaled = rescale(raw, percentile(raw, 0.5), percentile(raw, high))
            torch.testing.assert_close(scaled, expected[name], atol=1e-6, rtol=0)
        prepared = standardise(equalise(expected["scaled_05_995"]))
        torch.testing.assert_close(prepared, expected["znorm"], **CLOSE)
        torch.testing.assert_close(Preparation.of(raw).apply(raw), expected["znorm"], atol=2e-5, rtol=0)

    def test_full_size_keys(self, test_data):
        expected = json.loads((test_data / "fixtures" / "seqinv_models.json").read_text())
        with torch.device("meta"):
            network = SeqInv.build(
                {
                    "widths": [64, 128, 256, 512, 768],
                    "heads": TINY["heads"],
                    "projection": [512, 128],
                    "reconstructor": True,
                }
            )

        def shapes(module: nn.Module) -> dict[str, list[int]]:
            return {key: list(value.shape) for key, value in module.state_dict().items()}

        def count(*modules: nn.Module) -> int:
            return sum(p.numel() for module in modules for p in module.parameters())

        assert shapes(network.encoder) == expected["encoder_keys"]
        assert shapes(network.projector) == expected["projector_keys"]
        assert shapes(network.reconstructor) == expected["reconstructor_keys"]
        assert shapes(network.heads["tissue"]) == expected["unet4_extra_keys"]
        for head, channels in TINY["heads"].items():
            assert count(network.encoder, network.heads[head]) == expected["params"][f"unet{channels}"]


class TestCheckpoints:
    """Every layout gives the same network; what is none of them is refused with a reason."""

    @pytest.fixture
    def network(self) -> SeqInvNetwork:
        torch.manual_seed(1)
        return SeqInv.build({**TINY, "projection": [5, 3], "reconstructor": True})

    def unet(self, network: SeqInvNetwork, head: str) -> dict[str, Tensor]:
        return {**network.encoder.state_dict(), **network.heads[head].state_dict()}

    def layouts(self, network: SeqInvNetwork) -> dict[str, dict]:
        encoder = network.encoder.state_dict()
        run = {"opt": {"state": {}, "param_groups": []}, "lr": {}, "wandb": "id", "epoch": 3, "metric": 0}
        config = {"spatial_dims": 3, "features": (2, 3, 4, 6, 16), "dropout": 0.1}
        return {
            "pretraining": {
                "encoder": encoder,
                "projector": network.projector.state_dict(),
                "reconstructor": network.reconstructor.state_dict(),
                **run,
            },
            "without_reconstructor": {
                "encoder": encoder,
                "projector": network.projector.state_dict(),
                **run,
            },
            "compiled": {"encoder": {f"_orig_mod.{key}": value for key, value in encoder.items()}, **run},
            "extracted": {
                "encoder": encoder,
                "encoder_type": "cnn",
                "wandb": "id",
                "epoch": 3,
                "metric": 0.1,
            },
            "released": {"config": config, "state_dict": encoder},
            "unet": {"model": {f"module.{key}": v for key, v in self.unet(network, "tissue").items()}, **run},
            "bare": self.unet(network, "stroke"),
        }

    @pytest.mark.parametrize(
        "layout",
        ["pretraining", "without_reconstructor", "compiled", "extracted", "released", "unet", "bare"],
    )
    def test_layout(self, network, tmp_path, layout):
        torch.save(self.layouts(network)[layout], tmp_path / "seqaug_encoder.pt")
        state, architecture, notes = SeqInv.read_checkpoint([tmp_path / "seqaug_encoder.pt"])
        loaded = SeqInv.build(architecture)
        load_strictly(loaded, state, "file")
        wanted = network.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())
        assert architecture["heads"] == {"unet": {"tissue": 4}, "bare": {"stroke": 2}}.get(layout, {})
        assert architecture["dropout"] == (0.1 if layout == "released" else 0.2)
        assert architecture["window"] == 96
        assert notes["view"] == "seqaug"

    def test_authors_files_agree(self, test_data):
        states = [
            SeqInv.read_checkpoint([test_data / "fixtures" / f"seqinv_{name}.pth"])[0]
            for name in ("exported_encoder", "origmod", "pretrain", "unet_seg")
        ]
        encoder = states[0].keys()
        assert len(encoder) == 20
        for state in states[1:]:
            assert all(torch.equal(state[key], states[0][key]) for key in encoder)

    def test_one_encoder_with_several_heads(self, network, tmp_path):
        files = []
        for head in TINY["heads"]:
            files.append(tmp_path / f"{head}.pt")
            torch.save({"model": self.unet(network, head)}, files[-1])
        state, architecture, _ = SeqInv.read_checkpoint(files)
        assert architecture["heads"] == TINY["heads"]
        load_strictly(SeqInv.build(architecture), state, "files")

    def test_heads_of_another_encoder_are_refused(self, network, tmp_path):
        torch.save({"encoder": network.encoder.state_dict()}, tmp_path / "encoder.pt")
        other = SeqInv.build(TINY)
        torch.save({"model": self.unet(other, "tissue")}, tmp_path / "tissue.pt")
        with pytest.raises(
            WeightsError, match=r"tissue.pt: was trained on another encoder than .*encoder.pt"
        ):
            SeqInv.read_checkpoint([tmp_path / "encoder.pt", tmp_path / "tissue.pt"])

    def test_two_heads_of_one_task_are_refused(self, network, tmp_path):
        for name in "ab":
            torch.save({"model": self.unet(network, "stroke")}, tmp_path / f"{name}.pt")
        with pytest.raises(WeightsError, match=r"b.pt: heads.stroke.* is also in another"):
            SeqInv.read_checkpoint([tmp_path / "a.pt", tmp_path / "b.pt"])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"model": {"net.0.weight": torch.zeros(2, 768)}}, "no encoder of SeqInv is in it"),
            ({"encoder": {"patch_embedding.cls": torch.zeros(1)}}, "vision transformer"),
            ({"epoch": 3}, "no encoder of SeqInv"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path, content, message):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=message):
            SeqInv.read_checkpoint([tmp_path / "x.pt"])

    def test_damaged_tensors_are_refused(self, network, tmp_path):
        state = self.unet(network, "tissue")
        state["down_2.convs.conv_0.conv.bias"][1] = torch.nan
        torch.save({"model": state}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=r"down_2.convs.conv_0.conv.bias holds NaN"):
            SeqInv.read_checkpoint([tmp_path / "x.pt"])
        del state["down_2.convs.conv_0.conv.bias"]
        torch.save({"model": state}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=r"missing.*encoder.down_2.convs.conv_0.conv.bias"):
            found, architecture, _ = SeqInv.read_checkpoint([tmp_path / "x.pt"])
            load_strictly(SeqInv.build(architecture), found, "x.pt")


class TestModel:
    def test_features_are_at_a_sixteenth(self):
        assert make_model().features(random(2, 1, 32, 48, 16)).shape == (2, 16, 2, 3, 1)

    def test_only_the_order_of_intensities_matters(self):
        model, image = make_model(), random(1, 1, 32, 32, 32)
        features, monotone, inverted = (model.features(x) for x in (image, 5 + 3 * image**1.3, 2 - image))
        assert (monotone - features).abs().mean() < 0.05 * (inverted - features).abs().mean()

    @pytest.mark.parametrize("window", [0, 32])
    def test_predictions_have_the_size_of_the_image(self, window):
        image = random(2, 1, 33, 40, 21)
        found = make_model(window=window).predict(image)
        assert list(found) == ["tissue", "lesion", "denoised"]
        assert {value.shape for value in found.values()} == {(2, 1, 33, 40, 21)}
        assert set(found["tissue"].unique().tolist()) <= {0, 1, 2, 3}
        assert 0 <= found["lesion"].min() <= found["lesion"].max() <= 1

    def test_only_what_is_wanted(self):
        model, image = make_model(), random(1, 1, 32, 32, 32)
        found = model.predict_from(model.features(image), image, ["lesion"])
        assert list(found) == ["lesion"]
        torch.testing.assert_close(found["lesion"], model.predict(image)["lesion"])
        with pytest.raises(WeightsError, match="predict tissue, not lesion"):
            make_model(heads={"tissue": 4}).predict(image, ["lesion"])

    def test_each_image_of_a_batch_is_its_own(self):
        model, image = make_model(), random(2, 1, 32, 32, 32)
        torch.testing.assert_close(model.features(image)[1:], model.features(image[1:]))

    def test_the_predicted_noise_is_taken_from_the_image(self):
        model, image = make_model(), random(1, 1, 32, 32, 32)
        decoder = model.network.heads["denoising"].final_conv
        nn.init.zeros_(decoder.weight)
        nn.init.zeros_(decoder.bias)
        torch.testing.assert_close(model.predict(image)["denoised"], image, atol=0.01, rtol=0)
        nn.init.constant_(decoder.bias, 0.5)
        prepared, preparation = model.prepare(image[0])
        expected = preparation.invert(denoise(prepared, torch.tensor(0.5)))
        found = model.predict(image)["denoised"]
        torch.testing.assert_close(found, expected)
        assert found.mean() < image.mean() - 0.05

    def test_bfloat16_stays_near(self):
        exact, image = make_model(), random(1, 1, 16, 16, 32)
        reduced = SeqInv(exact.network, exact.card, dtype=torch.bfloat16)
        assert reduced.features(image).dtype == torch.float32
        torch.testing.assert_close(reduced.features(image), exact.features(image), atol=0.15, rtol=0)

    def test_what_is_too_small_is_refused(self):
        with pytest.raises(ValueError, match="more than 31 along some axis"):
            make_model().features(random(1, 1, 16, 16, 16))
        with pytest.raises(ValueError, match="at least 16"):
            make_model().features(random(8, 32, 32))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"window": 40}, "window must be 0"),
            ({"window": 16}, "at least 32"),
            ({"views": {"nose": {"factor": 2}}}, "views of what are no heads: nose"),
            ({"preparation": "nice"}, "'nice' is not one of equalised"),
            ({"widths": [2, 3]}, "widths must be 5"),
        ],
    )
    def test_impossible_architectures_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            make_model(**changes)


VIEW = {"factor": 3, "f_maps": 8, "num_levels": 2, "hidden": 4}


class TestViews:
    """Heads with a view of their own see the whole image and the encoder's first level."""

    def viewing(self, **changes) -> SeqInv:
        model = make_model(views={"tissue": VIEW}, **changes)
        nn.init.normal_(model.network.heads["tissue"].fine[2].weight)
        return model

    def test_they_need_no_windows(self):
        image = random(1, 1, 48, 54, 48)
        whole, windowed = (self.viewing(window=window).predict(image) for window in (0, 32))
        assert torch.equal(whole["tissue"], windowed["tissue"])
        assert not torch.equal(whole["denoised"], windowed["denoised"])

    def test_they_read_the_frozen_encoder(self):
        model, image = self.viewing(), random(1, 1, 48, 48, 48)
        before = model.predict(image, ["tissue"])["tissue"]
        nn.init.normal_(model.network.encoder.conv_0.conv_1.conv.weight)
        assert not torch.equal(model.predict(image, ["tissue"])["tissue"], before)

    @pytest.mark.parametrize("shape", [(70, 33, 20), (16, 17, 18)])
    def test_what_lies_beyond_the_image_is_air(self, shape):
        model = self.viewing()
        prepared, _ = model.prepare(random(1, *shape))
        air = float(prepared.min())
        larger = nn.functional.pad(prepared, (0, 6) * 3, value=air)
        larger = nn.functional.pad(
            larger, [n for size in reversed(larger.shape[2:]) for n in (0, -size % 6)], value=air
        )
        padded = [size + -size % 6 for size in shape]
        cut = larger[..., : padded[0], : padded[1], : padded[2]]
        expected = TISSUE.predict(model.network(cut, ["tissue"])["tissue"])
        x, y, z = (slice(size) for size in shape)
        found = TISSUE.predict(model._view(prepared, ["tissue"])["tissue"])
        torch.testing.assert_close(found, expected[..., x, y, z])


class TestFrozenEncoder:
    def test_its_dropout_is_off_and_its_weights_stay(self):
        torch.manual_seed(0)
        network = SeqInv.build({**TINY, "dropout": 0.5}).freeze_encoder()
        network.train()
        image = random(1, 1, 32, 32, 32)
        assert torch.equal(network.encoder(image), network.encoder(image))
        assert not torch.equal(network(image)["stroke"], network(image)["stroke"])
        network(image)["stroke"].sum().backward()
        assert all(p.grad is None for p in network.encoder.parameters())
        assert all(p.grad is not None for p in network.heads["stroke"].parameters())


class TestWindows:
    def test_identity_is_restored(self):
        image = random(1, 1, 40, 33, 20) - 0.5
        found = sliding(lambda window: {"same": window}, image, 32)["same"]
        torch.testing.assert_close(found, image)

    def test_coarse_results_lie_where_they_belong(self):
        image = random(1, 1, 70, 33, 20)

        def mean(window: Tensor) -> dict[str, Tensor]:
            return {"mean": nn.functional.avg_pool3d(window, 4)}

        found = sliding(mean, image, 32, stride=4)["mean"]
        torch.testing.assert_close(found, nn.functional.avg_pool3d(image, 4))

    def test_every_voxel_is_covered(self):
        covered = torch.zeros(45, 32, 64)
        for window in windows(covered.shape, 32, 4):
            covered[window] += 1
        assert covered[:44].min() >= 1

    def test_weights_are_highest_in_the_middle(self):
        weight = gaussian(32)
        assert weight.max() == weight[16, 16, 16] == weight[15, 15, 15]
        assert weight.min() == pytest.approx(1e-3)


class TestPreparation:
    def test_inverse_gives_the_image_back(self):
        image = random(1, 20, 20, 20) ** 2 * 300
        preparation = Preparation.of(image)
        inside = (image > preparation.low) & (image < preparation.high)
        error = (preparation.invert(preparation.apply(image)) - image)[inside].abs().max()
        assert error < (preparation.high - preparation.low) / 256

    def test_empty_histogram_bins_do_no_harm(self):
        image = torch.tensor([0.0] * 50 + [1.0] * 30 + [5.0] * 20)
        preparation = Preparation.of(image)
        restored = preparation.invert(preparation.apply(image))
        assert torch.isfinite(restored).all()
        torch.testing.assert_close(restored, image, atol=0.02, rtol=0)

    def test_constant_image_is_all_zeros(self):
        prepared = Preparation.of(torch.full((4, 4, 4), 7.0)).apply(torch.full((4, 4, 4), 7.0))
        assert torch.equal(prepared, torch.zeros(4, 4, 4))

    def test_percentile_is_numpys(self):
        image = random(7, 11, 13)
        for percent in (*PERCENTILES, 0, 37.3, 100):
            assert percentile(image, percent) == pytest.approx(
                np.percentile(image.numpy(), percent), abs=1e-6
            )


class TestTasks:
    def test_tissue_labels_are_those_of_the_table(self):
        from bidsrep.labels import load_labels

        table = {label.index: label.tissue for label in load_labels("tissue")}
        raw = 9 * torch.eye(4).view(1, 4, 4, 1, 1)
        assert TISSUE.predict(raw).flatten().tolist() == list(LABELS)
        assert [table[label] for label in LABELS] == ["background", "gm", "wm", "csf"]

    def test_lesion_probability_is_the_second_channel(self):
        raw = torch.tensor([0.0, 100.0]).view(1, 2, 1, 1, 1)
        assert STROKE.predict(raw).item() == pytest.approx(1)

    def test_voxels_of_unknown_class_do_not_count(self):
        raw = 3 * torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        target = nn.functional.one_hot(raw.argmax(1), 4).movedim(-1, 1).float()
        expected = dice_cross_entropy(raw[..., :2], target[..., :2])
        target[..., 2:] = 0
        torch.testing.assert_close(dice_cross_entropy(raw, target), expected)
