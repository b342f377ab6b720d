"""``bidsrep-train finetune``: a user's labelled sessions in, weights that have learned from them out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bidsrep.cli.train import main
from bidsrep.models.network import Network
from bidsrep.models.registry import load_model
from bidsrep.models.weights import write_weights
from bidsrep.tasks.lesion import LESION
from bidsrep.training.finetune import MOST_OF_A_BRAIN, WHOLE_BRAIN, for_view, scaled
from bidsrep.training.recipe import read_recipe

SIDE = 36
RECIPE = """
model = "pepsi"
name = "tiny"
precision = "32-true"
[architecture]
heads = {{ pathol = 1 }}
[[stages]]
iterations = {iterations}
shape = [32, 32, 32]
[optimiser]
lr = 5e-3
head_lr = 1e-1
warmup = 2
[generator]
clean_probability = 1.0
deformation = {{ rotation_degrees = 2.0, shear = 0.0, scaling = 0.0, nonlinear_std_mm = 0.0, shift_fraction = 0.2 }}
[losses]
positive_share = 1.0
keep = {keep}
[validation]
share = 0.5
every = 5
"""


def session(centre: tuple[int, int, int], white: float, lesion: float) -> tuple[np.ndarray, np.ndarray]:
    """A stripped brain with a lesion in it, and the lesion's mask."""
    axes = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    image = np.array([0, 70, white])[(radius < 15).astype(int) + (radius < 11)].astype(np.float32)
    away = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)))
    image[away < 6] = lesion
    texture = np.random.default_rng(0).uniform(0.97, 1.03, image.shape)
    return (image * texture).astype(np.float32), (away < 6).astype(np.uint8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two persons; the first has two sessions, each with a FLAIR and a lesion of its own."""
    root = tmp_path_factory.mktemp("mine")
    (root / "dataset_description.json").write_text('{"Name": "mine", "BIDSVersion": "1.10.0"}')
    places = {("1", "A"): (4, 0, 3), ("1", "B"): (-4, 2, 0), ("2", "A"): (0, -4, 2)}
    for (person, visit), centre in places.items():
        stem = f"sub-{person}_ses-{visit}"
        image, mask = session(centre, 100, 160)
        for folder, name, data in ((root, "FLAIR", image), (root / "labels", "label-lesion_mask", mask)):
            anat = folder / f"sub-{person}" / f"ses-{visit}" / "anat"
            anat.mkdir(parents=True)
            nib.Nifti1Image(data, np.eye(4)).to_filename(anat / f"{stem}_{name}.nii.gz")
    return root


def finetune(cohort: Path, out: Path, start: Path, *more: str, iterations: int = 6, keep: float = 0.5) -> int:
    recipe = out.with_suffix(".toml")
    recipe.write_text(RECIPE.format(iterations=iterations, keep=keep))
    options = ["--bids", str(cohort), "--labels", str(cohort / "labels"), "--out", str(out)]
    options += ["--initial", str(start), "--config", str(recipe), "--device", "cpu", "--no-tensorboard"]
    return main(["finetune", "--model", "pepsi", "--task", "lesion", *options, *more])


def start_weights(folder: Path, seed: int = 0, **architecture: Any) -> Path:
    """Untrained weights as a run would start from them (`random_weights` has random normalisation layers)."""
    architecture = {"f_maps": 8, "num_levels": 2, "unit_features": True, **architecture}
    heads = {"image": 1, "aux_image": 1, "pathol": 1}
    torch.manual_seed(seed)
    network = Network(heads, **architecture)
    card = {
        "weights": {"id": f"start-{seed}", "model": "pepsi", "status": "random", "license": "CC0-1.0"},
        "architecture": {**architecture, "heads": heads},
    }
    return write_weights(folder / "start.safetensors", network.state_dict(), card)


def dice_of(weights: Path) -> float:
    """Overlap of what is found in the first session with its lesion."""
    image, mask = session((4, 0, 3), 100, 160)
    image = np.pad(image / np.percentile(image[image > 0], 99.5), 2)
    found = load_model("pepsi", weights=weights).predict(image, ["lesion"])["lesion"][0, 0].numpy() > 0.5
    truth = np.pad(mask, 2) > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_two_sessions_of_one_person_teach_the_lesions(cohort: Path, tmp_path: Path) -> None:
    start = start_weights(tmp_path)
    one = ("--participant-label", "1")
    assert finetune(cohort, tmp_path / "run", start, *one, iterations=45, keep=0.01) == 0
    assert dice_of(tmp_path / "run" / "pepsi.safetensors") > max(0.6, 2 * dice_of(start))
    card = tomllib.loads((tmp_path / "run" / "pepsi.toml").read_text())
    assert card["training"]["scans"] == 2
    assert card["figures"] == {"validation": "none: nobody was held out"}
    assert card["architecture"]["heads"] == {"image": 1, "aux_image": 1, "pathol": 1}


def test_subjects_are_held_out_whole_and_measured(cohort: Path, tmp_path: Path) -> None:
    start = start_weights(tmp_path)
    assert finetune(cohort, tmp_path / "run", start) == 0
    rows = [line.split("\t") for line in (tmp_path / "run" / "splits.tsv").read_text().splitlines()[1:]]
    split = dict(rows)
    assert sorted(split.values()) == ["train", "validation"]
    (aside,) = (name for name, part in split.items() if part == "validation")
    card = tomllib.loads((tmp_path / "run" / "pepsi.toml").read_text())
    assert card["training"]["held_out"] == [aside]
    assert card["training"]["scans"] == (1 if aside.endswith("1") else 2)
    assert f"{3 - card['training']['scans']} scans" in card["figures"]["dice"]


def test_the_same_command_goes_on_and_another_start_is_refused(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = start_weights(tmp_path)
    one = ("--participant-label", "1")
    assert finetune(cohort, tmp_path / "run", start, *one, iterations=4, keep=0.0) == 0
    first = load_file(tmp_path / "run" / "pepsi.safetensors")
    assert finetune(cohort, tmp_path / "run", start, *one, iterations=4, keep=0.0) == 0  # nothing left to do
    again = load_file(tmp_path / "run" / "pepsi.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = start_weights(tmp_path / "other", seed=9)
    assert finetune(cohort, tmp_path / "run", other, *one) == 2
    assert "another start" in capsys.readouterr().err


@pytest.mark.parametrize("hidden", [0, 2])
def test_a_view_learns_alone(
    hidden: int, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WHOLE_BRAIN", "MOST_OF_A_BRAIN"):
        monkeypatch.setattr(f"bidsrep.training.finetune.{name}", (32, 32, 32))
    start = start_weights(
        tmp_path, views={"pathol": {"factor": 2, "f_maps": 8, "num_levels": 2, "hidden": hidden}}
    )
    assert finetune(cohort, tmp_path / "run", start, "--participant-label", "1", iterations=45) == 0
    before, after = load_file(start), load_file(tmp_path / "run" / "pepsi.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("head.final_conv_pathol.") for name in changed)
    assert dice_of(tmp_path / "run" / "pepsi.safetensors") > 0.5


def test_the_stages_of_a_view(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(iterations=20, keep=0.5))
    plain = read_recipe(path)
    assert for_view(plain, LESION) is plain
    heads = {"heads": {"image": 1, "pathol": 1}}
    joined = read_recipe(path, architecture={**heads, "views": {"pathol": {"factor": 2, "hidden": 4}}})
    stages = [(stage.iterations, stage.shape) for stage in for_view(joined, LESION).stages]
    assert stages == [(18, MOST_OF_A_BRAIN), (2, WHOLE_BRAIN)]
    alone = for_view(read_recipe(path, architecture={**heads, "views": {"pathol": {"factor": 2}}}), LESION)
    assert [(stage.iterations, stage.shape) for stage in alone.stages] == [(20, WHOLE_BRAIN)]
    assert alone.frozen == ("backbone.", "head.final_conv_image.")


def test_fewer_steps_keep_the_stages_shares() -> None:
    recipe = read_recipe(Path(__file__).parents[1] / "bidsrep/data/recipes/finetune-compact.toml")
    assert [stage.iterations for stage in scaled(recipe, 32).stages] == [30, 2]
    assert [stage.shape for stage in scaled(recipe, 1).stages] == [recipe.stages[0].shape]


def test_missing_labels_are_explained(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = start_weights(tmp_path)
    assert finetune(cohort, tmp_path / "run", start, "--label", "stroke") == 65
    told = capsys.readouterr().err
    assert "no label for the task lesion" in told
    assert "label-lesion" in told
