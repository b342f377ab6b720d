"""Whom CRL is trained on: prepared anatomies, and co-registered sessions with acquisition parameters."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bidsrep.bids.acquisition import AcquisitionParameters, acquisition_parameters
from bidsrep.bids.scans import IMAGE_EXTENSIONS, Scan, parse_name
from bidsrep.bids.sidecars import scan_name
from bidsrep.bids.verify.dataset import Dataset
from bidsrep.errors import ImageError
from bidsrep.imaging.grids import bounding_box
from bidsrep.imaging.normalise import normalise
from bidsrep.models.crl_network import acquisition_vector
from bidsrep.synth.heads import brain_of
from bidsrep.synth.physics import brain_structures
from bidsrep.training.anatomies import ACQUIRED, Anatomy, LabelTable, find_anatomies, load_anatomies
from bidsrep.training.crl_slices import AcquiredPerson, SimulatedPerson

SUFFIXES = ("T1w", "T2w", "PDw", "FLAIR")
OTHER_GRID = "it does not lie on the grid of {}"
REGISTER = (
    "CRL learns from scans of a session that lie on one grid. Register them, for example with bidsrep itself: "
    "its preprocessed scans do"
)
SPACING_MM = 1.0
OTHER_VOXELS = "its slices have pixels of {:g} x {:g} mm, and CRL learns from 1 mm"
SIDECAR = "Give them (in seconds) in a JSON sidecar that applies to the scan"
NO_BRAIN = "it shares no brain with the other scans of its session"
STRIP = "Give brain-extracted scans: 0 outside the brain"


def has_anatomies(folder: Path) -> bool:
    """Whether ``bidsrep-train prepare`` made a folder."""
    return next(find_anatomies(folder), None) is not None


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

    Synthetic images (by their ``desc``) are passed over. What the sidecars of preprocessed scans lack is looked up at
    the raw scans.

    Raises
    ------
    ImageError
        Naming a scan whose acquisition parameters are not known, that lies on a grid of its own, or whose voxels are
        not of 1 mm within a slice.
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
    if name.entities.get("desc", ACQUIRED[0]) not in ACQUIRED:
        return None  # predicted by a network, or made to order
    return Scan(path, name.entities["sub"], name.entities.get("ses"), name.suffix, name.entities, root)


def _parameters(scan: Scan) -> AcquisitionParameters:
    try:
        return acquisition_parameters(scan.path, scan.suffix, _metadata(scan))
    except ImageError as error:
        raise ImageError(error.path, error.problem, SIDECAR) from error


def _metadata(scan: Scan) -> dict[str, Any]:
    """What is known of a scan, or, of a preprocessed one, of the raw scan it was made from as well."""
    own = scan.metadata()
    name, raw = scan_name(own), Dataset(scan.root).links.get("raw") if scan.root else None
    if not name or raw is None:
        return own
    visit = [f"ses-{scan.session}"] if scan.session is not None else []
    path = raw.joinpath(f"sub-{scan.subject}", *visit, "anat", name)
    parsed = parse_name(name)
    entities = parsed.entities if parsed else {}
    return Scan(path, scan.subject, scan.session, scan.suffix, entities, raw).metadata() | own


def _acquired(session: list[Scan]) -> AcquiredPerson:
    import nibabel as nib

    images = [nib.as_closest_canonical(nib.load(scan.path)) for scan in session]
    for scan, image in zip(session, images, strict=True):
        if image.shape != images[0].shape or not np.allclose(image.affine, images[0].affine, atol=1e-3):
            raise ImageError(scan.path, OTHER_GRID.format(session[0].path.name), REGISTER)
        if not np.allclose(image.header.get_zooms()[:2], SPACING_MM, rtol=0.05):
            raise ImageError(scan.path, OTHER_VOXELS.format(*image.header.get_zooms()[:2]), REGISTER)
    data = [np.nan_to_num(image.get_fdata(dtype=np.float32)) for image in images]
    brain = np.all([volume > 0 for volume in data], axis=0)
    if not brain.any():
        raise ImageError(session[-1].path, NO_BRAIN, STRIP)
    box = bounding_box(brain)
    parameters = [_parameters(scan) for scan in session]
    return AcquiredPerson(
        torch.from_numpy(np.stack([normalise(volume, brain)[box] for volume in data])),
        torch.stack([acquisition_vector(values) for values in parameters]),
    )
