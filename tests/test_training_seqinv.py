"""Training SeqInv: views, losses across processes, runs that learn on unseen persons, resume, and grow heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from two_processes import run_two

from bidsrep.errors import InputError, UsageError, WeightsError
from bidsrep.models.seqinv_network import SeqInvNetwork
from bidsrep.synth.generator import Source
from bidsrep.synth.views import (
    ViewConfig,
    degrade,
    legendre_field,
    place,
    sample_view,
    truncate_frequencies,
)
from bidsrep.training.anatomies import Anatomy
from bidsrep.training.contrastive import barlow_twins, nt_xent
from bidsrep.training.recipe import Optimiser, Recipe, Stage, read_recipe
from bidsrep.training.representation import make_source
from bidsrep.training.seqinv import ContrastiveObjective, HeadsObjective, build_network, phase_of
from bidsrep.training.seqinv_scans import Person, draw_head, draw_pair, scan_config, tissue_classes

RECIPES = Path(__file__).parent.parent / "bidsrep" / "data" / "recipes"
SIDE = 32
TISSUES = ("background", "csf", "gm", "wm", "lesion", "extracerebral")
PRETRAINING = {"widths": [4, 4, 6, 8, 16], "heads": {}, "projection": [16, 8], "reconstructor": True}
HEADS = {"widths": [4, 4, 6, 8, 16], "heads": {"tissue": 4, "stroke": 2, "denoising": 1}, "head_width": 4}
SIMPLE = {
    "bias": 0.0, "gibbs": 0.0, "noise": 0.0, "holes": [0, 0], "flip_probability": 0.0, "deform_probability": 0.0,
}  # fmt: skip


def shells(seed: int, size: int = 44) -> Tensor:
    """A brain of bumpy nested shells ``(1, X, Y, Z)``: fluid, cortex, white matter, a ventricle."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij")
    x, y, z = (a / s for a, s in zip(axes, random.uniform(0.85, 1.1, 3), strict=True))
    phase = random.uniform(0, 6, 3)
    bumps = sum(np.sin(a / 2.5 + p) for a, p in zip((x, y, z), phase, strict=True))
    radius = np.sqrt(x**2 + y**2 + z**2) + 0.6 * bumps
    labels = np.zeros((size,) * 3, np.int64)
    for limit, value in ((20, 1), (18, 2), (14, 3), (4 + seed % 3, 1)):
        labels[radius < limit] = value
    return torch.from_numpy(labels)[None]


def person(seed: int, real: bool = False) -> Person:
    labels = shells(seed)
    if not real:
        return Person(Source(1.0, labels=labels, tissues=TISSUES), TISSUES)
    t1w = torch.tensor([0.0, 0.25, 0.6, 1.0])[labels]
    anatomy = Anatomy("sub-real", t1w=t1w, tissue_means=(0.25, 0.6, 1.0))
    return Person(make_source(anatomy, None, 1.0))


PEOPLE = {1.0: [person(seed) for seed in range(3)] + [person(3, real=True)]}
UNSEEN = {1.0: [person(seed) for seed in (7, 8, 9, 11)]}


