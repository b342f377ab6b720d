"""What one run does: a frozen record, made once by the command line and passed on.

There is no global configuration. `Settings` round-trips through TOML (`Settings.to_toml`,
`Settings.from_toml`); the copy a run leaves in its log folder repeats that run.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bidsrep.errors import UsageError
from bidsrep.resources import available_cpus, available_memory_gb, new_run_uuid
from bidsrep.toml import dump_toml

LEVELS = ("participant", "group")
MODELS = ("pepsi", "brainid", "seqinv", "crl", "cifl")
MASK_NETWORKS = ("brainmask", "synthstrip")
TASKS = ("T1w", "T2w", "FLAIR", "lesion", "seg", "tissue", "superres", "bias", "denoised")
TO_ORDER = "crl"
"""The model that makes any contrast, from and to acquisition parameters."""
TO_REGISTER = "cifl"
"""The model on whose features scans are registered deformably."""
MODALITIES = ("T1w", "T2w", "PDw", "FLAIR")
SAVE_FEATURES = ("none", "regional", "dense")
SKULL_STRIP = ("auto", "force", "skip")
SKULL_STRIP_METHODS = ("bidsrep", "synthstrip", "template")
REFERENCES = ("T1w", "T2w", "FLAIR", "finest")
OUTPUT_SPACES = ("reference", "native")
DEFORMABLE = ("session", "template")
BUNDLED_TEMPLATE = "MNI152NLin2009aSym"
"""What TemplateFlow calls the template that nilearn ships."""
PRECISIONS = ("auto", "fp32", "bf16")
PER_RUN = frozenset({"run_uuid", "analysis_level", "dry_run", "reports_only", "boilerplate_only"})
"""Fields that belong to one run: a settings file given to another run does not hand them on."""

CHOICES: dict[str, tuple[str, ...]] = {
    "analysis_level": LEVELS,
    "models": MODELS,
    "tasks": TASKS,
    "save_features": SAVE_FEATURES,
    "skull_strip": SKULL_STRIP,
    "skull_strip_method": SKULL_STRIP_METHODS,
    "anatomical_reference": REFERENCES,
    "output_spaces": OUTPUT_SPACES,
    "deformable": DEFORMABLE,
    "precision": PRECISIONS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run is told. Field names are the long options of the command line.

    An empty tuple for `participant_label`, `session_label` or `tasks` means all there are, for `deformable` none.
    Units: `resolution` in mm, `min_lesion_volume` in ml, `mem_gb` in GiB,
    `lesion_threshold` a probability.
    """

    bids_dir: Path
    out_dir: Path
    analysis_level: tuple[str, ...] = ("participant",)
    # filtering
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    modalities: tuple[str, ...] = MODALITIES
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    derivatives: dict[str, Path] = dataclasses.field(default_factory=dict)
    skip_bids_validation: bool = False
    # model
    models: tuple[str, ...] = ("pepsi",)
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    models_dir: Path | None = None
    tasks: tuple[str, ...] = ()
    save_features: str = "regional"
    target_contrast: tuple[str, ...] = ()
    bids_defaults: Path | None = None
    # workflow
    skull_strip: str = "auto"
    skull_strip_method: str = "bidsrep"
    template: str | None = None
    resolution: float = 1.0
    anatomical_reference: str = "T1w"
    bias_correct: bool = False
    output_spaces: tuple[str, ...] = OUTPUT_SPACES
    deformable: tuple[str, ...] = ()
    lesion_threshold: float = 0.5
    min_lesion_volume: float = 0.01
    quality_thresholds: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    random_seed: int = 0
    # performance
    nprocs: int = dataclasses.field(default_factory=available_cpus)
    omp_nthreads: int = dataclasses.field(default_factory=lambda: min(available_cpus(), 8))
    mem_gb: float = dataclasses.field(default_factory=available_memory_gb)
    device: str = "auto"
    precision: str = "auto"
    use_plugin: Path | None = None
    low_mem: bool = False
    # subsets
    dry_run: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    embed_reports: bool = False
    ro_crate: bool = False
    # other
    work_dir: Path = Path("work")
    clean_workdir: bool = False
    write_graph: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    sloppy: bool = False
    verbose: int = 0
    quiet: bool = False
    run_uuid: str = dataclasses.field(default_factory=new_run_uuid)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            for item in value if isinstance(value, tuple) else (value,):
                if item not in allowed:
                    msg = f"{option_of(name)}: {item!r} is not one of {', '.join(allowed)}."
                    raise UsageError(msg)
        for name in ("resolution", "nprocs", "omp_nthreads", "mem_gb"):
            _check_range(name, getattr(self, name), above=0)
        _check_range("min_lesion_volume", self.min_lesion_volume, least=0)
        _check_range("lesion_threshold", self.lesion_threshold, least=0, most=1)
        for metric, limits in self.quality_thresholds.items():
            if not limits.keys() <= {"low", "high"}:
                msg = f"--quality-thresholds: {metric} has {', '.join(limits)}; only low and high can be set."
                raise UsageError(msg)
        for name in ("analysis_level", "models", "modalities", "output_spaces"):
            if not getattr(self, name):
                msg = f"{option_of(name)}: give at least one value."
                raise UsageError(msg)
        if unknown := [name for name in self.weights if name not in (*MODELS, *MASK_NETWORKS)]:
            known = ", ".join((*MODELS, *MASK_NETWORKS))
            msg = f"--weights: {', '.join(unknown)} is no network. There are {known}."
            raise UsageError(msg)
        if self.target_contrast and TO_ORDER not in self.models:
            msg = f"--target-contrast: none of the chosen models ({', '.join(self.models)}) makes contrasts to order."
            raise UsageError(msg)
        if self.deformable and TO_REGISTER not in self.models:
            msg = f"--deformable: scans are registered on features of {TO_REGISTER}; add it to --model."
            raise UsageError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as TOML knows them: paths as text, tuples as lists, None left out."""
        plain = {f.name: _to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "settings") -> Self:
        """Make settings from plain values, as `to_dict` gives them; `where` names their source."""
        return cls(**coerce(values, where))

    def to_toml(self, path: Path) -> None:
        """Write every field to `path` (TOML)."""
        path.write_text(dump_toml(self.to_dict()), encoding="utf-8")

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read what `to_toml` wrote."""
        return cls(**read_toml(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read some or all fields of `Settings` from a TOML file, each as its field's type."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: this settings file cannot be read ({error}). It must be a TOML file."
        raise UsageError(msg) from error
    return coerce(values, str(path))


def coerce(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Turn plain values into the types of the fields they name; unknown names are refused."""
    hints = typing.get_type_hints(Settings)
    coerced = {}
    for name, value in values.items():
        if name not in hints:
            msg = f"{where}: unknown setting {name!r}. Known settings: {', '.join(hints)}."
            raise UsageError(msg)
        try:
            coerced[name] = _from_plain(value, hints[name])
        except (TypeError, ValueError) as error:
            msg = f"{where}: setting {name!r} cannot be {value!r} ({error})."
            raise UsageError(msg) from error
    return coerced


def option_of(name: str) -> str:
    """Give the command line's spelling of a field, for messages."""
    special = {"models": "--model", "analysis_level": "the analysis level"}
    return special.get(name, "--" + name.replace("_", "-"))


def _check_range(
    name: str,
    value: float,
    above: float = float("-inf"),
    least: float = float("-inf"),
    most: float = float("inf"),
) -> None:
    if not (value > above and least <= value <= most):  # NaN fails too
        wanted = f"above {above:g}" if above > float("-inf") else f"from {least:g} to {most:g}"
        msg = f"{option_of(name)}: must be {wanted}, got {value}."
        raise UsageError(msg)


def _to_plain(value: Any) -> Any:
    match value:
        case Path():
            return str(value)
        case tuple():
            return [_to_plain(item) for item in value]
        case dict():
            return {key: _to_plain(item) for key, item in value.items()}
    return value


def _from_plain(value: Any, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):  # `X | None`; TOML has no null, so a value is an X
        return _from_plain(value, next(t for t in typing.get_args(hint) if t is not type(None)))
    match typing.get_origin(hint) or hint:
        case container if container is tuple:
            if isinstance(value, str) or not isinstance(value, list | tuple):
                msg = "a list is expected"
                raise TypeError(msg)
            return tuple(_from_plain(item, typing.get_args(hint)[0]) for item in value)
        case container if container is dict:
            return {str(k): _from_plain(v, typing.get_args(hint)[1]) for k, v in dict(value).items()}
        case kind if kind in (bool, int, str) and type(value) is not kind:
            msg = f"{kind.__name__} is expected, not {type(value).__name__}"
            raise TypeError(msg)
    return hint(value)
