"""What a run will write, and why: decided before anything is computed, from the scans and the settings alone.

The graph, the dry run and the resuming of a run all read the same plan, so they cannot disagree.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bidsrep.bids.acquisition import (
    AcquisitionParameters,
    acquisition_parameters,
    contrast_suffix,
    parse_target_contrast,
    read_bids_defaults,
)
from bidsrep.bids.derivatives import Given, find_brain_mask, find_derivatives
from bidsrep.bids.names import output_path, sidecar_path
from bidsrep.bids.outputs import Output, brain_mask, output, preproc
from bidsrep.bids.reference import choose_reference
from bidsrep.bids.scans import Scan, Session
from bidsrep.bids.sidecars import build_sidecar
from bidsrep.bids.uris import DatasetRoots
from bidsrep.errors import ImageError
from bidsrep.settings import BUNDLED_TEMPLATE, TO_ORDER, TO_REGISTER, Settings

SYNTHETIC, LESION, ORDERED, SUPERRES = "synthetic", "lesion_probability", "ordered", "superres"
BIAS = "bias"
"""Kinds of files that predictions become."""
WARPS = ("warp", "warp_inverse")
"""Deformable transforms, by role and kind: there, and back."""
LABEL_TABLES = {"dseg": "dseg_table", "tissue": "tissue_table"}
"""Kinds of segmentations, and that of the table beside them."""
SCALE_OF_THE_SCAN = "arbitrary (99.5th percentile of the brain in the scan = 1)"
"""What models that follow the scan's own scale give; the others' synthetic images have white matter at 1."""
COARSE = "One voxel for {0}x{0}x{0} of the reference grid: {1:g} mm isotropic"


@dataclass(frozen=True)
class ModelSpec:
    """What the plan must know of a model.

    Parameters
    ----------
    name : str
        As on the command line.
    outputs : mapping
        What it predicts (``T1w``, ``FLAIR``, ``lesion``, ...), and which kind of file that becomes
        (`bidsrep.bids.outputs.output_kinds`); empty for what is not written.
    entry : mapping
        The ``Model`` block of the sidecars.
    width : int
        Channels of its features at full resolution, which decide the memory it takes.
    stride : int
        Voxels of the scan per voxel of its features, along each axis.
    other_weights : mapping
        Name to sha256 of further weights its results depend on: the brain mask's.
    """

    name: str
    outputs: Mapping[str, str]
    entry: Mapping[str, str] = field(default_factory=dict)
    width: int = 64
    stride: int = 1
    other_weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedFile:
    """One file to be written: where, why, and what stands in the JSON beside it (None: no JSON)."""

    path: Path
    reason: str
    sidecar: Mapping[str, Any] | None = None


Files = Mapping[str, PlannedFile]


@dataclass(frozen=True)
class Prediction:
    """What one model makes of one scan; `files` by role: an output of the model, ``lesion_mask``, ...

    `acquisition` tells how the scan was acquired, for models that need it; `ordered` the contrasts asked of
    them, by role.
    """

    model: ModelSpec
    files: Files
    acquisition: AcquisitionParameters | None = None
    ordered: Mapping[str, AcquisitionParameters] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """What is made of one scan; `files` by role: ``preproc``, ``mask``, ``xfm`` and figures."""

    scan: Scan
    is_reference: bool
    files: Files
    predictions: tuple[Prediction, ...] = ()
    reference_suffix: str = ""
    given_mask: Given | None = None
    given_lesions: Given | None = None


@dataclass(frozen=True, eq=False)
class SessionPlan:
    """What is made of one session; `metrics` by model; `problems` say which model gets nothing from which scan."""

    session: Session
    scans: tuple[ScanPlan, ...]
    metrics: Files = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def reference(self) -> ScanPlan:
        """The scan whose grid the others are brought to."""
        return next(plan for plan in self.scans if plan.is_reference)

    def planned(self) -> Iterator[PlannedFile]:
        """Go through every file of the session, in the order it is made."""
        for scan in self.scans:
            yield from scan.files.values()
            for prediction in scan.predictions:
                yield from prediction.files.values()
        yield from self.metrics.values()

    def paths(self) -> list[Path]:
        """List the paths of all files, sidecars included."""
        paths = []
        for file in self.planned():
            paths.append(file.path)
            if file.sidecar is not None:
                paths.append(sidecar_path(file.path))
        return paths


def plan_session(
    session: Session,
    settings: Settings,
    models: Sequence[ModelSpec],
    without: Sequence[Scan] = (),
    spared: Collection[tuple[str, str]] = (),
) -> SessionPlan | None:
    """Plan one session; None if it has no usable scan.

    Parameters
    ----------
    session : Session
        What was found.
    settings : Settings
        The run's settings.
    models : sequence of ModelSpec
        The models to apply to every scan.
    without : sequence of Scan
        Scans to leave out, because they failed before.
    spared : collection of (str, str)
        Scan's key and model that are not to meet, because that failed before.
    """
    scans = [scan for scan in session.scans if scan not in without]
    if not scans:
        return None
    planner = _Planner(settings, choose_reference(scans, settings.anatomical_reference), spared)
    ordered = [planner.reference, *(scan for scan in scans if scan != planner.reference)]
    plans = tuple(planner.scan(scan, models) for scan in ordered)
    served = {prediction.model.name for plan in plans for prediction in plan.predictions}
    metrics = {
        model.name: planner.metrics(session, ordered, model) for model in models if model.name in served
    }
    return SessionPlan(session, plans, metrics, tuple(planner.problems))


class _Planner:
    """Names and describes the files of one session."""

    def __init__(self, settings: Settings, reference: Scan, spared: Collection[tuple[str, str]]) -> None:
        self.settings, self.reference, self.spared = settings, reference, spared
        self.problems: list[str] = []
        self.defaults = read_bids_defaults(settings.bids_defaults) if settings.bids_defaults else None
        self.roots = DatasetRoots.of(settings)
        self.reference_image = preproc(settings.out_dir, reference, reference, settings.resolution).path

    def scan(self, scan: Scan, models: Sequence[ModelSpec]) -> ScanPlan:
        """Plan everything that is made of one scan."""
        out_dir, resolution = self.settings.out_dir, self.settings.resolution
        is_reference = scan == self.reference
        given = self._given_mask(scan)
        mask = brain_mask(out_dir, scan, self.reference, resolution)
        made_of = [scan.path] if given is None else [scan.path, given.path]
        files = {
            "preproc": self._file(preproc(out_dir, scan, self.reference, resolution), made_of),
            "mask": self._file(mask, made_of),
            "mask_figure": self._figure(
                scan, "brain", f"Outline of the brain mask on the {scan.suffix} scan"
            ),
        }
        if not is_reference:
            files["xfm"] = self._file(self._output("xfm", scan), [scan.path, self.reference.path])
            files["registration_figure"] = self._figure(
                scan, "registration", f"The {scan.suffix} scan on the reference before and after registration"
            )
        predictions = tuple(
            self._prediction(scan, model, files["preproc"].path, files.get("xfm"), acquisition)
            for model, acquisition in self._usable(scan, models)
        )
        return ScanPlan(
            scan, is_reference, files, predictions, self.reference.suffix, given, self._given_lesions(scan)
        )

    def metrics(self, session: Session, scans: Sequence[Scan], model: ModelSpec) -> PlannedFile:
        """Plan the table of what can be measured about a model's results."""
        sources = [
            preproc(self.settings.out_dir, scan, self.reference, self.settings.resolution).path
            for scan in scans
        ]
        table = output("metrics", self.settings.out_dir, session, model=model.name)
        return self._file(table, sources, model)

    def _usable(
        self, scan: Scan, models: Sequence[ModelSpec]
    ) -> Iterator[tuple[ModelSpec, AcquisitionParameters | None]]:
        """Give the models that can use a scan; what another lacks becomes a problem of the session."""
        for model in models:
            if (scan.key, model.name) in self.spared:
                continue
            if model.name != TO_ORDER:
                yield model, None
                continue
            try:
                acquired = acquisition_parameters(scan.path, scan.suffix, scan.metadata(), self.defaults)
            except ImageError as error:
                self.problems.append(f"{model.name}: {error}")
            else:
                yield model, acquired

    def _ordered(self, scan: Scan, model: ModelSpec, source: Path) -> dict[str, PlannedFile]:
        """Plan the contrasts of ``--target-contrast``."""
        files = {}
        for target in map(parse_target_contrast, self.settings.target_contrast):
            made = self._output(ORDERED, scan, model, contrast_suffix(target), target.label)
            files[target.label] = self._file(made, [source], model, **target.fields())
        return files

    def _prediction(
        self,
        scan: Scan,
        model: ModelSpec,
        source: Path,
        xfm: PlannedFile | None,
        acquisition: AcquisitionParameters | None,
    ) -> Prediction:
        files: dict[str, PlannedFile] = {}
        if acquisition is not None:
            files |= self._ordered(scan, model, source)
        ordered = {t.label: t for t in map(parse_target_contrast, self.settings.target_contrast)}
        wanted = self._wanted(model)
        for name, kind in wanted.items():
            if kind == LESION:
                files |= self._lesions(name, scan, model, source, xfm)
            else:
                scale = {"Units": SCALE_OF_THE_SCAN} if (model.name, kind) == (TO_ORDER, SYNTHETIC) else {}
                files[name] = self._file(self._output(kind, scan, model, name), [source], model, **scale)
            if kind in LABEL_TABLES:
                files[f"{name}_table"] = PlannedFile(
                    self._output(LABEL_TABLES[kind], scan, model).path,
                    "What the numbers of the segmentation mean",
                )
        if self.settings.save_features != "none":
            files["embedding"] = self._file(self._output("embedding", scan, model), [source], model)
        if self.settings.save_features == "dense":
            files["features"] = self._features(scan, model, source)
        if model.name == TO_REGISTER:
            files |= self._warps(scan, model, source)
        files |= self._figures(scan, model, wanted)
        return Prediction(model, files, acquisition, ordered if acquisition is not None else {})

    def _figures(self, scan: Scan, model: ModelSpec, wanted: Mapping[str, str]) -> dict[str, PlannedFile]:
        """Plan the figures of what a model makes of a scan; that of lesions is planned with them."""
        kinds, name, of = set(wanted.values()), model.name, f"the {scan.suffix} scan"
        drawn = {
            "synthesis": (SYNTHETIC in kinds, "Synthesis", f"What {name} predicts from {of}"),
            "dseg": ("dseg" in kinds, "Segmentation", f"Structures {name} finds on {of}"),
            "tissue": ("tissue" in kinds, "Tissue", f"Tissues {name} finds on {of}"),
            "bias": (BIAS in kinds, "Bias", f"Bias field {name} finds on {of}, and the scan without it"),
            "superres": (
                SUPERRES in kinds,
                "Superres",
                f"The {scan.suffix} scan before and after {name}, enlarged",
            ),
            "components": (model.stride == 1, "Components", f"Features of {name} on {of} as colour"),
        }
        return {
            f"{role}_figure": self._figure(scan, f"{name}{desc}", reason)
            for role, (is_made, desc, reason) in drawn.items()
            if is_made
        }

    def _features(self, scan: Scan, model: ModelSpec, source: Path) -> PlannedFile:
        """Plan dense features; those of a stride lie on a coarser grid of their own."""
        spacing = self.settings.resolution * model.stride
        made = output(
            "features",
            self.settings.out_dir,
            scan,
            reference=self.reference,
            resolution=spacing,
            model=model.name,
        )
        coarse = {"Resolution": COARSE.format(model.stride, spacing)} if model.stride > 1 else {}
        return self._file(made, [source], model, **coarse)

    def _warps(self, scan: Scan, model: ModelSpec, source: Path) -> dict[str, PlannedFile]:
        """Plan the transforms of ``--deformable``: the reference's to the template, other scans' to it."""
        is_reference = scan == self.reference
        if ("template" if is_reference else "session") not in self.settings.deformable:
            return {}
        if is_reference:
            target, sources = self.settings.template or BUNDLED_TEMPLATE, [source]
        else:
            # Between two T1w scans both directions would have one name.
            alike = scan.suffix == self.reference.suffix
            target, sources = "reference" if alike else self.reference.suffix, [source, self.reference_image]
        return {kind: self._file(self._output(kind, scan, model, target), sources, model) for kind in WARPS}

    def _lesions(
        self, name: str, scan: Scan, model: ModelSpec, source: Path, xfm: PlannedFile | None
    ) -> dict[str, PlannedFile]:
        limits = {
            "Threshold": self.settings.lesion_threshold,
            "MinimumVolume": self.settings.min_lesion_volume,
            "MinimumVolumeUnits": "ml",
        }
        probability = self._output(LESION, scan, model)
        mask = self._output("lesion_mask", scan, model)
        files = {
            name: self._file(probability, [source], model),
            "lesion_mask": self._file(mask, [probability.path], model, **limits),
            "lesion_figure": self._figure(
                scan, f"{model.name}Lesions", f"Lesions {model.name} finds on the {scan.suffix} scan"
            ),
        }
        if "native" in self.settings.output_spaces:
            native = self._output("lesion_mask_native", scan, model)
            sources = [probability.path, *([xfm.path] if xfm else [])]
            files["lesion_mask_native"] = self._file(native, sources, model, **limits)
        return files

    def _wanted(self, model: ModelSpec) -> dict[str, str]:
        tasks = self.settings.tasks
        return {name: kind for name, kind in model.outputs.items() if kind and (not tasks or name in tasks)}

    def _given_mask(self, scan: Scan) -> Given | None:
        return find_brain_mask(self.settings.derivatives, scan) if self.settings.derivatives else None

    def _given_lesions(self, scan: Scan) -> Given | None:
        """Find a lesion mask by others, which predictions are compared with."""
        if not self.settings.derivatives:
            return None
        found = find_derivatives(self.settings.derivatives, scan, "mask", label="lesion")
        return found[0] if found else None

    def _output(
        self, kind: str, scan: Scan, model: ModelSpec | None = None, target: str = "", order: str = ""
    ) -> Output:
        return output(
            kind,
            self.settings.out_dir,
            scan,
            reference=self.reference,
            resolution=self.settings.resolution,
            model=model.name if model else "",
            target=target,
            order=order,
        )

    def _file(
        self, made: Output, sources: Sequence[Path], model: ModelSpec | None = None, **extra: Any
    ) -> PlannedFile:
        sidecar = build_sidecar(
            made,
            self.roots,
            sources,
            reference_image=self.reference_image,
            resolution=self.settings.resolution,
            model=model.entry if model else None,
            **extra,
            Sloppy=self.settings.sloppy or None,
        )
        return PlannedFile(made.path, made.description, sidecar)

    def _figure(self, scan: Scan, desc: str, reason: str) -> PlannedFile:
        path = output_path(
            self.settings.out_dir, scan, desc=desc, suffix=scan.suffix, extension=".svg", datatype="figures"
        )
        return PlannedFile(path, f"Figure of the report: {reason}")


def describe(plan: SessionPlan, root: Path) -> Iterator[str]:
    """Give one line per file: its path below `root`, and the reason."""
    for file in plan.planned():
        beside = " (and .json)" if file.sidecar is not None else ""
        yield f"{file.path.relative_to(root)}{beside}\t{file.reason}"
