"""SeqInv's tables: tissues, infarcts and noise by heads on frozen encoders, with 1, 10 and 100 % of the persons.

Base, SeqAug and SeqInv differ in what the two views of their pre-training show. Heads are trained on MPRAGE scans
(in the domain) and measured on those and on spin echoes and FLAIRs (out of it), simulated as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bidsrep.evaluation.metrics.images import psnr, ssim
from bidsrep.evaluation.metrics.overlap import hausdorff_95
from bidsrep.evaluation.results import Result
from bidsrep.imaging.equalise import Preparation
from bidsrep.imaging.quality import dice
from bidsrep.models.model import Model
from bidsrep.models.seqinv_network import SeqInvNetwork
from bidsrep.tasks.denoising import NOISE_STD
from bidsrep.tasks.tissue import LABELS
from bidsrep.training.protocols.anatomies import Scale
from bidsrep.training.protocols.comparison import Comparison, Size, repeated
from bidsrep.training.protocols.measures import lesion_figures, nothing_left, outstanding
from bidsrep.training.protocols.rows import (
    Measure,
    Row,
    backbone_of,
    recipe_for,
    steps_to_convergence,
    train,
)
from bidsrep.training.recipe import Recipe
from bidsrep.training.seqinv import ContrastiveObjective, HeadsObjective
from bidsrep.training.seqinv_scans import UNKNOWN, VIEWS, draw_head, draw_scan, scan_config, tissue_classes

SIZES: dict[Scale, Size] = {
    "sloppy": Size(steps=2, pretraining=2, shape=(32, 32, 32), field=48, persons=4),
    "compact": Size(steps=60, pretraining=60, shape=(48, 48, 48), field=96),
    "full": Size(),
}
SIZES_OF_LESIONS: dict[Scale, Size] = {
    "sloppy": replace(SIZES["sloppy"], seeds=3, checks=2),
    "compact": replace(SIZES["compact"], steps=30, pretraining=30, seeds=3, checks=6),
    "full": Size(seeds=3, checks=100),
}
SHARES = (1.0, 10.0, 100.0)
DOMAIN = "mprage"
SEQUENCES = {DOMAIN: "in domain (MPRAGE)", "fse": "out of domain (FSE)", "flair": "out of domain (FLAIR)"}
SCRATCH = "scratch"
NOTE = (
    "Base, SeqAug and SeqInv are pre-trained here, alike; the weights were trained longer. Out of the domain are "
    "other sequences, not other scanners"
)
TISSUES = {"gm": 2, "wm": 3, "csf": 1}
"""What the head's answer calls them."""
CLASSES = 3


@dataclass(frozen=True)
class MeasuredScan:
    """A simulated scan of a measured person, ``(X, Y, Z)``: as acquired, as networks read it, and its truth."""

    name: str
    sequence: str
    image: Tensor
    prepared: Tensor
    tissue: np.ndarray
    lesion: np.ndarray
    noise: Tensor

    @property
    def brain(self) -> np.ndarray:
        """Where the scan is not black."""
        return self.image.numpy() > 0


Figures = Callable[[MeasuredScan, Mapping[str, Model]], Iterator[tuple[str, str, float, str]]]
"""System, metric, value and unit."""


def tissue(comparison: Comparison) -> Iterator[Result]:
    """Table 1: Dice of tissues. Baseline: ANTs Atropos, whose three classes are named by the truth."""
    yield from _table(comparison, "tissue", 4, 0.0, measure_tissues)


def lesion(comparison: Comparison) -> Iterator[Result]:
    """Table 2: infarcts, also by a network from scratch: Dice, steps to convergence of Dice in the domain.

    Baseline ``intensity``: how bright a voxel is; how dark on an MPRAGE.
    """
    yield from _table(comparison, "stroke", 2, 1.0, measure_infarcts, lesions=True)


def denoise(comparison: Comparison) -> Iterator[Result]:
    """Table 3: PSNR (peak 1 of standardised intensities). Baselines: the noisy image; ANTs' non-local means."""
    yield from _table(comparison, "denoising", 1, 0.0, measure_noise)


