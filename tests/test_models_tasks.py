"""Heads and tasks: what the raw outputs mean."""

import json
from importlib.resources import files

import pytest
import torch

from bidsrep.labels import load_labels
from bidsrep.models import heads, registry
from bidsrep.models.heads import Heads
from bidsrep.tasks.bias import BIAS_FIELD
from bidsrep.tasks.distance import DISTANCE
from bidsrep.tasks.lesion import LESION
from bidsrep.tasks.segmentation import LABELS, SEGMENTATION
from bidsrep.tasks.synthesis import FLAIR, T1W

TASKS = [task for name in registry.MODELS for task in registry.model_class(name).tasks]


class TestHeads:
    def test_key_names_of_the_checkpoints(self):
        head = Heads(8, {"image": 1, "pathol": 2})
        assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
            "final_conv_image.weight": (1, 8, 1, 1, 1),
            "final_conv_image.bias": (1,),
            "final_conv_pathol.weight": (2, 8, 1, 1, 1),
            "final_conv_pathol.bias": (2,),
        }

    def test_image_goes_after_the_features(self):
        head = Heads(8, {"bias_field_log": 1}, with_image=["bias_field_log"])
        weight = head.final_conv_bias_field_log.weight
        torch.nn.init.zeros_(weight)
        weight.data[0, 8] = 2
        image = torch.rand(1, 1, 3, 4, 5)
        found = head(torch.rand(1, 8, 3, 4, 5), image)["bias_field_log"]
        torch.testing.assert_close(found, 2 * image + head.final_conv_bias_field_log.bias.view(1, 1, 1, 1, 1))
        with pytest.raises(ValueError, match="needs the input image"):
            head(torch.rand(1, 8, 3, 4, 5))

    @pytest.mark.parametrize("rows_bytes", [1, 3000, 10**9])
    def test_streaming_changes_nothing(self, monkeypatch, rows_bytes):
        monkeypatch.setattr(heads, "ROWS_BYTES", rows_bytes)
        head = Heads(8, {"image": 1, "seg": 3}).requires_grad_(False)
        features, image = torch.rand(2, 8, 5, 4, 6), torch.rand(2, 1, 5, 4, 6)
        for name, value in head.stream(features, image).items():
            torch.testing.assert_close(value, head(features, image)[name])

    def test_streaming_widens_half_precision(self):
        head = Heads(8, {"image": 1}).requires_grad_(False)
        features, image = torch.rand(1, 8, 3, 4, 5).bfloat16(), torch.rand(1, 1, 3, 4, 5)
        assert head.stream(features, image)["image"].dtype == torch.float32


class TestTasks:
    def test_intensities_are_not_negative(self):
        raw = torch.tensor([-1.0, 0.5]).view(1, 1, 2, 1, 1)
        assert T1W.predict(raw).flatten().tolist() == [0, 0.5]
        assert FLAIR.predict(raw).flatten().tolist() == [0, 0.5]

    def test_uncertainty_channel_is_left_out(self):
        assert T1W.predict(torch.rand(1, 2, 3, 3, 3)).shape == (1, 1, 3, 3, 3)

    def test_lesions_are_probabilities(self):
        assert LESION.predict(torch.tensor([-100.0, 0.0, 100.0])).tolist() == pytest.approx([0, 0.5, 1])

    def test_distance_is_clipped(self):
        assert DISTANCE.predict(torch.tensor([-20.0, 3.0, 20.0])).tolist() == [-15, 3, 15]

    def test_bias_field_is_a_factor(self):
        assert BIAS_FIELD.predict(torch.zeros(1)).tolist() == [1]

    def test_segmentation_gives_label_values(self):
        raw = torch.zeros(1, 33, 1, 1, 2)
        raw[0, 7, 0, 0, 0] = raw[0, 20, 0, 0, 1] = 1
        assert SEGMENTATION.predict(raw).flatten().tolist() == [2, 41]

    def test_labels_are_in_the_label_table(self):
        known = {label.index for label in load_labels("aseg")}
        assert len(set(LABELS)) == len(LABELS) == 33
        assert set(LABELS) - {85, 77} <= known

    def test_file_kinds_exist(self):
        kinds = json.loads((files("bidsrep") / "data" / "outputs.json").read_text())
        for task in TASKS:
            assert not task.file_kind or task.file_kind in kinds
            assert bool(task.target) == (task.file_kind == "synthetic")
