"""The example session of the pages: its real plan and its real graph, built without any image or weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bidsrep.bids.scans import Scan, Session
from bidsrep.models.registry import model_class
from bidsrep.settings import DEFORMABLE, TO_ORDER, TO_REGISTER, Settings
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.plan import ModelSpec, SessionPlan, plan_session

SUFFIXES = ("T1w", "FLAIR")
ACQUIRED = {
    "T1w": {"RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9},
    "FLAIR": {"RepetitionTime": 9.0, "EchoTime": 0.12, "InversionTime": 2.5},
}
"""Seconds; what CRL asks of a scan."""


@contextmanager
def example_session(
    models: Sequence[str] = ("pepsi",), session: str | None = "A"
) -> Iterator[tuple[SessionPlan, Any]]:
    """Give the plan and the Nipype workflow of a session with a T1w and a FLAIR.

    The files only exist, empty, for as long as the block runs: building a graph looks whether they are there.
    """
    from bidsrep.workflows.participant import init_bidsrep_wf

    with TemporaryDirectory() as scratch:
        settings = Settings(
            bids_dir=Path(scratch) / "bids",
            out_dir=Path(scratch) / "derivatives",
            work_dir=Path(scratch) / "work",
            models=tuple(models),
            device="cpu",
        )
        weights = {name: _touch(Path(scratch) / name) for name in (*models, "brainmask")}
        specs = tuple(_spec(name) for name in models)
        plan = plan_session(_session(settings.bids_dir, session), settings, specs)
        assert plan is not None
        run = RunModels(specs, weights, dict.fromkeys(weights, "0"))
        yield plan, init_bidsrep_wf([plan], settings, run)


@contextmanager
def everything_of(model: str) -> Iterator[SessionPlan]:
    """Give the plan of that session with all heads a model can have, and all that can be asked of it."""
    with TemporaryDirectory() as scratch:
        settings = Settings(
            bids_dir=Path(scratch) / "bids",
            out_dir=Path(scratch) / "derivatives",
            models=(model,),
            save_features="dense",
            target_contrast=("TR=5,TE=0.08",) if model == TO_ORDER else (),
            deformable=DEFORMABLE if model == TO_REGISTER else (),
        )
        outputs = {task.name: task.file_kind for task in model_class(model).tasks}
        plan = plan_session(_session(settings.bids_dir, None), settings, (ModelSpec(model, outputs),))
        assert plan is not None
        yield plan


def _session(root: Path, label: str | None) -> Session:
    inner = f"ses-{label}/" if label else ""
    stem = f"sub-01/{inner}anat/sub-01_{inner.replace('/', '_')}"
    scans = []
    for suffix in SUFFIXES:
        image = _touch(root / f"{stem}{suffix}.nii.gz")
        (root / f"{stem}{suffix}.json").write_text(json.dumps(ACQUIRED[suffix]))
        scans.append(Scan(image, "01", label, suffix, root=root))
    return Session("01", label, tuple(scans))


def _spec(name: str) -> ModelSpec:
    """Describe a model that has all of its pre-training outputs."""
    tasks = [task for task in model_class(name).tasks if task.file_kind and not task.with_image]
    pretrained = [task for task in tasks if task.file_kind != "dseg"]
    return ModelSpec(name, {task.name: task.file_kind for task in pretrained})


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path