def _table(
    comparison: Comparison,
    head: str,
    channels: int,
    lesion_probability: float,
    measure: Figures,
    *,
    lesions: bool = False,
) -> Iterator[Result]:
    base = heads_recipe(comparison, head, channels, lesion_probability)
    scans = measured_scans(comparison, base)
    for seed in comparison.seeds:
        starts = encoders(comparison, seed)
        if lesions:
            starts[SCRATCH] = base.architecture["widths"], None
        for percent in SHARES:
            persons = comparison.share(percent)
            rows = {
                name: with_head(comparison, base, widths, state, persons, seed, scans if lesions else ())
                for name, (widths, state) in starts.items()
            }
            models = {name: answering(row, comparison.device) for name, row in rows.items()}
            found = (
                Result(system, f"{percent:g} %, {SEQUENCES[scan.sequence]}", scan.name, metric, value, unit)
                for scan in scans
                for system, metric, value, unit in measure(scan, models)
            )
            yield from repeated(found, seed, rows, seed == comparison.seeds[0])
            for name, row in rows.items() if lesions else ():
                steps = steps_to_convergence(row.curve)
                yield Result(name, f"{percent:g} %, convergence", "training", "steps", steps, seed=seed)


def encoders(comparison: Comparison, seed: int) -> dict[str, tuple[list[int], dict[str, Tensor] | None]]:
    """Widths and states of the encoders: the three methods, trained here alike, and the given weights'."""
    base = recipe_for(comparison, "seqinv-compact", "seqinv")
    people = {1.0: comparison.population.people(comparison.train)}
    samples = 2 if comparison.anatomies.scale == "sloppy" else base.stages[-1].samples
    found: dict[str, tuple[list[int], dict[str, Tensor] | None]] = {}
    for view in VIEWS:
        recipe = replace(base, name=f"seqinv-{view}", generator={**base.generator, "view": view})
        recipe = comparison.sized(recipe, comparison.size.pretraining, seed, samples)
        objective = ContrastiveObjective(people, recipe)
        row = train(comparison, recipe, objective, comparison.train)
        found[view] = (recipe.architecture["widths"], row.backbone)
    weights = comparison.models["seqinv"]
    found["SeqInv's weights"] = (weights.card["architecture"]["widths"], backbone_of(weights.network))
    return found


def heads_recipe(comparison: Comparison, head: str, channels: int, lesions: float) -> Recipe:
    """One head on MPRAGE scans of fields of view as they are measured."""
    base = recipe_for(comparison, "seqinv-heads-compact", "seqinv-heads")
    side = comparison.size.field
    losses = {**base.losses, **({"field_of_view": [side] * 3} if side else {})}
    generator = {**base.generator, "sequences": [DOMAIN], "lesion_probability": lesions}
    architecture = {**base.architecture, "heads": {head: channels}}
    return replace(base, name=f"seqinv-{head}", architecture=architecture, generator=generator, losses=losses)


def with_head(
    comparison: Comparison,
    base: Recipe,
    widths: list[int],
    state: Mapping[str, Tensor] | None,
    persons: tuple[str, ...],
    seed: int,
    watched: Sequence[MeasuredScan] = (),
) -> Row:
    """A head on a frozen encoder; without a state encoder and head from scratch.

    How well lesions are found in the ``watched`` scans in the domain is noted on the way.
    """
    recipe = replace(base, architecture={**base.architecture, "widths": widths})
    recipe = comparison.sized(recipe, comparison.size.steps, seed, base.stages[-1].samples)
    objective = HeadsObjective({1.0: comparison.population.people(persons)}, recipe)
    adapt = None if state is not None else unfreeze
    figure = lesion_dice(watched, recipe, comparison.device) if watched else None
    return train(comparison, recipe, objective, persons, initial=state, measure=figure, adapt=adapt)


def lesion_dice(scans: Sequence[MeasuredScan], recipe: Recipe, device: str) -> Measure:
    """Mean Dice of a network's lesion maps of the scans in the domain."""
    known = [scan for scan in scans if scan.sequence == DOMAIN]

    def measure(network: nn.Module) -> float:
        # A copy: a model's parameters are not trained any more.
        model = answering(Row(deepcopy(network), recipe), device)
        found = [
            dice((_ask(model, scan.prepared, "lesion") > 0.5) & scan.brain, scan.lesion & scan.brain)
            for scan in known
        ]
        return sum(found) / len(found)

    return measure


def unfreeze(network: nn.Module) -> None:
    """Train the encoder, too."""
    assert isinstance(network, SeqInvNetwork)
    network.frozen = False
    network.encoder.requires_grad_(True)


def answering(row: Row, device: str) -> Model:
    """The network as the app uses it, for images that are prepared already."""
    architecture = {**row.recipe.architecture, "preparation": "none"}
    return replace(row, recipe=replace(row.recipe, architecture=architecture)).model(device)


