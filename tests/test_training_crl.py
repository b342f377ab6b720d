"""CRL's training: losses, contrasts, slices, runs that learn, resume, and share their work."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor
from two_processes import run_two

from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.errors import ImageError, InputError, UsageError
from bidsrep.models.crl_network import acquisition_vector
from bidsrep.synth.physics import FLAIR, FSE, MPRAGE
from bidsrep.training.crl import (
    CRLObjective,
    build_network,
    build_objective,
    reconstruction,
    slice_config,
    structure_loss,
)
from bidsrep.training.crl_contrasts import (
    PUBLISHED,
    TRAINED,
    ContrastConfig,
    draw_sequences,
    parameters_of,
    sequence_of,
)
from bidsrep.training.crl_people import acquired_people, simulated_people
from bidsrep.training.crl_slices import AcquiredPerson, SimulatedPerson, SliceConfig, random_turn
from bidsrep.training.recipe import Optimiser, Recipe, Stage, read_recipe

RECIPES = Path(__file__).parent.parent / "bidsrep" / "data" / "recipes"
ARCHITECTURE = {"f_maps": 8, "num_resblocks": 1, "positive": True, "guard": 0.01, "attention_heads": 2,
                "heads": {"image": 1}}  # fmt: skip
FIELDS = {
    "T1w": {"RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9},
    "T2w": {"RepetitionTime": 5.0, "EchoTime": 0.1},
}
PLAIN = {"noise": [0.0, 0.0], "receive": [0.0, 0.0], "thickness_mm": [1.0, 1.0]}


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shells(radii: tuple[int, int, int], size: int = 40) -> np.ndarray:
    """A brain of nested balls: fluid 24, cortex 3, white matter 2, ventricle 4, within skin 511."""
    axes = np.meshgrid(*[np.arange(size) - size / 2] * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    labels = np.zeros((size,) * 3, np.int16)
    for limit, value in zip((19, *radii, 4), (511, 24, 3, 2, 4), strict=True):
        labels[radius < limit] = value
    return labels


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared persons, ``sub-p1`` and ``sub-p2``, as label maps."""
    root = tmp_path_factory.mktemp("anatomies")
    (root / "dataset_description.json").write_text("{}")
    rows = ["0\tUnknown\tbackground", "2\tLeft-Cerebral-White-Matter\twm", "3\tLeft-Cerebral-Cortex\tgm",
            "4\tLeft-Lateral-Ventricle\tcsf", "24\tCSF\tcsf", "511\tSkin\textracerebral"]  # fmt: skip
    (root / "dseg.tsv").write_text("index\tname\ttissue\n" + "\n".join(rows) + "\n")
    for name, radii in (("sub-p1", (17, 15, 11)), ("sub-p2", (18, 16, 13))):
        (root / name / "anat").mkdir(parents=True)
        nib.Nifti1Image(shells(radii), np.eye(4)).to_filename(root / name / "anat" / f"{name}_dseg.nii.gz")
    return root


def tiny(steps: int = 4, **changes: object) -> Recipe:
    values = {
        "model": "crl",
        "name": "crl-tiny",
        "architecture": ARCHITECTURE,
        "stages": (Stage(steps, (16, 16, 1), 1.0, samples=2),),
        "optimiser": Optimiser(lr=3e-3, warmup=2, clip_norm=1.0),
        "generator": {"contrasts": {"count": 3}},
        "precision": "32-true",
    }
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


