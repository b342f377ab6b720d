"""Simulated scans of prepared anatomies, for SeqInv: whom, in which sequences, with which lesions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bidsrep.errors import InputError, UsageError
from bidsrep.synth.corruption import CorruptionParameters, add_noise_at_resolution, sample_resolution
from bidsrep.synth.deformation import DeformationConfig
from bidsrep.synth.generator import GeneratorConfig, Source, Subject, deform_subject
from bidsrep.synth.pathology import procedural_lesions
from bidsrep.synth.physics import (
    Distribution,
    ScanRanges,
    TissueMaps,
    add_lesion,
    brain_structures,
    mixture_maps,
    paint_maps,
    random_scan,
    tissue_table,
)
from bidsrep.synth.random import coin, integer, uniform_scalar
from bidsrep.synth.views import Shape, ViewConfig
from bidsrep.training.anatomies import Anatomy, LabelTable, load_anatomies
from bidsrep.training.representation import make_source

View = Literal["base", "seqaug", "seqinv"]
VIEWS = ("base", "seqaug", "seqinv")
INFARCTS = ("acute_stroke", "subacute_stroke", "chronic_infarct")
MAGNIFICATION = (1.0, 2.5)
"""Infarcts are larger than the largest of `procedural_lesions` (6 to 15 mm in radius)."""
NO_FIELDS = ScanRanges(transmit=(0.0, 0.0), receive=(0.0, 0.0), noise=(0.0, 0.0))
BAD_VIEW = "[generator] view: {!r} is not one of " + ", ".join(VIEWS)
NOBODY = "{}: no anatomies but those held out. Make some with `bidsrep-train prepare`"


@dataclass(frozen=True)
class ScanConfig:
    """What the simulated scans are like: the ``[generator]`` of a recipe.

    Parameters
    ----------
    view
        ``seqinv``: every view has its own sequence; ``seqaug``: both show one; ``base``: both show one MPRAGE.
    distribution
        Of the sequences' parameters: what the paper states, what its code draws, or what scanners are set
        to. Base's MPRAGE is the real T1w where there is one, as the paper says; ``code`` simulates it.
    artefacts
        Whether scans have transmit and receive fields and noise. Published ones have none of their own.
    thick
        Share of scans with the thick slices of a 2D protocol; published: 0.
    lesion_probability
        Share of heads with an infarct; 29 of the 51 persons of the paper had one.
    rim_mm
        How much fluid an imperfect brain mask may leave around a real brain.
    deformation
        Of the anatomy, before any scan; published: none, only a shift.
    views
        Of each view on its own.
    sequences
        Only these are simulated; all of the distribution where it is empty.
    """

    view: View = "seqinv"
    distribution: Distribution = "clinical"
    artefacts: bool = False
    thick: float = 0.0
    lesion_probability: float = 0.5
    rim_mm: float = 0.0
    deformation: DeformationConfig = field(
        default_factory=lambda: DeformationConfig(
            rotation_degrees=0.0, shear=0.0, scaling=0.0, nonlinear_std_mm=0.0, flip_probability=0.0
        )
    )
    views: ViewConfig = field(default_factory=ViewConfig)
    sequences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UsageError(BAD_VIEW.format(self.view))


@dataclass(frozen=True)
class Person:
    """An anatomy, what each of its labels consists of, and whose it is: those of one name are one person's sessions."""

    source: Source
    structures: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Head:
    """A drawn anatomy on a grid: its tissues' maps, and the share of an infarct in each voxel ``(X, Y, Z)``."""

    subject: Subject
    maps: TissueMaps
    infarct: Tensor


def load_people(
    folders: Sequence[Path], held_out: Collection[str], spacings: Collection[float]
) -> dict[float, list[Person]]:
    """Everybody of prepared datasets but the held-out, by the spacing (mm) to draw at; lesion masks are passed over.

    Raises
    ------
    InputError
        If nobody is left.
    """
    people: dict[float, list[Person]] = {spacing: [] for spacing in spacings}
    for folder in folders:
        if next(folder.glob("**/*_label-lesion_mask.nii.gz"), None):
            continue
        anatomies, table = load_anatomies(folder)
        kept = [anatomy for anatomy in anatomies if anatomy.name not in held_out]
        for spacing, found in people.items():
            people_of = (make_person(anatomy, table, spacing) for anatomy in kept)
            # Two datasets may call two persons alike.
            found += [replace(person, name=f"{folder}/{person.name}") for person in people_of]
    if not all(people.values()):
        raise InputError(NOBODY.format(", ".join(map(str, folders))))
    return people


