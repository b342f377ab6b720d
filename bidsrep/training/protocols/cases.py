"""Prepared anatomies as labelled scans: what a comparison fine-tunes on, and what it measures.

A person's brain is shown as a T1w, a T2w or a FLAIR, the T1w and FLAIR being the acquired ones where the
folders have them, and once spoilt by artefacts of level "medium", as scans are. Lesions are the person's own,
or, where nobody drew any, simulated. All is written to files, to look at and to be read by many steps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bidsrep.errors import InputError
from bidsrep.imaging.grids import bounding_box
from bidsrep.imaging.volume import Volume
from bidsrep.models.framed import MARGIN_VOXELS
from bidsrep.synth.corruption import corrupt, sample_corruption
from bidsrep.synth.equations import TOP, TYPICAL_T2W
from bidsrep.synth.generator import T1W_LESION, Source, Subject, normalise
from bidsrep.tasks.tissue import LABELS as TISSUE_LABELS
from bidsrep.training.anatomies import LEAST_LESION
from bidsrep.training.cifl import tissue_channels
from bidsrep.training.labelled_scans import DTYPES, Example
from bidsrep.training.protocols.brainid import STILL, painted, still
from bidsrep.training.protocols.comparison import SPACING_MM, Comparison

CONTRASTS = ("T1w", "T2w", "FLAIR")
CLEAN = ("superres", "bias")
"""Tasks whose measurement does the damage itself."""
NO_CASE = "{}: of {} nobody has what the task {} needs (a segmentation needs label maps)"

Cases = list[tuple[str, Example]]


def draw_cases(
    comparison: Comparison,
    persons: Collection[str],
    task: str,
    contrasts: Sequence[str] = CONTRASTS,
    *,
    lesions: bool = False,
) -> Cases:
    """Contrast and prepared scan of every person, with the label for ``task``; the seed's, whoever else is drawn.

    With ``lesions`` everybody has some.

    Raises
    ------
    InputError
        If nobody has what the task needs.
    """
    seed, longest = comparison.anatomies.seed, comparison.size.field
    kind = f"{task}{'_lesions' * lesions}_seed-{seed}_field-{longest}"
    folder = comparison.out / "prepared" / kind
    folder.mkdir(parents=True, exist_ok=True)
    found: Cases = []
    for person in persons:
        for number, source in enumerate(comparison.population.sources([person])):
            if task == "seg" and source.labels is None:
                continue
            name = f"{person} {number + 1}" if number else person
            generator = comparison.anatomies.generator(person, number)
            subject = undeformed(source, generator, lesions, comparison.population.priors)
            for contrast in contrasts:
                case = draw_case(subject, source, task, contrast, generator, longest)
                example = Example(name, person, folder / f"{person}-{number + 1}_{contrast}")
                for part, volume in case.items():
                    dtype = DTYPES[part] if part != "label" or task == "seg" else np.float32
                    Volume(volume.numpy(), np.eye(4)).save(example.file(part), dtype)
                found.append((contrast, example))
    if not found:
        folders = ", ".join(map(str, comparison.anatomies.folders))
        raise InputError(NO_CASE.format(folders, ", ".join(persons), task))
    return found


def draw_case(
    subject: Subject, source: Source, task: str, contrast: str, generator: torch.Generator, longest: int = 0
) -> dict[str, Tensor]:
    """``image``, ``mask`` and ``label`` ``(X, Y, Z)`` of one scan, cropped to the brain."""
    image = contrast_of(subject, source, contrast)
    if task not in CLEAN:
        parameters = sample_corruption(generator, tuple(image.shape), SPACING_MM, "medium", order=3)
        top = torch.quantile(image[subject.brain][::8], 0.995).clamp(min=1e-6)
        image, _ = corrupt(TOP * image * subject.brain / top, parameters, SPACING_MM)
    lesion = subject.lesion if bool(subject.lesion.any()) else None
    box = central_box(subject.brain, longest, lesion)
    volumes = {
        "image": normalise(image * subject.brain, subject.brain),
        "mask": subject.brain.float(),
        "label": label_of(subject, source, task),
    }
    return {kind: volume[box].contiguous() for kind, volume in volumes.items()}


def undeformed(source: Source, generator: torch.Generator, lesions: bool, priors: list[Tensor]) -> Subject:
    """A person as they are; with ``lesions``, some of the shapes of ``priors`` where they have none of their own."""
    subject = still(source, generator, STILL)
    if lesions and not bool(subject.lesion.any()):
        subject = still(source, generator, replace(STILL, lesion_probability=1.0), priors)
    return subject


def contrast_of(subject: Subject, source: Source, contrast: str) -> Tensor:
    """A subject's clean brain ``(X, Y, Z)`` as a ``T1w``, ``T2w`` or ``FLAIR``, or as an ``inverted T1w``."""
    if contrast == "T2w":
        return painted(subject, source, TYPICAL_T2W)
    if contrast == "FLAIR":
        return subject.flair
    drawn = subject.lesion if source.lesion is None else torch.zeros_like(subject.lesion)
    t1w = subject.t1w if source.t1w is None else (source.t1w[0] + T1W_LESION * drawn).clamp(min=0)
    if contrast == "T1w":
        return t1w
    return (t1w[subject.brain].max() - t1w) * subject.brain


def label_of(subject: Subject, source: Source, task: str) -> Tensor:
    """What a network should say ``(X, Y, Z)``: FreeSurfer's values, tissues, lesions, a T1w or FLAIR.

    Lesions that somebody drew are a mask, as `bidsrep.training.prepare` keeps it; those that are simulated are shares
    of a voxel.
    """
    if task == "seg":
        assert subject.labels is not None
        return torch.tensor(source.values)[subject.labels.long()].float()
    if task == "tissue":
        return torch.tensor(TISSUE_LABELS)[tissue_channels(subject, source.tissues)].float()
    if task == "FLAIR":
        return subject.flair
    if task == "lesion":
        return subject.lesion if source.lesion is None else (subject.lesion > LEAST_LESION / 2).float()
    return subject.t1w


def central_box(brain: Tensor, longest: int, lesion: Tensor | None = None) -> tuple[slice, ...]:
    """The brain with a margin; of sides longer than ``longest`` (0: none) the middle, or what is around a lesion."""
    box = bounding_box(brain.numpy(), MARGIN_VOXELS)
    if not longest:
        return box
    middle = [(side.start + side.stop) // 2 for side in box]
    if lesion is not None:
        middle = (lesion == lesion.max()).nonzero()[0].tolist()
    found = []
    for side, centre in zip(box, middle, strict=True):
        length = min(longest, side.stop - side.start)
        first = min(max(centre - length // 2, side.start), side.stop - length)
        found.append(slice(first, first + length))
    return tuple(found)
