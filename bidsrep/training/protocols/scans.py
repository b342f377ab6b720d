"""What weights are worth on acquired scans: protocols that need no training, each beside a simple answer.

Scans are prepared as the app prepares them (`bidsrep.training.labelled_scans`), then one protocol asks one
question: how near a synthetic contrast comes to the acquired one, how well lesions are found, how well
structures agree with a segmentation, how much of lost resolution or of a bias field is recovered. Every
protocol measures an answer that needs no network as well; where that is better, the network is not worth it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
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
CELLS = 6
"""Parts that a brain's bounding box is cut into along each axis, to compare persons without registration."""


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

    Features are averaged in `CELLS`^3 parts of the brain's bounding box. Baseline ``intensity``: the same of
    the image itself.
    """
    examples = scans.examples("T1w")
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in (*models, "intensity")}
    for _, example in examples:
        image, brain, _ = arrays(example)
        vectors["intensity"].append(_cells(image[None], brain))
        for name, model in models.items():
            vectors[name].append(_cells(_features(model, image), brain))
    people, contrasts = [e.subject for _, e in examples], [contrast for contrast, _ in examples]
    for system, found in vectors.items():
        table = np.stack(found)
        right = identify(table - table.mean(axis=0), people, contrasts)
        for (contrast, example), own, other in zip(examples, right.own, right.other, strict=True):
            if np.isfinite(own) and np.isfinite(other):
                yield Result(system, contrast, example.name, "identified", float(own < other))


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


def _cells(features: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Means of ``(C, X', Y', Z')`` in the parts of the brain's bounding box: ``(C * CELLS ** 3,)``.

    The grid of the features may be coarser than the brain's ``(X, Y, Z)``, by a whole number.
    """
    stride = max(1, round(brain.shape[0] / features.shape[1]))
    spans = [
        np.linspace(low, high + 1, CELLS + 1) / stride
        for low, high in zip(*(f(np.argwhere(brain), axis=0) for f in (np.min, np.max)), strict=True)
    ]
    found = []
    for x, y, z in np.ndindex(CELLS, CELLS, CELLS):
        box = tuple(
            slice(int(edges[i]), max(int(edges[i]) + 1, int(edges[i + 1])))
            for edges, i in zip(spans, (x, y, z), strict=True)
        )
        found.append(features[:, *box].mean(axis=(1, 2, 3)))
    return np.concatenate(found)