class TestLosses:
    def test_structure_loss_is_the_authors(self, test_data: Path) -> None:
        known = np.load(test_data / "fixtures" / "crl_forward.npz")
        contents = torch.stack([torch.tensor(known[name]) for name in ("content", "content2")], dim=1)
        loss = structure_loss(contents)
        assert loss.item() == pytest.approx(float(known["structural_loss"]), abs=1e-5)

    def test_structure_loss_is_the_negative_correlation(self) -> None:
        contents = torch.randn(2, 3, 4, 5, 6, generator=drawn())
        flat = contents.flatten(3).numpy()
        pairs = {(0, 1): [], (1, 2): [], (0, 2): []}
        for (first, second), found in pairs.items():
            for n in range(2):
                found += [np.corrcoef(flat[n, first, c], flat[n, second, c])[0, 1] for c in range(4)]
        every = -np.mean([value for values in pairs.values() for value in values])
        assert structure_loss(contents).item() == pytest.approx(every, abs=1e-5)
        neighbours = -np.mean(pairs[0, 1] + pairs[1, 2])
        assert structure_loss(contents, neighbours=True).item() == pytest.approx(neighbours, abs=1e-5)
        assert structure_loss(contents[:, :1].repeat(1, 3, 1, 1, 1)).item() == pytest.approx(-1, abs=1e-5)

    def test_a_constant_channel_has_no_correlation_and_a_finite_slope(self) -> None:
        contents = torch.randn(1, 2, 3, 4, 4, generator=drawn())
        contents[:, :, 1] = 2.5
        contents.requires_grad_()
        loss = structure_loss(contents)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(contents.grad).all()

    def test_reconstruction_is_the_mean_over_all_ordered_pairs(self) -> None:
        network = build_network(tiny())
        source, target = (torch.rand(2, 3, 8, 8, generator=drawn(seed)) for seed in (1, 2))
        parameters = 10 * torch.rand(2, 3, 3, generator=drawn(3))
        with torch.no_grad():
            error, contents = reconstruction(network, source, target, parameters)
            errors = []
            for i in range(3):
                for j in range(3):
                    image = source[:, i, None]
                    predicted, content = network(image, parameters[:, i], parameters[:, j])
                    torch.testing.assert_close(contents[:, i], content)
                    if i != j:
                        errors.append((predicted - target[:, j, None]).abs().mean())
        assert error.item() == pytest.approx(torch.stack(errors).mean().item(), abs=1e-6)


class TestContrasts:
    def test_the_published_seven_are_shown_in_order(self) -> None:
        found = draw_sequences(drawn(), ContrastConfig(published_only=True))
        assert [parameters_of(sequence) for sequence in found] == [PUBLISHED[n] for n in TRAINED]
        assert {4, 6}.isdisjoint(TRAINED)
        assert ContrastConfig(published_only=True).number == len(found) == 7

    def test_parameters_name_the_sequence(self) -> None:
        assert isinstance(sequence_of(PUBLISHED[7]), FSE)
        assert isinstance(sequence_of(PUBLISHED[9]), FLAIR)
        assert parameters_of(MPRAGE(tr=2.3, ti=0.9, te=0.003)) == AcquisitionParameters(2.3, 0.003, 0.9)

    def test_draws_repeat_vary_and_keep_to_their_ranges(self) -> None:
        config = ContrastConfig(count=40, published_share=0.5)
        found = draw_sequences(drawn(), config)
        assert found == draw_sequences(drawn(), config)
        assert len({parameters_of(sequence) for sequence in found}) == 40
        assert {sequence.name for sequence in found} == {"fse", "flair", "mprage", "spgr"}
        near = draw_sequences(drawn(), ContrastConfig(count=20, published_share=1.0, jitter=0.1))
        for sequence in near:
            vector = acquisition_vector(parameters_of(sequence))
            known = torch.stack([acquisition_vector(PUBLISHED[n]) for n in TRAINED])
            assert (((vector - known).abs() <= 0.1001 * known).all(dim=1)).any()

    def test_spin_echoes_of_any_weighting(self) -> None:
        """Echo times between those of PD and T2, which no protocol of the clinical set has."""
        found = draw_sequences(drawn(), ContrastConfig(count=200, spin_echo_share=1.0))
        between = [s for s in found if isinstance(s, FSE) and 0.035 < s.te < 0.08]
        assert 40 < len(between) < 90  # log(80 / 35) / log(130 / 8) of them: 30 %
        usual = draw_sequences(drawn(), ContrastConfig(count=200))
        assert not any(isinstance(s, FSE) and 0.036 < s.te < 0.08 and s.tr not in (6.777, 8.0) for s in usual)


