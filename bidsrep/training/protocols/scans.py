"""What weights are worth on acquired scans: protocols that need no training, each beside a simple answer.

Scans are prepared as the app prepares them (`bidsrep.training.labelled_scans`), then one protocol asks one
question: how near a synthetic contrast comes to the acquired one, how well lesions are found, how well
structures agree with a segmentation, how much of lost resolution or of a bias field is recovered. Every
protocol measures an answer that needs no network as well; where that is better, the network is not worth it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bidsrep.bids.scans import Scan
from bidsrep.errors import InputError
from bidsrep.evaluation.metrics.identity import identify
from bidsrep.evaluation.results import Result
from bidsrep.imaging.grids import pad_to_multiple
from bidsrep.models.model import Model
from bidsrep.settings import MODALITIES
from bidsrep.training.labelled import SYNTHESIS, find_labelled
from bidsrep.training.labelled_scans import Example, prepare_examples
from bidsrep.training.protocols.measures import (
    arrays,
    measure_bias,
    measure_lesions,
    measure_segmentation,
    measure_superresolution,
    measure_synthesis,
    with_head,
)

LOGGER = logging.getLogger("bidsrep.training")
CELLS = 12
"""Parts that a brain's bounding box is cut into along each axis, to compare persons without registration."""
NOTHING = 1e-6
"""Length of a row, as a share of the largest value of all, up to which it is rounding."""


@dataclass(frozen=True)
class Scans:
    """Acquired scans and what they are compared with.

    Parameters
    ----------
    bids
        BIDS dataset of the scans.
    folder
        Where prepared scans are kept.
    labels
        Derivatives dataset of the labels; not needed for synthesis.
    label
        ``label`` or ``desc`` entity of the labels, where the usual one is not meant.
    participants
        Only these; all for an empty one.
    device
        Where brains are extracted.
    """

    bids: Path
    folder: Path
    labels: Path | None = None
    label: str = ""
    participants: tuple[str, ...] = ()
    device: str = "cpu"
    modalities: tuple[str, ...] = MODALITIES

    def examples(self, task: str) -> list[tuple[str, Example]]:
        """Contrast and prepared scan of every scan that has a label for ``task``."""
        pairs = find_labelled(
            self.bids,
            self.labels,
            task,
            name=self.label,
            participant_label=self.participants,
            modalities=self.modalities,
            skip_bids_validation=True,
        )
        found = prepare_examples(pairs, self.labels, task, self.folder / task, self.device)
        contrasts = {pair.name: _contrast(pair.scan) for pair in pairs}
        return [(contrasts[example.name], example) for example in found]


