"""``bidsrep-verify``: compare a derivative dataset with its provenance."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bidsrep import __version__
from bidsrep.cli import types
from bidsrep.cli.run import guarded
from bidsrep.errors import UsageError

if TYPE_CHECKING:
    from bidsrep.bids.verify.dataset import Dataset
    from bidsrep.bids.verify.findings import Finding
    from bidsrep.bids.verify.records import Records

NO_FOLDER = "{}: there is no such folder"
NOT_OURS = "{}: neither a dataset_description.json nor a folder prov: this is no output of bidsrep"
EPILOG = """\
exit codes: 0 nothing found; 1 there are findings; 2 wrong usage; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``bidsrep-verify`` and give its exit code."""
    arguments = build_parser().parse_args(argv)
    return guarded("bidsrep-verify", lambda: verify(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="bidsrep-verify",
        description="Finds changed, missing, swapped and unaccounted-for files of a derivative dataset, sources "
        "that are gone, other weights than recorded, and sidecars that lack what they must state.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out_dir", type=types.path, help="the folder with the derivatives")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--rehash",
        action="store_true",
        help="hash every file; otherwise sizes, the checksums in .gz files, and small files are compared",
    )
    parser.add_argument("--bids-dir", type=types.path, metavar="DIR", help="where the raw dataset lies now")
    parser.add_argument(
        "--rerun",
        nargs="+",
        type=types.subject,
        default=[],
        metavar="LABEL",
        help="run these subjects again in a temporary folder, with the recorded settings and weights, and compare",
    )
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        default={},
        metavar="voxel=X,dice=Y",
        help="how far --rerun may differ: largest difference of a voxel, as a share of the image's largest value, "
        "and smallest Dice of a label (default: not at all; another machine may need voxel=0.001,dice=0.99)",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        action=types.NamedTexts,
        default={},
        metavar="NAME=FILE",
        help="weights for --rerun that are not among those of 'bidsrep-models list'",
    )
    parser.add_argument(
        "--models-dir", type=types.path, metavar="DIR", help="where 'bidsrep-models' keeps weights"
    )
    parser.add_argument(
        "-w", "--work-dir", type=types.path, metavar="DIR", help="where --rerun makes its folder"
    )
    parser.add_argument("--json", type=types.path, metavar="FILE", help="write the findings to this file too")
    return parser


def tolerance(text: str) -> dict[str, float]:
    """Take ``voxel=X,dice=Y``, or one of the two.

    >>> tolerance("voxel=0.001,dice=0.99")
    {'voxel': 0.001, 'dice': 0.99}
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("voxel", "dice") or name in found:
            msg = f"{part!r} is not voxel=X or dice=Y"
            raise argparse.ArgumentTypeError(msg)
        found[name] = types.probability(value) if name == "dice" else types.not_negative(value)
    return found


def verify(arguments: argparse.Namespace) -> int:
    """Check a dataset; print one line per finding; give the exit code."""
    from bidsrep.bids.files import write_json
    from bidsrep.bids.verify.checks import verify_dataset
    from bidsrep.bids.verify.dataset import DESCRIPTION, Dataset
    from bidsrep.bids.verify.records import Records

    root = arguments.out_dir
    for folder in filter(None, (root, arguments.bids_dir)):
        if not folder.is_dir():
            raise UsageError(NO_FOLDER.format(folder))
    if not (root / DESCRIPTION).exists() and not (root / "prov").is_dir():
        raise UsageError(NOT_OURS.format(root))
    dataset, records = Dataset(root, arguments.bids_dir), Records(root)
    report = verify_dataset(dataset, records, _installed(arguments.models_dir), arguments.rehash)
    findings = [*report.findings, *_rerun(arguments, dataset, records)]
    for finding in findings:
        print(finding)
    looked = {"Subjects": report.subjects, "Sessions": report.sessions, "Files": report.files}
    if arguments.json:
        content = {"Version": __version__, "Checked": looked, "Findings": [f.to_dict() for f in findings]}
        write_json(arguments.json, content)
    counts = ", ".join(f"{number} {name.lower()}" for name, number in looked.items())
    found = f"{len(findings)} finding(s)" if findings else "nothing found"
    print(f"bidsrep-verify: {found}; looked at {counts}.", file=sys.stderr)
    return 1 if findings else 0


def _installed(models_dir: Path | None) -> Iterator[tuple[str, str, Path]]:
    from bidsrep.models.library import installed

    return ((weights.model, weights.id, weights.path) for weights in installed(models_dir))


def _rerun(arguments: argparse.Namespace, dataset: "Dataset", records: "Records") -> "Iterator[Finding]":
    import tempfile

    if not arguments.rerun:
        return
    from bidsrep.bids.files import sha256_file
    from bidsrep.cli.run import run
    from bidsrep.workflows.rerun import Tolerance, rerun_subject

    given = {name: types.path(file) for name, file in arguments.weights.items()}
    for name, file in given.items():
        if not file.is_file():
            raise UsageError(f"--weights {name}: there is no file {file}")

    def find(model: str, sha256: str) -> Path | None:
        here = [path for name, _, path in _installed(arguments.models_dir) if name == model]
        candidates = [given[model]] if model in given else here
        return next((path for path in candidates if sha256_file(path) == sha256), None)

    if arguments.work_dir is not None:
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
    for subject in dict.fromkeys(arguments.rerun):
        with tempfile.TemporaryDirectory(prefix="bidsrep-verify-", dir=arguments.work_dir) as folder:
            yield from rerun_subject(
                dataset,
                records,
                subject,
                Path(folder),
                run=run,
                weights=find,
                tolerance=Tolerance(**arguments.tolerance),
            )


if __name__ == "__main__":
    sys.exit(main())
