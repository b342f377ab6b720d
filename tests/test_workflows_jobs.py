"""What is made of a pass of the graph: failures, second chances, records; and of the weights of a run."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from random_weights import write_random_weights

from bidsrep.bids.discovery import find_sessions
from bidsrep.bids.files import sha256_file
from bidsrep.bids.provenance import CHANGED_MSG
from bidsrep.errors import ImageError, UsageError, WeightsError
from bidsrep.settings import Settings
from bidsrep.workflows.jobs import SessionJob, failed_subjects
from bidsrep.workflows.models import RunModels, describe_models
from bidsrep.workflows.plan import ModelSpec, SessionPlan
from bidsrep.workflows.plugins import KILLED
from bidsrep.workflows.preprocess import _method
from bidsrep.workflows.run import summary

MODEL = ModelSpec(
    "brainid",
    {"T1w": "synthetic"},
    {"Name": "brainid", "Weights": "w", "WeightsSHA256": "a", "WeightsStatus": "random", "License": "x"},
)
CRASH = """Node: bidsrep_0_1_wf.sub_01_wf.session_wf.{}
Working directory: /work

Traceback (most recent call last):
  File "x.py", line 1, in <module>
{}
"""


class Case:
    """A session with T1w and FLAIR, whose graph is never run but whose traces are laid."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(bids_dir=root, out_dir=root.parent / "out")
        self.models = RunModels((MODEL,), {}, {})
        self.job = self.new_job()
        self.crashes = 0
        self.kept: list[SessionPlan] = []

    def new_job(self) -> SessionJob:
        (session,) = find_sessions(self.settings)
        return SessionJob.of(session, self.settings, self.models)

    def write(self, but: str = "nothing") -> None:
        """Write every planned file, but not those whose name has the given text."""
        assert self.job.plan is not None
        for path in self.job.plan.paths():
            if but not in path.name:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(path.name)

    def crash(self, node: str, message: str = "bidsrep.errors.ImageError: scan.nii.gz: is empty.") -> None:
        self.crashes += 1
        self.job.log_dir.mkdir(parents=True, exist_ok=True)
        path = self.job.log_dir / f"crash-{self.crashes}.txt"
        path.write_text(CRASH.format(node, message))

    def served(self, model: str) -> list[str]:
        assert self.job.plan is not None
        scans = self.job.plan.scans
        return [scan.scan.key for scan in scans if model in {p.model.name for p in scan.predictions}]

    def planned(self) -> list[str]:
        assert self.job.plan is not None
        return [scan.scan.key for scan in self.job.plan.scans]


@pytest.fixture
def case(make_bids: Callable[..., Path]) -> Case:
    """A session nothing was done in."""
    return Case(make_bids(["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.nii.gz"]))


def test_a_finished_session_is_recorded(case):
    case.write()
    assert not case.job.take_stock(case.kept.append)
    assert case.job.ok
    assert case.kept == [case.job.plan]
    assert case.new_job().plan is None
    assert summary([case.job]) == "1 ok, 1/1 reports"


def test_a_session_whose_provenance_cannot_be_written_is_not_done(case):
    case.write()

    def full(plan: SessionPlan) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        case.job.take_stock(full)
    assert not case.job.done
    assert case.new_job().plan is not None


def test_a_session_whose_input_changes_meanwhile_is_not_done(case):
    case.write()
    (scan,) = case.settings.bids_dir.rglob("*_T1w.nii.gz")
    assert case.job.inputs[scan.name] == sha256_file(scan)

    def refuse(plan: SessionPlan) -> None:
        raise ImageError(scan, *CHANGED_MSG)

    assert not case.job.take_stock(refuse)
    assert not case.job.take_stock(refuse)  # said once
    assert not case.job.ok
    assert case.job.messages == [f"{scan}: {CHANGED_MSG[0]}. {CHANGED_MSG[1]}."]
    assert case.new_job().plan is not None


