"""Brain-ID's tables that train: what its features are worth to other tasks, with little data, and its ablation.

The paper's CIFL has Brain-ID's own network, trained with CIFL's loss on pairs of contrasts; so has it here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from bidsrep.errors import InputError
from bidsrep.evaluation.results import Published, Result
from bidsrep.models.brainid import BrainID
from bidsrep.models.model import Model
from bidsrep.training.cifl import PairObjective, shapes_config
from bidsrep.training.labelled_objective import LabelledObjective
from bidsrep.training.protocols import brainid
from bidsrep.training.protocols.anatomies import Scale
from bidsrep.training.protocols.cases import Cases, central_box, draw_cases
from bidsrep.training.protocols.comparison import Comparison, Size
from bidsrep.training.protocols.measures import (
    measure_bias,
    measure_segmentation,
    measure_superresolution,
    measure_synthesis,
)
from bidsrep.training.protocols.rows import backbone_of, recipe_for, train, tuned
from bidsrep.training.recipe import Recipe
from bidsrep.training.representation import RepresentationObjective, generator_config

LOGGER = logging.getLogger("bidsrep.training")
SIZES_OF_TASKS: dict[Scale, Size] = {
    "sloppy": Size(steps=2, pretraining=2, shape=(32, 32, 32), field=48, persons=3),
    "compact": Size(steps=80, pretraining=80, shape=(64, 64, 64), field=96),
    "full": Size(pretraining=300_000, shape=(128, 128, 128)),
}
SIZES_OF_FRACTIONS: dict[Scale, Size] = {
    "sloppy": Size(steps=2, shape=(32, 32, 32), field=48, persons=3),
    "compact": Size(steps=80, shape=(64, 64, 64), field=96),
    "full": Size(),
}
SIZES_OF_ABLATION: dict[Scale, Size] = {
    "sloppy": Size(steps=2, shape=(32, 32, 32), field=48, persons=3),
    "compact": Size(steps=60, shape=(48, 64, 48), field=96),
    "full": Size(),
}
TASKS = {task.name: task for task in BrainID.tasks}
CONTRASTS: dict[str, tuple[str, ...]] = {
    "T1w": ("T1w", "T2w", "FLAIR"),
    "seg": ("T1w", "T2w"),
    "superres": ("T1w",),
    "bias": ("T1w",),
}
"""What each task starts from."""
DAMAGED = ("superres", "bias")
"""Tasks that are trained on damage of level medium and severe, as the released configuration does."""
SHARES = (1.0, 10.0, 25.0, 50.0, 100.0)
Measure = Callable[[Cases, Mapping[str, Model], int], Iterator[Result]]
MEASURES: dict[str, Measure] = {
    "T1w": lambda cases, models, _: measure_synthesis(cases, models, "T1w"),
    "seg": lambda cases, models, _: measure_segmentation(cases, models),
    "superres": lambda cases, models, _: measure_superresolution(cases, models),
    "bias": measure_bias,
}
"""From cases, models and a seed."""
FOUR_PERSONS = "4 persons, one image of each"
VARIANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "2 images, mild to severe": (2, ("mild", "severe")),
    "3 images, mild to severe": (3, ("mild", "medium", "severe")),
    "4 images, mild to severe": (4, ("mild", "severe")),
    "5 images, mild to severe": (5, ("mild", "severe")),
    "4 images, all severe": (4, ("severe",)),
    "4 images, all mild": (4, ("mild",)),
    FOUR_PERSONS: (1, ("mild", "severe")),
}
"""Images of one person in a mini-batch, and their levels from the first to the last."""
PUBLISHED_ABLATION: Published = {
    (f"{count} images, mild to severe", "ssim"): value
    for count, value in ((2, 0.826), (3, 0.841), (4, 0.858), (5, 0.860))
}
"""SSIM of features within a subject; with severe images alone the paper's training diverged."""


def downstream(comparison: Comparison) -> Iterator[Result]:
    """Table 2: reconstruction, structures, super-resolution and bias field, from three different starts.

    Baselines: the input or its negative; three classes of intensities; cubic interpolation; N4, a constant.
    """
    seed = comparison.anatomies.seed
    starts = {
        "Brain-ID": backbone_of(comparison.models["brainid"].network),
        "scratch": None,
        "CIFL": contrastive_start(comparison, seed),
    }
    for task, measure in MEASURES.items():
        try:
            examples, cases = (
                draw_cases(comparison, persons, task, CONTRASTS[task])
                for persons in (comparison.train, comparison.test)
            )
        except InputError as error:  # there may be no label maps
            LOGGER.warning("%s", error)
            continue
        models = {name: fine_tuned(comparison, task, examples, start, seed) for name, start in starts.items()}
        for result in measure(cases, models, seed):
            yield replace(result, group=f"{task}: {result.group}")