def synthesis(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Synthetic T1w and FLAIR against the acquired ones of the session."""
    for target in SYNTHESIS:
        able = with_head(models, target)
        try:
            examples = scans.examples(target) if able else []
        except InputError as error:  # a cohort may have no FLAIR
            LOGGER.warning("%s", error)
            continue
        yield from measure_synthesis(examples, able, target)


def lesion(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Lesion probabilities against lesion masks; without labels the persons count as healthy."""
    healthy = scans.labels is None
    examples = scans.examples("T1w" if healthy else "lesion")
    yield from measure_lesions(examples, with_head(models, "lesion"), healthy=healthy)


def segmentation(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Structures against a segmentation."""
    yield from measure_segmentation(scans.examples("seg"), with_head(models, "seg"))


def superresolution(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Scans of 1 mm back from larger voxels."""
    yield from measure_superresolution(scans.examples("T1w"), with_head(models, "superres"))


def bias(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Fields that scans were multiplied by."""
    yield from measure_bias(scans.examples("T1w"), with_head(models, "bias"))


def identity(scans: Scans, models: Mapping[str, Model]) -> Iterator[Result]:
    """Whether another contrast of a person is nearer than another person in the same contrast.

    Features of the brain are averaged in `CELLS`^3 parts of its bounding box. Baseline ``intensity``: the same of
    the image itself. ``identified_centred`` takes off every contrast's mean over the scans before, as a cohort can.
    """
    examples = scans.examples("T1w")
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in (*models, "intensity")}
    for _, example in examples:
        image, brain, _ = arrays(example)
        vectors["intensity"].append(_cells(image[None], brain, 1))
        for name, model in models.items():
            vectors[name].append(_cells(_features(model, image), brain, model.stride))
    contrasts = [contrast for contrast, _ in examples]
    for system, found in vectors.items():
        table = np.stack(found)
        for metric, groups in (("identified", np.zeros(len(table))), ("identified_centred", contrasts)):
            for number, right in _identified(_centred(table, groups), examples):
                contrast, example = examples[number]
                yield Result(system, contrast, example.name, metric, float(right))


def _centred(table: np.ndarray, groups: Sequence[object] | np.ndarray) -> np.ndarray:
    """Rows ``(N, C)`` less the mean of their group."""
    of = np.unique(np.asarray(groups), return_inverse=True)[1]
    means = np.stack([table[of == group].mean(axis=0) for group in range(of.max() + 1)])
    centred: np.ndarray = table - means[of]
    return centred


def _identified(table: np.ndarray, examples: Sequence[tuple[str, Example]]) -> Iterator[tuple[int, bool]]:
    """Number of every scan that can be asked, and whether its person is nearer; a row of zeros has no distance."""
    kept = np.flatnonzero(np.linalg.norm(table, axis=1) > NOTHING * np.abs(table).max())
    if not len(kept):
        return
    people = [examples[number][1].subject for number in kept]
    found = identify(table[kept], people, [examples[number][0] for number in kept])
    yield from ((int(kept[row]), bool(found.correct[row])) for row in np.flatnonzero(found.scored))


Protocol = Callable[[Scans, Mapping[str, Model]], Iterator[Result]]
PROTOCOLS: dict[str, Protocol] = {
    "scans-synthesis": synthesis,
    "scans-lesion": lesion,
    "scans-segmentation": segmentation,
    "scans-superresolution": superresolution,
    "scans-bias": bias,
    "scans-identity": identity,
}


def _contrast(scan: Scan) -> str:
    return f"ce-{scan.entities['ce']} {scan.suffix}" if "ce" in scan.entities else scan.suffix


def _features(model: Model, image: np.ndarray) -> np.ndarray:
    """Features ``(C, X', Y', Z')`` of an image that was padded, if need be, to a multiple of the divisor."""
    padded, _ = pad_to_multiple(image, model.divisor)
    with torch.inference_mode():
        return model.features(torch.from_numpy(padded)[None, None])[0].float().cpu().numpy()


def _cells(features: np.ndarray, brain: np.ndarray, stride: int) -> np.ndarray:
    """Means of ``(C, X', Y', Z')`` over the brain in the parts of its bounding box: ``(C * CELLS ** 3,)``.

    A part without brain gives zeros. The grid of the features has ``stride`` times the voxels of the brain's
    ``(X, Y, Z)``, which it may exceed: the image may have been padded for them.
    """
    whole = np.zeros([side * stride for side in features.shape[1:]], dtype=np.float32)
    whole[*map(slice, brain.shape)] = brain[*map(slice, whole.shape)]
    x, y, z = features.shape[1:]
    shares = whole.reshape(x, stride, y, stride, z, stride).mean(axis=(1, 3, 5))
    spans = [
        np.linspace(low, high + 1, CELLS + 1) / stride
        for low, high in zip(*(f(np.argwhere(brain), axis=0) for f in (np.min, np.max)), strict=True)
    ]
    found = np.zeros((CELLS**3, len(features)), dtype=np.float32)
    for row, cell in zip(found, np.ndindex(CELLS, CELLS, CELLS), strict=True):
        box = tuple(
            slice(int(edges[i]), max(int(edges[i]) + 1, int(edges[i + 1])))
            for edges, i in zip(spans, cell, strict=True)
        )
        if total := float(shares[box].sum()):
            row[:] = (features[:, *box] * shares[box]).sum(axis=(1, 2, 3)) / total
    return found.ravel()
