"""The activities of a session, for its provenance record."""

import json
from collections.abc import Iterator

from bidsrep.bids.names import sidecar_path
from bidsrep.bids.provenance import Step
from bidsrep.workflows.plan import WARPS, PlannedFile, Prediction, ScanPlan, SessionPlan


def session_steps(plan: SessionPlan) -> Iterator[Step]:
    """List what was done in a finished session: preprocessing, every model on every scan, the measures."""
    for scan in plan.scans:
        yield _preprocessing(scan, plan.reference)
        for prediction in scan.predictions:
            yield _prediction(scan, prediction, plan.reference)
    for name, file in plan.metrics.items():
        preprocessed = [scan.files["preproc"].path for scan in plan.scans]
        yield Step(f"{name} metrics", file.reason, preprocessed, [file.path])


def _preprocessing(scan: ScanPlan, reference: ScanPlan) -> Step:
    given = [scan.given_mask.path] if scan.given_mask else []
    given += [] if scan.is_reference else [reference.scan.path]
    outputs = [scan.files[role].path for role in ("preproc", "mask", "xfm") if role in scan.files]
    done = "Brain mask and resampling" if scan.is_reference else "Brain mask, registration and resampling"
    # Whether a network made the mask was decided when the scan was looked at; its sidecar tells.
    sidecar = json.loads(sidecar_path(scan.files["mask"].path).read_text(encoding="utf-8"))
    return Step(
        f"preprocess {scan.scan.key}",
        f"{done} of the {scan.scan.suffix} scan",
        [scan.scan.path, *given],
        outputs,
        sidecar.get("Model"),
    )


def _prediction(scan: ScanPlan, prediction: Prediction, reference: ScanPlan) -> Step:
    name = prediction.model.name
    inputs = [scan.files["preproc"].path, scan.files["mask"].path]
    if not scan.is_reference:
        warped = set(WARPS) & set(prediction.files)
        inputs += [scan.files["xfm"].path] if warped or "lesion_mask_native" in prediction.files else []
        inputs += [reference.files["preproc"].path] if warped else []
    return Step(
        f"{name} {scan.scan.key}",
        f"Features and predictions of {name} from the {scan.scan.suffix} scan",
        inputs,
        [file.path for file in prediction.files.values() if _is_data(file)],
        prediction.model.entry,
    )


def _is_data(file: PlannedFile) -> bool:
    return file.path.suffix != ".svg"
