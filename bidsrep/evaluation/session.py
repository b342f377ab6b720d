"""Everything that can be measured in one session, from the files its scans were turned into."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from bidsrep.errors import ImageError
from bidsrep.evaluation.checks import check_rows, synthesis_disagreement
from bidsrep.evaluation.invariance import FeatureLattice, compare_features
from bidsrep.evaluation.rows import Row, from_tsv, to_tsv
from bidsrep.evaluation.synthesis import compare_synthesis
from bidsrep.imaging.checks_pairs import mirror_gain
from bidsrep.imaging.grids import Grid
from bidsrep.imaging.lesions import find_lesions
from bidsrep.imaging.quality import covered_fraction, dice, mutual_information
from bidsrep.imaging.resample import coverage, resample_mask
from bidsrep.imaging.transforms import displacement_mm, read_itk, rotation_deg
from bidsrep.imaging.volume import Volume

__all__ = ["Row", "ScanFiles", "from_tsv", "measure_scans", "measure_session", "to_tsv"]

LOGGER = logging.getLogger("bidsrep")
LESION = "lesion"
MOST_OF_A_BRAIN = 0.6
UNITS = {"mae": "fraction of the 99.5th percentile", "psnr": "dB", "disagreement": "cm3"}


@dataclass(frozen=True)
class ScanFiles:
    """What was made of one scan by the preprocessing and one model.

    Parameters
    ----------
    key, suffix : str
        The scan's name in its session (``acq-tra_FLAIR``), and its contrast.
    conformed, native_mask : Path
        The scan and its brain mask on its own grid.
    preproc, mask : Path
        The same on the reference grid.
    transform : Path, optional
        ITK text transform to the reference; None for the reference itself.
    images : mapping
        Predictions by name, on the reference grid.
    lesions : Path, optional
        Lesion mask on the reference grid.
    lattice : Path, optional
        `FeatureLattice` of the scan.
    given_lesions : Path, optional
        A lesion mask by others, in the scan's own space.
    """

    key: str
    suffix: str
    conformed: Path
    native_mask: Path
    preproc: Path
    mask: Path
    transform: Path | None = None
    images: Mapping[str, Path] = field(default_factory=dict)
    lesions: Path | None = None
    lattice: Path | None = None
    given_lesions: Path | None = None

    @cached_property
    def brain(self) -> np.ndarray:
        """The brain mask on the reference grid: bool (X, Y, Z)."""
        return Volume.load(self.mask).data > 0

    @cached_property
    def image(self) -> Volume:
        """The preprocessed scan."""
        return Volume.load(self.preproc)

    @cached_property
    def matrix(self) -> np.ndarray:
        """RAS+ mm of the reference to RAS+ mm of the scan: (4, 4)."""
        return np.eye(4) if self.transform is None else read_itk(self.transform)

    def field_of_view(self) -> np.ndarray:
        """Where on the reference grid the scan has data: bool (X, Y, Z)."""
        return coverage(Grid.load(self.conformed), Grid.of(self.image), self.matrix)


def measure_scans(scans: Sequence[ScanFiles]) -> list[Row]:
    """Measure the scans of a session themselves, whatever a model makes of them; the first is the reference."""
    reference = scans[0]
    rows: list[Row] = []
    for scan in scans:
        mask = Volume.load(scan.native_mask)
        rows.append(Row(scan.key, "brain_volume", float((mask.data > 0).sum() * mask.voxel_ml), "ml"))
        rows += check_rows(scan.key, scan.suffix, Volume.load(scan.conformed), mask.data > 0)
        if scan is not reference:
            rows += _registration(scan, reference)
    return rows


def measure_session(scans: Sequence[ScanFiles], of_scans: Sequence[Row] | None = None) -> list[Row]:
    """Measure one model's results in one session; the first scan is the reference.

    `of_scans` is what `measure_scans` gave, if that was done before: it is the same for every model.
    """
    of_scans = measure_scans(scans) if of_scans is None else of_scans
    rows: list[Row] = []
    for scan in scans:
        rows += [row for row in of_scans if row.scan == scan.key]
        rows += _lesions(scan)
        rows += _synthesis(scan, scans)
    for one, two in combinations((scan for scan in scans if scan.lattice), 2):
        compared = compare_features(*(FeatureLattice.load(s.lattice) for s in (one, two) if s.lattice))
        rows += [Row(two.key, metric, value, "", one.key) for metric, value in compared.items()]
    return rows


def _registration(scan: ScanFiles, reference: ScanFiles) -> Iterator[Row]:
    """Measure how a scan lies on the reference; agreement counts inside the common field of view."""
    seen = scan.field_of_view()
    common = scan.brain & reference.brain
    yield Row(scan.key, "mask_dice", dice(scan.brain, reference.brain, seen), "", reference.key)
    if common.any():
        shared = mutual_information(scan.image.data, reference.image.data, common)
        yield Row(scan.key, "mutual_information", shared, "nats", reference.key)
        # Of a part of a brain a mirror image, which may be turned and moved, can fit better by chance.
        enough = common.sum() >= MOST_OF_A_BRAIN * reference.brain.sum()
        mirror = mirror_gain(reference.image, scan.image, common) if enough else float("nan")
        yield Row(scan.key, "mirror", mirror, "", reference.key)
    centre = reference.image.affine[:3, :3] @ np.argwhere(reference.brain).mean(axis=0)
    centre += reference.image.affine[:3, 3]
    shift = displacement_mm(scan.matrix, np.eye(4), centre[None])[0]
    yield Row(scan.key, "rotation", rotation_deg(scan.matrix), "degree", reference.key)
    yield Row(scan.key, "translation", float(shift), "mm", reference.key)
    yield Row(scan.key, "coverage", covered_fraction(reference.brain, seen), "", reference.key)


def _lesions(scan: ScanFiles) -> Iterator[Row]:
    if scan.lesions is None:
        return
    mask = Volume.load(scan.lesions)
    found = find_lesions(mask.data, mask.voxel_ml, min_volume_ml=0.0)
    yield Row(scan.key, "lesion_volume", found.total_ml, "ml")
    yield Row(scan.key, "lesion_count", float(found.count))
    if scan.given_lesions is not None:
        yield Row(scan.key, "lesion_dice", _agreement(scan, found.mask, mask), "", scan.given_lesions.name)


def _agreement(scan: ScanFiles, found: np.ndarray, grid: Volume) -> float:
    """Dice of lesions with those that somebody drew; not a number where their file cannot be read."""
    assert scan.given_lesions is not None
    try:
        given = Volume.load(scan.given_lesions)
    except ImageError as error:
        LOGGER.warning("%s", error)
        return float("nan")
    return dice(found, resample_mask(given.data > 0, given, grid, scan.matrix))


def _synthesis(scan: ScanFiles, scans: Sequence[ScanFiles]) -> Iterator[Row]:
    """Compare what was predicted from a scan with every acquired image of the same contrast."""
    for target, path in scan.images.items():
        for other in scans:
            if target == LESION or other.suffix != target:
                continue
            predicted, common = Volume.load(path).data, scan.brain & other.brain
            compared = compare_synthesis(predicted, other.image.data, common)
            compared["disagreement"] = synthesis_disagreement(predicted, other.image, common)
            for metric, value in compared.items():
                yield Row(scan.key, metric, value, UNITS.get(metric, ""), other.key)
            if other is scan:
                yield Row(scan.key, "self_consistency", compared["correlation"], "", other.key)
