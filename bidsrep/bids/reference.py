"""Choose the scan the others of a session are registered to."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bidsrep.bids.scans import Scan

UNREADABLE = (math.inf, math.inf, math.inf)


def choose_reference(scans: Sequence[Scan], prefer: str = "T1w") -> Scan:
    """Choose a session's reference scan.

    The scan of the preferred suffix; without contrast agent first, then the lowest name. If there is
    none, or `prefer` is ``finest``, the scan with the finest voxels.
    """
    if not scans:
        msg = "a session without scans has no reference"
        raise ValueError(msg)
    preferred = [scan for scan in scans if scan.suffix == prefer]
    if preferred:
        return min(preferred, key=lambda scan: ("ce" in scan.entities, scan.key))
    return min(scans, key=lambda scan: (fineness(header_zooms(scan.path)), "ce" in scan.entities, scan.key))


def fineness(zooms: Sequence[float]) -> tuple[float, float]:
    """Rank voxel sizes (mm): by the largest, then by the volume; smaller is finer.

    Rounded to a micrometre, so that header noise does not decide.
    """
    return round(max(zooms), 3), round(math.prod(zooms), 3)


def header_zooms(path: Path) -> tuple[float, ...]:
    """Read the voxel size (mm) from a header; infinite if it cannot be read."""
    import nibabel as nib

    try:
        header: Any = nib.loadsave.load(path).header
        zooms = header.get_zooms()[:3]
    except Exception:  # noqa: BLE001 - a broken file is no candidate; conforming it says what is wrong
        return UNREADABLE
    sound = len(zooms) == 3 and all(0 < zoom < math.inf for zoom in zooms)
    return tuple(map(float, zooms)) if sound else UNREADABLE