def measured_scans(comparison: Comparison, recipe: Recipe) -> list[MeasuredScan]:
    """A scan of every measured person in every sequence, of one head each."""
    config = scan_config(recipe.generator)
    x, y, z = recipe.losses.get("field_of_view", (160, 192, 160))
    equalised = recipe.architecture.get("preparation", "equalised") == "equalised"
    found = []
    for name in comparison.test:
        for number, person in enumerate(comparison.population.people([name])):
            generator = comparison.anatomies.generator(name, number)
            head = draw_head(person, generator, (x, y, z), 1.0, config)
            infarct = head.infarct > 0.5
            truth = torch.where(infarct, UNKNOWN, tissue_classes(head.subject, person.source.tissues))
            for sequence in SEQUENCES:
                image = draw_scan(head, generator, 1.0, config, (sequence,))
                found.append(
                    MeasuredScan(
                        f"{name} {number + 1}" if number else name,
                        sequence,
                        image,
                        Preparation.of(image, equalised=equalised).apply(image),
                        np.array([*LABELS, -1])[truth.numpy()],
                        infarct.numpy(),
                        NOISE_STD * torch.randn(image.shape, generator=generator),
                    )
                )
    return found


def measure_tissues(scan: MeasuredScan, models: Mapping[str, Model]) -> Iterator[tuple[str, str, float, str]]:
    """Dice and HD95 of grey matter, white matter and fluid; what lies under an infarct does not count."""
    known = scan.tissue >= 0
    answers = {name: _ask(model, scan.prepared, "tissue") for name, model in models.items()}
    answers["Atropos"] = named_by(atropos(scan.image.numpy(), scan.brain), scan.tissue)
    for system, answer in answers.items():
        for name, label in TISSUES.items():
            pair = (answer == label) & known, scan.tissue == label
            yield system, f"dice_{name}", dice(*pair), ""
            yield system, f"hd95_{name}", hausdorff_95(*pair, (1.0, 1.0, 1.0)), "mm"


def measure_infarcts(
    scan: MeasuredScan, models: Mapping[str, Model]
) -> Iterator[tuple[str, str, float, str]]:
    """The figures of lesion maps."""
    answers = {name: _ask(model, scan.prepared, "lesion") for name, model in models.items()}
    sign = -1 if scan.sequence == DOMAIN else 1
    answers["intensity"] = outstanding(sign * scan.image.numpy(), scan.brain)
    for system, answer in answers.items():
        for metric, value, unit in lesion_figures(answer * scan.brain, scan.lesion & scan.brain, scan.brain):
            yield system, metric, value, unit


def measure_noise(scan: MeasuredScan, models: Mapping[str, Model]) -> Iterator[tuple[str, str, float, str]]:
    """PSNR of the whole field of view, where 1 is the peak of standardised intensities, as in the paper; SSIM."""
    import ants

    truth, noisy = scan.prepared.numpy(), scan.prepared + scan.noise
    answers = {name: _ask(model, noisy, "denoised") for name, model in models.items()}
    answers["noisy"] = noisy.numpy()
    answers["non-local means"] = ants.denoise_image(
        ants.from_numpy(noisy.numpy()), noise_model="Gaussian"
    ).numpy()
    for system, answer in answers.items():
        yield system, "psnr", psnr(answer, truth, peak=1.0), "dB"
        yield system, "ssim", ssim(answer, truth, data_range=float(np.ptp(truth))), ""


def atropos(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Three classes of a brain's intensities (ANTs Atropos, Avants et al., 2011): 1 to 3, 0 outside."""
    import ants

    with nothing_left():
        found: dict[str, Any] = ants.atropos(
            a=ants.from_numpy(image),
            x=ants.from_numpy(brain.astype(np.float32)),
            i=f"kmeans[{CLASSES}]",
            m="[0.1,1x1x1]",
            c="[5,0]",
        )
    classes: np.ndarray = np.rint(found["segmentation"].numpy()).astype(int)
    return classes


def named_by(classes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Classes 1 to 3 as the labels 1 to 3, in the order in which most voxels agree with the truth."""
    orders = [np.array([0, *order]) for order in permutations(range(1, CLASSES + 1))]
    best = max(orders, key=lambda order: int((order[classes] == truth)[classes > 0].sum()))
    return best[classes]


def _ask(model: Model, prepared: Tensor, task: str) -> np.ndarray:
    """One output ``(X, Y, Z)`` of a network for its input."""
    return model.predict(prepared[None, None], [task])[task][0, 0].cpu().numpy()