class TestSimulatedSlices:
    @pytest.fixture(scope="class")
    @staticmethod
    def person(anatomies: Path) -> SimulatedPerson:
        return simulated_people(anatomies)[0]

    def test_the_skin_is_left_out_and_structures_find_their_tissue(self, person: SimulatedPerson) -> None:
        assert person.volume.shape == (1, 33, 33, 32)  # fluid below the lowest cortex is the spinal canal's
        assert person.volume.max() < 5
        assert person.tissues[1:3] == ("Left-Cerebral-White-Matter", "Left-Cerebral-Cortex")

    def test_contrasts_share_the_anatomy_and_differ(self, person: SimulatedPerson) -> None:
        config = slice_config({**PLAIN, "contrasts": {"published_only": True}})
        slices = person.slices(drawn(), (24, 24), config)
        assert slices.source.shape == slices.target.shape == (7, 24, 24)
        assert torch.equal(slices.parameters[0], acquisition_vector(PUBLISHED[1]))
        torch.testing.assert_close(slices.source, slices.target)  # no noise, no receive field
        inside = (slices.target > 0).float()
        assert (inside.mean(dim=(1, 2)) - inside[3].mean()).abs().max() < 0.05
        correlation = torch.corrcoef(slices.target[:, inside.all(0)])
        assert correlation.min() < -0.3  # T1-FLAIR against T2

    def test_tissues_have_the_order_of_their_contrast(self, person: SimulatedPerson) -> None:
        still = {"rotation_degrees": 0.0, "shear": 0.0, "scaling": 0.0, "shift_fraction": 0.0}
        config = slice_config({**PLAIN, "contrasts": {"published_only": True}, "deformation": still})
        slices = person.slices(drawn(), (31, 31), config)

        def ring(number: int, low: float, high: float) -> float:
            axes = torch.meshgrid(*[torch.arange(31) - 15.0] * 2, indexing="ij")
            radius = torch.hypot(*axes)
            image = slices.target[TRAINED.index(number)]
            return image[(radius > low) & (radius < high)].mean().item()

        csf, white, grey = (0.0, 2.5), (6.0, 9.0), (12.5, 13.5)
        assert ring(1, *csf) < ring(1, *grey) < ring(1, *white)
        assert ring(7, *white) < ring(7, *grey) < ring(7, *csf)
        assert ring(9, *csf) < ring(9, *grey)

    def test_the_brightest_tissue_of_the_whole_brain_is_one(self, person: SimulatedPerson) -> None:
        config = slice_config({"contrasts": {"published_only": True}})
        slices = [person.slices(drawn(seed), (32, 32), config).target for seed in range(3)]
        top = torch.stack(slices).amax(dim=(0, 2, 3))
        assert ((top > 0.8) & (top < 1.4)).all()

    def test_noise_is_in_the_source_alone(self, person: SimulatedPerson) -> None:
        config = slice_config({**PLAIN, "noise": [0.1, 0.1], "contrasts": {"count": 2}})
        slices = person.slices(drawn(), (24, 24), config)
        clean = person.slices(drawn(), (24, 24), slice_config({**PLAIN, "contrasts": {"count": 2}}))
        assert (slices.source - slices.target).std() > 0.02
        torch.testing.assert_close(slices.target[0], clean.target[0])
        assert (slices.source[slices.target == 0] == 0).float().mean() > 0.9

    def test_a_t1w_serves_too(self) -> None:
        labels = shells((17, 15, 11))
        t1w = np.select([labels == value for value in (24, 4, 3, 2)], (0.25, 0.25, 0.64, 1.0), 0)
        person = SimulatedPerson(torch.tensor(t1w[None], dtype=torch.float32))
        config = slice_config({**PLAIN, "contrasts": {"published_only": True}})
        t1_flair, *_, t2, _, _ = person.slices(drawn(), (24, 24), config).target
        inside = (t1_flair > 0) & (t2 > 0)
        assert torch.corrcoef(torch.stack([t1_flair[inside], t2[inside]]))[0, 1] < -0.3

    def test_turning_keeps_source_and_target_together(self, person: SimulatedPerson) -> None:
        slices = person.slices(drawn(), (16, 16), slice_config(PLAIN))
        turned = {tuple(random_turn(slices, drawn(seed)).source.flatten().tolist()) for seed in range(40)}
        assert len(turned) == 8
        again = random_turn(slices, drawn(3))
        torch.testing.assert_close(again.source, again.target)


