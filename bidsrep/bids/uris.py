"""BIDS URIs: how a file of one dataset is named in another, without a path of this machine."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote

from bidsrep.settings import Settings

OUTSIDE_MSG = "{} lies in none of the datasets of this run, so no BIDS URI can name it"


@dataclass(frozen=True)
class DatasetRoots:
    """The datasets a run reads and writes: its output, the raw data, and the named derivatives."""

    out_dir: Path
    bids_dir: Path
    derivatives: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Give the datasets of a run."""
        return cls(settings.out_dir, settings.bids_dir, settings.derivatives)

    def uri(self, path: Path) -> str:
        """Name a file: ``bids::`` for our own, ``bids:raw:`` and ``bids:<name>:`` for what was read.

        Datasets may lie in one another (``<raw>/derivatives/bidsrep``): the innermost one counts. A file lies
        where its dataset shows it, even if a folder on the way is a link to elsewhere.
        """
        roots = {"": self.out_dir, "raw": self.bids_dir, **self.derivatives}
        for resolve in (os.path.abspath, os.path.realpath):
            place = Path(resolve(path.parent)) / path.name  # not the file itself: annexed files are links
            inside = {
                name: r for name, root in roots.items() if place.is_relative_to(r := Path(resolve(root)))
            }
            if inside:
                name = max(inside, key=lambda name: len(inside[name].parts))
                return f"bids:{name}:{quote(place.relative_to(inside[name]).as_posix(), safe='/+')}"
        raise ValueError(OUTSIDE_MSG.format(path))

    def path(self, uri: str) -> Path | None:
        """Give the place a URI of `uri` names; None if its dataset is none of this run's."""
        name, _, inside = uri.removeprefix("bids:").partition(":")
        root = {"": self.out_dir, "raw": self.bids_dir, **self.derivatives}.get(name)
        return None if root is None else root / unquote(inside)

    def links(self) -> dict[str, str]:
        """Give ``DatasetLinks``: where each dataset lies as seen from the output, never as a home path."""
        roots = {"raw": self.bids_dir, **dict(sorted(self.derivatives.items()))}
        return {name: _relative(root, self.out_dir) for name, root in roots.items()}


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _relative(path: Path, start: Path) -> str:
    return quote(Path(os.path.relpath(_real(path), _real(start))).as_posix(), safe="/+")
