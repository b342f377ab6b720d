"""The files at the top of the output: what makes it a BIDS derivatives dataset.

Concurrent jobs all write them, each the same bytes; a job of another model or on further derivatives
adds its lines to what is there.
"""

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.bids.acquisition import parse_target_contrast
from bidsrep.bids.files import read_object, write_json, write_text
from bidsrep.bids.methods import write_citation
from bidsrep.bids.outputs import output_kinds
from bidsrep.bids.software import image_digest
from bidsrep.bids.uris import DatasetRoots
from bidsrep.errors import UsageError
from bidsrep.settings import MODALITIES, TO_ORDER, Settings

LOGGER = logging.getLogger("bidsrep")
BIDS_VERSION = "1.11.0"
IGNORED = (
    ".tmp-*",
    "*.html",
    "figures",
    "log",
    "logs",
    "prov",
    "ratings",
    "*.parquet",
    "ro-crate-metadata.json",
    "*_xfm.*",
    "*_feat.*",
    "*_embedding.*",
    "*_metrics.*",
    "group_*",
    "work",
)
"""No trailing slashes: with one, the validator still complains about the folder itself."""

ORDERED = "ordered"
Made = Mapping[str, Collection[str]]
"""Model to the kinds of files (`bidsrep.bids.outputs.output_kinds`) it makes."""
INSIDE_INPUT_MSG = "{}: the output folder may not be the input dataset itself. Choose another, such as {}."


def write_dataset_files(
    settings: Settings, suffixes: Iterable[str] = MODALITIES, made: Made | None = None
) -> None:
    """Write dataset_description.json, descriptions.tsv, README.md, .bidsignore and logs/CITATION.*.

    `suffixes` are the contrasts of the scans, and `made` the kinds of files that each model makes of them, for the
    ``desc-<model>From<contrast>`` labels.
    """
    out_dir = settings.out_dir
    if out_dir.resolve() == settings.bids_dir.resolve():
        raise UsageError(INSIDE_INPUT_MSG.format(out_dir, out_dir / "derivatives" / "bidsrep"))
    write_json(out_dir / "dataset_description.json", dataset_description(settings))
    write_text(out_dir / "descriptions.tsv", descriptions_tsv(settings, suffixes, made))
    write_text(out_dir / ".bidsignore", "\n".join(IGNORED) + "\n")
    readme = files("bidsrep") / "data" / "derivatives_README.md"
    write_text(out_dir / "README.md", readme.read_text(encoding="utf-8"))
    write_citation(out_dir, settings)


def dataset_description(settings: Settings) -> dict[str, Any]:
    """Describe the output dataset; links that are already in the folder's description are kept."""
    before = read_object(settings.out_dir / "dataset_description.json")
    generated = {"Name": "bidsrep", "Version": __version__} | _container()
    other = {
        str(entry.get("Version"))
        for entry in _objects(before.get("GeneratedBy"))
        if entry.get("Name") == "bidsrep"
    }
    if other - {__version__}:
        LOGGER.warning(
            "%s holds results of bidsrep %s; this is %s. Mixing versions is not recommended.",
            settings.out_dir,
            ", ".join(sorted(other)),
            __version__,
        )
    links = before.get("DatasetLinks")
    links = links if isinstance(links, dict) else {}
    links = {name: place for name, place in links.items() if isinstance(place, str)}
    links |= DatasetRoots.of(settings).links()
    return {
        "Name": "bidsrep derivatives",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
        "SourceDatasets": [_source_dataset(settings.bids_dir, links["raw"])],
        "DatasetLinks": dict(sorted(links.items())),
        "HowToAcknowledge": "Please cite the references in logs/CITATION.bib; logs/CITATION.md is a text to use.",
    }


def descriptions(settings: Settings, suffixes: Iterable[str], made: Made | None = None) -> dict[str, str]:
    """Explain every ``desc-`` label that a run on these contrasts writes, by models that make these kinds of files."""
    rows = {
        "desc-preproc": "Skull-stripped and resampled to the grid of the session's reference scan",
        "desc-brain": "Brain, found on the scan itself",
    }
    suffixes = tuple(suffixes)
    rows |= {f"desc-brainFrom{suffix}": f"Brain, found on the {suffix} scan" for suffix in suffixes}
    for model in settings.models:
        rows[f"desc-{model}"] = f"Found on the features of {model}, or measured on its results"
        for suffix in suffixes:
            rows[f"desc-{model}From{suffix}"] = f"Predicted by {model} from the {suffix} scan"
            words = {"model": model, "suffix": suffix, "resolution": f"{settings.resolution:g}"}
            for spec in (output_kinds()[kind] for kind in (made or {}).get(model, ()) if kind):
                if "target" not in spec.suffix and spec.sidecar:
                    text = str(spec.sidecar["Description"]).format_map(words)
                    rows.setdefault(f"desc-{spec.entities['desc'].format_map(words)}", text)
            for target in map(parse_target_contrast, settings.target_contrast if model == TO_ORDER else ()):
                label = output_kinds()[ORDERED].entities["desc"].format_map(words | {"order": target.label})
                rows[f"desc-{label}"] = f"Image with {target}, predicted by {model} from the {suffix} scan"
    return rows


def descriptions_tsv(settings: Settings, suffixes: Iterable[str], made: Made | None = None) -> str:
    """Give descriptions.tsv: our rows, and those that are in the folder's file already."""
    rows = descriptions(settings, dict.fromkeys((*MODALITIES, *suffixes)), made)
    path = settings.out_dir / "descriptions.tsv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        lines = []
    earlier = dict(
        line.split("\t", 1) for line in lines if line.startswith("desc-") and line.count("\t") == 1
    )
    table = sorted((earlier | rows).items())
    return "desc_id\tdescription\n" + "".join(f"{label}\t{text}\n" for label, text in table)


def _source_dataset(bids_dir: Path, url: str) -> dict[str, str]:
    """Say which dataset was read: its DOI where it has one, else where it lies."""
    doi = read_object(bids_dir / "dataset_description.json").get("DatasetDOI")
    return {"DOI": doi} if isinstance(doi, str) and doi else {"URL": url}


def _container() -> dict[str, Any]:
    """Name the container image; it cannot be seen from inside, so BIDSREP_IMAGE (and _DIGEST) tell."""
    image = os.environ.get("BIDSREP_IMAGE")
    if not image:
        return {}
    kind = "apptainer" if os.environ.get("APPTAINER_CONTAINER") else "docker"
    digest = image_digest()
    uri = {"URI": f"docker://{image}@{digest}"} if digest else {}
    return {"Container": {"Type": kind, "Tag": image, **uri}}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
