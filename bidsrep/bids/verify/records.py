"""The provenance of a dataset as the checks need it: which files, of which subject, made with which weights."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from bidsrep.bids.provenance import DRAFT
from bidsrep.bids.provenance_merge import KINDS, Entry, load_record
from bidsrep.bids.verify.findings import Finding

AGAIN = "Restore it from a copy, or run bidsrep again on this subject, which writes it anew"
WEIGHTS, SETTINGS = "bids::prov#weights-", "bids::prov#settings-"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a record says of one file; `makers` are the activities that made it, none for an input."""

    uri: str
    subject: str
    size: int
    sha256: str
    crc: str | None = None
    geometry: str | None = None
    voxels: str | None = None
    makers: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Entry, subject: str) -> Self:
        """Take an entry of ``Files``; any error if it is no such."""
        _, _, inside = unquote(str(entry["Id"])).removeprefix("bids:").partition(":")
        if not inside or inside.startswith("/") or ".." in inside.split("/"):
            raise ValueError(f"{entry['Id']!r} names no file of a dataset")
        crc, geometry, voxels = (
            None if entry.get(key) is None else str(entry[key])
            for key in ("GzipCRC32", "GeometrySHA256", "VoxelSHA256")
        )
        return cls(
            str(entry["Id"]),
            subject,
            int(entry["Size"]),
            str(entry["Checksum"][0]["ChecksumValue"]),
            crc,
            geometry,
            voxels,
            tuple(map(str, entry.get("GeneratedBy", ()))),
        )

    @property
    def name(self) -> str:
        """How findings call it: its path for one of the dataset's own, its URI for another's."""
        return self.uri.removeprefix("bids::")

    @property
    def is_output(self) -> bool:
        """Whether a run made it."""
        return bool(self.makers)


@dataclass(frozen=True)
class Weights:
    """The weights a record names: model, id and hash."""

    model: str
    id: str
    sha256: str


@dataclass(frozen=True)
class SessionRecord:
    """The record of one session; `used` by activity, `weights` and `settings` by identifier."""

    subject: str
    session: str | None
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: str, session: str | None, record: Mapping[str, list[Entry]]) -> Self:
        """Take the content of a record's files; any error if it is none."""
        files = [FileRecord.of(entry, subject) for entry in record["Files"]]
        weights = [entry for entry in record["Software"] if str(entry["Id"]).startswith(WEIGHTS)]
        return cls(
            subject,
            session,
            {file.uri: file for file in files},
            {entry["Id"]: tuple(map(str, entry["Used"])) for entry in record["Activities"]},
            {entry["Id"]: _weights(entry) for entry in weights},
            {e["Id"]: dict(e["Value"]) for e in record["prov:Entity"] if str(e["Id"]).startswith(SETTINGS)},
        )

    @property
    def place(self) -> str:
        """The session's folder."""
        return f"sub-{self.subject}" + (f"/ses-{self.session}" if self.session is not None else "")

    def weights_of(self, file: FileRecord) -> list[Weights]:
        """Give the weights a file was made with."""
        used = {name for maker in file.makers for name in self.used.get(maker, ())}
        return [weights for name, weights in self.weights.items() if name in used]


class Records:
    """All records of a dataset; `unreadable` are the places of those that cannot be read, with the findings."""

    def __init__(self, root: Path) -> None:
        self.sessions: list[SessionRecord] = []
        self.unreadable: dict[str, Finding] = {}
        for subject, session, paths in _find(root / "prov"):
            empty = SessionRecord(subject, session)
            try:
                self.sessions.append(SessionRecord.of(subject, session, load_record(paths, DRAFT)))
                continue
            except OSError as error:
                problem = f"a file of the record cannot be read ({error.strerror})"
            except Exception as error:  # noqa: BLE001 - JSON by hand may hold anything anywhere
                problem = f"the record cannot be understood ({error})"
            file = paths["io"].relative_to(root).as_posix()
            self.unreadable[empty.place] = Finding(file, "record", problem, AGAIN)

    @cached_property
    def files(self) -> dict[str, FileRecord]:
        """Every recorded file by URI; what sessions share is recorded alike."""
        return {uri: file for session in self.sessions for uri, file in session.files.items()}

    @cached_property
    def owners(self) -> dict[str, set[str]]:
        """Whose a content is: hashes of files, voxels and grids to the URIs recorded with each."""
        owners = defaultdict(set)
        for file in self.files.values():
            for content in (file.sha256, file.voxels, file.geometry):
                if content:
                    owners[content].add(file.uri)
        return owners

    @cached_property
    def sizes(self) -> set[int]:
        """The sizes of all recorded files, in bytes."""
        return {file.size for file in self.files.values()}

    @property
    def subjects(self) -> set[str]:
        """The subjects that have a record."""
        return {session.subject for session in self.sessions}


def _find(folder: Path) -> Iterator[tuple[str, str | None, dict[str, Path]]]:
    """Find the records: subject, session, and the files by kind, of which some may be missing."""
    for place in sorted(folder.glob("sub-*")):
        subject = place.name.removeprefix("sub-")
        start = f"prov-bidsrep+sub{subject}"
        stems = {path.name.rpartition("_")[0] for path in place.glob("prov-*_*.json")}
        for stem in sorted(stem for stem in stems if stem.startswith(start)):
            session = stem.removeprefix(start).removeprefix("+ses") or None
            yield subject, session, {kind: place / f"{stem}_{kind}.json" for kind in KINDS}


def _weights(entry: Entry) -> Weights:
    model = str(entry["Label"]).removeprefix("weights of ")
    return Weights(model, str(entry["Version"]), str(entry["Checksum"][0]["ChecksumValue"]))
