"""The demo cohort's design: who has which sessions, how each is scanned, and where head and slices were.

Seeds are derived per person, session and scan, so that a third person does not change the first two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bidsrep.synth.phantom.brain import Template
from bidsrep.synth.phantom.deformation import sample_pose
from bidsrep.synth.phantom.person import Person, make_person
from bidsrep.synth.phantom.scan import ScanPlacement, ScanProtocol, grid_affine
from bidsrep.synth.phantom.shapes import Array
from bidsrep.synth.phantom.tissues import Flair, Mprage

LESIONS_FIRST, LESIONS_LATER = 16, 20
"""Lesions of a first session, and of a second one a year on: four are new and the others have grown."""

GROWTH_LATER = 1.12


@dataclass(frozen=True)
class Visit:
    """One session of one person."""

    person: int
    session: str

    @property
    def first(self) -> bool:
        """Whether this is the person's first session."""
        return self.session == "A"


@dataclass(frozen=True)
class SimulatedScan:
    """A scan and its truth, all on one grid: ``image`` int16; ``truth`` uint8 (mask, lesion, dseg)."""

    protocol: ScanProtocol
    placement: ScanPlacement
    image: Array
    truth: dict[str, Array]


def visits(persons: int) -> tuple[Visit, ...]:
    """Sessions of the cohort: the first person comes twice, the others once.

    >>> [(v.person, v.session) for v in visits(2)]
    [(1, 'A'), (1, 'B'), (2, 'A')]
    """
    return (Visit(1, "A"), Visit(1, "B"), *(Visit(number, "A") for number in range(2, persons + 1)))


def protocols(person: int, sloppy: bool = False) -> tuple[ScanProtocol, ScanProtocol]:
    """T1w and FLAIR protocol of a person; ``sloppy`` has voxels of twice the size.

    Persons with even numbers are scanned in sagittal slices, so the axes of their T1w are not those of the others.
    """
    coarse = 2 if sloppy else 1
    sagittal = person % 2 == 0
    x, y, z = 176 // coarse, 240 // coarse, 240 // coarse
    t1w = ScanProtocol(
        "T1w",
        Mprage(),
        shape=(y, z, x) if sagittal else (x, y, z),
        spacing=(1.0 * coarse,) * 3,
        axes="PSR" if sagittal else "RAS",
        noise=0.03,
    )
    flair = ScanProtocol(
        "FLAIR",
        Flair(),
        shape=(208 // coarse, 256 // coarse, 38 if not sloppy else 27),
        spacing=(0.9 * coarse, 0.9 * coarse, 4.0 if not sloppy else 5.6),
        axes="LAS",
        subslices=4 // coarse,
        noise=0.035,
    )
    return t1w, flair


def draw_person(template: Template, number: int, seed: int) -> Person:
    """Person ``number`` (from 1) of the cohort with this seed."""
    return make_person(template, _rng(seed, number), lesions=LESIONS_LATER)


def lesion_map(person: Person, visit: Visit) -> Array:
    """Lesion fraction on the person's canvas at a visit."""
    if visit.first:
        return person.lesion_map(LESIONS_FIRST)
    return np.maximum(person.lesion_map(LESIONS_FIRST, GROWTH_LATER), person.lesion_map())


def simulate_visit(
    person: Person, visit: Visit, seed: int, sloppy: bool = False
) -> tuple[SimulatedScan, ...]:
    """Scan a person: T1w, then a FLAIR between which the head moved a little."""
    lesion = lesion_map(person, visit)
    rng = _rng(seed, visit.person, ord(visit.session))
    pose = sample_pose(rng, degrees=2.0, millimetres=3.0)
    scans = []
    for number, protocol in enumerate(protocols(visit.person, sloppy)):
        if number:
            pose = sample_pose(rng, degrees=1.0, millimetres=1.5) @ pose
        placement = ScanPlacement(_slices(protocol, rng), pose)
        noise = _rng(seed, visit.person, ord(visit.session), number)
        image = person.scan(protocol, placement, lesion, noise)
        scans.append(
            SimulatedScan(protocol, placement, image, person.truth(protocol.shape, placement, lesion))
        )
    return tuple(scans)


def point_map(fixed: ScanPlacement, moving: ScanPlacement) -> Array:
    """True rigid map, 4x4, of points of one scan's world to another's (mm, RAS+): what registration looks for."""
    return moving.pose @ np.linalg.inv(fixed.pose)


def _slices(protocol: ScanProtocol, rng: np.random.Generator) -> Array:
    """The operator's choice: a FLAIR follows the line between the commissures, a T1w is nearly straight."""
    tilt, height = (6.0, 10.0) if protocol.suffix == "FLAIR" else (0.0, -18.0)
    degrees = rng.normal((tilt, 0.0, 0.0), 1.5)
    centre = rng.normal((0.0, -10.0, height), 1.5)
    return grid_affine(
        protocol.shape,
        protocol.spacing,
        protocol.axes,
        (float(centre[0]), float(centre[1]), float(centre[2])),
        (float(degrees[0]), float(degrees[1]), float(degrees[2])),
    )


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))
