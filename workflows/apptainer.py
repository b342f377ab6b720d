"""A run inside a container of Apptainer: what it must see of the host, and under which paths."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bidsrep.bids.files import sha256_file
from bidsrep.errors import UsageError
from bidsrep.settings import Settings

DATA, OUT, WORK, SCRIPTS, MORE = (Path("/", name) for name in ("data", "out", "work", "scripts", "mnt"))
"""Where a container has the dataset, the derivatives, intermediate results, the scripts, and whatever else."""
NOT_BINDABLE = "{}: a path with ':' or ',' cannot be given to a container. Rename it, or use a link."


@dataclass(frozen=True)
class Inside:
    """Settings as they are inside a container, and where what they name comes from.

    `binds` maps paths in the container to paths of the host; only the output folder may be written to.
    """

    settings: Settings
    binds: Mapping[Path, Path]

    @classmethod
    def of(cls, settings: Settings, scripts: Path) -> "Inside":
        """Move every path of the settings to where the container has it."""
        binds = {DATA: settings.bids_dir, OUT: settings.out_dir, SCRIPTS: scripts}

        def move(name: str, path: Path) -> Path:
            place = MORE / name / path.name if path.is_file() else MORE / name
            binds[place] = path
            return place

        def move_weights(name: str, path: Path) -> Path:
            card = path.with_suffix(".toml")
            if card.is_file():
                move(name, card)
            return move(name, path)

        def moved(name: str) -> Path | None:
            path: Path | None = getattr(settings, name)
            return None if path is None else move(name, path)

        inside = replace(
            settings,
            bids_dir=DATA,
            out_dir=OUT,
            work_dir=WORK,
            derivatives={n: move(f"derivatives-{n}", path) for n, path in settings.derivatives.items()},
            weights={
                n: str(move_weights(f"weights-{n}", Path(value))) if Path(value).is_file() else value
                for n, value in settings.weights.items()
            },
            bids_filter_file=moved("bids_filter_file"),
            bids_database_dir=moved("bids_database_dir"),
            bids_defaults=moved("bids_defaults"),
            models_dir=moved("models_dir"),
        )
        return cls(inside, binds)

    def command(self, image: Path, gpu: bool, place: str | None) -> str:
        """Give the shell's words up to the image; `place` is the word for the folder of intermediate results."""
        words = ["apptainer", "run", "--cleanenv", "--containall", *(["--nv"] if gpu else [])]
        for target, source in self.binds.items():
            words += ["--bind", shlex.quote(f"{bindable(source)}:{target}:{'rw' if target == OUT else 'ro'}")]
        if place:
            words += ["--bind", f"{place}:{WORK}", "--workdir", place, "--pwd", str(WORK)]
        words += ["--env", f"BIDSREP_IMAGE_DIGEST=sha256:{sha256_file(image)}", shlex.quote(str(image))]
        return " ".join(words)


def bindable(path: Path) -> Path:
    """Refuse a path that the option ``--bind`` would cut in two."""
    if re.search("[:,]", str(path)):
        raise UsageError(NOT_BINDABLE.format(path))
    return path