def tiny(phase: str = "pretrain", view: str = "seqinv", **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "seqinv",
        "name": "tiny",
        "architecture": dict(PRETRAINING if phase == "pretrain" else HEADS),
        "stages": (Stage(4, (SIDE,) * 3, 1.0, samples=2),),
        "optimiser": Optimiser(lr=3e-3, warmup=1),
        "generator": {"view": view},
        "losses": {"phase": phase, "field_of_view": [40, 40, 40]},
        "precision": "32-true",
    }
    return Recipe(**{**values, **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset: three label maps and a real T1w, and one label map to hold out."""
    import nibabel as nib

    root = tmp_path_factory.mktemp("anatomies")
    (root / "dseg.tsv").write_text(
        "index\tname\ttissue\n0\tUnknown\tbackground\n1\tCSF\tcsf\n2\tLeft-Putamen\tgm\n3\tMine\twm\n"
    )
    for seed in range(4):
        folder = root / f"sub-{seed}" / "anat"
        folder.mkdir(parents=True)
        image = nib.Nifti1Image(shells(seed)[0].numpy().astype(np.int16), np.eye(4))
        image.to_filename(folder / f"sub-{seed}_dseg.nii.gz")
    folder = root / "sub-9" / "anat"
    folder.mkdir(parents=True)
    t1w = person(3, real=True).source.t1w
    assert t1w is not None
    nib.Nifti1Image(t1w[0].numpy(), np.eye(4)).to_filename(folder / "sub-9_desc-brain_T1w.nii.gz")
    (folder / "sub-9_desc-brain_T1w.json").write_text('{"TissueMeans": [0.25, 0.6, 1.0]}')
    return root


class TestViews:
    def test_zero_ranges_give_the_middle_of_the_image(self) -> None:
        image = torch.rand(40, 40, 40, generator=generator())
        config = replace(
            ViewConfig(), **{k: tuple(v) if isinstance(v, list) else v for k, v in SIMPLE.items()}
        )
        view = sample_view(generator(), (40, 40, 40), (40, 40, 40), 1.0, config)
        target = place(image, view, (40, 40, 40), 1.0)
        torch.testing.assert_close(target, image, atol=1e-4, rtol=0)
        torch.testing.assert_close(degrade(target, view), target, atol=1e-5, rtol=0)

    def test_a_crop_lies_inside_the_image(self) -> None:
        config = replace(ViewConfig(), deform_probability=0.0)
        inside = torch.ones(48, 48, 48)
        for seed in range(10):
            view = sample_view(generator(seed), (48, 48, 48), (32, 32, 32), 2.0, config)
            assert place(inside, view, (32, 32, 32), 2.0).min() > 0.99

    def test_rotations_are_degrees_about_every_axis(self) -> None:
        config = ViewConfig(deform_probability=1.0)
        draws = [sample_view(generator(s), (32,) * 3, (32,) * 3, 1.0, config).deformation for s in range(50)]
        largest = torch.stack([draw.rotation for draw in draws]).abs().amax(0)
        limit = 15 * np.pi / 180
        assert bool(((0.5 * limit < largest) & (largest <= limit)).all())

    def test_a_draw_can_be_replayed(self) -> None:
        image = torch.rand(32, 32, 32, generator=generator())
        views = [sample_view(generator(3), (32,) * 3, (32,) * 3, 1.0, ViewConfig()) for _ in range(2)]
        first, second = (degrade(place(image, view, (32,) * 3, 1.0), view) for view in views)
        assert torch.equal(first, second)

    def test_holes_are_empty(self) -> None:
        config = ViewConfig(holes=(2, 2), hole_voxels=(5, 8))
        view = sample_view(generator(), (32,) * 3, (32,) * 3, 1.0, config)
        found = degrade(torch.ones(32, 32, 32), view)
        assert len(view.holes) == 2
        for (x0, y0, z0), (x1, y1, z1) in view.holes.tolist():
            assert 5 <= x1 - x0 <= 8
            assert found[x0:x1, y0:y1, z0:z1].abs().max() == 0

    def test_legendre_polynomials_are_numpys(self) -> None:
        coefficients = torch.rand(4, 4, 4, generator=generator())
        axes = [np.linspace(-1, 1, n) for n in (5, 6, 7)]
        expected = np.polynomial.legendre.leggrid3d(*axes, coefficients.double().numpy())
        np.testing.assert_allclose(legendre_field(coefficients, (5, 6, 7)), expected, atol=1e-5)

    def test_ringing_takes_the_high_frequencies(self) -> None:
        x = torch.arange(32).float()
        slow, fast = (torch.cos(2 * np.pi * k * x / 32)[:, None, None].expand(32, 32, 32) for k in (2, 14))
        torch.testing.assert_close(truncate_frequencies(slow + fast, 0.6), slow, atol=1e-4, rtol=0)
        torch.testing.assert_close(truncate_frequencies(slow + fast, 0.0), slow + fast, atol=1e-4, rtol=0)


class TestScans:
    def pair(self, which: int, view: str, **config: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        chosen = scan_config({"view": view, "lesion_probability": 0.0, **config})
        head = draw_head(PEOPLE[1.0][which], generator(), (40, 40, 40), 1.0, chosen)
        return *draw_pair(head, generator(1), 1.0, chosen), head.subject.mixture

    def test_seqinv_shows_two_sequences_and_seqaug_one(self) -> None:
        first, second, _ = self.pair(0, "seqinv")
        assert not torch.equal(first, second)
        first, second, _ = self.pair(0, "seqaug")
        assert torch.equal(first, second)

    def test_base_shows_the_real_scan_or_an_mprage(self) -> None:
        first, second, real = self.pair(3, "base")
        assert first is second is real
        first, _, real = self.pair(3, "base", distribution="code")
        assert first is not real
        for which in (0, 3):
            first, _, _ = self.pair(which, "base", distribution="code")
            config = scan_config({"lesion_probability": 0.0})
            head = draw_head(PEOPLE[1.0][which], generator(), (40, 40, 40), 1.0, config)
            classes = tissue_classes(head.subject, TISSUES)
            csf, gm, wm = (first[classes == value].mean() for value in (3, 1, 2))
            assert csf < gm < wm

    def test_nothing_outside_the_brain(self) -> None:
        config = scan_config({"artefacts": True, "thick": 1.0})
        head = draw_head(PEOPLE[1.0][0], generator(), (40, 40, 40), 1.0, config)
        for scan in draw_pair(head, generator(), 1.0, config):
            assert scan[~head.subject.brain].abs().max() == 0
            assert torch.isfinite(scan).all()

    def test_infarcts_lie_in_the_brain(self) -> None:
        config = scan_config({"lesion_probability": 1.0})
        head = draw_head(PEOPLE[1.0][0], generator(2), (40, 40, 40), 1.0, config)
        inside = head.infarct > 0.5
        assert inside.sum() > 20
        assert head.subject.brain[inside].all()

    @pytest.mark.parametrize("which", [0, 3])
    def test_tissue_classes_are_the_head_s_channels(self, which: int) -> None:
        config = scan_config({"lesion_probability": 0.0, "deformation": {"shift_fraction": 0.0}})
        head = draw_head(PEOPLE[1.0][which], generator(), (44, 44, 44), 1.0, config)
        classes = tissue_classes(head.subject, TISSUES)
        truth = torch.tensor([0, 3, 1, 2])[shells(which)[0]]
        assert torch.equal(classes, truth)

    def test_unknown_view_is_refused(self) -> None:
        with pytest.raises(UsageError, match="'both' is not one of base, seqaug, seqinv"):
            scan_config({"view": "both"})


class TestMiniBatches:
    def test_pretraining(self) -> None:
        objective = ContrastiveObjective(PEOPLE, tiny())
        batch = objective.sample(5, 0)
        assert {value.shape for value in batch.values()} == {(2, 1, SIDE, SIDE, SIDE)}
        for value in batch.values():
            torch.testing.assert_close(value.mean((1, 2, 3, 4)), torch.zeros(2), atol=1e-4, rtol=0)
            torch.testing.assert_close(value.std((1, 2, 3, 4)), torch.ones(2), atol=1e-3, rtol=0)
        assert not torch.equal(batch["target1"], batch["target2"])
        again = objective.sample(5, 0)
        assert all(torch.equal(batch[name], again[name]) for name in batch)

    def test_everybody_once_before_anybody_again(self) -> None:
        objective = ContrastiveObjective(PEOPLE, tiny())
        turn = [objective.person(number, 1.0) for number in range(8)]
        assert {id(p) for p in turn[:4]} == {id(p) for p in turn[4:]} == {id(p) for p in PEOPLE[1.0]}

    def test_two_processes_share_what_one_draws(self) -> None:
        small = ContrastiveObjective(PEOPLE, tiny(stages=(Stage(1, (SIDE,) * 3, samples=1),)))
        large = ContrastiveObjective(PEOPLE, tiny())
        together = torch.cat([small.sample(index, 0)["image1"] for index in (6, 7)])
        assert torch.equal(together, large.sample(3, 0)["image1"])

    def test_heads(self) -> None:
        objective = HeadsObjective(PEOPLE, tiny("heads", stages=(Stage(1, (16, 24, 32), samples=4),)))
        batch = objective.sample(0, 0)
        assert {value.shape for value in batch.values()} == {(4, 1, 16, 24, 32)}
        assert set(batch["tissue"].unique().tolist()) <= {0, 1, 2, 3, 4}
        assert batch["noise"].std() == pytest.approx(0.2, rel=0.02)

    def test_a_scan_serves_several_mini_batches(self) -> None:
        recipe = tiny("heads", losses={"field_of_view": [40, 40, 40], "batches_per_scan": 2})
        objective = HeadsObjective(PEOPLE, recipe)
        one, same, other = (objective.scan(index // 2, 1.0)[0] for index in (2, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        first, second = (objective.sample(index, 0) for index in (2, 3))
        assert not torch.equal(first["image"], second["image"])
        again = HeadsObjective(PEOPLE, recipe).sample(3, 0)
        assert all(torch.equal(second[name], again[name]) for name in again)

    def test_crops_show_lesions_and_their_tissue_is_unknown(self) -> None:
        recipe = tiny("heads", generator={"lesion_probability": 1.0})
        recipe = replace(recipe, stages=(Stage(1, (16, 16, 16), samples=8),))
        objective = HeadsObjective({1.0: PEOPLE[1.0][:1]}, recipe)
        batch = objective.sample(1, 0)
        assert (batch["lesion"].amax((1, 2, 3, 4)) > 0).sum() >= 3
        assert torch.equal(batch["lesion"] > 0, batch["tissue"] == 4)


class TestLosses:
    def test_reference_numbers(self, test_data: Path) -> None:
        with np.load(test_data / "fixtures" / "seqinv_pretrain.npz") as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
        for count in (4, 8):
            found = nt_xent(arrays[f"ntx_p{count}"], arrays[f"ntx_q{count}"])
            torch.testing.assert_close(found, arrays[f"ntx_loss{count}"], atol=1e-5, rtol=0)
        views = arrays["z_x"], arrays["z_y"]
        torch.testing.assert_close(nt_xent(*views), arrays["ntxent_T05"], atol=1e-5, rtol=0)
        # The reference divides by 128, its number of features; the fixture has fewer.
        reference = arrays["barlow"] * 128 / views[0].shape[1]
        torch.testing.assert_close(barlow_twins(*views), reference, atol=1e-5, rtol=0)

    def test_nt_xent_is_the_sum_it_is_said_to_be(self) -> None:
        first, second = torch.randn(2, 3, 5, generator=generator()).double()
        views = torch.cat([first, second])
        total = 0.0
        for i in range(6):
            cosines = [float(torch.cosine_similarity(views[i], views[k], dim=0)) for k in range(6)]
            others = sum(np.exp(cosines[k] / 0.1) for k in range(6) if k != i)
            total -= np.log(np.exp(cosines[(i + 3) % 6] / 0.1) / others) / 6
        assert float(nt_xent(first, second, 0.1)) == pytest.approx(total)

    @pytest.mark.parametrize("loss", [nt_xent, barlow_twins])
    def test_agreement_is_best(self, loss: Any) -> None:
        views = torch.randn(8, 16, generator=generator())
        assert loss(views, views) < loss(views, views + views.std()) < loss(views, views.roll(1, 0))


class Step(torch.nn.Module):
    """A network and its loss as one module, for `DistributedDataParallel`."""

    def __init__(self) -> None:
        super().__init__()
        self.recipe = tiny(architecture={**PRETRAINING, "dropout": 0.0})
        self.network = untrained(self.recipe)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return ContrastiveObjective(PEOPLE, self.recipe).loss(self.network, batch, 0)["loss"]


def share_of_two(rank: int, halves: list[dict[str, Tensor]], folder: Path) -> None:
    """Loss and gradients of one of two processes that train together, saved."""
    step = Step()
    # It must outlive the forward pass: its hooks average the gradients.
    wrapped = torch.nn.parallel.DistributedDataParallel(step)
    loss = wrapped(halves[rank])
    loss.backward()
    found = {name: value.grad for name, value in step.named_parameters()}
    torch.save({"loss": loss.detach(), **found}, folder / f"{rank}.pt")


def test_two_processes_give_the_gradients_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    names = ("image1", "image2", "target1", "target2")
    batch = {name: torch.randn(4, 1, SIDE, SIDE, SIDE, generator=generator(8)) for name in names}
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(2), slice(2, 4))]
    run_two(share_of_two, tmp_path, halves, tmp_path)
    whole = Step()
    loss = whole(batch)
    loss.backward()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    # Errors of reconstruction are each process' own; their mean is the whole's.
    torch.testing.assert_close((first.pop("loss") + second.pop("loss")) / 2, loss.detach())
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(first[name], second[name])
        if name.startswith("network.encoder") and name.endswith("bias"):
            continue  # the instance norm takes it away: its gradient is rounding alone
        largest = parameter.grad.abs().max().item()
        torch.testing.assert_close(first[name], parameter.grad, atol=1e-3 * largest, rtol=0, msg=name)


class TestRuns:
    @pytest.mark.parametrize("phase", ["pretrain", "heads"])
    def test_a_run_resumes_to_the_same_weights(self, phase: str, tmp_path: Path) -> None:
        """Dropout included."""
        recipe = tiny(phase)
        start = untrained(recipe).state_dict()
        whole = state(train(recipe, tmp_path / "whole"))
        train(replace(recipe, stages=(replace(recipe.stages[0], iterations=2),)), tmp_path / "parts")
        resumed = state(train(recipe, tmp_path / "parts"))
        for name, value in whole.items():
            torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5, msg=name)
            frozen = phase == "heads" and name.startswith("encoder.")
            assert torch.equal(value, start[name]) == frozen, name

    def test_pretraining_learns_who_is_who_and_what_was_there(self) -> None:
        recipe = tiny(
            architecture={**PRETRAINING, "dropout": 0.0},
            stages=(Stage(1, (SIDE,) * 3, samples=4),),
            generator={"view": "seqaug", "views": SIMPLE},
        )
        before, after = memorised(recipe, ContrastiveObjective(PEOPLE, recipe), 3e-3)
        assert after["contrast"] < before["contrast"] - 0.2
        assert after["reconstruction"] < before["reconstruction"] - 0.01

    def test_projections_start_apart(self) -> None:
        network = untrained(tiny()).eval()
        images = torch.randn(6, 1, SIDE, SIDE, SIDE, generator=generator())
        with torch.no_grad():
            projections = network.projector(network.encoder(images))
        views = torch.nn.functional.normalize(projections, dim=1)
        assert (views @ views.T).mean() < 0.9

    def test_heads_learn(self) -> None:
        recipe = tiny(
            "heads",
            architecture={**HEADS, "dropout": 0.0},
            stages=(Stage(1, (SIDE,) * 3, samples=2),),
            generator={"lesion_probability": 1.0},
        )
        before, after = memorised(recipe, HeadsObjective(PEOPLE, recipe), 1e-2)
        for name in ("tissue", "stroke", "denoising"):
            assert after[name] < 0.8 * before[name], name

    def test_heads_grow_on_the_pretrained_encoder(self, anatomies: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        from bidsrep.models.registry import load_model
        from bidsrep.training.export import export_weights
        from bidsrep.training.run import pretrain

        settings: dict[str, Any] = {"device": "cpu", "progress": False}
        first = tiny(stages=(Stage(1, (SIDE,) * 3, samples=2),), held_out=("sub-3",))
        checkpoint = pretrain(first, [anatomies], tmp_path / "encoder", **settings)
        encoder, _ = export_weights(checkpoint, first, tmp_path / "a", edition="a", training={})
        second = replace(tiny("heads"), stages=(Stage(1, (SIDE,) * 3, samples=2),))
        checkpoint = pretrain(second, [anatomies], tmp_path / "heads", initial=encoder, **settings)
        heads, _ = export_weights(checkpoint, second, tmp_path / "b", edition="b", training={})
        before, after = load_file(encoder), load_file(heads)
        shared = [name for name in after if name.startswith("encoder.")]
        assert len(shared) == 20
        assert all(torch.equal(before[name], after[name]) for name in shared)
        wider = replace(second, architecture={**HEADS, "widths": [4, 4, 6, 8, 32]})
        with pytest.raises(WeightsError, match=r"does not fit.*encoder\.down_4"):
            pretrain(wider, [anatomies], tmp_path / "wider", initial=encoder, **settings)
        model = load_model("seqinv", heads)
        found = model.predict(torch.rand(1, 1, 32, 32, 32, generator=generator()))
        assert list(found) == ["tissue", "lesion", "denoised"]


def train(recipe: Recipe, folder: Path) -> Path:
    """Train on `PEOPLE`; a folder with a checkpoint is continued."""
    from bidsrep.training.module import PretrainModule
    from bidsrep.training.run import fit
    from bidsrep.training.trainer import Runtime, make_trainer

    kind = HeadsObjective if phase_of(recipe) == "heads" else ContrastiveObjective
    module = PretrainModule(untrained(recipe), kind(PEOPLE, recipe), recipe)
    trainer = make_trainer(recipe, folder, Runtime(device="cpu", progress=False, tensorboard=False))
    return fit(module, trainer, folder)


def untrained(recipe: Recipe) -> SeqInvNetwork:
    torch.manual_seed(0)
    return build_network(recipe)


def state(checkpoint: Path) -> dict[str, Tensor]:
    from bidsrep.training.run import network_state

    return network_state(checkpoint)


def memorised(recipe: Recipe, objective: Any, rate: float) -> tuple[dict[str, float], dict[str, float]]:
    """Losses on one mini-batch before and after twelve steps on it."""
    network, batch = untrained(recipe), objective.sample(0, 0)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, rate)
    found = []
    for step in range(13):
        losses = objective.loss(network, batch, step)
        found.append({name: value.item() for name, value in losses.items()})
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    return found[0], found[-1]


class TestRecipes:
    @pytest.mark.parametrize("path", sorted(RECIPES.glob("seqinv*.toml")), ids=lambda path: path.stem)
    def test_bundled_recipes_build_their_network(self, path: Path) -> None:
        recipe = read_recipe(path)
        with torch.device("meta"):
            network = build_network(recipe)
        assert network.frozen == (recipe.losses.get("phase") == "heads")
        scan_config(recipe.generator)
        objective = (HeadsObjective if network.frozen else ContrastiveObjective)(PEOPLE, recipe)
        assert objective.recipe.iterations > 0
        assert {"sub-seg14", "sub-65"} <= set(recipe.held_out)

    def test_held_out_persons_are_left_out(self, anatomies: Path) -> None:
        from bidsrep.training.run import build_objective

        objective = build_objective(tiny(held_out=("sub-1", "sub-9")), [anatomies])
        assert isinstance(objective, ContrastiveObjective)
        assert len(objective.people[1.0]) == 3
        with pytest.raises(InputError, match="no anatomies but those held out"):
            build_objective(tiny(held_out=tuple(f"sub-{n}" for n in (0, 1, 2, 3, 9))), [anatomies])

    def test_structures_with_known_tissues_keep_their_name(self, anatomies: Path) -> None:
        from bidsrep.training.seqinv_scans import load_people

        people = load_people([anatomies], (), [1.0])[1.0]
        assert people[0].structures == ("background", "CSF", "Left-Putamen", "wm")
        assert people[-1].structures == ()

    @pytest.mark.parametrize(
        ("losses", "architecture", "message"),
        [
            ({"phase": "both"}, PRETRAINING, "'both' is not one of pretrain, heads"),
            ({"phase": "heads"}, PRETRAINING, "needs at least one of tissue"),
            ({}, HEADS, "the two widths of the projector"),
        ],
    )
    def test_recipes_that_cannot_work_are_refused(self, losses, architecture, message) -> None:
        with pytest.raises(UsageError, match=message):
            phase_of(tiny(losses=losses, architecture=architecture))

    def test_unknown_contrast_is_refused(self) -> None:
        with pytest.raises(UsageError, match="'cosine' is not one of ntxent, barlow"):
            ContrastiveObjective(PEOPLE, tiny(losses={"contrast": "cosine"}))
