"""Comparisons of trainings: rows start and train as they should, and are measured on the same other persons."""

import csv
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from random_weights import write_random_cifl, write_random_weights
from torch import Tensor, nn

from bidsrep.cli import evaluate
from bidsrep.cli.train import main
from bidsrep.errors import InputError, UsageError
from bidsrep.evaluation.results import Result, to_markdown
from bidsrep.models.registry import load_model
from bidsrep.models.seqinv import SeqInv
from bidsrep.models.weights import read_weights, write_weights
from bidsrep.tasks.denoising import NOISE_STD
from bidsrep.tasks.lesion import LESION
from bidsrep.tasks.registration import SLOPPY
from bidsrep.training.calibrate import SLOPE, THRESHOLDS, best_threshold, calibrate, dice_above
from bidsrep.training.labelled_objective import LabelledObjective, task_loss
from bidsrep.training.protocols import brainid_training, cifl, pepsi, seqinv
from bidsrep.training.protocols.anatomies import SCALES, Anatomies
from bidsrep.training.protocols.cases import contrast_of, draw_cases
from bidsrep.training.protocols.comparison import Comparison, Population, Size, repeated, split_persons
from bidsrep.training.protocols.comparisons import COMPARISONS
from bidsrep.training.protocols.measures import arrays, measure_lesions
from bidsrep.training.protocols.rows import backbone_of, mean_figure, steps_to_convergence, train, tuned
from bidsrep.training.recipe import Optimiser, Recipe, Stage

SIDE = 40
SMALL = Size(steps=1, pretraining=1, shape=(16, 16, 16), field=24, checks=1)
PERSONS = ("a", "b", "c", "d")
TABLE = (
    "index\tname\ttissue\n0\tUnknown\tbackground\n2\tLeft-Cerebral-White-Matter\twm\n"
    "3\tLeft-Cerebral-Cortex\tgm\n4\tLeft-Lateral-Ventricle\tcsf\n24\tCSF\tcsf\n"
)


