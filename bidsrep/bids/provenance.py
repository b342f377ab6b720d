"""Provenance records: what was made from what, by which code, weights and settings, with checksums.

BIDS-Prov (BEP028) is a draft and has changed its form before, so this module alone knows it: four files
per session, ``prov/sub-01/prov-bidsrep+sub01_{act,soft,env,io}.json``, each JSON-LD by itself. They hold
no host or user name and no absolute path: files are named by BIDS URIs. A later run adds to the record of
an earlier one (`bidsrep.bids.provenance_merge` says how). Beside the draft's keys, files have ``Size``,
``GeometrySHA256``, ``VoxelSHA256`` and ``GzipCRC32`` (`bidsrep.bids.hashes`), and what was read
``ChecksumBefore``, from before the run.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from bidsrep.bids.files import sha256_file, write_json
from bidsrep.bids.hashes import geometry_hash, gzip_crc, image_hashes, is_image
from bidsrep.bids.provenance_merge import KINDS, locked, merge, read_record
from bidsrep.bids.scans import Session
from bidsrep.bids.software import describe_code, package_versions
from bidsrep.bids.uris import DatasetRoots
from bidsrep.errors import ImageError
from bidsrep.settings import Settings

DRAFT = "BEP028 draft, 2026 form (act, soft, env, io; Checksum)"
CHANGED_MSG = "changed while it was being processed", "Run again when nothing writes to it any more"
OTHER_PLACES = frozenset(
    {
        "bids_dir",
        "out_dir",
        "work_dir",
        "models_dir",
        "bids_database_dir",
        "use_plugin",
        "weights",
        "participant_label",
        "session_label",
        "run_uuid",
    }
)
"""Settings that name places of the machine, or this run alone; the log folder's copy has them."""
WITH_CONTENT = ("bids_filter_file", "bids_defaults")
"""Settings that name small text files: the record has the text itself."""


@dataclass(frozen=True)
class Step:
    """One activity of the graph: what it used and made.

    `model` is the entry of the sidecars (`bidsrep.bids.sidecars.model_entry`) of the weights it used.
    """

    name: str
    description: str
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    model: Mapping[str, str] | None = None


