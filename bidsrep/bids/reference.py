"""Choose the scan the others of a session are registered to."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bidsrep.bids.scans import Scan

UNREADABLE = (math.inf, math.inf, math.inf)


def choose_reference(scans: Sequence[Scan], prefer: str = "T1w") -> Scan:
    """Choose a session's reference scan.

    A scan of the preferred suffix, or any if there is none or `prefer` is ``finest``; of these one without
    contrast agent, where its contrast is the preferred one, then the one with the finest voxels, then the first by name.
    """
    if not scans:
        msg = "a session without scans has no reference"
        raise ValueError(msg)
    candidates = [scan for scan in scans if scan.suffix == prefer]
    is_preferred = bool(candidates)
    candidates = candidates or list(scans)
    if len(candidates) == 1:
        return candidates[0]  # no header need be read

    def rank(scan: Scan) -> tuple[bool, tuple[float, float], bool, str]:
        enhanced = "ce" in scan.entities
        return is_preferred and enhanced, fineness(header_zooms(scan.path)), enhanced, scan.key

    return min(candidates, key=rank)


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
