"""The dataset that is checked: its description, and where the datasets it names lie."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bidsrep.bids.uris import DatasetRoots
from bidsrep.bids.verify.findings import Finding

DESCRIPTION = "dataset_description.json"
RESTORE = "Run bidsrep again on this folder to write it anew"
POINT = "Move the dataset back, correct the link, or say where it is with --bids-dir"


class Dataset:
    """A derivative dataset and those it was made from.

    Parameters
    ----------
    root : Path
        Its folder.
    bids_dir : Path, optional
        Where the raw dataset lies now, if it is not where ``DatasetLinks`` says.
    """

    def __init__(self, root: Path, bids_dir: Path | None = None) -> None:
        self.root, self.bids_dir = root, bids_dir

    @cached_property
    def description(self) -> dict[str, Any] | str:
        """The description; a text says why it cannot be used."""
        path = self.root / DESCRIPTION
        if not path.is_file():
            return "is not there"
        content = read_json(path)
        if content is None:
            return "cannot be read as JSON"
        return content if isinstance(content.get("DatasetLinks", {}), dict) else "has no usable DatasetLinks"

    @cached_property
    def links(self) -> dict[str, Path | None]:
        """Where the named datasets lie; None for those that are not on a disk."""
        given = self.description.get("DatasetLinks", {}) if isinstance(self.description, dict) else {}
        found = {str(name): _place(self.root, link) for name, link in given.items()}
        return found | ({"raw": self.bids_dir} if self.bids_dir else {})

    def path(self, uri: str) -> Path | None:
        """Give the place that a BIDS URI names; None if its dataset is not here."""
        here = {name: place for name, place in self.links.items() if place is not None and place.is_dir()}
        raw = here.pop("raw", None)
        if raw is None and uri.startswith("bids:raw:"):
            return None
        return DatasetRoots(self.root, raw or self.root, here).path(uri)

    def check(self, uris: Mapping[str, str]) -> Iterator[Finding]:
        """Look at the description; `uris` maps the BIDS URIs in use to a file that uses each."""
        if isinstance(self.description, str):
            yield Finding(DESCRIPTION, "link", self.description, RESTORE)
            return
        for name, place in self.links.items():
            if place is not None and not place.is_dir():
                problem = f"the DatasetLink {name!r} leads nowhere: there is no such folder"
                yield Finding(DESCRIPTION, "link", problem, POINT)
        used = {dataset_of(uri): user for uri, user in uris.items()}
        for name in sorted(used.keys() - self.links.keys() - {""}):
            problem = f"there is no DatasetLink {name!r}, but {used[name]} names files of it"
            yield Finding(DESCRIPTION, "link", problem, RESTORE)


def dataset_of(uri: str) -> str:
    """Give the dataset's name in a BIDS URI; empty for the dataset itself.

    >>> dataset_of("bids:raw:sub-01/x.nii"), dataset_of("bids::sub-01/x.nii")
    ('raw', '')
    """
    return uri.removeprefix("bids:").partition(":")[0]


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if it is none, or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _place(root: Path, link: object) -> Path | None:
    """Give the folder a link means, as seen from the dataset; None if it is on the web."""
    try:
        parts = urlsplit(str(link))
    except ValueError:
        return root / str(link)
    if parts.scheme and parts.scheme != "file":
        return None
    return root / unquote(parts.path)
