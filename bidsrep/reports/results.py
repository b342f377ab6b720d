"""What a run left of one subject, read from the derivatives alone: the pages are made from this."""

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from bidsrep.bids.files import read_object
from bidsrep.bids.names import natural, session_dir, sidecar_path
from bidsrep.bids.scans import KEPT, ParsedName, Session, parse_name
from bidsrep.bids.sidecars import scan_name
from bidsrep.reports.crashes import Crash, crashes_of

PREDICTED = re.compile(r"(?P<model>[0-9a-z+]+)(?P<kind>[A-Z][0-9a-zA-Z+]*?)?From(?P<suffix>[0-9a-zA-Z+]+)")
OWN_CONTRAST = {"Denoised": "denoised", "Superres": "super-resolved"}
"""What is predicted of a scan in the scan's own contrast, so that it is one kind of output for all scans."""
ROLES = {"dseg": "segmentation", "feat": "dense features", "RB1map": "bias field"}
"""What files of some suffixes are called on pages."""
BRAIN = "brain"
IMAGES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Metric:
    """One row of a metrics table; `value` is the text of the table."""

    model: str
    scan: str
    name: str
    value: str
    unit: str = ""
    reference: str = ""

    @property
    def number(self) -> float | None:
        """The value as a number, or nothing if it is none."""
        try:
            number = float(self.value)
        except ValueError:
            return None
        return number if number == number else None


@dataclass(frozen=True)
class ModelUse:
    """A model and the weights that were used, as the sidecars tell."""

    name: str
    weights: str = ""
    sha256: str = ""
    status: str = ""
    licence: str = ""


@dataclass
class ScanResult:
    """What was made of one scan: `outputs` lists, for every model, what it predicted."""

    key: str
    suffix: str
    is_reference: bool = False
    source: str = ""
    outputs: dict[str, list[str]] = field(default_factory=dict)
    embeddings: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionResult:
    """What is there of one session; `session` is None in a dataset without sessions.

    `repeated` are steps that were killed and then succeeded.
    """

    subject: str
    session: str | None
    scans: tuple[ScanResult, ...] = ()
    models: tuple[ModelUse, ...] = ()
    metrics: tuple[Metric, ...] = ()
    missing: tuple[str, ...] = ()
    crashes: tuple[Crash, ...] = ()
    repeated: tuple[Crash, ...] = ()

    @property
    def label(self) -> str:
        """Such as ``sub-01 ses-A``."""
        return f"sub-{self.subject}" + (f" ses-{self.session}" if self.session is not None else "")

    @property
    def status(self) -> str:
        """One of ``failed`` (a step crashed or nothing is there), ``incomplete`` and ``complete``."""
        if self.crashes or not self.scans:
            return "failed"
        return "incomplete" if self.missing else "complete"


def find_subjects(out_dir: Path) -> list[str]:
    """List the labels of the subjects that have a folder, sorted."""
    with os.scandir(out_dir) as entries:
        names = [entry.name for entry in entries if entry.name.startswith("sub-") and entry.is_dir()]
    return sorted(name.removeprefix("sub-") for name in names)


def read_subject(out_dir: Path, subject: str, run_uuid: str | None = None) -> list[SessionResult]:
    """Read every session of a subject; crashes are those of one run, or else of the newest."""
    root = out_dir / f"sub-{subject}"
    children = sorted(path.name for path in root.iterdir() if path.is_dir())
    sessions: list[str | None] = [
        *sorted((name[4:] for name in children if name.startswith("ses-")), key=natural)
    ]
    found = [read_session(out_dir, subject, session, run_uuid) for session in sessions]
    if not sessions or "anat" in children:
        found.insert(0, read_session(out_dir, subject, None, run_uuid))
    elif shared := crashes_of(root / "log", out_dir, run_uuid):
        found.append(SessionResult(subject, None, crashes=shared))
    return found


