"""The command line of ``bidsrep``: one function per group of options.

Options have no defaults here: what is not given is left out, so that a settings file can give it, and
what neither gives has the default of `bidsrep.settings.Settings`. The help shows that default.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bidsrep import __version__
from bidsrep.cli import types
from bidsrep.settings import (
    DEFORMABLE,
    LEVELS,
    MODALITIES,
    MODELS,
    OUTPUT_SPACES,
    PER_RUN,
    PRECISIONS,
    REFERENCES,
    SAVE_FEATURES,
    SKULL_STRIP,
    SKULL_STRIP_METHODS,
    TASKS,
    Settings,
    read_toml,
)

SHOWN = {
    "mem_gb": "90 %% of what this job may use",
    "nprocs": "the processors this job may use",
    "omp_nthreads": "as --nprocs, at most 8",
    "work_dir": "./work",
}
EPILOG = """\
exit codes: 0 all done; 1 some subject failed; 2 wrong usage; 65 nothing to process, or unusable input;
69 weights missing or not what their card says; 70 internal error; 130 interrupted.
"""


class _Group:
    """Adds options to an argument group; the help ends with the default of the field an option sets."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def add(self, *names: str, help: str, **keywords: Any) -> None:  # noqa: A002 - argparse's own name
        field = keywords.get("dest") or next(n for n in names if n.startswith("--"))[2:].replace("-", "_")
        keywords.setdefault("dest", field)
        default = _default_text(field)
        self._group.add_argument(
            *names,
            default=argparse.SUPPRESS,
            help=help + (f" (default: {default})" if default else ""),
            **keywords,
        )

    def flag(self, *names: str, help: str) -> None:  # noqa: A002
        self.add(*names, help=help, action="store_true")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``bidsrep``."""
    parser = argparse.ArgumentParser(
        prog="bidsrep",
        description="Contrast-invariant representations of brain MRI, and what follows from them: "
        "skull-stripped 1 mm anatomies, synthetic T1w and FLAIR, lesion maps, regional embeddings.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=types.path, help="the BIDS dataset")
    parser.add_argument("out_dir", type=types.path, help="the folder for the derivatives")
    parser.add_argument(
        "analysis_level",
        nargs="+",
        choices=LEVELS,
        help="participant: process every subject; group: collect the tables (needs only the derivatives)",
    )
    parser.add_argument("--version", action="version", version=f"bidsrep {__version__}")
    for add_group in (_filtering, _model, _workflow, _performance, _subsets, _other):
        add_group(parser)
    return parser


def parse_settings(argv: Sequence[str] | None = None) -> Settings:
    """Parse the command line into settings; what ``--config-file`` gives is overruled by it."""
    return settings_of(
        vars(build_parser().parse_args(normalise_spelling(sys.argv[1:] if argv is None else argv)))
    )


def settings_of(given: dict[str, Any]) -> Settings:
    """Make settings of the options that were given, by their fields' names."""
    given.pop("notrack", None)
    config_file: Path | None = given.pop("config_file", None)
    values = read_toml(config_file) if config_file else {}
    values = {name: value for name, value in values.items() if name not in PER_RUN}
    return Settings(**values | {name: _frozen(value) for name, value in given.items()})


def normalise_spelling(arguments: Sequence[str]) -> list[str]:
    """Give every long option its spelling with dashes: ``--participant_label`` is as good.

    >>> normalise_spelling(["--participant_label", "a_b", "--lesion_threshold=0.4"])
    ['--participant-label', 'a_b', '--lesion-threshold=0.4']
    """
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        spelled.append(name.replace("_", "-") + equals + value if name.startswith("--") else argument)
    return spelled


def _filtering(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "filtering")
    label = {"nargs": "+", "metavar": "LABEL"}
    group.add(
        "--participant-label", type=types.subject, help="only these subjects, 'sub-' may be left out", **label
    )
    group.add(
        "--session-label", type=types.session, help="only these sessions, 'ses-' may be left out", **label
    )
    group.add(
        "-m",
        "--modalities",
        nargs="+",
        metavar="SUFFIX",
        type=types.alphanumeric,
        help=f"only these contrasts, of {', '.join(MODALITIES)} or any other suffix of an anatomical image",
    )
    group.add(
        "--bids-filter-file",
        type=types.existing_file,
        metavar="JSON",
        help='choose scans by entities, for example {"t1w": {"acquisition": "mprage", "ceagent": null}}; '
        'null: absent, "*": present',
    )
    group.add(
        "--bids-database-dir",
        type=types.path,
        metavar="DIR",
        help="find scans through this pybids database (made if it is not there) instead of the folders",
    )
    group.add(
        "-d",
        "--derivatives",
        nargs="+",
        action=types.NamedPaths,
        metavar="NAME=DIR",
        help="derivatives to use: their brain masks go before ours, their labels are compared with ours",
    )
    group.flag("--skip-bids-validation", help="take folders without a dataset_description.json too")