def write_provenance(
    settings: Settings,
    session: Session,
    steps: Iterable[Step],
    *,
    started: str | None = None,
    ended: str | None = None,
    before: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the record of one session, with what an earlier one says that is still true; give the paths.

    Parameters
    ----------
    settings, session, steps
        The run's settings, the session, and what was done in it.
    started, ended : str, optional
        Times in ISO 8601 (UTC), of the whole session.
    before : mapping, optional
        Name to SHA-256 of what the session was to be made from, taken before anything was read.
    machine : mapping, optional
        More about the environment: hardware, numerics (`bidsrep.workflows.machine`).

    Raises
    ------
    ImageError
        If an input is no longer what it was before: nobody can tell what the results were made from.
    """
    steps = list(steps)
    record = _Record(settings, session, before or {}, machine or {})
    known = {path for step in steps for path in (*step.inputs, *step.outputs)}
    made = {
        "Software": [record.software(), *record.weights(steps)],
        "Environments": [record.environment()],
        "Files": [record.file(path, steps) for path in sorted(known)],
        "prov:Entity": [record.settings_entity()],
        "Activities": [record.activity(step, started, ended) for step in steps],
    }
    folder = provenance_dir(settings.out_dir, session.subject)
    paths = {kind: folder / f"prov-{record.label}_{kind}.json" for kind in KINDS}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # jobs of different models may end at the same time
        merged = merge(read_record(paths, DRAFT), made, record.checksum_at)
        for kind, lists in KINDS.items():
            content = {"@context": _context(), "BEP028Draft": DRAFT}
            write_json(paths[kind], content | {name: merged[name] for name in lists})
    return list(paths.values())


def provenance_dir(out_dir: Path, subject: str) -> Path:
    """Give a subject's provenance folder; each subject has its own, so that no two jobs write to one."""
    return out_dir / "prov" / f"sub-{subject}"


def recorded_settings(settings: Settings) -> dict[str, Any]:
    """Give the settings that bear on the results, without the places of this machine."""
    values = {key: value for key, value in settings.to_dict().items() if key not in OTHER_PLACES}
    values["derivatives"] = sorted(settings.derivatives)
    texts = {name: Path(values[name]).read_text(encoding="utf-8") for name in WITH_CONTENT if name in values}
    return values | texts


@cache
def _context() -> dict[str, Any]:
    """Load the JSON-LD context, which each file holds: there is no place on the web to point to."""
    text = (files("bidsrep") / "data" / "prov_context.json").read_text(encoding="utf-8")
    context: dict[str, Any] = json.loads(text)
    return context


class _Record:
    """The pieces of one session's record, and their identifiers."""

    def __init__(
        self, settings: Settings, session: Session, before: Mapping[str, str], machine: Mapping[str, Any]
    ) -> None:
        self.settings, self.session, self.before = settings, session, before
        self.roots = DatasetRoots.of(settings)
        self.label = "bidsrep+" + "+".join(f"{key}{value}" for key, value in session.name_parts.items())
        self.code = describe_code()
        self.code_id = f"bids::prov#bidsrep-{self.code['Version']}-{_short(self.code)}"
        self.values = recorded_settings(settings)
        self.settings_id = f"bids::prov#settings-{_short(self.values)}"
        self.surroundings = {"Dependencies": package_versions(), **machine}
        self.python = f"Python {platform.python_version()}"
        self.system = " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip()
        self.env_id = f"bids::prov#env-{_short([self.python, self.system, self.surroundings])}"
        self._sha256 = cache(sha256_file)

    def software(self) -> dict[str, Any]:
        return {"Id": self.code_id, "Label": "bidsrep", **self.code}

    def weights(self, steps: Iterable[Step]) -> list[dict[str, Any]]:
        models = {_weights_id(step.model): step.model for step in steps if step.model}
        return [
            {
                "Id": identifier,
                "Label": f"weights of {model['Name']}",
                "Version": model["Weights"],
                "Status": model["WeightsStatus"],
                "License": model["License"],
                "Checksum": _checksum(model["WeightsSHA256"]),
            }
            for identifier, model in sorted(models.items())
        ]

    def settings_entity(self) -> dict[str, Any]:
        return {"Id": self.settings_id, "Label": "settings", "Value": self.values}

    def environment(self) -> dict[str, Any]:
        return {
            "Id": self.env_id,
            "Label": self.python,
            "OperatingSystem": self.system,
            "EnvironmentVariables": {},
            **self.surroundings,
        }

    def file(self, path: Path, steps: Iterable[Step]) -> dict[str, Any]:
        uri = self.roots.uri(path)
        made_by = [self.activity_id(step) for step in steps if path in step.outputs]
        entry: dict[str, Any] = {"Id": uri, "Label": path.name, "AtLocation": uri.rpartition(":")[2]}
        if made_by:
            entry["GeneratedBy"] = made_by
        entry |= {"Size": path.stat().st_size, "Checksum": _checksum(self._sha256(path))}
        if path.name in self.before and not made_by:
            entry["ChecksumBefore"] = _checksum(self.before[path.name])
            if entry["ChecksumBefore"] != entry["Checksum"]:
                raise ImageError(path, *CHANGED_MSG)
        return entry | {key: value for key, value in _content(path, bool(made_by)).items() if value}

    def checksum_at(self, uri: str) -> list[dict[str, str]] | None:
        """Give the ``Checksum`` of what lies at a URI: empty if nothing does, None if nobody can tell."""
        path = self.roots.path(uri)
        if path is None:
            return None
        return _checksum(self._sha256(path)) if path.is_file() else []

    def activity(self, step: Step, started: str | None, ended: str | None) -> dict[str, Any]:
        entry = {
            "Id": self.activity_id(step),
            "Label": step.name,
            "Command": None,  # required by the draft; a step inside the process has none
            "Description": step.description,
            "AssociatedWith": [self.code_id],
            "Used": self.used(step),
        }
        times = {"StartedAtTime": started, "EndedAtTime": ended}
        return entry | {key: value for key, value in times.items() if value is not None}

    def used(self, step: Step) -> list[str]:
        weights = [_weights_id(step.model)] if step.model else []
        return [*map(self.roots.uri, step.inputs), *weights, self.settings_id, self.env_id]

    def activity_id(self, step: Step) -> str:
        """Name an activity after all that decides on its result, so that another one has another name."""
        name = re.sub(r"[^0-9a-zA-Z]", "", step.name)
        made_of = [self.code_id, self.used(step), [self._sha256(path) for path in step.inputs]]
        outputs = [path.name for path in step.outputs]
        return f"bids::prov#{name}-{_short([self.label, step.name, outputs, made_of])}"


def _content(path: Path, made: bool) -> dict[str, str | None]:
    """Hash what is in an image; of one that was only read, the grid is enough."""
    if not is_image(path):
        return {}
    hashes = image_hashes(path) if made else None
    geometry = hashes.geometry if hashes else geometry_hash(path)
    voxels = hashes.voxels if hashes else None
    return {"GzipCRC32": gzip_crc(path), "GeometrySHA256": geometry, "VoxelSHA256": voxels}


def _weights_id(model: Mapping[str, str]) -> str:
    return f"bids::prov#weights-{model['Name']}-{model['WeightsSHA256'][:8]}"


def _checksum(sha256: str) -> list[dict[str, str]]:
    return [{"ChecksumAlgorithm": "spdx:checksumAlgorithm_sha256", "ChecksumValue": sha256}]


def _short(content: Any) -> str:
    """Make a short identifier that depends on the content only."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