def test_a_failed_scan_is_left_out_and_tried_again_next_time(case):
    case.write(but="FLAIR")
    case.crash("FLAIR_wf.preprocess_wf.conform")
    assert case.job.take_stock(case.kept.append)
    assert case.planned() == ["T1w"]
    case.write()
    assert not case.job.take_stock(case.kept.append)
    assert case.job.done
    assert not case.job.ok
    assert "FLAIR, step conform: scan.nii.gz: is empty." in case.job.messages[0]
    assert case.new_job().reasons == {"brainid": "FLAIR failed before"}
    assert summary([case.job]) == "0 ok, 1 failed (sub-01), 1/1 reports"


def test_a_failed_reference_hands_over(case):
    case.crash("T1w_wf.preprocess_wf.brain_mask")
    assert case.job.take_stock(case.kept.append)
    assert case.planned() == ["FLAIR"]


def test_a_killed_step_gets_a_second_chance_but_no_third(case):
    case.crash("FLAIR_wf.brainid_wf.represent", KILLED)
    assert case.job.take_stock(case.kept.append)
    assert case.planned() == ["T1w", "FLAIR"]
    assert not case.job.messages
    case.crash("FLAIR_wf.brainid_wf.represent", KILLED)
    assert case.job.take_stock(case.kept.append)
    assert case.served("brainid") == ["T1w"]
    assert "memory" in case.job.messages[0]


def test_a_model_that_fails_on_a_scan_leaves_it_to_the_other_models(case):
    case.models = RunModels((MODEL, replace(MODEL, name="pepsi")), {}, {})
    case.job = case.new_job()
    case.crash("T1w_wf.brainid_wf.represent")
    assert case.job.take_stock(case.kept.append)
    assert case.planned() == ["T1w", "FLAIR"]
    assert case.job.plan.reference.scan.key == "T1w"
    assert (case.served("brainid"), case.served("pepsi")) == (["FLAIR"], ["T1w", "FLAIR"])
    case.write()
    assert not case.job.take_stock(case.kept.append)
    assert "T1w, brainid, step represent: scan.nii.gz: is empty." in case.job.messages[0]
    assert case.new_job().reasons == {"brainid": "T1w failed before"}


def test_a_model_that_fails_on_every_scan_leaves_what_was_prepared(case):
    case.crash("T1w_wf.brainid_wf.represent")
    case.crash("FLAIR_wf.brainid_wf.represent")
    assert case.job.take_stock(case.kept.append)
    case.write()
    assert not case.job.take_stock(case.kept.append)
    assert case.job.done
    assert not case.job.ok
    assert case.new_job().reasons == {"brainid": "FLAIR, T1w failed before"}


def test_scans_prepared_anew_leave_another_model_behind(case):
    case.write()
    case.job.take_stock(case.kept.append)
    case.models = RunModels((replace(MODEL, name="pepsi"),), {}, {})
    case.settings = replace(case.settings, models=("pepsi",))
    assert case.new_job().left_behind == {}
    case.settings = replace(case.settings, resolution=2.0, bias_correct=True)
    assert case.new_job().left_behind == {"brainid": ["bias_correct", "resolution"]}
    case.settings = replace(case.settings, models=("pepsi", "brainid"))
    assert case.new_job().left_behind == {}
    case.settings = replace(
        case.settings, models=("pepsi",), resolution=1.0, bias_correct=False, modalities=("FLAIR",)
    )
    assert case.new_job().left_behind == {"brainid": ["reference"]}


def test_a_failure_of_the_session_ends_it(case):
    case.write(but="metrics")
    case.crash("brainid_evaluate", "ValueError: no")
    assert not case.job.take_stock(case.kept.append)
    assert not case.job.done
    assert "session, step brainid_evaluate: no" in case.job.messages[0]
    assert failed_subjects([case.job]).keys() == {"01"}


def test_missing_files_without_a_crash_are_told(case):
    case.write(but="preproc_T1w")
    assert not case.job.take_stock(case.kept.append)
    assert "were not written" in case.job.messages[0]