def balls(*radii: float) -> np.ndarray:
    """How many of the concentric ellipsoids hold a voxel."""
    axes = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij")
    radius = np.sqrt(sum((axis / size) ** 2 for axis, size in zip(axes, (0.9, 1.0, 0.8), strict=True)))
    return np.sum([radius < limit for limit in radii], axis=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared anatomies of three label maps, ``sub-a`` to ``sub-c``, and of a T1w, ``sub-d``."""
    root = tmp_path_factory.mktemp("anatomies")
    (root / "dseg.tsv").write_text(TABLE)
    for number, name in enumerate(PERSONS):
        folder = root / f"sub-{name}" / "anat"
        folder.mkdir(parents=True)
        stem = folder / f"sub-{name}"
        if name == "d":
            image = np.array([0, 0.26, 0.64, 1.0, 0.26], np.float32)[balls(18, 16, 12, 5)]
            image *= np.random.default_rng(0).uniform(0.97, 1.03, image.shape).astype(np.float32)
            nib.Nifti1Image(image, np.eye(4)).to_filename(f"{stem}_desc-brain_T1w.nii.gz")
            Path(f"{stem}_desc-brain_T1w.json").write_text(json.dumps({"TissueMeans": [0.26, 0.64, 1.0]}))
        else:
            labels = np.array([0, 24, 3, 2, 4], np.uint8)[balls(18 - number, 16 - number, 13 - number, 5)]
            nib.Nifti1Image(labels, np.eye(4)).to_filename(f"{stem}_dseg.nii.gz")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained weights of every model that a comparison starts from."""
    folder = tmp_path_factory.mktemp("weights")
    found = {name: write_random_weights(folder, name) for name in ("pepsi", "brainid")}
    architecture = {"widths": [4, 4, 4, 4, 4], "dropout": 0.0, "head_width": 4, "heads": {}, "window": 32}
    card = {
        "weights": {"id": "random-seqinv", "model": "seqinv", "status": "random", "license": "CC0-1.0"},
        "architecture": architecture,
        "input": {"resolution_mm": 1.0},
    }
    state = SeqInv.build(architecture).state_dict()
    return {
        **found,
        "seqinv": write_weights(folder / "seqinv.safetensors", state, card),
        "cifl": write_random_cifl(folder),
    }


def comparison(data: Path, out: Path, weights: dict[str, Path], *models: str, **size: Any) -> Comparison:
    """``sub-a`` is measured, the others are trained on."""
    anatomies = Anatomies((data,), ("sub-a",), "sloppy", 3)
    loaded = {name: load_model(name, weights[name]) for name in models}
    return Comparison(anatomies, ("sub-c", "sub-b", "sub-d"), replace(SMALL, **size), loaded, out)


def lesion_recipe(compared: Comparison, lr: float, steps: int = 1) -> Recipe:
    base = Recipe(
        "pepsi",
        "lesion",
        {},
        (Stage(steps, (16, 16, 16)),),
        Optimiser(lr=lr, warmup=0),
        {"levels": ["mild"]},
        precision="32-true",
    )
    return tuned(base, "pepsi", compared.models["pepsi"].card["architecture"], LESION)


class TestRows:
    def run(self, compared: Comparison, recipe: Recipe, start: Any, **more: Any) -> Any:
        cases = draw_cases(compared, ("sub-b", "sub-d"), "lesion", ("FLAIR",), lesions=True)
        objective = LabelledObjective([example for _, example in cases], LESION, recipe)
        return train(compared, recipe, objective, ("sub-b", "sub-d"), initial=start, **more)

    def test_a_row_starts_from_what_it_is_given(
        self, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        compared = comparison(data, tmp_path, weights, "pepsi")
        still, start = lesion_recipe(compared, lr=0.0), backbone_of(compared.models["pepsi"].network)
        given, scratch = self.run(compared, still, start), self.run(compared, still, None)
        assert all(torch.equal(value, start[name]) for name, value in given.backbone.items())
        convolutions = [name for name in start if name.endswith("conv.weight")]
        assert not any(torch.equal(scratch.backbone[name], start[name]) for name in convolutions)
        head = "head.final_conv_pathol.weight"
        assert torch.equal(given.network.state_dict()[head], scratch.network.state_dict()[head])
        assert not torch.equal(
            given.network.state_dict()[head], compared.models["pepsi"].network.state_dict()[head]
        )
        assert given.recipe.architecture["heads"] == {"pathol": 1}

    def test_training_changes_the_network_and_a_finished_run_is_not_repeated(
        self, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        compared = comparison(data, tmp_path, weights, "pepsi", checks=2)
        recipe, start = (
            lesion_recipe(compared, lr=1e-2, steps=4),
            backbone_of(compared.models["pepsi"].network),
        )
        looked: list[nn.Module] = []

        def measure(network: nn.Module) -> float:
            assert not network.training
            looked.append(network)
            return float(len(looked))

        first = self.run(compared, recipe, start, measure=measure)
        assert first.curve == [(2, 1.0), (4, 2.0)]
        assert not all(torch.equal(value, start[name]) for name, value in first.backbone.items())
        again = self.run(compared, recipe, start, measure=measure)
        assert len(looked) == 2
        assert again.curve == first.curve
        assert all(torch.equal(value, first.backbone[name]) for name, value in again.backbone.items())
        assert len(list((tmp_path / "runs").iterdir())) == 1
        self.run(compared, replace(recipe, seed=1), start)
        assert len(list((tmp_path / "runs").iterdir())) == 2

    def test_steps_to_convergence(self) -> None:
        curve = [(10, 0.2), (20, 0.96), (30, 0.6), (40, 0.97), (50, 1.0), (60, 0.95)]
        assert steps_to_convergence(curve) == 40
        assert steps_to_convergence(curve, share=0.5) == 20
        assert steps_to_convergence([(1, 0.9), (2, 0.1)]) != steps_to_convergence([(1, 0.9)])
        assert math.isnan(steps_to_convergence([(10, 0.0), (20, math.nan)]))
        assert math.isnan(steps_to_convergence([]))

    def test_the_mean_figure_of_the_truth_is_one(
        self, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        compared = comparison(data, tmp_path, weights)
        (case,) = draw_cases(compared, ("sub-a",), "lesion", ("FLAIR",), lesions=True)
        truth = case[1].load()["label"][None]

        class Knows(nn.Module):
            def __init__(self, sign: float) -> None:
                super().__init__()
                self.sign = nn.Parameter(torch.tensor(sign))

            def forward(self, image: Tensor) -> dict[str, Tensor]:
                assert image.shape == truth.shape
                return {"pathol": self.sign * 10 * (truth - 0.5)}

        measure = mean_figure(LESION, [case[1]], 8)
        assert measure(Knows(1.0)) == pytest.approx(1)
        assert measure(Knows(-1.0)) == pytest.approx(0, abs=0.05)


class TestPersons:
    def test_splits_are_of_persons_and_the_seed_s(self, data: Path) -> None:
        everybody = {f"sub-{name}" for name in PERSONS}
        for wanted, aside in ((["sub-b"], {}), ([], {"pepsi": ("sub-c", "sub-z")}), ([], {})):
            train_on, test = split_persons([data, data], wanted, aside, seed=1)
            assert not set(train_on) & set(test)
            assert set(train_on) | set(test) == everybody
            assert (train_on, test) == split_persons([data, data], wanted, aside, seed=1)
        assert split_persons([data], [], {"pepsi": ("sub-c",)}, 1)[1] == ("sub-c",)
        assert set(split_persons([data], ["sub-a"], {}, 1, labelled=True)[0]) == {"sub-b", "sub-c"}
        with pytest.raises(InputError, match="nobody is left to train on, or nobody"):
            split_persons([data], sorted(everybody), {}, 1)

    def test_fractions_are_nested(self, data: Path, tmp_path: Path, weights: dict[str, Path]) -> None:
        compared = comparison(data, tmp_path, weights)
        assert [compared.share(percent) for percent in (1, 70, 100)] == [
            ("sub-c",), ("sub-c", "sub-b"), ("sub-c", "sub-b", "sub-d")
        ]  # fmt: skip

    def test_anatomies_are_read_once_and_one_by_one(self, data: Path) -> None:
        population = Population([data])
        assert population.names == tuple(f"sub-{name}" for name in PERSONS)
        (one,) = population.people(["sub-a"])
        assert one.structures
        assert one.source.labels is not None
        assert population.people(["sub-a"])[0] is one
        assert population.sources(["sub-d"])[0].t1w is not None
        assert population.priors == []


class TestCases:
    def test_all_contrasts_show_one_anatomy(
        self, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        compared = comparison(data, tmp_path, weights)
        cases = draw_cases(compared, ("sub-b", "sub-d"), "lesion", lesions=True)
        assert [(contrast, case.name) for contrast, case in cases] == [
            (contrast, name) for name in ("sub-b", "sub-d") for contrast in ("T1w", "T2w", "FLAIR")
        ]
        for first in (0, 3):
            found = [arrays(case) for _, case in cases[first : first + 3]]
            for image, brain, label in found:
                assert max(image.shape) <= SMALL.field
                assert label.max() > 0.5
                np.testing.assert_array_equal(brain, found[0][1])
                np.testing.assert_array_equal(label, found[0][2])
            lesion = found[0][2] > 0.5
            assert found[2][0][lesion].mean() > found[2][0][found[0][1] & ~lesion].mean()  # bright on a FLAIR

    def test_only_label_maps_have_structures(
        self, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        compared = comparison(data, tmp_path, weights)
        cases = draw_cases(compared, ("sub-b", "sub-d"), "seg", ("T1w",))
        assert [case.name for _, case in cases] == ["sub-b"]
        assert set(np.unique(arrays(cases[0][1])[2])) <= {0, 2, 3, 4, 24}
        with pytest.raises(InputError, match="label maps"):
            draw_cases(compared, ("sub-d",), "seg")

    def test_an_inverted_t1w(self, data: Path) -> None:
        (source,) = Population([data]).sources(["sub-d"])
        from bidsrep.training.protocols.brainid import STILL, still

        subject = still(source, torch.Generator(), STILL)
        one, other = (contrast_of(subject, source, name)[subject.brain] for name in ("T1w", "inverted T1w"))
        torch.testing.assert_close(one + other, one.max().expand(len(one)))

    @pytest.mark.parametrize("task", ["superres", "bias"])
    def test_damage_is_its_own_label(
        self, task: str, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        compared = comparison(data, tmp_path, weights)
        cases = draw_cases(compared, ("sub-b",), task, ("T1w",))
        damage = {"levels": ["severe"], "clean_probability": 0.0}
        recipe = Recipe("brainid", task, {}, (Stage(1, (16, 16, 16)),), generator=damage)
        objective = LabelledObjective([case for _, case in cases], brainid_training.TASKS[task], recipe)
        batch = objective.sample(0, 0)
        assert batch["label"].shape == batch["image"].shape
        assert not torch.allclose(batch["label"], batch["image"])
        perfect = task_loss(task, batch["label"], batch)
        assert perfect < task_loss(task, torch.zeros_like(batch["label"]), batch)

    def test_the_truth_is_perfect(self, data: Path, tmp_path: Path, weights: dict[str, Path]) -> None:
        compared = comparison(data, tmp_path, weights)
        cases = draw_cases(compared, ("sub-a",), "lesion", ("T1w",), lesions=True)
        truth = cases[0][1].load()["label"][None]
        model: Any = SimpleNamespace(divisor=1, predict=lambda volume, tasks: {"lesion": truth})
        found = {(r.system, r.metric): r.value for r in measure_lesions(cases, {"oracle": model})}
        assert found["oracle", "dice"] == found["oracle", "auc"] == found["oracle", "sensitivity"] == 1
        assert found["intensity", "dice"] < 1


class TestSeqInv:
    @pytest.fixture
    def scans(self, data: Path, tmp_path: Path, weights: dict[str, Path]) -> list[seqinv.MeasuredScan]:
        compared = comparison(data, tmp_path, weights, field=32)
        recipe = seqinv.heads_recipe(compared, "stroke", 2, lesions=1.0)
        found = seqinv.measured_scans(compared, recipe)
        again = seqinv.measured_scans(compared, recipe)
        assert all(torch.equal(a.image, b.image) for a, b in zip(found, again, strict=True))
        return found

    def test_the_truth_is_perfect(self, scans: list[seqinv.MeasuredScan]) -> None:
        assert [scan.sequence for scan in scans] == list(seqinv.SEQUENCES)
        for scan in scans:
            np.testing.assert_array_equal(scan.tissue, scans[0].tissue)
            answers = {
                "tissue": torch.from_numpy(np.maximum(scan.tissue, 0))[None, None],
                "lesion": torch.from_numpy(scan.lesion)[None, None].float(),
                "denoised": scan.prepared[None, None],
            }
            model: Any = SimpleNamespace(predict=lambda volume, tasks, of=answers: of)
            for measure, perfect in (
                (seqinv.measure_tissues, {"dice_gm": 1, "dice_wm": 1, "hd95_wm": 0}),
                (seqinv.measure_infarcts, {"auc": 1}),
                (seqinv.measure_noise, {"psnr": math.inf, "ssim": 1}),
            ):
                found = {(system, metric): value for system, metric, value, _ in measure(scan, {"it": model})}
                for metric, value in perfect.items():
                    assert found["it", metric] == pytest.approx(value)
                others = {system for system, _ in found} - {"it"}
                assert others
                if measure is seqinv.measure_noise:
                    assert found["noisy", "psnr"] == pytest.approx(-20 * math.log10(NOISE_STD), abs=0.3)
                    assert found["non-local means", "psnr"] > found["noisy", "psnr"] - 3

    def test_classes_are_named_as_most_voxels_say(self) -> None:
        truth = np.array([[0, 1, 1, 2, 2, 3, 3, 3]])
        classes = np.array([[0, 3, 3, 1, 1, 2, 2, 1]])
        assert seqinv.named_by(classes, truth).tolist() == [[0, 1, 1, 2, 2, 3, 3, 2]]

    def test_heads_are_trained_on_one_sequence(
        self, data: Path, tmp_path: Path, weights: dict[str, Path]
    ) -> None:
        from bidsrep.training.seqinv_scans import scan_config

        recipe = seqinv.heads_recipe(comparison(data, tmp_path, weights), "tissue", 4, 0.0)
        assert scan_config(recipe.generator).sequences == ("mprage",)

    def test_scratch_trains_its_encoder(self, data: Path, tmp_path: Path, weights: dict[str, Path]) -> None:
        from bidsrep.training.run import build_network

        compared = comparison(data, tmp_path, weights)
        network = build_network(seqinv.heads_recipe(compared, "tissue", 4, 0.0))
        assert not any(value.requires_grad for value in network.get_submodule("encoder").parameters())
        seqinv.unfreeze(network)
        assert all(value.requires_grad for value in network.train().parameters())
        assert network.get_submodule("encoder").training


class TestCalibration:
    def test_dice_of_every_threshold(self) -> None:
        generator = np.random.default_rng(0)
        lesion = generator.random(2000) < 0.1
        logits = generator.normal(size=2000) + 2 * lesion
        for threshold, value in zip(THRESHOLDS, dice_above(logits, lesion), strict=True):
            marked = logits > threshold
            assert value == pytest.approx(2 * (marked & lesion).sum() / (marked.sum() + lesion.sum()))

    def test_the_highest_threshold_that_costs_little(self) -> None:
        rows = np.stack([np.exp(-((THRESHOLDS - middle) ** 2)) for middle in (1.0, 1.4)])
        assert 1.2 < best_threshold(rows) < 1.6
        assert best_threshold(rows[:1]) < best_threshold(rows)

    def test_only_the_lesion_maps_change(self, data: Path, tmp_path: Path) -> None:
        before = write_random_weights(tmp_path, "pepsi")
        options = [
            "--weights",
            str(before),
            "--data",
            str(data),
            "--participant-label",
            "a",
            "--device",
            "cpu",
        ]
        assert main(["calibrate", *options, "--edition", "9", "--out", str(tmp_path / "out")]) == 0
        after = tmp_path / "out" / "pepsi.safetensors"
        (old, _), (new, card) = read_weights(before), read_weights(after)
        changed = {key for key in old if not torch.equal(old[key], new[key])}
        assert changed == {"head.final_conv_pathol.weight", "head.final_conv_pathol.bias"}
        assert card["weights"]["id"] == "bidsrep-pepsi-9"
        said = card["training"]["calibrated"]
        threshold = float(said.split("(logit - ")[1].split(")")[0])
        volume = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
        one, two = (load_model("pepsi", path).predict(volume) for path in (before, after))
        moved = torch.sigmoid(SLOPE * (torch.logit(one["lesion"].double()) - threshold))
        assert torch.allclose(moved.float(), two["lesion"], atol=1e-4)
        assert torch.equal(one["T1w"], two["T1w"])

    def test_without_a_lesion_head(self, data: Path, tmp_path: Path) -> None:
        path = write_random_weights(tmp_path, "brainid")
        with pytest.raises(UsageError, match="no lesion head of one convolution"):
            calibrate(load_model("brainid", path), path, [data], ["sub-a"], tmp_path, edition="1")


class TestRegistration:
    def test_the_same_brain_stays_where_it_is_and_labels_follow(self) -> None:
        labels = np.array([0, 2, 3, 1])[balls(16, 12, 6)]
        image = np.array([0, 0.3, 0.6, 1.0], np.float32)[labels]
        pair = cifl.Pair("g", "s", image, image, labels > 0, labels, labels)
        model: Any = SimpleNamespace(
            divisor=1, features=lambda volume: torch.cat([volume, 1 - volume, 0 * volume + 0.3], dim=1)
        )
        compared: Any = SimpleNamespace(anatomies=SimpleNamespace(scale="sloppy"))
        found = list(cifl.measure_registration(pair, {"it": model}, compared))
        values = {(r.system, r.metric): r.value for r in found}
        assert values["affine alone", "dice"] == 1
        assert values["it", "dice"] > 0.93
        assert values["ANTs SyN", "dice"] > 0.95
        moved = replace(pair, moving=np.roll(image, 2, 0), moving_labels=np.roll(labels, 2, 0))
        settings = replace(SLOPPY, levels=(replace(SLOPPY.levels[0], spacing_mm=4.0, iterations=60),))
        followed = cifl.by_features(moved, model, settings)
        before, after = (np.mean(answer == labels) for answer in (moved.moving_labels, followed))
        assert 1 - after < 0.6 * (1 - before)

    def test_the_raw_head_reads_the_image(self, data: Path, tmp_path: Path, weights: dict[str, Path]) -> None:
        compared = comparison(data, tmp_path, weights)
        architecture = {"features": 1, "f_maps": 4, "dilations": [1, 1]}
        model = cifl.head(compared, 0, architecture, None).model("cpu")
        volume = torch.rand(1, 1, 16, 16, 16)
        assert torch.equal(model.features(volume), volume)
        assert model.predict(volume)["tissue"].shape == volume.shape


def test_spread_over_seeds_and_several_figures_of_a_paper() -> None:
    values = {1: (0.5, 0.7), 2: (0.7, 0.9)}
    results = [
        Result("a", "T1w", f"sub-{n}", "dice", value, seed=seed)
        for seed, of in values.items()
        for n, value in enumerate(of)
    ]
    page = to_markdown(results, {("T1w", "dice", "ATLAS"): 0.71, ("T1w", "dice", "ADNI3"): 0.69})
    assert "| T1w | a | 2 | 0.7 ± 0.14 [0.5] |" in page  # seeds' means: 0.6 and 0.8
    assert "| T1w | paper: ATLAS |  | 0.71 |\n| T1w | paper: ADNI3 |  | 0.69 |" in page
    assert "± the standard deviation of the seeds' means" in page
    once = list(
        repeated(iter([*results, Result("line", "T1w", "sub-0", "dice", 0.1)]), 2, {"a"}, first=False)
    )
    assert {r.system for r in once} == {"a"}
    assert {r.seed for r in once} == {2}


ROWS = {
    "pepsi-segmentation": {"PEPSI", "scratch", "intensity"},
    "pepsi-synthesis": {"PEPSI", "SG-T1w", "No-Seg", "Dir-Seg", "PEPSI's weights", "input"},
    "brainid-downstream": {
        "Brain-ID",
        "scratch",
        "CIFL",
        "input",
        "intensity",
        "cubic",
        "linear",
        "none",
        "n4",
    },
    "brainid-ablation": {"Brain-ID"},
    "brainid-data-fraction": {"Brain-ID", "scratch", "intensity"},
    "seqinv-tissue": {"seqinv", "SeqInv's weights", "Atropos"},
    "seqinv-lesion": {"seqinv", "SeqInv's weights", "scratch", "intensity"},
    "seqinv-denoise": {"seqinv", "SeqInv's weights", "noisy", "non-local means"},
    "cifl-transfer": {"CIFL's weights", "tau 0.1", "raw images", "affine alone", "ANTs SyN"},
}
"""Systems of every protocol as `small` makes them."""
CONVERGING = ("pepsi-segmentation", "seqinv-lesion")
PAPER = {
    "pepsi-segmentation": "| T1w | paper: ATLAS |  |  |  | 0.71 |",
    "brainid-ablation": "| 4 images, mild to severe | paper |  |  | 0.858 |",
    "cifl-transfer": "| registration: T2w to T1w | paper: raw images |  | 0.36 |",
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fewer rows, and one step of each on a few voxels."""
    for name, protocol in COMPARISONS.items():
        seeds = 2 if name == "pepsi-segmentation" else 1
        field = 40 if name == "cifl-transfer" else 32 if name.startswith("seqinv") else 24
        shape = (32, 32, 32) if name.startswith("seqinv") else (16, 16, 16)
        size = replace(SMALL, field=field, shape=shape, seeds=seeds)
        monkeypatch.setitem(COMPARISONS, name, replace(protocol, sizes={"sloppy": size}))
    monkeypatch.setattr(seqinv, "VIEWS", ("seqinv",))
    monkeypatch.setattr(seqinv, "SHARES", (100.0,))
    monkeypatch.setattr(cifl, "TEMPERATURES", (0.1,))
    monkeypatch.setattr(cifl, "MOVING", ("T2w",))
    monkeypatch.setattr(brainid_training, "SHARES", (1.0, 100.0))
    four = ("4 images, mild to severe", brainid_training.FOUR_PERSONS)
    variants = {name: brainid_training.VARIANTS[name] for name in four}
    monkeypatch.setattr(brainid_training, "VARIANTS", variants)
    monkeypatch.setattr(pepsi, "CONTRASTS", ("T1w",))
    return iter(())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("protocol", list(COMPARISONS))
def test_every_protocol_writes_its_table(
    protocol: str,
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    out = tmp_path_factory.getbasetemp() / "protocols"  # SeqInv's encoders are trained once
    options = ["--data", str(data), "--out", str(out), "--scale", "sloppy", "--device", "cpu", "--seed", "3"]
    options += ["--participant-label", "a", *(["b"] if protocol == "cifl-transfer" else [])]
    models = evaluate.COMPARISONS[protocol].default
    options += ["--weights", *(f"{name}={weights[name]}" for name in models)] if models else []
    assert main(["evaluate", protocol, *options]) == 0
    assert not [path.name for path in temporary.iterdir() if path.suffix in (".gz", ".mat")]  # of ANTs
    with (out / f"{protocol}.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["system"] for row in rows} == ROWS[protocol]
    curves = {row["system"] for row in rows if row["metric"] == "steps"}
    assert curves == (ROWS[protocol] - {"intensity"} if protocol in CONVERGING else set())
    measured = {"sub-a", "sub-b"} if protocol == "cifl-transfer" else {"sub-a"}
    assert {row["scan"].split()[0] for row in rows} - {"training"} == measured
    page = (out / f"{protocol}.md").read_text()
    assert "far too few to learn anything" in page
    assert PAPER.get(protocol, "") in page
    with (out / f"{protocol}_split.tsv").open(newline="") as file:
        split = {row["participant_id"]: row["split"] for row in csv.DictReader(file, delimiter="\t")}
    assert {name for name, part in split.items() if part == "test"} == measured
    unlabelled = {"sub-d"} if COMPARISONS[protocol].labelled else set()
    assert set(split) == {f"sub-{name}" for name in PERSONS} - unlabelled


def test_every_comparison_is_known() -> None:
    assert set(COMPARISONS) == set(evaluate.COMPARISONS) == set(ROWS)
    for protocol in COMPARISONS.values():
        assert tuple(protocol.sizes) == SCALES
    assert {name for name, protocol in COMPARISONS.items() if protocol.published} == set(PAPER)
