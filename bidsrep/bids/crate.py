"""A summary of the output as an RO-Crate: what archives and registries of research data read.

One ``ro-crate-metadata.json`` for the dataset (RO-Crate 1.1 with the profile Process Run Crate 0.5): the subjects'
folders, the tables, the program and its weights, and one action that made them all. What was made from what, file by
file, is in ``prov/``, to which the crate points; an action for each of thousands of files would only repeat it.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.bids.files import read_json, write_json
from bidsrep.bids.provenance import provenance_dir

LOGGER = logging.getLogger("bidsrep")
CRATE = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
PROGRAM, ACTION = "#bidsrep", "#run"
LICENSE = "#license"
UNREADABLE_MSG = "{}: cannot be read, so the crate lacks what it says ({})."
TABLE_TYPES = {".tsv": "text/tab-separated-values", ".parquet": "application/vnd.apache.parquet"}

Entity = dict[str, Any]


def write_crate(out_dir: Path, subjects: Sequence[str], tables: Iterable[str]) -> Path:
    """Write the crate of a dataset of derivatives; give its path.

    Parameters
    ----------
    out_dir : Path
        The dataset; its ``dataset_description.json`` says of what it was made.
    subjects : sequence of str
        Labels of the subjects it has, without ``sub-``.
    tables : iterable of str
        Names of the group's tables and pages in `out_dir`.
    """
    description = _object(out_dir / "dataset_description.json")
    weights, ended = _recorded(out_dir, subjects)
    sources = _sources(description)
    parts = [*(_subject(subject) for subject in subjects), *(_file(name) for name in sorted(tables))]
    parts += [_provenance()] if (out_dir / "prov").is_dir() else []
    license_ = _license(description)
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": str(description.get("Name", "bidsrep derivatives")),
        "description": "Anatomy, contrast-invariant features and what follows from them, of brain MRI scans;"
        " BIDS derivatives made by bidsrep.",
        "datePublished": ended or _now(),
        "license": {"@id": license_["@id"]},
        "conformsTo": {"@id": PROFILE},
        "hasPart": [{"@id": part["@id"]} for part in parts],
        "mentions": {"@id": ACTION},
    }
    action: Entity = {
        "@id": ACTION,
        "@type": "CreateAction",
        "name": "bidsrep, participant and group level",
        "instrument": {"@id": PROGRAM},
        "object": [{"@id": entity["@id"]} for entity in (*sources, *weights)],
        "result": {"@id": "./"},
    }
    if ended:
        action["endTime"] = ended
    program = {
        "@id": PROGRAM,
        "@type": "SoftwareApplication",
        "name": "bidsrep",
        "softwareVersion": __version__,
        "version": __version__,
    }
    profile = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    graph = [_descriptor(), root, license_, profile, action, program, *sources, *weights, *parts]
    write_json(out_dir / CRATE, {"@context": f"{SPECIFICATION}/context", "@graph": graph})
    return out_dir / CRATE


def _descriptor() -> Entity:
    return {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": SPECIFICATION},
        "about": {"@id": "./"},
    }


def _subject(subject: str) -> Entity:
    return {"@id": f"sub-{subject}/", "@type": "Dataset", "name": f"Derivatives of sub-{subject}"}


def _provenance() -> Entity:
    text = "What every file was made from: BIDS-Prov (BEP028 draft), one folder per subject"
    return {"@id": "prov/", "@type": "Dataset", "name": "Provenance", "description": text}


def _file(name: str) -> Entity:
    kind = TABLE_TYPES.get(Path(name).suffix)
    return {"@id": name, "@type": "File", "name": name} | ({"encodingFormat": kind} if kind else {})


def _sources(description: Entity) -> list[Entity]:
    """The datasets it was made from, by DOI or address where one is known; a place on this machine is not told."""
    found = description.get("SourceDatasets")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    sources = []
    for number, entry in enumerate(entries, 1):
        places = [entry.get("DOI"), entry.get("URL")]
        known = [str(place) for place in places if str(place).startswith(("doi:", "http://", "https://"))]
        named = known[0].replace("doi:", "https://doi.org/", 1) if known else f"#source-{number}"
        text = f"Source dataset {number}"
        sources.append(
            {"@id": named, "@type": "Dataset" if known else ["Dataset", "CreativeWork"], "name": text}
        )
    return sources


def _license(description: Entity) -> Entity:
    """The dataset's licence; nobody has chosen one for derivatives until somebody writes it down."""
    chosen = description.get("License")
    if isinstance(chosen, str) and chosen:
        return {"@id": LICENSE, "@type": "CreativeWork", "name": chosen}
    text = "None was stated. That of the source datasets may bear on what is made of them."
    return {
        "@id": LICENSE,
        "@type": "CreativeWork",
        "name": "Not stated",
        "description": text,
    }


def _recorded(out_dir: Path, subjects: Iterable[str]) -> tuple[list[Entity], str | None]:
    """The weights that the subjects' provenance names, and when the last of its steps ended."""
    weights: dict[str, Entity] = {}
    ended = None
    for subject in subjects:
        folder = provenance_dir(out_dir, subject)
        for path in sorted(folder.glob("*_soft.json")):
            for entry in _entries(path, "Software"):
                if "#weights-" in str(entry.get("Id")):
                    found = _weights(entry)
                    weights.setdefault(found["@id"], found)
        for path in sorted(folder.glob("*_act.json")):
            times = [entry.get("EndedAtTime") for entry in _entries(path, "Activities")]
            ended = max([ended, *times], key=lambda time: time if isinstance(time, str) else "")
    return [weights[name] for name in sorted(weights)], ended if isinstance(ended, str) else None


def _weights(entry: Entity) -> Entity:
    name = str(entry["Id"]).rpartition("#")[2]
    found: Entity = {
        "@id": f"#{name}",
        "@type": "CreativeWork",
        "name": str(entry.get("Label", name)),
        "version": str(entry.get("Version", "")),
    }
    sums = [check.get("ChecksumValue") for check in entry.get("Checksum", ()) if isinstance(check, dict)]
    if sums:
        found["identifier"] = f"sha256:{sums[0]}"
    if isinstance(entry.get("License"), str):
        found["license"] = entry["License"]
    return found


def _entries(path: Path, name: str) -> list[Entity]:
    found = _object(path).get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _object(path: Path) -> Entity:
    """A JSON object, empty if there is none; what cannot be read is told, and the rest goes on."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        LOGGER.warning(UNREADABLE_MSG.format(path, error))
        return {}
    return content if isinstance(content, dict) else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
