"""Whom CRL is trained on: prepared anatomies, and co-registered sessions with acquisition parameters."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from bidsrep.bids.acquisition import acquisition_parameters
from bidsrep.bids.scans import IMAGE_EXTENSIONS, Scan, parse_name
from bidsrep.errors import ImageError
from bidsrep.imaging.grids import bounding_box
from bidsrep.imaging.normalise import normalise
from bidsrep.models.crl_network import acquisition_vector
from bidsrep.synth.heads import brain_of
from bidsrep.synth.physics import brain_structures
from bidsrep.training.anatomies import Anatomy, LabelTable, load_anatomies
from bidsrep.training.crl_slices import AcquiredPerson, SimulatedPerson

SUFFIXES = ("T1w", "T2w", "PDw", "FLAIR")
OTHER_GRID = "it does not lie on the grid of {}"
REGISTER = (
    "CRL learns from scans of a session that lie on one grid. Register them, for example with bidsrep itself: "
    "its preprocessed scans do"
)
NO_BRAIN = "it shares no brain with the other scans of its session"
STRIP = "Give brain-extracted scans: 0 outside the brain"


def has_anatomies(folder: Path) -> bool:
    """Whether ``bidsrep-train prepare`` made a folder."""
    return any(
        next(folder.glob(f"sub-*/anat/sub-*_{ending}.nii.gz"), None) for ending in ("dseg", "desc-brain_T1w")
    )


def simulated_people(folder: Path, held_out: Collection[str] = ()) -> list[SimulatedPerson]:
    """Everybody of a folder of prepared anatomies, to simulate contrasts of."""
    anatomies, table = load_anatomies(folder)
    return [simulated_person(anatomy, table) for anatomy in anatomies if anatomy.name not in held_out]


def simulated_person(anatomy: Anatomy, table: LabelTable | None) -> SimulatedPerson:
    """One prepared anatomy, to simulate contrasts of; ``table`` explains its label map."""
    if anatomy.labels is not None:
        assert table is not None
        brain, labels = table.of_tissue("csf", "gm", "wm", "lesion"), anatomy.labels[0]
        inside = brain_of(labels, brain, table.of_tissue("gm", "wm"))
        inside &= brain[labels.long()]  # that mask is a voxel wider: skull would come with it
        labels = torch.where(inside, labels, 0)[bounding_box(inside.numpy())]
        return SimulatedPerson(labels[None].float(), brain_structures(table.tissues, table.names))
    assert anatomy.t1w is not None
    assert anatomy.tissue_means is not None
    return SimulatedPerson(anatomy.t1w, tissue_means=anatomy.tissue_means)


def acquired_people(folder: Path, held_out: Collection[str] = ()) -> list[AcquiredPerson]:
    """Every session of a BIDS dataset that has two or more scans; brain-extracted, and on one grid.

    Raises
    ------
    ImageError
        Naming a scan whose acquisition parameters are not known, or that lies on a grid of its own.
    """
    scans = [scan for path in sorted(folder.glob("sub-*/**/anat/*")) if (scan := _scan(path, folder))]
    sessions = [list(group) for _, group in groupby(scans, key=lambda scan: scan.path.parent)]
    return [
        _acquired(session)
        for session in sessions
        if len(session) > 1 and f"sub-{session[0].subject}" not in held_out
    ]


def _scan(path: Path, root: Path) -> Scan | None:
    name = parse_name(path.name)
    if name is None or name.suffix not in SUFFIXES or name.extension not in IMAGE_EXTENSIONS:
        return None
    return Scan(path, name.entities["sub"], name.entities.get("ses"), name.suffix, name.entities, root)


def _acquired(session: list[Scan]) -> AcquiredPerson:
    import nibabel as nib

    images = [nib.as_closest_canonical(nib.load(scan.path)) for scan in session]
    for scan, image in zip(session, images, strict=True):
        if image.shape != images[0].shape or not np.allclose(image.affine, images[0].affine, atol=1e-3):
            raise ImageError(scan.path, OTHER_GRID.format(session[0].path.name), REGISTER)
    data = [np.nan_to_num(image.get_fdata(dtype=np.float32)) for image in images]
    brain = np.all([volume > 0 for volume in data], axis=0)
    if not brain.any():
        raise ImageError(session[-1].path, NO_BRAIN, STRIP)
    box = bounding_box(brain)
    parameters = [acquisition_parameters(scan.path, scan.suffix, scan.metadata()) for scan in session]
    return AcquiredPerson(
        torch.from_numpy(np.stack([normalise(volume, brain)[box] for volume in data])),
        torch.stack([acquisition_vector(values) for values in parameters]),
    )
