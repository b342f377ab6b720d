"""The JSON beside every file: what it is, what it was made from, by which weights.

Nothing here depends on the time, the machine or an absolute path, so two runs write the same bytes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bidsrep.bids.files import write_json
from bidsrep.bids.names import sidecar_path
from bidsrep.bids.outputs import Output
from bidsrep.bids.scans import Scan
from bidsrep.bids.uris import DatasetRoots

RAW = "bids:raw:"
WEIGHTS_STATUS = ("official", "self-trained", "random")
ORDER = (
    "Description",
    "Sources",
    "SpatialReference",
    "Resolution",
    "SkullStripped",
    "Type",
    "Manual",
    "Units",
    "Invertible",
    "Model",
)


def model_entry(name: str, card: Mapping[str, Any]) -> dict[str, str]:
    """Tell which weights made a file, from the weights' card.

    Parameters
    ----------
    name : str
        The model, such as ``pepsi``.
    card : mapping
        The card as loaded from TOML, or its ``[weights]`` table: id, sha256, status, licence.
    """
    weights = card.get("weights", card)
    status = weights["status"]
    if status not in WEIGHTS_STATUS:
        msg = f"card of {name}: status {status!r} is not one of {', '.join(WEIGHTS_STATUS)}"
        raise ValueError(msg)
    return {
        "Name": name,
        "Weights": weights["id"],
        "WeightsSHA256": weights["sha256"],
        "WeightsStatus": status,
        "License": weights.get("licence") or weights.get("license") or "unknown",
    }


def build_sidecar(
    output: Output,
    roots: DatasetRoots,
    sources: Iterable[Path],
    *,
    reference_image: Path | None = None,
    resolution: float = 1.0,
    model: Mapping[str, str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Build the complete sidecar of one output.

    Parameters
    ----------
    output : Output
        What `bidsrep.bids.outputs.output` gave.
    roots : DatasetRoots
        The datasets of the run, to name files by.
    sources : paths
        The direct inputs only: a mask's is the scan, a prediction's is the preprocessed scan.
    reference_image : path, optional
        The preprocessed reference, which defines the reference grid; needed for files on that grid.
    resolution : float
        Voxel size of the reference grid, mm.
    model : mapping, optional
        What `model_entry` gave, for files a network made.
    **extra
        More keys, such as ``Threshold``; they come last.
    """
    content: dict[str, Any] = dict(output.fixed)
    content["Sources"] = sorted({roots.uri(path) for path in sources})
    match output.grid:
        case "own":
            content["Resolution"] = describe_resolution(resolution)
        case "reference":
            if reference_image is None:
                msg = f"{output.path.name} lies on the reference grid: give its reference_image"
                raise ValueError(msg)
            content["SpatialReference"] = roots.uri(reference_image)
            content["Resolution"] = describe_resolution(resolution)
        case "native":
            if not isinstance(output.source, Scan):
                msg = f"{output.path.name} lies on a scan's own grid, but is made from a whole session"
                raise TypeError(msg)
            content["SpatialReference"] = roots.uri(output.source.path)
    if model is not None:
        content["Model"] = dict(model)
    ordered = {key: content.pop(key) for key in ORDER if key in content}
    return ordered | content | {key: value for key, value in extra.items() if value is not None}


def scan_name(sidecar: Mapping[str, Any]) -> str:
    """Name the raw scan that the sidecar of a preprocessed scan or of its mask tells of; empty if it tells of none."""
    sources = sidecar.get("Sources")
    named = [str(source) for source in sources] if isinstance(sources, list) else []
    raw = next((source for source in named if source.startswith(RAW)), "")
    return unquote(raw.rpartition("/")[2])


def describe_resolution(resolution: float) -> str:
    """Say what ``res-`` means, as BIDS asks."""
    return f"{resolution:g} mm isotropic, axes RAS"


def write_sidecar(path: Path, content: Mapping[str, Any]) -> Path:
    """Write the sidecar of the file at `path`, atomically, unless it is there already; give its path."""
    beside = sidecar_path(path)
    write_json(beside, content)
    return beside
