"""CIFL's table: what is trained on T1w features, used on other contrasts; registration of one contrast to another.

The paper trains a U-Net and VoxelMorph on features of T1w slices. Here the tissue head is a U-Net of volumes, and
each pair of brains is registered by itself (`bidsrep.tasks.registration`) after an affine alignment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.evaluation.results import Published, Result
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.quality import dice
from bidsrep.imaging.resample import resample, resample_labels
from bidsrep.imaging.template import affine_to_template
from bidsrep.imaging.volume import Volume
from bidsrep.models.cifl import CIFLNetwork
from bidsrep.models.model import Model
from bidsrep.tasks.registration import SLOPPY, RegistrationSettings, register_features, warp_features
from bidsrep.tasks.tissue import LABELS, TISSUE
from bidsrep.training.cifl import PairObjective, TissueObjective, shapes_config
from bidsrep.training.finetune import scaled
from bidsrep.training.protocols.anatomies import Scale
from bidsrep.training.protocols.brainid import features_of
from bidsrep.training.protocols.cases import Cases, draw_cases
from bidsrep.training.protocols.comparison import Comparison, Size
from bidsrep.training.protocols.measures import arrays, nothing_left, predict
from bidsrep.training.protocols.rows import Row, backbone_of, recipe_for, train
from bidsrep.training.recipe import Recipe
from bidsrep.training.representation import generator_config

SIZES: dict[Scale, Size] = {
    "sloppy": Size(steps=2, pretraining=2, shape=(32, 32, 32), field=64, persons=3),
    "compact": Size(steps=120, pretraining=200, shape=(64, 64, 64)),
    "full": Size(steps=20000, pretraining=100000, shape=(112, 128, 112)),
}
TEMPERATURES = (1.0, 0.1, 0.01)
"""Of the negatives, tau_gamma."""
RAW = "raw images"
CONTRASTS = ("T1w", "inverted T1w", "T2w", "FLAIR")
MOVING = ("inverted T1w", "T2w")
TISSUES = {"gm": 2, "wm": 3, "csf": 1}
_ROWS = (RAW, *(f"tau {tau:g}" for tau in TEMPERATURES))
PUBLISHED: Published = {
    (group, "dice", row): value
    for group, values in (
        ("segmentation: inverted T1w", (0.18, 0.84, 0.83, 0.79)),
        ("registration: inverted T1w to T1w", (0.45, 0.69, 0.69, 0.66)),
        ("registration: T2w to T1w", (0.36, 0.59, 0.59, 0.61)),
    )
    for row, value in zip(_ROWS, values, strict=True)
}
"""Dice of coronal slices of OASIS, and of IXI for T2w: background, white, grey, fluid, thalamus."""


@dataclass(frozen=True)
class Pair:
    """Two persons' brains on one grid, 1 mm: images ``(X, Y, Z)``, and the labels of the tissues."""

    group: str
    scan: str
    fixed: np.ndarray
    moving: np.ndarray
    brain: np.ndarray
    fixed_labels: np.ndarray
    moving_labels: np.ndarray


def transfer(comparison: Comparison) -> Iterator[Result]:
    """Table 1: Dice of tissues. Baselines: a head on raw images; affine alignment alone, ANTs SyN."""
    cases = draw_cases(comparison, comparison.test, "tissue", CONTRASTS)
    rows = heads(comparison)
    models = {name: row.model(comparison.device) for name, row in rows.items()}
    yield from measure_tissues(cases, models)
    featured = {name: model for name, model in models.items() if name != RAW}
    for pair in pairs(cases, comparison):
        yield from measure_registration(pair, featured, comparison)


def heads(comparison: Comparison) -> dict[str, Row]:
    """The tissue head, trained on T1w images alone: on features of each kind, and on the images themselves."""
    seed = comparison.anatomies.seed
    base = recipe_for(comparison, "cifl-compact", "cifl")
    weights = comparison.models["cifl"]
    starts = {"CIFL's weights": (weights.card["architecture"], backbone_of(weights.network))}
    for tau in TEMPERATURES:
        starts[f"tau {tau:g}"] = (base.architecture, pretrained(comparison, base, tau, seed))
    found = {
        name: head(comparison, seed, architecture, state) for name, (architecture, state) in starts.items()
    }
    found[RAW] = head(comparison, seed, {**base.architecture, "features": 1}, None)
    return found


