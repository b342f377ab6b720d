"""A run inside a container of Apptainer: what it must see of the host.

Everything has the path in the container that it has outside, so that what the derivatives say of other datasets
(``DatasetLinks``) is as true there as here.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bidsrep.bids.files import sha256_file
from bidsrep.errors import UsageError
from bidsrep.settings import Settings

WORK, SCRIPTS = Path("/bidsrep/work"), Path("/bidsrep/scripts")
"""Where a container has intermediate results, which each job has elsewhere, and the scripts."""
NOT_BINDABLE = "{}: a path with ':' or ',' cannot be given to a container. Rename it, or use a link."


@dataclass(frozen=True)
class Inside:
    """Settings as they are inside a container, and what it must see.

    `binds` maps paths in the container to paths of the host; only the output folder may be written to.
    """

    settings: Settings
    binds: Mapping[Path, Path]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, scripts: Path) -> "Inside":
        """Find what the settings name."""
        paths = {settings.out_dir, *_named(settings)}
        environment = {}
        if settings.template is not None:
            from bidsrep.imaging.template import templateflow_home

            if (home := templateflow_home()).is_dir():
                paths.add(home)
                environment["TEMPLATEFLOW_HOME"] = str(home)
        # A dataset may lie in another one: the outer one comes first.
        binds = {path: path for path in sorted(paths, key=lambda path: (len(path.parts), path))}
        return cls(replace(settings, work_dir=WORK), {**binds, SCRIPTS: scripts}, environment)

    def command(self, image: Path, gpu: bool, place: str | None) -> str:
        """Give the shell's words up to the image; `place` is the word for the folder of intermediate results."""
        words = ["apptainer", "run", "--cleanenv", "--containall", *(["--nv"] if gpu else [])]
        for target, source in self.binds.items():
            mode = "rw" if target == self.settings.out_dir else "ro"
            words += ["--bind", shlex.quote(f"{bindable(source)}:{target}:{mode}")]
        if place:
            words += ["--bind", f"{place}:{WORK}", "--workdir", place, "--pwd", str(WORK)]
        given = {"BIDSREP_IMAGE_DIGEST": f"sha256:{sha256_file(image)}", **self.environment}
        for name, value in given.items():
            words += ["--env", shlex.quote(f"{name}={value}")]
        return " ".join([*words, shlex.quote(str(image))])


def _named(settings: Settings) -> Iterator[Path]:
    """Everything that is read, as the settings name it; of weights their cards, too."""
    yield from (settings.bids_dir, *settings.derivatives.values())
    for name in ("bids_filter_file", "bids_database_dir", "bids_defaults", "models_dir"):
        path: Path | None = getattr(settings, name)
        if path is not None:
            yield path
    for value in settings.weights.values():
        weights = Path(value)
        yield from (path for path in (weights, weights.with_suffix(".toml")) if path.is_file())


def bindable(path: Path) -> Path:
    """Refuse a path that the option ``--bind`` would cut in two."""
    if re.search("[:,]", str(path)):
        raise UsageError(NOT_BINDABLE.format(path))
    return path
