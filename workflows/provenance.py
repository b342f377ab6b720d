"""What was done in a session, for its provenance record."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bidsrep.bids.names import sidecar_path
from bidsrep.bids.provenance import Step, write_provenance
from bidsrep.settings import Settings
from bidsrep.workflows.machine import describe_machine
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.plan import WARPS, PlannedFile, Prediction, ScanPlan, SessionPlan


@dataclass(frozen=True)
class Recorder:
    """Writes the records of a run's sessions: knows what is the same for all of them."""

    settings: Settings
    started: str
    machine: Mapping[str, Any]

    @classmethod
    def start(cls, settings: Settings, models: RunModels) -> Self:
        """Take note of the time and of the machine, before anything is computed."""
        return cls(settings, _now(), describe_machine(settings, models))

    def record(self, plan: SessionPlan, before: Mapping[str, str]) -> None:
        """Write the record of a finished session; `before` maps its inputs' names to their first SHA-256."""
        write_provenance(
            self.settings,
            plan.session,
            session_steps(plan),
            started=self.started,
            ended=_now(),
            before=before,
            machine=self.machine,
        )


def session_steps(plan: SessionPlan) -> Iterator[Step]:
    """List what was done in a finished session: preprocessing, every model on every scan, the measures."""
    for scan in plan.scans:
        yield _preprocessing(scan, plan.reference)
        for prediction in scan.predictions:
            yield _prediction(scan, prediction, plan.reference)
    for name, file in plan.metrics.items():
        inputs = [scan.files["preproc"].path for scan in plan.scans]
        inputs += [scan.given_lesions.path for scan in plan.scans if scan.given_lesions]
        yield Step(f"{name} metrics", file.reason, inputs, _written([file]))


def _preprocessing(scan: ScanPlan, reference: ScanPlan) -> Step:
    given = [scan.given_mask.path] if scan.given_mask else []
    given += [] if scan.is_reference else [reference.scan.path]
    done = "Brain mask and resampling" if scan.is_reference else "Brain mask, registration and resampling"
    # Whether a network made the mask was decided when the scan was looked at; its sidecar tells.
    sidecar = json.loads(sidecar_path(scan.files["mask"].path).read_text(encoding="utf-8"))
    return Step(
        f"preprocess {scan.scan.key}",
        f"{done} of the {scan.scan.suffix} scan",
        [scan.scan.path, *given],
        _written(scan.files.values()),
        sidecar.get("Model"),
    )


def _prediction(scan: ScanPlan, prediction: Prediction, reference: ScanPlan) -> Step:
    name = prediction.model.name
    inputs = [scan.files["preproc"].path, scan.files["mask"].path]
    if not scan.is_reference:
        warped = set(WARPS) & set(prediction.files)
        inputs += [scan.files["xfm"].path] if warped or "lesion_mask_native" in prediction.files else []
        inputs += [reference.files["preproc"].path] if warped else []
    acquired = f" (acquired with {prediction.acquisition})" if prediction.acquisition else ""
    return Step(
        f"{name} {scan.scan.key}",
        f"Features and predictions of {name} from the {scan.scan.suffix} scan{acquired}",
        inputs,
        _written(prediction.files.values()),
        prediction.model.entry,
    )


def _written(files: Iterable[PlannedFile]) -> list[Path]:
    """List everything on disk: the files, and the JSON beside them."""
    paths = []
    for file in files:
        paths += [file.path] if file.sidecar is None else [file.path, sidecar_path(file.path)]
    return paths


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