def pretrained(comparison: Comparison, base: Recipe, tau: float, seed: int) -> dict[str, Tensor]:
    """Features trained with one temperature of the negatives."""
    recipe = scaled(base, comparison.size.pretraining)
    warmup = min(base.optimiser.warmup, comparison.size.pretraining // 10)
    recipe = replace(recipe, name=f"cifl-tau-{tau:g}", optimiser=replace(base.optimiser, warmup=warmup))
    recipe = comparison.sized(replace(recipe, losses={**base.losses, "tau_gamma": tau}), 0, seed)
    generator = dict(recipe.generator)
    shapes, share = shapes_config(generator.pop("shapes", {})), float(generator.pop("anatomy_share", 0.0))
    sources = {1.0: comparison.population.sources(comparison.train)}
    objective = PairObjective(sources, generator_config(generator), recipe, shapes, share)
    return train(comparison, recipe, objective, comparison.train).backbone


def head(
    comparison: Comparison, seed: int, architecture: Mapping[str, object], state: Mapping[str, Tensor] | None
) -> Row:
    """The tissue head on frozen features, or without a state on the images."""
    base = recipe_for(comparison, "cifl-heads-compact", "cifl-heads-compact")
    own = {"heads": {TISSUE.head: TISSUE.channels}, "head": base.architecture["head"]}
    recipe = replace(base, name="cifl-tissue", architecture={**architecture, **own})
    recipe = comparison.sized(recipe, comparison.size.steps, seed)
    sources = {1.0: comparison.population.sources(comparison.train)}
    objective = TissueObjective(sources, generator_config(recipe.generator), recipe)
    adapt = None if state is not None else without_features
    return train(comparison, recipe, objective, comparison.train, initial=state, adapt=adapt)


def without_features(network: nn.Module) -> None:
    """Let the head read the image."""
    assert isinstance(network, CIFLNetwork)
    network.backbone = nn.Identity()


def measure_tissues(cases: Cases, models: Mapping[str, Model]) -> Iterator[Result]:
    """Dice of grey matter, white matter and fluid, and its mean, in every contrast."""
    for contrast, example in cases:
        image, brain, truth = arrays(example)
        for system, model in models.items():
            found = predict(model, image, brain, "tissue")
            yield from _dice(system, f"segmentation: {contrast}", example.name, found, truth)


def measure_registration(pair: Pair, models: Mapping[str, Model], comparison: Comparison) -> Iterator[Result]:
    """Dice of the moved tissues: by each network's features, by ANTs, and before."""
    sloppy = comparison.anatomies.scale == "sloppy"
    settings = SLOPPY if sloppy else RegistrationSettings()
    answers = {"affine alone": pair.moving_labels, "ANTs SyN": by_ants(pair, sloppy=sloppy)}
    for name, model in models.items():
        answers[name] = by_features(pair, model, settings)
    for system, found in answers.items():
        yield from _dice(system, pair.group, pair.scan, found, pair.fixed_labels)


def by_features(pair: Pair, model: Model, settings: RegistrationSettings) -> np.ndarray:
    """The moving labels ``(X, Y, Z)``, deformed so that features agree."""
    fixed, moving = (features_of(model, torch.from_numpy(image))[None] for image in (pair.fixed, pair.moving))
    mask = torch.from_numpy(pair.brain)[None, None].float()
    found = register_features(moving, fixed, 1.0, mask, settings)
    shares = F.one_hot(torch.from_numpy(pair.moving_labels).long(), len(LABELS)).movedim(-1, 0)[None].float()
    moved = warp_features(shares, found.displacement(pair.fixed.shape)[None], found.extent_mm)
    return moved.argmax(dim=1)[0].numpy()


def by_ants(pair: Pair, *, sloppy: bool = False) -> np.ndarray:
    """The moving labels ``(X, Y, Z)``, deformed by SyN with mutual information (Avants et al., 2008)."""
    import ants

    fixed, moving = ants.from_numpy(pair.fixed), ants.from_numpy(pair.moving)
    labels = ants.from_numpy(pair.moving_labels.astype(np.float32))
    with nothing_left():
        found = ants.registration(
            fixed,
            moving,
            "SyNOnly",
            initial_transform="Identity",
            syn_metric="mattes",
            reg_iterations=(2, 0, 0) if sloppy else (40, 20, 10),
        )
        moved = ants.apply_transforms(fixed, labels, found["fwdtransforms"], interpolator="nearestNeighbor")
    return np.rint(moved.numpy()).astype(int)


def pairs(cases: Cases, comparison: Comparison) -> Iterator[Pair]:
    """The first person's T1w, and every other person's other contrasts, affinely brought to it by their T1w."""
    of = {(example.name, contrast): arrays(example) for contrast, example in cases}
    names = list(dict.fromkeys(example.name for _, example in cases))
    fixed, brain, fixed_labels = of[names[0], "T1w"]
    target = Volume(fixed, np.eye(4))
    grid = Grid(fixed.shape, np.eye(4))
    seed, sloppy = comparison.anatomies.seed, comparison.anatomies.scale == "sloppy"
    for name in names[1:]:
        t1w, own, labels = of[name, "T1w"]
        source = Volume(t1w, np.eye(4))
        matrix = affine_to_template(source, target, brain, own, seed=seed, sloppy=sloppy).matrix
        moved = resample_labels(np.rint(labels).astype(int), source, grid, matrix)
        for contrast in MOVING:
            moving = Volume(of[name, contrast][0], np.eye(4))
            yield Pair(
                f"registration: {contrast} to T1w",
                f"{name} to {names[0]}",
                fixed,
                resample(moving, grid, matrix).data.astype(np.float32),
                brain,
                np.rint(fixed_labels).astype(int),
                moved,
            )


def _dice(system: str, group: str, scan: str, found: np.ndarray, truth: np.ndarray) -> Iterator[Result]:
    values = {name: dice(found == label, truth == label) for name, label in TISSUES.items()}
    yield Result(system, group, scan, "dice", float(np.mean(list(values.values()))))
    for name, value in values.items():
        yield Result(system, group, scan, f"dice_{name}", value)
