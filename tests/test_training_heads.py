"""Brain-ID's heads on generated data: each image has its own targets, every head learns, sides stay sides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bidsrep.models.network import Network
from bidsrep.synth.corruption import LEVELS, corrupt, sample_corruption, undegraded
from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.generator import GeneratorConfig, Source, deform_subject, sample_acquisition
from bidsrep.tasks.segmentation import LABELS
from bidsrep.training.anatomies import Anatomy, LabelTable
from bidsrep.training.module import parameter_groups
from bidsrep.training.recipe import Optimiser, Recipe, Stage
from bidsrep.training.representation import RepresentationObjective, collate, make_source
from bidsrep.training.run import build_network

TABLE = LabelTable(np.array([0, 2, 3, 4, 24, 41, 42, 43]),
                   ("background", "wm", "gm", "csf", "csf", "wm", "gm", "csf"))  # fmt: skip
SHAPE = (24, 24, 24)
STILL = {
    "rotation_degrees": 0.0,
    "shear": 0.0,
    "scaling": 0.0,
    "nonlinear_std_mm": 0.0,
    "shift_fraction": 0.0,
}
HEADS = {"image": 1, "seg": 33, "superres": 1, "bias_field_log": 1}
READ_IMAGE = ["superres", "bias_field_log"]


def head(size: int = 36) -> torch.Tensor:
    """Nested balls of fluid, cortex, white matter and ventricle; left values (low x) and right ones."""
    x, y, z = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    right = x > 0
    labels = torch.zeros(size, size, size, dtype=torch.uint8)
    for limit, left_row, right_row in ((14, 4, 4), (13, 2, 6), (10, 1, 5), (4, 3, 7)):
        rows = torch.where(right, right_row, left_row).to(torch.uint8)
        labels = torch.where(radius < limit, rows, labels)
    return labels[None]


@pytest.fixture(scope="module")
def source() -> Source:
    return make_source(Anatomy("sub-1", labels=head()), TABLE, 1.0)


def recipe(**changes: object) -> Recipe:
    values: dict = {
        "model": "brainid",
        "name": "heads-tiny",
        "architecture": {"f_maps": 8, "num_levels": 2, "heads": HEADS, "with_image": READ_IMAGE},
        "stages": (Stage(30, SHAPE, 1.0, samples=2),),
        "optimiser": Optimiser(lr=5e-3, warmup=2),
        "generator": {"deformation": {"rotation_degrees": 5.0, "shear": 0.02}, "lesion_probability": 0.0},
        "precision": "32-true",
    }
    return Recipe(**{**values, **changes})


def objective(source: Source, **changes: object) -> RepresentationObjective:
    return RepresentationObjective({1.0: [source]}, recipe(**changes), [])


def test_shared_and_own_targets(source: Source) -> None:
    batch = objective(source).sample(0, 0)
    assert {tuple(value.shape) for value in batch.values()} == {(2, 1, *SHAPE)}
    for shared in ("target_image", "classes", "brain"):
        assert torch.equal(batch[shared][0], batch[shared][1])
    for own in ("image", "target_superres", "log_bias"):
        assert not torch.allclose(batch[own][0], batch[own][1])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_left_stays_left_when_the_head_is_reflected(source: Source, flip: float) -> None:
    config = GeneratorConfig(
        deformation=DeformationConfig(**STILL, flip_probability=flip), lesion_probability=0
    )
    generator = torch.Generator().manual_seed(0)
    subject = deform_subject(source, generator, SHAPE, 1.0, config, [])
    assert subject.flipped == bool(flip)
    image = sample_acquisition(subject, source, generator, 1.0, config)
    classes = collate([image], subject, source.values)["classes"][0, 0]
    assert set(classes[:12].unique().tolist()) & {LABELS.index(v) for v in (41, 42, 43)} == set()
    assert set(classes[12:].unique().tolist()) & {LABELS.index(v) for v in (2, 3, 4)} == set()
    assert (classes == LABELS.index(2)).any()


def test_scan_without_labels_has_no_classes() -> None:
    t1w = (head() > 0).float()
    source = make_source(Anatomy("sub-2", t1w=t1w, tissue_means=(0.25, 0.6, 1.0)), None, 1.0)
    drawn = objective(source)
    batch = drawn.sample(0, 0)
    assert "classes" not in batch
    assert "seg" not in drawn.loss(Network(HEADS, READ_IMAGE, f_maps=8, num_levels=2), batch, 0)


def test_clean_image_lacks_noise_and_blur_and_keeps_the_bias_field(source: Source) -> None:
    config = GeneratorConfig(lesion_probability=0, clean_probability=1.0)
    generator = torch.Generator().manual_seed(3)
    subject = deform_subject(source, generator, SHAPE, 1.0, config, [])
    untouched = sample_acquisition(subject, source, generator, 1.0, config)
    assert untouched.log_bias.abs().max() == 0
    config = replace(config, clean_probability=0.0, levels=("severe",))
    degraded = sample_acquisition(subject, source, generator, 1.0, config)
    assert degraded.log_bias.abs().max() > 0
    labels = subject.labels
    assert labels is not None
    for number in labels[subject.brain].unique():
        # Without noise a structure has one value, but for the field; the image itself varies inside it.
        even = degraded.clean / torch.exp(degraded.log_bias)
        assert even[labels == number].std() < 1e-4 or (labels == number).sum() < 3
        assert degraded.image[labels == number].std() > 1e-3


def test_undegraded_keeps_nothing_but_the_gamma_and_the_field() -> None:
    parameters = sample_corruption(torch.Generator().manual_seed(0), SHAPE, 1.0, "severe", 1.0)
    left = undegraded(parameters, 1.0)
    assert left.gamma == parameters.gamma
    assert (left.noise_std, left.resolution, left.thickness) == (0.0, (1.0,) * 3, (1.0,) * 3)
    assert torch.equal(left.bias_control, parameters.bias_control)
    assert LEVELS["severe"].noise_std[0] <= parameters.noise_std


def test_log_bias_is_what_the_image_was_multiplied_by() -> None:
    """Without blur, gamma and noise, dividing by the field gives the image back."""
    generator = torch.Generator().manual_seed(0)
    image = 50 + 150 * torch.rand(SHAPE, generator=generator)
    drawn = sample_corruption(generator, SHAPE, 1.0, "severe", 0.0)
    only_bias = replace(drawn, resolution=(1.0,) * 3, thickness=(1.0,) * 3, gamma=1.0, noise_std=0.0)
    degraded, log_bias = corrupt(image, only_bias, 1.0)
    assert log_bias.std() > 0.02
    torch.testing.assert_close(degraded / torch.exp(log_bias), image, rtol=1e-4, atol=1e-3)


def test_every_head_learns_on_data_it_has_not_seen(source: Source) -> None:
    torch.manual_seed(0)
    network = Network(HEADS, READ_IMAGE, f_maps=8, num_levels=2)
    drawn = objective(source)
    unseen = [drawn.sample(1000 + number, 0) for number in range(4)]

    def means() -> dict[str, float]:
        with torch.no_grad():
            losses = [drawn.loss(network, batch, 0) for batch in unseen]
        return {name: float(np.mean([loss[name].item() for loss in losses])) for name in losses[0]}

    before = means()
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for step in range(30):
        optimiser.zero_grad()
        drawn.loss(network, drawn.sample(step, step), step)["loss"].backward()
        optimiser.step()
    after = means()
    assert set(after) == {"loss", *HEADS}
    for name, value in after.items():
        assert value < 0.8 * before[name], f"{name}: {before[name]:.3f} -> {value:.3f}"


def test_the_authors_super_resolution_learns_the_clean_input(source: Source) -> None:
    architecture = {"f_maps": 8, "num_levels": 2, "heads": {"image": 1}, "with_image": ["image"]}
    drawn = objective(source, architecture=architecture, losses={"gradient_from": 0})
    batch = drawn.sample(0, 0)

    class Perfect(torch.nn.Module):
        def forward(self, _: torch.Tensor, only: object) -> dict[str, torch.Tensor]:
            return {"image": batch["target_superres"]}

    assert drawn.loss(Perfect(), batch, 0)["loss"] == 0


def test_weights_of_all_heads_say_which_read_the_image(tmp_path: Path) -> None:
    from bidsrep.models.registry import load_model
    from bidsrep.training.export import export_weights
    from bidsrep.training.run import build_network

    tiny = recipe()
    state = {f"network.{key}": value for key, value in build_network(tiny).state_dict().items()}
    torch.save({"global_step": 1, "state_dict": state}, tmp_path / "run.ckpt")
    weights, _ = export_weights(tmp_path / "run.ckpt", tiny, tmp_path, edition="t", training={})
    model = load_model("brainid", weights)
    assert model.card["architecture"]["with_image"] == READ_IMAGE
    predicted = model.predict(torch.rand(1, 1, 16, 16, 16))
    assert {"T1w", "seg", "bias"} <= set(predicted)
    assert (predicted["bias"] > 0).all()


def test_heads_may_learn_at_their_own_rate() -> None:
    network = Network({"image": 1}, f_maps=8, num_levels=2)
    assert len(parameter_groups(network, Optimiser())) == 1
    rest, heads = parameter_groups(network, Optimiser(lr=1e-4, head_lr=1e-2))
    assert len(heads["params"]) == 2
    assert heads["lr"] == 1e-2
    assert len(rest["params"]) + 2 == len(list(network.parameters()))


def test_an_untrained_super_resolution_hands_the_image_on() -> None:
    network, image = build_network(recipe()), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        outputs = network(image)
    assert torch.equal(outputs["superres"], image)
    assert outputs["bias_field_log"].abs().max() > 0
