"""Training: recipes, losses, generated mini-batches, runs that learn, resume and export."""

import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bidsrep.errors import WeightsError
from bidsrep.training.losses import gradient_l1, implicit_pathology, lesion_loss, omega
from bidsrep.training.recipe import Optimiser, Recipe, Stage, read_recipe

RECIPES = Path(__file__).parent.parent / "bidsrep" / "data" / "recipes"
SHAPE = (16, 16, 16)


def shells(size: int = 40) -> np.ndarray:
    """A head of nested ellipsoids: skin 511, fluid 24, cortex 3, white matter 2, ventricle 4, lesion 25."""
    axes = np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij")
    radius = np.sqrt(sum((a / s) ** 2 for a, s in zip(axes, (0.9, 1.0, 0.9), strict=True)))
    labels = np.zeros((size,) * 3, np.int16)
    for limit, value in ((18, 511), (15, 24), (14, 3), (11, 2), (3, 4)):
        labels[radius < limit] = value
    labels[24:27, 14:17, 20:22] = 25
    return labels


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two prepared datasets: one label map, one T1w scan."""
    from bidsrep.training.prepare import prepare_label_maps

    root = tmp_path_factory.mktemp("anatomies")
    (root / "maps").mkdir()
    nib.Nifti1Image(shells(), np.eye(4)).to_filename(root / "maps" / "p1_dseg.nii.gz")
    rows = ["0\tUnknown\tbackground", "2\tWM\twm", "3\tCortex\tcortex", "4\tVentricle\tcsf", "24\tCSF\tcsf",
            "25\tLesion\tlesion", "511\tSkin\textracerebral"]  # fmt: skip
    (root / "labels.tsv").write_text("value\tname\ttissue\n" + "\n".join(rows) + "\n")
    sources = [root / "maps" / "p1_dseg.nii.gz"]
    assert prepare_label_maps(sources, root / "labels.tsv", root / "heads") == 1
    t1w = np.select(
        [shells() == 24, shells() == 3, np.isin(shells(), (2, 25)), shells() == 4], [0.25, 0.6, 1.0, 0.25]
    )
    folder = root / "t1w" / "sub-p2" / "anat"
    folder.mkdir(parents=True)
    nib.Nifti1Image(t1w.astype(np.float32), np.eye(4)).to_filename(folder / "sub-p2_desc-brain_T1w.nii.gz")
    (folder / "sub-p2_desc-brain_T1w.json").write_text('{"TissueMeans": [0.25, 0.6, 1.0]}')
    return [root / "heads", root / "t1w"]


def tiny(model: str, **changes: object) -> Recipe:
    heads = {
        "brainmask": {"distance": 1},
        "pepsi": {"image": 1, "aux_image": 1, "pathol": 1},
        "brainid": {"image": 1},
    }
    values = {
        "model": model,
        "name": f"{model}-tiny",
        "architecture": {
            "f_maps": 8,
            "num_levels": 2,
            "heads": heads[model],
            "unit_features": model == "pepsi",
        },
        "stages": (Stage(4, SHAPE, 2.0), Stage(2, SHAPE, 1.0, samples=2)),
        "optimiser": Optimiser(lr=1e-3, warmup=2),
        "precision": "32-true",
    }
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_recipes_build_their_network(path: Path) -> None:
    """The network that is trained has the tensors of the model that will load the weights."""
    from bidsrep.models.registry import model_class
    from bidsrep.training.run import build_network

    recipe = read_recipe(path)
    assert recipe.iterations > 0
    architecture = recipe.architecture
    width = architecture["f_maps"] if "f_maps" in architecture else architecture["widths"][0]
    if width <= 32:
        model = model_class(recipe.model).build(architecture)
        assert set(build_network(recipe).state_dict()) == set(model.state_dict())


def test_unknown_recipe_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('model = "pepsi"\nlearning_rat = 1\n')
    with pytest.raises(ValueError, match="learning_rat"):
        read_recipe(tmp_path / "r.toml")


def test_stages_follow_the_steps() -> None:
    recipe = tiny("pepsi")
    assert [recipe.stage_at(step).spacing for step in (0, 3, 4, 99)] == [2.0, 2.0, 1.0, 1.0]


def test_gradient_loss_is_the_reference_s(test_data: Path) -> None:
    ops = np.load(test_data / "fixtures" / "ops.npz")
    ours = gradient_l1(torch.tensor(ops["loss_a"]), torch.tensor(ops["loss_b"]))
    assert ours.item() == pytest.approx(float(ops["loss_grad"]), abs=1e-6)


def test_losses_are_least_where_prediction_and_target_agree() -> None:
    target = (torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.8).float()
    good, bad = 8 * (2 * target - 1), -8 * (2 * target - 1)
    assert lesion_loss(good, target) < 0.05 < lesion_loss(bad, target)
    assert implicit_pathology(target, target) < 0.01 < implicit_pathology(1 - target, target)


def test_omega_switches_from_a_tenth_to_one() -> None:
    assert [omega(step, 10) for step in (0, 9, 10)] == [0.1, 0.1, 1.0]


def test_mini_batch_shares_the_anatomy(anatomies: list[Path]) -> None:
    from bidsrep.training.representation import RepresentationObjective

    objective = RepresentationObjective.from_folders(anatomies, tiny("pepsi"))
    batch = objective.sample(0, 5)
    assert batch["image"].shape == (2, 1, *SHAPE)
    assert not torch.equal(batch["image"][0], batch["image"][1])
    assert torch.equal(batch["target_image"][0], batch["target_image"][1])
    again = objective.sample(0, 5)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


@pytest.mark.parametrize("model", ["brainmask", "pepsi", "brainid"])
def test_a_run_resumes_to_the_same_weights(model: str, anatomies: list[Path], tmp_path: Path) -> None:
    from dataclasses import replace

    from bidsrep.training.run import network_state, pretrain

    recipe = tiny(model)
    whole = network_state(pretrain(recipe, anatomies, tmp_path / "whole", device="cpu", progress=False))
    part = replace(recipe, stages=(Stage(4, SHAPE, 2.0),))
    pretrain(part, anatomies, tmp_path / "parts", device="cpu", progress=False)
    resumed = network_state(pretrain(recipe, anatomies, tmp_path / "parts", device="cpu", progress=False))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_training_lowers_the_loss(anatomies: list[Path], tmp_path: Path) -> None:
    from bidsrep.models.network import Network
    from bidsrep.training.run import build_objective, pretrain
    from bidsrep.training.run import network_state as state_of

    recipe = tiny("brainid", stages=(Stage(60, SHAPE, 2.0),), optimiser=Optimiser(lr=5e-3, warmup=2))
    objective = build_objective(recipe, anatomies)
    network = Network({"image": 1}, f_maps=8, num_levels=2)
    batches = [objective.sample(1000 + number, 0) for number in range(4)]

    def mean_loss() -> float:
        with torch.no_grad():
            return float(np.mean([objective.loss(network, batch, 0)["loss"].item() for batch in batches]))

    before = mean_loss()
    network.load_state_dict(state_of(pretrain(recipe, anatomies, tmp_path, device="cpu", progress=False)))
    assert mean_loss() < 0.7 * before


def test_segmenters_are_trained_once_and_frozen(anatomies: list[Path], tmp_path: Path) -> None:
    from bidsrep.training.representation import RepresentationObjective
    from bidsrep.training.segmenter import reference_segmenters

    objective = RepresentationObjective.from_folders(anatomies, tiny("pepsi"))
    first = reference_segmenters(objective, tmp_path, {"iterations": 2}, 0)
    again = reference_segmenters(objective, tmp_path, {"iterations": 0}, 1)
    for target, network in first.items():
        assert not any(parameter.requires_grad for parameter in network.parameters())
        for key, value in network.state_dict().items():
            assert torch.equal(value, again[target].state_dict()[key])


def test_export_writes_weights_that_match_their_card(anatomies: list[Path], tmp_path: Path) -> None:
    import hashlib

    from bidsrep.training.export import export_weights
    from bidsrep.training.run import pretrain

    recipe = tiny("brainid", stages=(Stage(1, SHAPE, 2.0),))
    checkpoint = pretrain(recipe, anatomies, tmp_path / "run", device="cpu", progress=False)
    weights, card = export_weights(checkpoint, recipe, tmp_path, edition="test", training={"persons": 2})
    content = tomllib.loads(card.read_text())
    assert content["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert content["weights"]["status"] == "self-trained"
    assert content["architecture"]["heads"] == {"image": 1}
    assert content["training"]["iterations"] == 1
    assert "stopped" not in content["training"]
    assert content["weights"]["license"] == "not stated"
    assert content["input"]["resolution_mm"] == 2
    longer = tiny("brainid", stages=(Stage(5, SHAPE, 2.0),))
    _, card = export_weights(checkpoint, longer, tmp_path, edition="test", training={})
    assert tomllib.loads(card.read_text())["training"]["stopped"] == "after 1 of 5 steps"


def test_lesions_of_held_out_persons_are_no_shapes(anatomies: list[Path], tmp_path: Path) -> None:
    from bidsrep.training.representation import RepresentationObjective

    mask = np.zeros((12, 12, 12), np.uint8)
    mask[4:7, 4:7, 4:7] = 1
    for name in ("ms-06", "ms-07", "sub-9"):
        nib.Nifti1Image(mask, np.eye(4)).to_filename(tmp_path / f"{name}_label-lesion_mask.nii.gz")
    for held_out, count in (((), 3), (("ms-07", "sub-9"), 1)):
        recipe = tiny("pepsi", held_out=held_out)
        assert len(RepresentationObjective.from_folders([*anatomies, tmp_path], recipe).priors) == count


def test_a_start_that_has_seen_the_held_out_is_told(
    anatomies: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from bidsrep.bids.files import read_object
    from bidsrep.training.export import export_weights
    from bidsrep.training.recipe import make_recipe
    from bidsrep.training.run import pretrain

    recipe = tiny("brainid", stages=(Stage(1, SHAPE, 1.0, 1),), held_out=("sub-8",))
    checkpoint = pretrain(recipe, anatomies, tmp_path / "first", device="cpu", progress=False)
    start, _ = export_weights(checkpoint, recipe, tmp_path / "start", edition="1", training={})
    recipe = replace(recipe, held_out=("sub-8", "sub-9"))
    with caplog.at_level("WARNING", logger="bidsrep.training"):
        pretrain(recipe, anatomies, tmp_path / "second", initial=start, device="cpu", progress=False)
    assert "may have been trained on persons that the recipe holds out: sub-9" in caplog.text
    record = read_object(tmp_path / "second" / "run.json")
    assert make_recipe(record["recipe"]) == recipe
    pretrain(
        recipe, anatomies, tmp_path / "second", device="cpu", progress=False
    )  # continued: the start stays
    assert read_object(tmp_path / "second" / "run.json") == record
    _, card = export_weights(
        tmp_path / "second" / "last.ckpt",
        recipe,
        tmp_path / "2",
        edition="2",
        training={},
        start=record["initial"],
    )
    content = tomllib.loads(card.read_text())
    assert content["training"]["held_out"] == ["sub-8"]
    assert (
        content["training"]["initial_sha256"]
        == tomllib.loads(start.with_suffix(".toml").read_text())["weights"]["sha256"]
    )
    assert content["weights"]["license"].startswith("not stated; started from bidsrep-brainid-1")


def test_a_mask_s_card_tells_the_voxels_and_the_field_of_view(anatomies: list[Path], tmp_path: Path) -> None:
    from bidsrep.models.registry import load_model
    from bidsrep.training.export import export_weights
    from bidsrep.training.run import pretrain

    recipe = tiny("brainmask", stages=(Stage(1, SHAPE, 3.0, 1),))
    checkpoint = pretrain(recipe, anatomies, tmp_path / "run", device="cpu", progress=False)
    weights, _ = export_weights(checkpoint, recipe, tmp_path, edition="1", training={})
    mask = load_model("brainmask", weights=weights)
    assert mask.resolution_mm == 3
    assert mask.card["input"]["field_of_view_mm"] == [3.0 * side for side in SHAPE]


def test_export_averages_with_other_weights(anatomies: list[Path], tmp_path: Path) -> None:
    from bidsrep.training.export import export_weights
    from bidsrep.training.run import pretrain

    recipe = tiny("brainid", stages=(Stage(1, SHAPE, 1.0, 1),), held_out=("sub-8", "sub-9"))
    checkpoint = pretrain(recipe, anatomies, tmp_path / "run", device="cpu", progress=False)
    plain, own = export_weights(checkpoint, recipe, tmp_path / "plain", edition="1", training={})
    zero = {name: torch.zeros_like(value) for name, value in load_file(plain).items()}
    save_file(zero, tmp_path / "zero.safetensors")
    half, card = export_weights(
        checkpoint,
        recipe,
        tmp_path / "half",
        edition="1",
        training={},
        average_with=tmp_path / "zero.safetensors",
    )
    for name, value in load_file(half).items():
        torch.testing.assert_close(2 * value, load_file(plain)[name])
    assert tomllib.loads(own.read_text())["training"]["held_out"] == ["sub-8", "sub-9"]
    averaged = tomllib.loads(card.read_text())["training"]
    assert "sha256" in averaged["averaged_with"]
    assert averaged["held_out"] == []  # whom the other weights have seen is not known
    _, card = export_weights(
        checkpoint,
        recipe,
        tmp_path / "both",
        edition="1",
        training={},
        start={"id": "s", "held_out": ["sub-9"]},
        average_with=plain,
    )
    assert tomllib.loads(card.read_text())["training"]["held_out"] == ["sub-9"]
    save_file({"other": torch.zeros(1)}, tmp_path / "zero.safetensors")
    with pytest.raises(ValueError, match="another architecture"):
        export_weights(
            checkpoint, recipe, tmp_path, edition="1", training={}, average_with=tmp_path / "zero.safetensors"
        )


def test_initial_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from bidsrep.models.network import Network
    from bidsrep.training.run import load_initial

    save_file(Network({"image": 1}, f_maps=8, num_levels=2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="first missing or different: backbone"):
        load_initial(Network({"image": 1}, f_maps=16, num_levels=2), tmp_path / "w.safetensors")