def read_session(
    out_dir: Path, subject: str, session: str | None, run_uuid: str | None = None
) -> SessionResult:
    """Read one session."""
    place = Session(subject, session)
    folder = session_dir(out_dir, place)
    scans: dict[str, ScanResult] = {}
    models: dict[str, ModelUse] = {}
    metrics: list[Metric] = []
    for path, name in chain(named_files(folder), named_files(session_dir(out_dir, place, "fmap"))):
        desc = name.entities.get("desc", "")
        if desc == "preproc" and name.extension in IMAGES:
            scan = scans.setdefault(
                scan_key(name, name.suffix), ScanResult(scan_key(name, name.suffix), name.suffix)
            )
            scan.is_reference = "space" not in name.entities
            scan.source = scan_name(read_object(sidecar_path(path)))
        elif name.suffix == "metrics" and name.extension == ".tsv":
            metrics += read_metrics(path, desc)
        elif match := PREDICTED.fullmatch(desc):
            _add_prediction(path, name, match, scans, models)
    ordered = sorted(scans.values(), key=lambda scan: (not scan.is_reference, scan.key))
    for scan in ordered:
        for roles in scan.outputs.values():
            roles.sort(key=lambda role: (role == "embedding", " " in role, role))  # contrasts first
    records = _records(out_dir, place)
    missing = _missing(ordered) + _lost(out_dir, records)
    crashes = crashes_of(session_dir(out_dir, place, "log"), out_dir, run_uuid)
    overcome = bool(records) and not missing and all(crash.killed for crash in crashes)
    return SessionResult(
        subject,
        session,
        tuple(ordered),
        tuple(models[name] for name in sorted(models)),
        tuple(metrics),
        tuple(missing),
        () if overcome else crashes,
        crashes if overcome else (),
    )


def read_metrics(path: Path, model: str) -> list[Metric]:
    """Read a metrics table; columns that are not there are empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            Metric(
                model,
                *(_plain(row.get(column)) for column in ("scan", "metric", "value", "unit", "reference")),
            )
            for row in rows
        ]


def named_files(folder: Path) -> Iterator[tuple[Path, ParsedName]]:
    """List the files of a folder that have BIDS names, sidecars left out, by name."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = parse_name(path.name)
        if name is not None and name.extension != ".json":
            yield path, name


def scan_key(name: ParsedName, suffix: str) -> str:
    """Name the scan a file was made from: ``acq-tra_FLAIR``."""
    return "_".join([*(f"{k}-{name.entities[k]}" for k in KEPT if k in name.entities), suffix])


def _add_prediction(
    path: Path,
    name: ParsedName,
    desc: re.Match[str],
    scans: dict[str, ScanResult],
    models: dict[str, ModelUse],
) -> None:
    model, kind, suffix = desc["model"], desc["kind"], desc["suffix"]
    if model == BRAIN:
        return
    scan = scans.setdefault(scan_key(name, suffix), ScanResult(scan_key(name, suffix), suffix))
    role = name.suffix
    if label := name.entities.get("label"):
        native = " (native)" if "space" not in name.entities and name.suffix == "mask" else ""
        role = {"probseg": f"{label} probability", "mask": f"{label} mask{native}"}.get(role, role)
    elif kind is not None:
        role = OWN_CONTRAST.get(kind, f"{role} {kind}")
    else:
        role = ROLES.get(role, role)
    roles = scan.outputs.setdefault(model, [])
    if role not in roles:
        roles.append(role)
    if name.suffix == "embedding":
        scan.embeddings[model] = path
    if model not in models or not models[model].weights:
        models[model] = _model_use(model, read_object(sidecar_path(path)).get("Model"))


def _model_use(name: str, block: object) -> ModelUse:
    if not isinstance(block, Mapping):
        return ModelUse(name)
    keys = ("Weights", "WeightsSHA256", "WeightsStatus", "License")
    return ModelUse(name, *(str(block.get(key, "")) for key in keys))


def _missing(scans: list[ScanResult]) -> list[str]:
    """Find what a model made of one scan of the session and not of another."""
    made: dict[str, set[str]] = {}
    for scan in scans:
        for model, roles in scan.outputs.items():
            made.setdefault(model, set()).update(roles)
    return [
        f"{model}: {role} from {scan.key}"
        for model in sorted(made)
        for scan in scans
        for role in sorted(made[model] - set(scan.outputs.get(model, [])))
    ]


def _records(out_dir: Path, place: Session) -> dict[str, dict[str, Any]]:
    """Map every model to what runs recorded of it in a session when they were done."""
    paths = sorted(session_dir(out_dir, place, "log").glob("completed-*.json"))
    records = {path.stem.removeprefix("completed-"): read_object(path) for path in paths}
    return {model: content for model, content in records.items() if content}


def _lost(out_dir: Path, records: Mapping[str, dict[str, Any]]) -> list[str]:
    """Find scans that are recorded as failed, and files that are recorded as made and are gone."""
    lost: set[str] = set()
    for model, content in records.items():
        failed, outputs = content.get("failed"), content.get("outputs")
        lost.update(f"{model}: everything from {key}" for key in (failed if isinstance(failed, list) else ()))
        names = outputs if isinstance(outputs, Mapping) else ()
        lost.update(str(name) for name in names if not (out_dir / str(name)).is_file())
    return sorted(lost)


def _plain(value: str | None) -> str:
    return "" if value in (None, "n/a") else str(value)
