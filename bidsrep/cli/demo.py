"""``bidsrep-demo``: write a small BIDS dataset of synthetic heads, to try the other commands on.

Nothing is downloaded: the brains are made from the MNI tissue maps that nilearn ships.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bidsrep import __version__
from bidsrep.bids.files import remove_leftovers
from bidsrep.cli import types
from bidsrep.cli.demo_files import TRUTH, session_paths, write_dataset, write_session
from bidsrep.errors import UsageError

if TYPE_CHECKING:
    from bidsrep.synth.phantom import Template

NOT_EMPTY_MSG = "{}: this folder holds something else. Name a new or empty folder."
OTHER_DEMO_MSG = "{}: this folder holds another demo ({}; asked for: {}). Name another folder or remove it."


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep-demo`` and give its exit code."""
    from bidsrep.cli.run import guarded

    def body() -> int:
        options = build_parser().parse_args(argv)
        return write_demo(options.dir, options.subjects, options.seed, options.sloppy)

    return guarded("bidsrep-demo", body)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bidsrep-demo``."""
    parser = argparse.ArgumentParser(
        "bidsrep-demo",
        description="Write a small BIDS dataset of synthetic heads (T1w and FLAIR, with white-matter lesions), "
        "and the truth behind it as derivatives. The same options give the same bytes on the same machine.",
    )
    parser.add_argument(
        "dir", metavar="DIR", type=types.path, help="folder to write; new, empty, or of the same demo"
    )
    parser.add_argument(
        "--subjects",
        type=types.count,
        default=2,
        metavar="N",
        help="how many; sub-01 has two sessions (default: 2)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of everything random (default: 0)"
    )
    parser.add_argument("--sloppy", action="store_true", help="voxels of twice the size: faster, for tests")
    parser.add_argument("--version", action="version", version=f"bidsrep {__version__}")
    return parser


def write_demo(folder: Path, subjects: int = 2, seed: int = 0, sloppy: bool = False) -> int:
    """Write the cohort, or what is missing of it, and say where it is.

    Parameters
    ----------
    folder : Path
        The dataset; the truth goes to ``derivatives/truth`` in it.
    subjects : int
        Number of persons.
    seed : int
        Seed of everything random.
    sloppy : bool
        Twice the voxel size.
    """
    from bidsrep.synth.phantom.cohort import draw_person, simulate_visit, visits

    _claim(folder, _recipe(subjects, seed, sloppy))
    all_visits = visits(subjects)
    write_dataset(folder, all_visits, _recipe(subjects, seed, sloppy))
    template = None
    persons = {}
    for visit in all_visits:
        name = f"sub-{visit.person:02d}, ses-{visit.session}"
        paths = session_paths(folder, visit)
        for parent in {path.parent for path in paths if path.parent.is_dir()}:
            remove_leftovers(parent)
        if all(path.exists() for path in paths):
            print(f"{name}: is there already")
            continue
        template = template or load_template(2 if sloppy else 1)
        if visit.person not in persons:
            persons = {visit.person: draw_person(template, visit.person, seed)}
        write_session(folder, visit, simulate_visit(persons[visit.person], visit, seed, sloppy))
        print(f"{name}: written", flush=True)
    print(f"dataset: {folder}\ntruth:   {folder / TRUTH}")
    return 0


def load_template(resolution: int) -> Template:
    """Load the ICBM152 tissue maps nilearn ships, at a voxel size of ``resolution`` mm."""
    import warnings

    import numpy as np
    from nilearn import datasets

    from bidsrep.synth.phantom import Template

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults of nilearn's own resampling
        images = [
            load(resolution=resolution)
            for load in (
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
                datasets.load_mni152_brain_mask,
            )
        ]
    gm, wm, mask = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    return Template(gm, wm, mask, np.asarray(images[0].affine, dtype=np.float64))


def _recipe(subjects: int, seed: int, sloppy: bool) -> str:
    return f"--subjects {subjects} --seed {seed}{' --sloppy' if sloppy else ''}"


def _claim(folder: Path, recipe: str) -> None:
    """Refuse a folder that holds anything but this very demo."""
    import json

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        description = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
        generator = description["GeneratedBy"][0]
        found = generator["Description"] if generator["Name"] == "bidsrep-demo" else None
    except (OSError, ValueError, LookupError, TypeError):
        found = None
    if found is None:
        raise UsageError(NOT_EMPTY_MSG.format(folder))
    if found != recipe or generator.get("Version") != __version__:
        other = f"{found}, version {generator.get('Version')}"
        raise UsageError(OTHER_DEMO_MSG.format(folder, other, f"{recipe}, version {__version__}"))


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        msg = f"must be 0 or more, got {text}"
        raise argparse.ArgumentTypeError(msg)
    return number


if __name__ == "__main__":
    sys.exit(main())
