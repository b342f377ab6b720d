"""What a run writes, as data: every kind of file has its name and description in ``data/outputs.json``.

A kind's texts have placeholders: ``{suffix}`` of the scan, ``{reference}`` (suffix of the session's
reference), ``{res}`` and ``{resolution}`` of the reference grid, ``{model}`` and ``{target}`` (the
contrast a model was asked for).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bidsrep.bids.names import output_path, resolution_label
from bidsrep.bids.scans import KEPT, LABEL, Scan, Session, parse_name
from bidsrep.settings import MODELS


@dataclass(frozen=True)
class OutputKind:
    """One kind of file.

    `grid` is ``own`` (it defines its space), ``native`` (of the scan), ``reference`` or ``none``.
    """

    entities: Mapping[str, str]
    suffix: str
    extension: str
    grid: str
    sidecar: Mapping[str, Any] | None
    datatype: str = "anat"


@dataclass(frozen=True)
class Output:
    """One file a run writes: its kind, its path, what it is made from, and the fixed part of its sidecar."""

    kind: str
    path: Path
    source: Scan | Session
    grid: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """One sentence on what the file is; empty for files without a sidecar."""
        return str(self.fixed.get("Description", ""))


@cache
def output_kinds() -> dict[str, OutputKind]:
    """Load the table of kinds."""
    text = (files("bidsrep") / "data" / "outputs.json").read_text(encoding="utf-8")
    return {name: OutputKind(**row) for name, row in json.loads(text).items()}


def output(
    kind: str,
    out_dir: Path,
    source: Scan | Session,
    *,
    reference: Scan | None = None,
    resolution: float = 1.0,
    model: str = "",
    target: str = "",
    order: str = "",
) -> Output:
    """Name and describe one output.

    Parameters
    ----------
    kind : str
        One of `output_kinds`.
    source : Scan or Session
        What it is made from; its entities go into the name.
    reference : Scan, optional
        The session's reference scan, for files on the reference grid and transforms to it.
    resolution : float
        Voxel size of the reference grid, mm.
    model, target, order : str
        The model, the contrast it was asked for, and its parameters, where the kind has them.
    """
    spec = output_kinds()[kind]
    words = {
        "suffix": getattr(source, "suffix", ""),
        "reference": reference.suffix if reference else "",
        "res": resolution_label(resolution),
        "resolution": f"{resolution:g}",
        "model": model,
        "target": target,
        "order": order,
    }
    entities: dict[str, Any] = {
        {"from": "from_"}.get(key, key): text.format_map(words) for key, text in spec.entities.items()
    }
    suffix = spec.suffix.format_map(words)
    path = output_path(
        out_dir, source, **entities, suffix=suffix, extension=spec.extension, datatype=spec.datatype
    )
    return Output(kind, path, source, spec.grid, _fill(spec.sidecar or {}, words))


def kind_of(name: str) -> str | None:
    """Tell which kind of file a name is that of; None if a run writes none of this name.

    >>> kind_of("sub-01_space-T1w_res-1mm_desc-pepsiSuperresFromFLAIR_FLAIR.nii.gz")
    'superres'
    """
    parsed = parse_name(name)
    if parsed is None:
        return None
    own = {key: text for key, text in parsed.entities.items() if key not in ("sub", "ses", *KEPT)}
    for kind, patterns in _patterns():
        texts = own | {"suffix": parsed.suffix, "extension": parsed.extension}
        if patterns.keys() == texts.keys() and all(p.fullmatch(texts[key]) for key, p in patterns.items()):
            return kind
    return None


@cache
def _patterns() -> list[tuple[str, dict[str, re.Pattern[str]]]]:
    """Give what the parts of each kind's names look like; names with most fixed letters go first."""
    kinds = sorted(
        output_kinds().items(), key=lambda item: -len(re.sub("{.*?}", "", "".join(_parts(item[1]).values())))
    )
    return [(name, {key: _pattern(text) for key, text in _parts(kind).items()}) for name, kind in kinds]


def _parts(kind: OutputKind) -> dict[str, str]:
    return {**kind.entities, "suffix": kind.suffix, "extension": kind.extension}


def _pattern(template: str) -> re.Pattern[str]:
    words = {"model": "|".join(MODELS)}
    pieces = re.split(r"{(\w+)}", template)
    return re.compile(
        "".join(f"(?:{words.get(p, LABEL)})" if n % 2 else re.escape(p) for n, p in enumerate(pieces))
    )


def preproc(out_dir: Path, scan: Scan, reference: Scan, resolution: float = 1.0) -> Output:
    """Name the preprocessed version of a scan: the reference defines its space, the others lie in it."""
    kind = "preproc_reference" if scan == reference else "preproc"
    return output(kind, out_dir, scan, reference=reference, resolution=resolution)


def brain_mask(out_dir: Path, scan: Scan, reference: Scan, resolution: float = 1.0) -> Output:
    """Name a scan's brain mask: on its own grid for the reference, on the reference's for the others."""
    kind = "brain_mask" if scan == reference else "brain_mask_reference"
    return output(kind, out_dir, scan, reference=reference, resolution=resolution)


def _fill(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format_map(words)
    if isinstance(value, Mapping):
        return {key: _fill(item, words) for key, item in value.items()}
    return value
