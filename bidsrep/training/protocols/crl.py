"""Every one of the nine published sequences from every other (CRL, Tables 2 and 3).

Slices of 192 x 192 mm are simulated as in training (`bidsrep.training.crl_slices`), in all nine sequences:
sources have noise and a receive field, truths have neither. The fourth and sixth sequence are those that the
paper never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import torch

from bidsrep.evaluation.metrics.images import psnr, ssim
from bidsrep.evaluation.results import Published, Result
from bidsrep.training.crl_contrasts import PUBLISHED as SEQUENCES
from bidsrep.training.crl_contrasts import TRAINED, ContrastConfig
from bidsrep.training.crl_people import simulated_person
from bidsrep.training.crl_slices import SimulatedPerson, SliceConfig, Slices
from bidsrep.training.protocols.anatomies import Anatomies, Scale

SAMPLES: dict[Scale, int] = {"sloppy": 1, "compact": 8, "full": 25}
"""Slices of a person; the paper has 25."""
SHAPE = (192, 192)
CONFIG = SliceConfig(contrasts=ContrastConfig(published_only=True, published=tuple(SEQUENCES)))
NAMES = {1: "1 T1-FLAIR", 5: "5 PD", 7: "7 T2", 9: "9 T2-FLAIR"}
"""Those that have a name."""
ALL_TRAINED, WITH_OTHERS = "mean of the 42 pairs of trained sequences", "mean of the 30 pairs with 4 or 6"
METRICS = {"psnr": "dB", "ssim": "", "psnr_slice": "dB", "ssim_slice": ""}
"""Inside the brain, and of the whole slice with its black background, as in the paper."""
_TABLE = {
    (5, 9): (29.40, 0.9218),
    (5, 1): (26.21, 0.8805),
    (5, 7): (31.68, 0.9691),
    (7, 5): (30.87, 0.9689),
    (7, 1): (28.97, 0.9262),
    (7, 9): (25.42, 0.8807),
}


def pair_name(source: int, target: int) -> str:
    """What a pair is called in the table.

    >>> pair_name(5, 4)
    '5 PD to 4'
    """
    return f"{NAMES.get(source, source)} to {NAMES.get(target, target)}"


PUBLISHED: Published = {
    (pair_name(*pair), metric): value
    for pair, values in _TABLE.items()
    for metric, value in zip(("psnr_slice", "ssim_slice"), values, strict=True)
}
"""The paper's figures that are known here: acquired scans of ten persons, in five folds."""


def synthesis(anatomies: Anatomies, models: Mapping[str, Any]) -> Iterator[Result]:
    """PSNR (peak 1) and SSIM of every pair, with means over pairs first, then the pairs that the paper prints.

    Baselines: ``input``, the source itself, and ``line``, the straight line from source to truth that fits
    best, for which the truth has to be known.
    """
    found: dict[tuple[int, int], list[Result]] = {pair: [] for pair in (*_TABLE, *permutations(SEQUENCES, 2))}
    for anatomy, table in anatomies.load():
        person = simulated_person(anatomy, table)
        for number in range(SAMPLES[anatomies.scale]):
            slices = draw_slice(person, anatomies.generator(anatomy.name, number))
            scan = f"{anatomy.name} slice {number + 1}"
            for pair, results in measure_slice(slices, models, scan, anatomies.seed):
                found[pair] += results
    yield from _means(found)
    for results in found.values():
        yield from results


def draw_slice(person: SimulatedPerson, generator: torch.Generator) -> Slices:
    """A slice in all nine sequences, in the order of their numbers."""
    return person.slices(generator, SHAPE, CONFIG)


def measure_slice(
    slices: Slices, models: Mapping[str, Any], scan: str, seed: int
) -> Iterator[tuple[tuple[int, int], list[Result]]]:
    """Results of all pairs of one slice; answers are 0 outside the brain, as the app's are."""
    sources, targets = slices.source.numpy(), slices.target.numpy()
    brain = targets.max(axis=0) > 0
    if not brain.any():
        return
    for i, source in enumerate(SEQUENCES):
        others = {str(target): SEQUENCES[target] for target in SEQUENCES if target != source}
        volume = slices.source[i][None, None, :, :, None]
        answers = {
            name: model.predict(volume, source=SEQUENCES[source], targets=others)
            for name, model in models.items()
        }
        for j, target in enumerate(SEQUENCES):
            if target == source:
                continue
            of = {name: found[str(target)][0, 0, :, :, 0].cpu().numpy() for name, found in answers.items()}
            of |= {"input": sources[i], "line": best_line(sources[i], targets[j], brain)}
            group = pair_name(source, target)
            yield (
                (source, target),
                [
                    Result(name, group, scan, metric, value, METRICS[metric], seed)
                    for name, image in of.items()
                    for metric, value in _figures(image * brain, targets[j], brain).items()
                ],
            )


def best_line(image: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The image ``(X, Y)`` scaled and shifted, or negated, to the truth by least squares inside the brain."""
    centred = image[brain].astype(np.float64) - image[brain].mean()
    spread = float(centred @ centred)
    slope = float(centred @ truth[brain]) / spread if spread > 0 else 0.0
    return slope * (image - image[brain].mean()) + truth[brain].mean()


def _figures(image: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    return {
        "psnr": psnr(image, truth, brain, peak=1.0),
        "ssim": ssim(image, truth, brain, data_range=1.0),
        "psnr_slice": psnr(image, truth, peak=1.0),
        "ssim_slice": ssim(image, truth, data_range=1.0),
    }


def _means(found: Mapping[tuple[int, int], list[Result]]) -> Iterator[Result]:
    """Means over pairs, of every slice and system."""
    for title, trained in ((ALL_TRAINED, True), (WITH_OTHERS, False)):
        values: dict[tuple[str, str, str, int | None], list[float]] = {}
        for pair, results in found.items():
            if (set(pair) <= set(TRAINED)) == trained:
                for r in results:
                    values.setdefault((r.system, r.scan, r.metric, r.seed), []).append(r.value)
        for (system, scan, metric, seed), of in values.items():
            yield Result(system, title, scan, metric, float(np.mean(of)), METRICS[metric], seed)