def _model(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "model")
    group.add("--model", nargs="+", choices=MODELS, dest="models", help="the representation systems to apply")
    group.add(
        "--weights",
        nargs="+",
        action=types.NamedTexts,
        metavar="NAME=FILE_OR_ID",
        help="weights other than the bundled ones, for a model or for 'brainmask' or 'synthstrip'",
    )
    group.add("--models-dir", type=types.path, metavar="DIR", help="where 'bidsrep-models' keeps weights")
    group.add("--tasks", nargs="+", choices=TASKS, help="only these outputs (default: all a model has)")
    group.add(
        "--save-features",
        choices=SAVE_FEATURES,
        help="what to keep of the features: nothing, their averages over regions, or every voxel (large)",
    )
    group.add(
        "--target-contrast",
        nargs="+",
        type=types.target_contrast,
        metavar="TR=S,TE=S,TI=S",
        help="contrasts to synthesise, for models that make any from acquisition parameters (crl)",
    )
    group.add(
        "--bids-defaults",
        type=types.existing_file,
        metavar="FILE",
        help="RepetitionTime, EchoTime, InversionTime (s) of scans whose sidecars lack them: a table per suffix",
    )


def _workflow(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "workflow")
    group.add(
        "--skull-strip",
        choices=SKULL_STRIP,
        help="auto: leave scans alone that are stripped already; force: strip all; skip: strip none",
    )
    group.add(
        "--skull-strip-method",
        choices=SKULL_STRIP_METHODS,
        help="bidsrep: the bundled network; synthstrip: give --weights synthstrip=FILE; template: by registration",
    )
    group.add(
        "--template",
        metavar="NAME",
        help="TemplateFlow template for the method template, and for '--deformable template' "
        "(default: MNI152NLin2009aSym)",
    )
    group.add("--resolution", type=types.positive, metavar="MM", help="voxel size of the reference grid")
    group.add(
        "--anatomical-reference",
        choices=REFERENCES,
        help="the scan the others of a session are registered to; without it, the one with the finest voxels",
    )
    group.flag("--bias-correct", help="correct intensity non-uniformity (N4)")
    group.add(
        "--output-spaces",
        nargs="+",
        choices=OUTPUT_SPACES,
        help="reference: the 1 mm grid of the session's reference; native: lesions on each scan's own grid too",
    )
    group.add(
        "--deformable",
        nargs="+",
        choices=DEFORMABLE,
        help="write deformable transforms, found on features of cifl; session: from every scan to the "
        "session's reference, after the rigid one; template: from the reference to the MNI152 template",
    )
    group.add(
        "--lesion-threshold",
        type=types.probability,
        metavar="P",
        help="probability from which a voxel is lesion",
    )
    group.add(
        "--min-lesion-volume",
        type=types.not_negative,
        metavar="ML",
        help="drop lesions smaller than this, in ml",
    )
    group.add(
        "--quality-thresholds",
        type=types.quality_thresholds,
        metavar="TOML",
        help="from which value of a metric on the pages warn, a table per metric with low, high or both: "
        "[mask_dice] low = 0.9",
    )
    group.add("--random-seed", type=int, metavar="N", help="seed of everything random (registration)")


def _performance(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "performance")
    group.add(
        "--nprocs", "--nthreads", "--n-cpus", type=types.count, metavar="N", help="processes at the same time"
    )
    group.add("--omp-nthreads", type=types.count, metavar="N", help="threads of one process")
    group.add("--mem-gb", type=types.positive, metavar="GB", help="memory to stay within")
    group.add("--device", type=types.device, metavar="{auto,cpu,cuda,cuda:N}", help="where networks run")
    group.add(
        "--precision",
        choices=PRECISIONS,
        help="arithmetic of the networks; auto: bf16 where it changes nothing",
    )
    group.add(
        "--use-plugin", type=types.existing_file, metavar="FILE", help="Nipype plugin settings (YAML or JSON)"
    )
    group.flag("--low-mem", help="use less memory and more disk")


def _subsets(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "subsets of the work")
    group.flag("--dry-run", help="list every file that would be written, and why; write nothing")
    group.flag("--reports-only", help="write only the reports, of results that are there")
    group.flag("--boilerplate-only", help="write only the text and references to cite (logs/CITATION.*)")


def _other(parser: argparse.ArgumentParser) -> None:
    group = _Group(parser, "other")
    group.add("-w", "--work-dir", type=types.path, metavar="DIR", help="folder for intermediate results")
    group.flag("--clean-workdir", help="empty the work folder first; not with other runs on the same folder")
    group.add(
        "--config-file",
        type=types.existing_file,
        metavar="TOML",
        help="settings of another run (its log folder has them), or your own; the command line goes before",
    )
    group.flag(
        "--embed-reports", help="put the figures into the subjects' pages: one file each, to send around"
    )
    group.flag("--ro-crate", help="group: describe the dataset in ro-crate-metadata.json, too, for archives")
    group.flag("--write-graph", help="draw the graph of the workflow")
    group.flag("--stop-on-first-crash", help="stop at the first failure instead of going on with the others")
    group.flag("--resource-monitor", help="record the memory and time of every step")
    group.flag("--sloppy", help="fast and inaccurate, for tests only")
    group.add("-v", "--verbose", action="count", help="say more; -vv says all")
    group.flag("-q", "--quiet", help="only warnings, errors and the last line; for logs of large runs")
    group.flag("--notrack", help="accepted for compatibility: nothing is ever sent anywhere")


def _default_text(field: str) -> str:
    """Give a field's default as the help shows it; empty for flags, and where nothing is the default."""
    if field in SHOWN:
        return SHOWN[field]
    default = next((f.default for f in dataclasses.fields(Settings) if f.name == field), None)
    if default in (None, dataclasses.MISSING, (), "") or default is False or field == "verbose":
        return ""
    return " ".join(default) if isinstance(default, tuple) else f"{default}"


def _frozen(value: Any) -> Any:
    return tuple(dict.fromkeys(value)) if isinstance(value, list) else value