def test_unusable_files_make_the_subject_fail_but_not_its_scans(case):
    (case.settings.bids_dir / "sub-01/anat/sub-01_T2w.nii.gz").touch()
    case.job = case.new_job()
    case.write()
    case.job.take_stock(case.kept.append)
    assert case.job.done
    assert not case.job.ok
    assert case.new_job().plan is None


class TestModels:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        weights = {name: str(write_random_weights(tmp_path, name)) for name in ("pepsi", "brainid")}
        return Settings(
            bids_dir=tmp_path,
            out_dir=tmp_path / "out",
            models=("pepsi", "brainid"),
            weights=weights,
            device="cpu",
            skull_strip="skip",
        )

    def change(self, settings: Settings, **changes: object) -> RunModels:
        return describe_models(replace(settings, **changes))  # type: ignore[arg-type]

    def test_outputs_are_those_of_the_heads(self, settings):
        pepsi, brainid = describe_models(settings).specs
        assert pepsi.outputs == {"T1w": "synthetic", "FLAIR": "synthetic", "lesion": "lesion_probability"}
        assert brainid.outputs == {"T1w": "synthetic"}
        assert pepsi.width == 8
        assert pepsi.entry["WeightsStatus"] == "random"

    def test_tampered_weights_are_refused(self, settings):
        path = Path(settings.weights["pepsi"])
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(WeightsError, match=r"pepsi\.safetensors"):
            describe_models(settings)

    def test_weights_of_another_model_are_refused(self, settings):
        with pytest.raises(WeightsError, match="brainid"):
            self.change(settings, weights={"pepsi": settings.weights["brainid"]}, models=("pepsi",))

    def test_the_brain_masks_weights_count_where_they_may_be_used(self, settings, tmp_path):
        mask = str(write_random_weights(tmp_path, "brainmask"))
        used = self.change(settings, weights=settings.weights | {"brainmask": mask}, skull_strip="auto")
        assert used.specs[0].other_weights == {"brainmask": used.sha256["brainmask"]}
        assert used.mask_entry is not None
        assert describe_models(settings).specs[0].other_weights == {}

    def test_synthstrip_wants_its_weights(self, settings):
        with pytest.raises(WeightsError, match="synthstrip=FILE"):
            self.change(settings, skull_strip="force", skull_strip_method="synthstrip")

    def test_masks_of_synthstrip_name_its_weights(self, settings, tmp_path):
        file = tmp_path / "synthstrip.1.pt"
        file.write_bytes(b"weights")
        weights = settings.weights | {"synthstrip": str(file)}
        models = self.change(settings, skull_strip="force", skull_strip_method="synthstrip", weights=weights)
        assert models.mask_entry is not None
        assert models.mask_entry["Weights"] == "synthstrip.1.pt"
        assert models.mask_entry["WeightsSHA256"] == sha256_file(file) == models.sha256["synthstrip"]
        assert _method("synthstrip", dict(models.mask_entry))["Model"]["Name"] == "synthstrip"
        assert _method("stripped", dict(models.mask_entry)) == {"Method": "stripped"}

    def test_a_task_that_no_model_makes_is_refused(self, settings):
        with pytest.raises(
            UsageError, match=r"--tasks: none of .*\(pepsi, brainid\) makes seg\. They make T1w,"
        ):
            self.change(settings, tasks=("T1w", "seg"))
        assert self.change(settings, tasks=("lesion",)).specs

    def test_weights_that_are_not_used_are_told(self, settings, caplog):
        with caplog.at_level(logging.WARNING, logger="bidsrep"):
            self.change(settings, models=("brainid",))
        assert "--weights pepsi: this run does not use them" in caplog.text

    def test_other_voxels_than_trained_on_are_told(self, settings, caplog):
        with caplog.at_level(logging.WARNING, logger="bidsrep"):
            self.change(settings, resolution=2.0)
        assert "trained on voxels of 1 mm" in caplog.text

    def test_a_device_that_is_not_there_is_told(self, settings):
        with pytest.raises(UsageError):
            self.change(settings, device="cuda:99")