class TestAcquiredSlices:
    def dataset(self, root: Path, **shift: float) -> Path:
        labels = np.where(shells((17, 15, 11)) == 511, 0, shells((17, 15, 11)))
        for suffix, values in (("T1w", (10, 40, 90, 10)), ("T2w", (90, 50, 30, 90))):
            data = np.select([labels == v for v in (24, 3, 2, 4)], values, 0).astype(np.float32)
            affine = np.eye(4)
            affine[0, 3] = shift.get(suffix, 0)
            (root / "sub-a" / "anat").mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(data, affine).to_filename(root / "sub-a" / "anat" / f"sub-a_{suffix}.nii.gz")
            (root / f"{suffix}.json").write_text(json.dumps(FIELDS[suffix]))
        return root

    def test_a_session_gives_aligned_slices_with_its_parameters(self, tmp_path: Path) -> None:
        (person,) = acquired_people(self.dataset(tmp_path))
        config = SliceConfig(contrasts=ContrastConfig(count=2))
        slices = person.slices(drawn(), (36, 20), config)
        assert slices.source.shape == (2, 36, 20)
        order = slices.parameters[:, 2].argsort(descending=True)  # the T1w has an inversion time
        t1w, t2w = slices.source[order]
        assert slices.parameters[order[0]].tolist() == pytest.approx([23, 3, 9])
        inside = t1w > 0
        assert torch.equal(inside, t2w > 0)
        assert torch.corrcoef(torch.stack([t1w[inside], t2w[inside]]))[0, 1] < -0.9

    def test_more_contrasts_than_scans_are_repeated(self, tmp_path: Path) -> None:
        (person,) = acquired_people(self.dataset(tmp_path))
        slices = person.slices(drawn(), (16, 16), SliceConfig(contrasts=ContrastConfig(count=5)))
        assert slices.source.shape == (5, 16, 16)
        assert len(slices.parameters.unique(dim=0)) == 2

    def test_a_scan_on_another_grid_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"sub-a_T2w\.nii\.gz: it does not lie on the grid of sub-a_T1w"):
            acquired_people(self.dataset(tmp_path, T2w=3.0))

    def test_a_scan_without_parameters_is_named(self, tmp_path: Path) -> None:
        root = self.dataset(tmp_path)
        (root / "T2w.json").unlink()
        with pytest.raises(ImageError, match=r"sub-a_T2w.*RepetitionTime, EchoTime missing"):
            acquired_people(root)

    def test_predicted_images_are_passed_over_and_raw_scans_give_the_parameters(self, tmp_path: Path) -> None:
        raw, out = self.dataset(tmp_path / "raw"), tmp_path / "out"
        anat = out / "sub-a" / "anat"
        anat.mkdir(parents=True)
        (out / "dataset_description.json").write_text(json.dumps({"DatasetLinks": {"raw": "../raw"}}))
        for suffix in ("T1w", "T2w"):
            for desc in ("preproc", "pepsiFromT2w"):
                stem = anat / f"sub-a_desc-{desc}_{suffix}"
                shutil.copy(raw / "sub-a" / "anat" / f"sub-a_{suffix}.nii.gz", f"{stem}.nii.gz")
                source = {"Sources": [f"bids:raw:sub-a/anat/sub-a_{suffix}.nii.gz"]}
                Path(f"{stem}.json").write_text(json.dumps(source))
        (person,) = acquired_people(out)
        assert len(person.parameters) == 2
        assert torch.equal(person.parameters, acquired_people(raw)[0].parameters)

    def test_pixels_of_other_sizes_are_refused(self, tmp_path: Path) -> None:
        root = self.dataset(tmp_path)
        for path in (root / "sub-a" / "anat").glob("*.nii.gz"):
            image = nib.load(path)
            nib.Nifti1Image(image.get_fdata(dtype=np.float32), np.diag([2, 2, 1, 1])).to_filename(path)
        with pytest.raises(ImageError, match="pixels of 2 x 2 mm"):
            acquired_people(root)

    def test_held_out_persons_and_single_scans_are_left_out(self, tmp_path: Path) -> None:
        root = self.dataset(tmp_path)
        assert acquired_people(root, ("sub-a",)) == []
        (root / "sub-a" / "anat" / "sub-a_T2w.nii.gz").unlink()
        assert acquired_people(root) == []
        with pytest.raises(InputError, match="neither anatomies"):
            build_objective(tiny(), [root])

    def test_both_kinds_are_drawn_in_their_shares(self, tmp_path: Path, anatomies: Path) -> None:
        objective = build_objective(tiny(), [anatomies, self.dataset(tmp_path)])
        assert [type(kind[0]) for kind in objective.kinds] == [SimulatedPerson, AcquiredPerson]
        assert objective.sample(0, 0)["source"].shape == (2, 3, 16, 16)


