"""``bidsrep-train`` from label maps to weights, on a head of a few voxels."""

import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.cli.train import _recipes, main
from bidsrep.models.crl_network import acquisition_vector
from bidsrep.training.examples import write_example

TIMES = ((2.3, 0.003, 0.9), (5.0, 0.1), (9.0, 0.12, 2.5))
RECIPE = """
model = "brainid"
name = "tiny"
precision = "32-true"
[architecture]
f_maps = 8
num_levels = 2
heads = { image = 1 }
[[stages]]
iterations = 2
shape = [16, 16, 16]
spacing = 2.0
"""
SHAPES = """
model = "cifl"
name = "shapes"
[architecture]
heads = {{}}
[[stages]]
iterations = 1
shape = [32, 1, 32]
samples = 2
[generator]
anatomy_share = {share}
"""


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder with one label map (a white-matter cube in fluid) and its table."""
    folder = tmp_path / "maps"
    folder.mkdir()
    labels = np.zeros((30, 30, 30), np.int16)
    labels[4:26, 4:26, 4:26], labels[8:22, 8:22, 8:22] = 24, 2
    nib.Nifti1Image(labels, np.eye(4)).to_filename(folder / "one_dseg.nii.gz")
    (folder / "labels.tsv").write_text("value\tname\ttissue\n0\tNone\tbackground\n2\tWM\twm\n24\tCSF\tcsf\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return folder


def test_from_label_maps_to_weights(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, recipe = str(tmp_path / "data"), ["--config", str(tmp_path / "recipe.toml")]
    assert main(["prepare", "--label-maps", str(maps), "--out", data]) == 0
    examples = tmp_path / "examples"
    assert main(["sample", "brainid", *recipe, "--data", data, "--out", str(examples), "--count", "1"]) == 0
    assert nib.load(examples / "example-00_image.nii.gz").shape == (16, 16, 16, 1)
    run = tmp_path / "run"
    assert main(["pretrain", "brainid", *recipe, "--data", data, "--out", str(run), "--device", "cpu"]) == 0
    weights = tmp_path / "weights"
    options = ["--checkpoint", str(run / "last.ckpt"), "--out", str(weights), "--edition", "7"]
    assert main(["export", "brainid", *options, "--data-description", "a cube", "--license", "CC0-1.0"]) == 0
    card = tomllib.loads((weights / "brainid.toml").read_text())
    assert (
        card["training"]["recipe"] == tomllib.loads(RECIPE)["name"]
    )  # the run's own, though no --config is given
    assert card["weights"]["license"] == "CC0-1.0"
    assert main(["export", "pepsi", *options]) == 2
    assert main(["export", "brainid", "--config", str(_recipes() / "brainid-compact.toml"), *options]) == 69
    gone = ["--checkpoint", str(run / "gone.ckpt"), "--out", str(weights)]
    assert main(["export", "brainid", *gone]) == 2
    assert card["weights"]["id"] == "bidsrep-brainid-7"
    assert card["training"]["data"] == "a cube"
    assert "checkpoint" in capsys.readouterr().out


def test_examples_of_crl_have_all_contrasts_and_their_parameters(tmp_path: Path) -> None:
    slices = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    parameters = torch.stack([acquisition_vector(AcquisitionParameters(*times)) for times in TIMES])
    batch = {"source": slices, "parameters": parameters.expand(2, 3, 3)}
    image, table = write_example(batch, tmp_path / "example-00", 2.0)
    read = nib.load(image)
    assert image.name == "example-00_source.nii.gz"
    assert read.header.get_zooms()[:3] == (2.0, 2.0, 2.0)
    np.testing.assert_array_equal(read.get_fdata()[:, :, 1, 2], slices[1, 2])
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert rows[0] == ["slice", "contrast", "RepetitionTime", "EchoTime", "InversionTime"]
    assert len(rows) == 1 + 2 * 3
    assert rows[6] == ["1", "2", "9", "0.12", "2.5"]


def test_shapes_alone_need_no_anatomies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "examples"
    command = ["sample", "cifl", "--config", str(recipe), "--out", str(out), "--count", "1"]
    recipe.write_text(SHAPES.format(share=0.0))
    assert main(command) == 0
    assert nib.load(out / "example-00_first.nii.gz").shape == (32, 1, 32, 2)
    recipe.write_text(SHAPES.format(share=0.5))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "shapes: it is trained on anatomies" in error
    assert "--data" in error


@pytest.mark.parametrize("model", ["brainmask", "pepsi", "brainid", "seqinv", "crl", "cifl"])
def test_compact_recipes_need_anatomies(model: str, tmp_path: Path) -> None:
    assert main(["sample", model, "--out", str(tmp_path / "out")]) == 2


def test_recipe_of_another_model_is_refused(maps: Path, tmp_path: Path) -> None:
    options = ["--config", str(tmp_path / "recipe.toml"), "--data", str(maps), "--out", str(tmp_path / "x")]
    assert main(["sample", "pepsi", *options]) == 2


def test_folder_without_scans_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--t1w", str(tmp_path), "--out", str(tmp_path / "out")]) == 65
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--onto", "brainid"],
        ["--heads", "seg"],
        ["--onto", "brainid", "--heads", "seg", "--join", "2"],
    ],
)
def test_options_of_an_export_that_lack_their_partner_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").touch()
    run = ["--checkpoint", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "out")]
    assert main(["export", "brainid", *run, *options]) == 2
    assert "--heads" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