def data_fraction(comparison: Comparison) -> Iterator[Result]:
    """Figure 7: structures, fine-tuned on ever more persons, from Brain-ID and from scratch."""
    seed = comparison.anatomies.seed
    start = backbone_of(comparison.models["brainid"].network)
    examples, cases = (
        draw_cases(comparison, persons, "seg", ["T1w"]) for persons in (comparison.train, comparison.test)
    )
    for percent in SHARES:
        persons = comparison.share(percent)
        shown = [(contrast, example) for contrast, example in examples if example.subject in persons]
        models = {
            "Brain-ID": fine_tuned(comparison, "seg", shown, start, seed),
            "scratch": fine_tuned(comparison, "seg", shown, None, seed),
        }
        for result in measure_segmentation(cases, models):
            if result.system in models or percent == SHARES[-1]:
                yield replace(result, group=f"{percent:g} % (n = {len(persons)}): {result.group}")


def ablation(comparison: Comparison) -> Iterator[Result]:
    """Table 3: features within a subject (as `brainid-robustness`) of networks that differ in their mini-batches."""
    anatomies = comparison.anatomies
    sources = {1.0: comparison.population.sources(comparison.train)}
    clean = [cropped(brainid.clean_brain(*one), comparison.size.field) for one in anatomies.load()]
    for variant in VARIANTS:
        recipe = varied(comparison, variant)
        objective = RepresentationObjective(sources, recipe, comparison.population.priors)
        model = train(comparison, recipe, objective, comparison.train).model(comparison.device)
        for one in clean:
            known = brainid.features_of(model, one.images["T1w"])
            for number in range(brainid.SAMPLES[anatomies.scale]):
                scan = f"{one.name} sample {number + 1}"
                view = brainid.deformed(one, anatomies.generator(one.name, number), scan)
                features = partial(brainid.features_of, model)
                found = brainid.compare_view(features, known, one, view, sloppy=anatomies.scale != "full")
                for metric, value in found.items():
                    yield Result("Brain-ID", variant, scan, metric, value, seed=anatomies.seed)


def cropped(clean: brainid.Clean, longest: int) -> brainid.Clean:
    """The middle of a brain, no side longer than so many voxels (0: all of it)."""
    box = central_box(clean.brain, longest)
    images = {name: image[box] for name, image in clean.images.items()}
    return brainid.Clean(clean.name, images, clean.brain[box])


def varied(comparison: Comparison, variant: str) -> Recipe:
    """The pre-training of a row of the ablation."""
    count, levels = VARIANTS[variant]
    base = recipe_for(comparison, "brainid-compact-3", "brainid")
    recipe = replace(
        base, name=f"brainid-{variant}".replace(" ", "-"), generator={**base.generator, "levels": levels}
    )
    recipe = comparison.sized(recipe, comparison.size.steps, comparison.anatomies.seed)
    stages = tuple(replace(stage, samples=count) for stage in recipe.stages)
    return replace(recipe, stages=stages, accumulate=4 if variant == FOUR_PERSONS else 1)


def fine_tuned(
    comparison: Comparison, task: str, cases: Cases, start: Mapping[str, Tensor] | None, seed: int
) -> Model:
    """Brain-ID's network with one task's head, trained as a whole."""
    base = recipe_for(comparison, "finetune-compact", "brainid-finetune")
    architecture = comparison.models["brainid"].card["architecture"]
    recipe = tuned(replace(base, name=f"brainid-{task}"), "brainid", architecture, TASKS[task])
    if task in DAMAGED:
        damage = {"levels": ("medium", "severe"), "clean_probability": 0.0}
        recipe = replace(recipe, generator={**recipe.generator, **damage})
    recipe = comparison.sized(recipe, comparison.size.steps, seed)
    persons = {example.subject for _, example in cases}
    objective = LabelledObjective([example for _, example in cases], TASKS[task], recipe)
    return train(comparison, recipe, objective, persons, initial=start).model(comparison.device)


def contrastive_start(comparison: Comparison, seed: int) -> dict[str, Tensor]:
    """Brain-ID's backbone, pre-trained with CIFL's loss for as long as the size says."""
    base = recipe_for(comparison, "cifl-compact", "cifl")
    recipe = comparison.sized(base, comparison.size.pretraining, seed)
    card = comparison.models["brainid"].card["architecture"]
    backbone = {k: v for k, v in card.items() if k not in ("heads", "with_image", "views")}
    recipe = replace(recipe, model="brainid", name="brainid-as-cifl", architecture={**backbone, "heads": {}})
    generator = dict(recipe.generator)
    shapes, share = shapes_config(generator.pop("shapes", {})), float(generator.pop("anatomy_share", 0.0))
    sources = {1.0: comparison.population.sources(comparison.train)}
    objective = PairObjective(sources, generator_config(generator), recipe, shapes, share)
    return train(comparison, recipe, objective, comparison.train).backbone