class TestObjective:
    def test_mini_batches_repeat(self, anatomies: Path) -> None:
        objective = build_objective(tiny(), [anatomies])
        first, again, other = (objective.sample(index, 0) for index in (0, 0, 1))
        assert first["source"].shape == (2, 3, 16, 16)
        assert first["parameters"].shape == (2, 3, 3)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["source"], other["source"])

    def test_held_out_persons_are_not_drawn(self, anatomies: Path) -> None:
        objective = build_objective(tiny(held_out=("sub-p1",)), [anatomies])
        assert len(objective.kinds[0]) == 1
        with pytest.raises(InputError):
            build_objective(tiny(held_out=("sub-p1", "sub-p2")), [anatomies])

    def test_an_unknown_variant_is_refused(self) -> None:
        with pytest.raises(UsageError, match="draft"):
            CRLObjective([], tiny(losses={"variant": "draft"}))

    def test_total_is_the_weighted_sum(self, anatomies: Path) -> None:
        recipe = tiny(losses={"structure": 0.3, "variant": "code"})
        objective = build_objective(recipe, [anatomies])
        losses = objective.loss(build_network(recipe), objective.sample(0, 0), 0)
        total = losses["image"] + 0.3 * losses["structure"]
        torch.testing.assert_close(losses["loss"], total)

    @pytest.mark.parametrize("fusion", ["ratio", "attention"])
    def test_training_lowers_the_loss_on_a_person_not_seen(self, anatomies: Path, fusion: str) -> None:
        published = {"contrasts": {"count": 3, "published_share": 1.0}}
        recipe = tiny(architecture={**ARCHITECTURE, "fusion": fusion}, generator=published)
        seen = build_objective(replace(recipe, held_out=("sub-p2",)), [anatomies])
        unseen = build_objective(replace(recipe, held_out=("sub-p1",), seed=7), [anatomies])
        torch.manual_seed(0)
        network = build_network(recipe)
        batches = [unseen.sample(index, 0) for index in range(12)]
        examples = [seen.sample(index, 0) for index in range(32)]

        def losses() -> Tensor:
            with torch.no_grad():
                found = [unseen.loss(network, batch, 0) for batch in batches]
            return torch.stack([torch.stack([loss["image"], loss["structure"]]) for loss in found]).mean(0)

        before = losses()
        optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-2)
        for index in range(100):
            optimiser.zero_grad()
            seen.loss(network, examples[index % 32], 0)["loss"].backward()
            optimiser.step()
        after = losses()
        assert after[0] < 0.75 * before[0]  # 0.59 to 0.66 with other seeds
        assert after[1] < before[1]


FUSIONS = ("ratio", "attention")


class Step(torch.nn.Module):
    """A network and its loss as one module, for `DistributedDataParallel`."""

    def __init__(self, fusion: str, anatomies: Path) -> None:
        super().__init__()
        self.recipe = tiny(architecture={**ARCHITECTURE, "fusion": fusion})
        self.objective = build_objective(self.recipe, [anatomies])
        torch.manual_seed(0)
        self.network = build_network(self.recipe)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.objective.loss(self.network, batch, 0)["loss"]

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}


def share_of_two(rank: int, anatomies: Path, folder: Path) -> None:
    """What one of two processes does: a mini-batch of its own, gradients averaged by PyTorch."""
    for fusion in FUSIONS:
        step = Step(fusion, anatomies)
        step.objective.recipe = replace(step.recipe, stages=(Stage(4, (16, 16, 1), 1.0, samples=1),))
        wrapped = torch.nn.parallel.DistributedDataParallel(step)
        wrapped(step.objective.sample(3 * 2 + rank, 0)).backward()
        torch.save(step.gradients(), folder / f"{fusion}-{rank}.pt")


def test_two_processes_give_the_gradients_of_one_with_twice_the_batch(
    anatomies: Path, tmp_path: Path
) -> None:
    run_two(share_of_two, tmp_path, anatomies, tmp_path)
    for fusion in FUSIONS:
        step = Step(fusion, anatomies)
        step(step.objective.sample(3, 0)).backward()
        whole = step.gradients()
        for rank in (0, 1):
            shared = torch.load(tmp_path / f"{fusion}-{rank}.pt", weights_only=True)
            assert shared.keys() == whole.keys()
            for name, value in whole.items():
                torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_a_run_resumes_to_the_same_weights(anatomies: Path, tmp_path: Path) -> None:
    from bidsrep.training.run import network_state, pretrain

    recipe = tiny()
    whole = network_state(pretrain(recipe, [anatomies], tmp_path / "whole", device="cpu", progress=False))
    part = replace(recipe, stages=(replace(recipe.stages[0], iterations=2),))
    pretrain(part, [anatomies], tmp_path / "parts", device="cpu", progress=False)
    again = network_state(pretrain(recipe, [anatomies], tmp_path / "parts", device="cpu", progress=False))
    untrained = build_network(recipe).state_dict()
    assert any(not torch.equal(whole[name], untrained[name]) for name in whole)
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["crl", "crl-compact"])
def test_bundled_recipes_are_complete(name: str) -> None:
    recipe = read_recipe(RECIPES / f"{name}.toml")
    assert recipe.model == "crl"
    assert recipe.held_out == ("sub-seg14", "sub-65")
    CRLObjective([], recipe)
    with torch.device("meta"):
        network = build_network(recipe)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 39214337 if name == "crl" else count < 150_000
