"""The record of what is done: when a session is left alone, and when it is not."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bidsrep.bids.discovery import find_sessions
from bidsrep.settings import Settings
from bidsrep.workflows import ledger
from bidsrep.workflows.plan import ModelSpec, plan_session

MODEL = ModelSpec(
    "brainid",
    {"T1w": "synthetic"},
    {"Name": "brainid", "Weights": "w", "WeightsSHA256": "a", "WeightsStatus": "random", "License": "x"},
)


class Case:
    """A session whose files have all been written and recorded."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(bids_dir=root, out_dir=root.parent / "out")
        self.scan = root / "sub-01/anat/sub-01_T1w.nii.gz"
        (self.session,) = find_sessions(self.settings)
        for path in self.paths():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        self.record()

    def paths(self, **changes: object) -> list[Path]:
        plan = plan_session(self.session, replace(self.settings, **changes), [MODEL])  # type: ignore[arg-type]
        assert plan is not None
        return plan.paths()

    def wanted(self, model: ModelSpec = MODEL, **changes: object) -> dict:
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        plan = plan_session(self.session, settings, [model])
        assert plan is not None
        return ledger.fingerprint(plan, settings, model)

    def record(self, failed: tuple[str, ...] = (), **changes: object) -> None:
        ledger.record(
            self.session,
            "brainid",
            self.wanted(**changes),
            self.paths(**changes),
            self.settings.out_dir,
            failed,
        )

    def why(self, model: ModelSpec = MODEL, **changes: object) -> str | None:
        return ledger.why_stale(
            self.session, model.name, self.wanted(model, **changes), self.settings.out_dir
        )


@pytest.fixture
def case(make_bids: Callable[..., Path]) -> Case:
    """A finished session."""
    return Case(make_bids(["sub-01/anat/sub-01_T1w.nii.gz"]))


def test_finished_work_is_left_alone(case):
    assert case.why() is None


def test_another_model_has_its_own_record(case):
    assert case.why(replace(MODEL, name="pepsi")) == ledger.NEVER_DONE


def test_speed_and_place_do_not_matter(case):
    assert case.why(nprocs=7, work_dir=Path("elsewhere"), verbose=2) is None


def test_touched_files_are_compared_by_content(case):
    for path in (case.scan, *case.paths()):
        os.utime(path, (1, 1))
    assert case.why() is None


def test_a_changed_input_is_named(case):
    case.scan.write_bytes(case.scan.read_bytes() + b"x")
    assert case.why() == "input sub-01_T1w.nii.gz changed"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"bias_correct": True}, "bias_correct"),
        ({"resolution": 2.0}, "resolution"),
        ({"random_seed": 1}, "seed"),
    ],
)
def test_a_changed_setting_is_named(case, change, word):
    assert word in case.why(**change)


def test_other_weights_count(case):
    assert (
        case.why(replace(MODEL, entry={**MODEL.entry, "WeightsSHA256": "b"})) == "weights of brainid changed"
    )
    assert case.why(replace(MODEL, other_weights={"brainmask": "c"})) == "weights of brainmask changed"


def test_a_lost_output_is_made_again(case):
    case.paths()[0].unlink()
    assert "missing" in case.why()


def test_an_edited_output_is_made_again(case):
    path = case.paths()[0]
    path.write_text(path.name[::-1])
    assert "changed" in case.why()


def test_a_damaged_record_counts_as_none(case):
    ledger.ledger_path(case.settings.out_dir, case.session, "brainid").write_text("{")
    assert case.why() == ledger.NEVER_DONE


def test_files_no_longer_made_are_dropped(case):
    embedding = next(path for path in case.paths() if path.name.endswith("embedding.tsv"))
    case.record(save_features="none")
    assert not embedding.exists()
    assert case.paths()[0].exists()


def test_after_a_failure_nothing_is_dropped_until_it_succeeds(case):
    embedding = next(path for path in case.paths() if path.name.endswith("embedding.tsv"))
    case.record(failed=("FLAIR",), save_features="none")
    assert embedding.exists()
    assert case.why(save_features="none") == "FLAIR failed before"
    case.record(save_features="none")
    assert not embedding.exists()


def test_a_name_too_long_for_any_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    paths = [tmp_path / "there", tmp_path / ("a" * 400), tmp_path / "not\0a name"]
    assert ledger.missing_files(paths) == paths[1:]