def make_person(anatomy: Anatomy, table: LabelTable | None, spacing: float) -> Person:
    """A prepared anatomy, to draw scans of at a voxel size (mm)."""
    structures = brain_structures(table.tissues, table.names) if table and anatomy.labels is not None else ()
    return Person(make_source(anatomy, table, spacing), structures, anatomy.name)


def scan_config(values: Mapping[str, Any]) -> ScanConfig:
    """`ScanConfig` from the ``[generator]`` of a recipe, with the tables ``deformation`` and ``views``."""
    values = dict(values)
    views: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.pop("views", {}).items()
    }
    base, own = ScanConfig(), ViewConfig()
    values["sequences"] = tuple(values.get("sequences", ()))
    if "deformation" in views:
        views["deformation"] = replace(own.deformation, **views["deformation"])
    deformation = replace(base.deformation, **values.pop("deformation", {}))
    return ScanConfig(deformation=deformation, views=replace(own, **views), **values)


def draw_head(
    person: Person, generator: torch.Generator, shape: Shape, spacing: float, config: ScanConfig
) -> Head:
    """Draw a person's anatomy on a grid of ``shape`` voxels of ``spacing`` mm, its tissues, and an infarct."""
    anatomy = GeneratorConfig(deformation=config.deformation, lesion_probability=0.0, rim_mm=config.rim_mm)
    subject = deform_subject(person.source, generator, shape, spacing, anatomy, [])
    table = tissue_table()
    if subject.labels is not None:
        maps = paint_maps(subject.labels, person.structures, table, generator)
    else:
        assert subject.mixture is not None
        maps = mixture_maps(subject.mixture, subject.tissue_means, table, generator)
    if not coin(generator, config.lesion_probability):
        return Head(subject, maps, torch.zeros(shape))
    tissue = tissue_classes(subject, person.source.tissues)
    magnification = uniform_scalar(generator, *MAGNIFICATION)
    parenchyma = (tissue == GM) | (tissue == WM)
    infarct = procedural_lesions(parenchyma, spacing / magnification, generator, maximum=1, large=1.0)
    infarct = infarct * subject.brain
    kind = INFARCTS[integer(generator, 0, len(INFARCTS))]
    return Head(subject, add_lesion(maps, infarct, table, generator, kind), infarct)


BACKGROUND, GM, WM, CSF, UNKNOWN = 0, 1, 2, 3, 4
"""Channels of the tissue head, and what has none of them."""
CLASS_OF = {"background": BACKGROUND, "extracerebral": BACKGROUND, "gm": GM, "wm": WM, "csf": CSF}


def tissue_classes(subject: Subject, tissues: tuple[str, ...]) -> Tensor:
    """Channel of the tissue head ``(X, Y, Z)``: of the labels, or of the nearest tissue mean of a real T1w."""
    if subject.labels is not None:
        classes = torch.tensor([CLASS_OF.get(tissue, UNKNOWN) for tissue in tissues])
        return classes[subject.labels.long()]
    assert subject.mixture is not None
    csf, gm, wm = subject.tissue_means
    between = torch.tensor([(csf + gm) / 2, (gm + wm) / 2])
    classes = torch.tensor([CSF, GM, WM])[torch.bucketize(subject.mixture, between)]
    return torch.where(subject.brain, classes, BACKGROUND)


def draw_scan(
    head: Head,
    generator: torch.Generator,
    spacing: float,
    config: ScanConfig,
    sequences: tuple[str, ...] | None = None,
) -> Tensor:
    """A brain-extracted scan ``(X, Y, Z)`` of a head in a random sequence (or in one of ``sequences``)."""
    ranges = ScanRanges() if config.artefacts else NO_FIELDS
    image, _ = random_scan(
        head.maps, generator, config.distribution, sequences or config.sequences or None, ranges
    )
    image = image * head.subject.brain
    if not coin(generator, config.thick):
        return image
    resolution, thickness = sample_resolution(generator, spacing, clinical=1.0)
    blur = uniform_scalar(generator, 0.85, 1.15)
    coarse = CorruptionParameters(resolution, thickness, blur, 1.0, torch.zeros(2, 2, 2), 0.0, 0)
    return add_noise_at_resolution(image, coarse, spacing) * head.subject.brain


def draw_pair(
    head: Head, generator: torch.Generator, spacing: float, config: ScanConfig
) -> tuple[Tensor, Tensor]:
    """The scans that two views of a head are taken of; one and the same unless the view is ``seqinv``."""
    mixture = head.subject.mixture
    if config.view == "base" and config.distribution != "code" and mixture is not None:
        return mixture, mixture
    sequences = ("mprage",) if config.view == "base" else None
    first = draw_scan(head, generator, spacing, config, sequences)
    return first, draw_scan(head, generator, spacing, config) if config.view == "seqinv" else first
