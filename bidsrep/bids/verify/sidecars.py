"""The JSON beside the files: keys and units the BIDS validator does not look at, sources that are gone."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bidsrep.bids.names import sidecar_path
from bidsrep.bids.outputs import OutputKind, kind_of, output_kinds
from bidsrep.bids.verify.dataset import Dataset, read_json
from bidsrep.bids.verify.findings import Finding
from bidsrep.bids.verify.records import FileRecord, Records, SessionRecord

OF_GRID = {
    "own": ("Resolution",),
    "reference": ("SpatialReference", "Resolution"),
    "native": ("SpatialReference",),
}
"""Keys that say where the voxels are, by grid."""
REFERRING = ("Sources", "SpatialReference")

RESTORE = "Restore it, or delete it and run bidsrep again to make it anew"
BRING_BACK = "Bring it back, or run bidsrep again"


@dataclass
class Sidecars:
    """The sidecars of all recorded files that have one, by the file's URI; `users` by the URIs they name."""

    content: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    users: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, dataset: Dataset, records: Records) -> "Sidecars":
        """Read them; those that are not there are the business of other checks."""
        found = cls()
        for uri, file in records.files.items():
            path = dataset.path(uri) if file.is_output else None
            kind = _kind(file)
            if path is None or kind is None or kind.sidecar is None or not sidecar_path(path).is_file():
                continue
            content = read_json(sidecar_path(path))
            if content is None:
                found.damaged.append(sidecar_path(path).relative_to(dataset.root).as_posix())
                continue
            found.content[uri] = content
            for source in referred(content):
                found.users[source].append(file.name)
        return found


def check_sidecars(dataset: Dataset, records: Records, sidecars: Sidecars) -> Iterator[Finding]:
    """Compare every sidecar with what its kind of file must state, and with the record's weights."""
    for name in sidecars.damaged:
        yield Finding(name, "sidecar", "cannot be read as a JSON object", RESTORE)
    for session in records.sessions:
        for uri, file in session.files.items():
            content, kind = sidecars.content.get(uri), _kind(file)
            if content is None or kind is None:
                continue
            name = sidecar_path(dataset.root / file.name).relative_to(dataset.root).as_posix()
            for problem in [*_against_kind(content, kind), *_sources(content)]:
                yield Finding(name, "sidecar", problem, RESTORE)
            yield from _weights(name, content, file, session)
            yield from _other_subjects(name, content, file)
    yield from _dangling(dataset, records, sidecars.users)


def referred(content: Mapping[str, Any]) -> set[str]:
    """Give the BIDS URIs that a sidecar names as sources or as its space."""
    named = [content.get(key) for key in REFERRING]
    flat = [item for value in named for item in (value if isinstance(value, list) else [value])]
    return {item for item in flat if isinstance(item, str) and item.startswith("bids:")}


def _kind(file: FileRecord) -> OutputKind | None:
    name = kind_of(file.uri.rpartition("/")[2])
    return output_kinds()[name] if name else None


def _against_kind(content: Mapping[str, Any], kind: OutputKind) -> Iterator[str]:
    """Say what a sidecar lacks, or states otherwise than files of its kind do."""
    wanted: dict[str, Any] = dict(kind.sidecar or {})
    needed = [*wanted, "Sources", *OF_GRID.get(kind.grid, ())]
    needed += (
        ["Model"]
        if any("{model}" in text for text in kind.entities.values()) and kind.suffix != "metrics"
        else []
    )
    for key in needed:
        if key not in content:
            yield f"lacks the key {key}"
    for key in wanted.keys() & content.keys():
        stated, fixed = content[key], wanted[key]
        if key == "Units" and _quantity(stated) != _quantity(fixed):
            yield f"states the Units {stated!r}; files of this kind are in {fixed!r}"
        elif not isinstance(fixed, str | dict) and stated is not fixed:
            yield f"states {key} {stated!r}; for files of this kind it is {fixed!r}"
        elif key == "Type" and stated != fixed:
            yield f"states the Type {stated!r}; for files of this kind it is {fixed!r}"


def _quantity(units: object) -> str:
    """Give the unit itself, without the remark on the scale: ``arbitrary (median ... = 1)``."""
    return str(units).partition(" ")[0]


def _sources(content: Mapping[str, Any]) -> Iterator[str]:
    sources = content.get("Sources", [])
    if not isinstance(sources, list):
        yield "its Sources are not a list"
    elif not all(isinstance(source, str) and source.startswith("bids:") for source in sources):
        yield "its Sources are not all BIDS URIs"


def _weights(
    name: str, content: Mapping[str, Any], file: FileRecord, session: SessionRecord
) -> Iterator[Finding]:
    model = content.get("Model")
    if not isinstance(model, dict) or "WeightsSHA256" not in model:
        return
    recorded = session.weights_of(file)
    if recorded and model["WeightsSHA256"] not in [weights.sha256 for weights in recorded]:
        known = ", ".join(f"{weights.id} ({weights.sha256[:12]})" for weights in recorded)
        stated = f"{model.get('Weights')} ({str(model['WeightsSHA256'])[:12]})"
        yield Finding(name, "weights", f"names the weights {stated}, the record {known}", RESTORE)


def _other_subjects(name: str, content: Mapping[str, Any], file: FileRecord) -> Iterator[Finding]:
    """Look for sources of another subject: everything here is made of one subject's scans."""
    foreign = sorted(uri for uri in referred(content) if f"sub-{file.subject}/" not in uri and "sub-" in uri)
    if foreign:
        problem = f"names a file of another subject: {foreign[0]}"
        yield Finding(name, "swapped", problem, "Put each file back in its place, or run bidsrep again")


def _dangling(dataset: Dataset, records: Records, users: Mapping[str, list[str]]) -> Iterator[Finding]:
    """Look for sources that are not there; those that are recorded are missed as files."""
    for uri in sorted(users.keys() - records.files.keys()):
        path = dataset.path(uri)
        if path is not None and not path.is_file():
            problem = f"is not there, but {len(users[uri])} file(s) are made from it, such as {users[uri][0]}"
            yield Finding(uri, "source", problem, BRING_BACK)
