"""Masks and segmentations that others made of the same scans (``--derivatives NAME=PATH``).

A file is a scan's own if its sidecar's ``Sources`` name the scan, or if its name has no entity that
contradicts the scan's. A file in another space (``space-MNI...``) needs the scan's very grid to count.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_json
from bidsrep.bids.names import sidecar_path
from bidsrep.bids.scans import IMAGE_EXTENSIONS, KEPT, ParsedName, Scan, parse_name

BRAIN = ("brain",)
GRID_TOLERANCE_MM = 1e-3
"""Affines that agree to a micrometre describe one grid; writers round them."""


@dataclass(frozen=True)
class Given:
    """A derivative of one scan: where it is, the name its dataset was given, and what its name says."""

    path: Path
    dataset: str
    name: ParsedName
    same_grid: bool


def find_brain_mask(derivatives: Mapping[str, Path], scan: Scan) -> Given | None:
    """Find a brain mask of a scan in the first dataset that has one.

    A mask on the scan's grid goes before one that must be resampled to it by the headers.
    """
    for given in find_derivatives(derivatives, scan, "mask"):
        entities = given.name.entities
        if entities.get("desc") in BRAIN or (entities.get("label") in BRAIN and "desc" not in entities):
            return given
    return None


def find_derivatives(
    derivatives: Mapping[str, Path], scan: Scan, suffix: str, *, label: str | None = None
) -> list[Given]:
    """List the images of one suffix (``mask``, ``dseg``) that belong to a scan.

    In the order of the datasets; within one, those on the scan's grid first, then by name.
    """
    found: list[Given] = []
    for dataset, root in derivatives.items():
        of_dataset = [
            Given(path, dataset, name, on_scan_grid)
            for path, name in _candidates(root, scan)
            if name.suffix == suffix and (label is None or name.entities.get("label") == label)
            if (on_scan_grid := _belongs(path, name, scan)) is not None
        ]
        found += sorted(of_dataset, key=lambda given: (not given.same_grid, given.path.name))
    return found


def _candidates(root: Path, scan: Scan) -> Iterator[tuple[Path, ParsedName]]:
    """Walk the folders of the scan's subject and session, and of the subject alone."""
    subject = root / f"sub-{scan.subject}"
    folders = [subject / "anat"]
    if scan.session is not None:
        folders.insert(0, subject / f"ses-{scan.session}" / "anat")
    for folder in folders:
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        for file_name in names:
            name = parse_name(file_name)
            if name is not None and name.extension in IMAGE_EXTENSIONS:
                yield folder / file_name, name


def _belongs(path: Path, name: ParsedName, scan: Scan) -> bool | None:
    """Tell whether an image is of this scan: on its grid (True), by its name only (False), or not (None)."""
    named = _sources_name(path, scan)
    if named is False or _contradicts(name, scan):
        return None
    same_grid = on_same_grid(path, scan.path)
    own_space = name.entities.get("space") in (None, "orig", "native", scan.suffix)
    # Without a space entity a mask is the T1w's by custom; of another contrast it must show that it is.
    if same_grid or (own_space and (named or scan.suffix == "T1w" or "space" in name.entities)):
        return same_grid
    return None


def _contradicts(name: ParsedName, scan: Scan) -> bool:
    given = {key: value for key, value in name.entities.items() if key in ("ses", *KEPT)}
    session_free = scan.session is not None and "ses" not in given
    own = scan.name_parts
    foreign = any(own.get(key) != value for key, value in given.items())
    return foreign or (session_free and "space" not in name.entities)


def _sources_name(path: Path, scan: Scan) -> bool | None:
    """Tell whether the sidecar names this scan as a source; None if it names none of the raw images."""
    try:
        content = read_json(sidecar_path(path))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    sources = content.get("Sources") or content.get("RawSources") or []
    sources = [sources] if isinstance(sources, str) else sources
    if not isinstance(sources, list):
        return None
    names = {str(source).rpartition("/")[2] for source in sources}
    raw = {name for name in names if _is_raw_image(name)}
    return scan.path.name in raw if raw else None


def _is_raw_image(file_name: str) -> bool:
    name = parse_name(file_name)
    return (
        name is not None
        and name.extension in IMAGE_EXTENSIONS
        and not {"space", "desc"} & name.entities.keys()
    )


def on_same_grid(first: Path, second: Path) -> bool:
    """Tell whether two images have one grid: the same shape, and affines equal to a micrometre."""
    import nibabel as nib
    import numpy as np

    try:
        images: list[Any] = [nib.loadsave.load(path) for path in (first, second)]
    except Exception:  # noqa: BLE001 - a broken file is on no grid; reading it says what is wrong
        return False
    a, b = images
    return a.shape[:3] == b.shape[:3] and bool(
        np.allclose(a.affine, b.affine, rtol=0, atol=GRID_TOLERANCE_MM)
    )
