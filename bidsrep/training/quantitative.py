"""Quantitative maps of a BIDS dataset (PDmap, R1map or T1map, R2starmap or T2starmap, MTsat) as tissue maps.

BIDS asks for 1/s and s and leaves the units of PDmap and MTsat open; published maps are in milliseconds, in
fractions or in thousandths as well. The median inside the brain tells these apart: they differ by 100 or more,
brains do not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bidsrep.errors import ImageError, InputError
from bidsrep.synth.physics import TissueMaps

LOGGER = logging.getLogger(__name__)
NO_MAP = "{}: there is no {} in it. Quantitative maps are read from sub-*_<suffix>.nii.gz in its anat folder."
SEVERAL = "{}: there are several {} ({}). Give the folder of one session, or one that holds one set of maps."
OTHER_GRID = "its grid ({}) is not that of {} ({})"
REMEDY_GRID = "Resample the maps of a subject onto one grid"
NO_VALUES = "has no positive values inside the brain"
UNIT = "its median inside the brain is {:.4g}, which no unit of a {} explains ({})"
REMEDY_UNIT = "Convert it, or leave this subject out"
FIT_FAILURE_PERCENTILE = 99.5

SUFFIXES = {
    "pd": ("PDmap",),
    "r1": ("R1map", "T1map"),
    "r2s": ("R2starmap", "T2starmap"),
    "r2": ("R2map", "T2map"),
    "mt": ("MTsat",),
    "brain": ("desc-brain_mask",),
}
NEEDED = ("pd", "r1", "r2s")


@dataclass(frozen=True)
class Unit:
    """A unit that maps are found in: what multiplies them, and where the median of a brain lies in it."""

    name: str
    factor: float
    low: float
    high: float


# Medians are those of whole brains at 0.5 to 7 T (white and grey matter and some fluid), widened by a third.
UNITS: dict[str, tuple[Unit, ...]] = {
    "R1map": (Unit("1/s", 1, 0.3, 2.5), Unit("1/ks", 1e-3, 300, 2500), Unit("1/ms", 1e3, 3e-4, 2.5e-3)),
    "T1map": (Unit("s", 1, 0.4, 3.5), Unit("ms", 1e-3, 400, 3500)),
    "R2starmap": (Unit("1/s", 1, 5, 90), Unit("1/ms", 1e3, 0.005, 0.09)),
    "T2starmap": (Unit("s", 1, 0.011, 0.2), Unit("ms", 1e-3, 11, 200)),
    "R2map": (Unit("1/s", 1, 4, 60), Unit("1/ms", 1e3, 0.004, 0.06)),
    "T2map": (Unit("s", 1, 0.016, 0.25), Unit("ms", 1e-3, 16, 250)),
    "PDmap": (Unit("p.u.", 1, 35, 130), Unit("fraction", 100, 0.35, 1.3)),
    "MTsat": (Unit("p.u.", 1, 0.2, 5), Unit("fraction", 100, 0.002, 0.05)),
}


@dataclass(frozen=True)
class QuantitativeMap:
    """One map as it is on disk: ``(X, Y, Z)`` float32 in RAS axis order; values that are not finite are 0."""

    path: Path
    data: np.ndarray
    affine: np.ndarray


def load_maps(folder: Path) -> TissueMaps:
    """Read the maps of one subject (or session) folder: tensors ``(X, Y, Z)``, RAS.

    Needed are PDmap, R1map or T1map, and R2starmap or T2starmap; R2map or T2map and MTsat are used where they
    exist. Voxels without a positive R1, and those outside ``*_desc-brain_mask`` where there is one, get PD 0.
    Negative values become 0, and failed fits the 99.5th percentile.

    Raises
    ------
    InputError
        If a map is missing or there are several.
    ImageError
        If a map is on another grid or in no unit that is known for it.
    """
    paths = _find_maps(folder)
    maps = {name: _read(path) for name, path in paths.items()}
    for other in maps.values():
        _check_grid(maps["pd"], other)
    inside = (maps["pd"].data > 0) & (maps["r1"].data > 0)
    if "brain" in maps:
        inside &= maps.pop("brain").data > 0.5
    values = {name: torch.from_numpy(_convert(quantity, inside)) for name, quantity in maps.items()}
    return TissueMaps(
        pd=values["pd"] * torch.from_numpy(inside),
        r1=values["r1"],
        r2=values.get("r2"),
        r2s=values["r2s"],
        mt=values.get("mt"),
    )


def _find_maps(folder: Path) -> dict[str, Path]:
    """The file of every quantity below ``folder``: the first of its suffixes that occurs."""
    paths: dict[str, Path] = {}
    for name, suffixes in SUFFIXES.items():
        for suffix in suffixes:
            found = sorted([*folder.rglob(f"sub-*_{suffix}.nii.gz"), *folder.rglob(f"sub-*_{suffix}.nii")])
            if len(found) > 1:
                raise InputError(SEVERAL.format(folder, suffix, ", ".join(path.name for path in found)))
            if found:
                paths[name] = found[0]
                break
        else:
            if name in NEEDED:
                raise InputError(NO_MAP.format(folder, " or ".join(suffixes)))
    return paths


def _read(path: Path) -> QuantitativeMap:
    import nibabel as nib

    from bidsrep.imaging.volume import Volume

    volume = Volume.load(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    data = np.nan_to_num(np.asarray(image.dataobj), nan=0.0, posinf=0.0, neginf=0.0)
    return QuantitativeMap(path, data.astype(np.float32), image.affine)


def _check_grid(first: QuantitativeMap, other: QuantitativeMap) -> None:
    if first.data.shape != other.data.shape or not np.allclose(first.affine, other.affine, atol=1e-2):
        problem = OTHER_GRID.format(_grid(other), first.path.name, _grid(first))
        raise ImageError(other.path, problem, REMEDY_GRID)


def _grid(quantity: QuantitativeMap) -> str:
    """Shape, voxel size and position in words."""
    spacing = np.sqrt((quantity.affine[:3, :3] ** 2).sum(axis=0))
    voxels, size = (
        " x ".join(f"{x:g}" for x in np.round(triple, 3)) for triple in (quantity.data.shape, spacing)
    )
    return f"{voxels} voxels of {size} mm from {np.round(quantity.affine[:3, 3], 2).tolist()}"


def _convert(quantity: QuantitativeMap, inside: np.ndarray) -> np.ndarray:
    """Rates in 1/s, PD and MTsat in p.u.; the unit is the one that explains the median inside the brain."""
    suffix = quantity.path.name.split(".")[0].rpartition("_")[2]
    unit = detect_unit(quantity, inside, suffix)
    if unit.factor != 1:
        LOGGER.info("%s is in %s: multiplied by %g", quantity.path, unit.name, unit.factor)
    data = np.maximum(quantity.data * np.float32(unit.factor), 0)
    if suffix.startswith("T"):
        data = np.divide(1, data, out=np.zeros_like(data), where=data > 0)
    return np.minimum(data, np.percentile(data[inside], FIT_FAILURE_PERCENTILE))


def detect_unit(quantity: QuantitativeMap, inside: np.ndarray, suffix: str) -> Unit:
    """The unit that explains a map's median over the positive values ``inside`` the brain."""
    values = quantity.data[inside & (quantity.data > 0)]
    if not values.size:
        raise ImageError(quantity.path, NO_VALUES, REMEDY_UNIT)
    median = float(np.median(values))
    for unit in UNITS[suffix]:
        if unit.low <= median <= unit.high:
            return unit
    known = ", ".join(f"{u.low:g} to {u.high:g} is {u.name}" for u in UNITS[suffix])
    raise ImageError(quantity.path, UNIT.format(median, suffix, known), REMEDY_UNIT)
