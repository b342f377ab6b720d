"""What the pages read from an output folder: scans, models, metrics, what is missing, what failed."""

import json

import pytest
from fake_derivatives import FakeRun, write

from bidsrep.bids.files import read_object
from bidsrep.bids.names import session_dir
from bidsrep.bids.scans import Session
from bidsrep.reports.crashes import crashes_of, read_crash
from bidsrep.reports.measures import flags_of, in_short, measure_of
from bidsrep.reports.results import (
    Metric,
    SessionResult,
    find_subjects,
    read_session,
    read_subject,
)


@pytest.fixture
def run(tmp_path):
    """One model's results in an empty folder."""
    return FakeRun(tmp_path)


class TestSessions:
    def test_scans_models_and_metrics_are_read(self, run):
        run.session("01", "A")
        (result,) = read_subject(run.out_dir, "01")
        assert [scan.key for scan in result.scans] == ["T1w", "FLAIR"]
        assert [scan.is_reference for scan in result.scans] == [True, False]
        assert result.scans[1].source == "sub-01_ses-A_FLAIR.nii.gz"
        assert result.scans[1].outputs == {"pepsi": ["T1w", "lesion mask", "lesion probability", "embedding"]}
        assert result.models[0].weights == "pepsi-compact-1"
        assert Metric("pepsi", "FLAIR", "correlation", "0.91", "1", "T1w") in result.metrics
        assert result.status == "complete"

    def test_brain_masks_are_no_model(self, run):
        run.session("01")
        anat = run.out_dir / "sub-01" / "anat"
        write(anat / "sub-01_space-T1w_res-1mm_desc-brainFromFLAIR_mask.nii.gz", "")
        (result,) = read_subject(run.out_dir, "01")
        assert [model.name for model in result.models] == ["pepsi"]

    def test_bias_fields_are_found_in_their_own_folder(self, run):
        run.session("01")
        fmap = run.out_dir / "sub-01" / "fmap"
        write(fmap / "sub-01_space-T1w_res-1mm_desc-pepsiFromFLAIR_RB1map.nii.gz", "")
        (result,) = read_subject(run.out_dir, "01")
        assert "bias field" in result.scans[1].outputs["pepsi"]
        assert result.missing == ("pepsi: bias field from T1w",)

    def test_sessions_are_sorted_and_apart(self, run):
        for session in ("10", "B", "2", "A"):
            run.session("01", session)
        assert [result.session for result in read_subject(run.out_dir, "01")] == ["2", "10", "A", "B"]

    def test_entities_tell_scans_apart(self, run):
        run.session("01")
        anat = run.out_dir / "sub-01" / "anat"
        write(anat / "sub-01_acq-tra_run-2_space-T1w_res-1mm_desc-preproc_T2w.nii.gz", "")
        (result,) = read_subject(run.out_dir, "01")
        assert "acq-tra_run-2_T2w" in [scan.key for scan in result.scans]

    def test_subjects_are_folders_only(self, run):
        run.session("02")
        run.session("010")
        write(run.out_dir / "sub-02.html", "")
        assert find_subjects(run.out_dir) == ["010", "02"]


class TestWhatIsMissing:
    def test_what_another_scan_has_is_missed(self, run):
        run.session("01")
        next((run.out_dir / "sub-01" / "anat").glob("*FromFLAIR_probseg.nii.gz")).unlink()
        (result,) = read_subject(run.out_dir, "01")
        assert result.missing == ("pepsi: lesion probability from FLAIR",)
        assert result.status == "incomplete"

    def test_recorded_files_that_are_gone_are_missed(self, run):
        place = run.session("01")
        record = {"fingerprint": {}, "outputs": {"sub-01/anat/gone.nii.gz": {}}}
        write(session_dir(run.out_dir, place, "log") / "completed-pepsi.json", json.dumps(record))
        assert read_subject(run.out_dir, "01")[0].missing == ("sub-01/anat/gone.nii.gz",)

    def test_scans_recorded_as_failed_are_missed(self, run):
        place = run.session("01")
        record = {"fingerprint": {}, "outputs": {}, "failed": ["T2w"]}
        write(session_dir(run.out_dir, place, "log") / "completed-pepsi.json", json.dumps(record))
        assert read_subject(run.out_dir, "01")[0].missing == ("pepsi: everything from T2w",)

    def test_a_folder_with_a_log_alone_is_a_failure(self, run):
        run.crash("01", "A")
        (result,) = read_subject(run.out_dir, "01")
        assert result.status == "failed"
        assert result.scans == ()

    def test_a_broken_record_is_ignored(self, run):
        place = run.session("01")
        write(session_dir(run.out_dir, place, "log") / "completed-pepsi.json", '{"outputs": 3, "failed": 5}')
        assert read_subject(run.out_dir, "01")[0].status == "complete"


class TestCrashes:
    def test_a_crash_file_is_taken_apart(self, run):
        crash = read_crash(run.crash("01"), run.out_dir)
        assert crash.node == "participant.sub_01.conform"
        assert crash.text == "<script>alert(1)</script>.nii.gz: is cut short."
        assert crash.traceback.startswith("Traceback (")
        assert "When creating" not in crash.traceback
        assert crash.file == "sub-01/log/20260101-000000_x/crash-1-conform-abc.txt"

    def test_only_the_newest_run_counts(self, run):
        run.session("01")
        run.crash("01", run_uuid="20260101-000000_a")
        (run.out_dir / "sub-01" / "log" / "20260102-000000_b").mkdir()
        assert read_session(run.out_dir, "01", None).crashes == ()
        assert len(read_session(run.out_dir, "01", None, "20260101-000000_a").crashes) == 1

    def test_pickles_are_not_opened(self, tmp_path):
        write(tmp_path / "run" / "crash-1.pklz", "not a pickle")
        (crash,) = crashes_of(tmp_path, tmp_path)
        assert crash.message == "see the crash file"

    def test_killed_steps_that_succeeded_later_are_no_failure(self, run):
        place = run.session("01")
        log = session_dir(run.out_dir, place, "log")
        write(log / "20260101-000000_x" / "crash-1.txt", "Node: a.b\n\nWorkerKilled: memory ran out.\n")
        assert read_subject(run.out_dir, "01")[0].status == "failed"
        write(log / "completed-pepsi.json", json.dumps({"fingerprint": {}, "outputs": {}}))
        (result,) = read_subject(run.out_dir, "01")
        assert result.status == "complete"
        assert len(result.repeated) == 1


class TestMeasures:
    def result(self, *metrics: Metric) -> SessionResult:
        return SessionResult("01", None, metrics=metrics)

    def test_a_value_in_its_range_is_no_warning(self):
        assert flags_of(self.result(Metric("pepsi", "T1w", "brain_volume", "1400", "ml"))) == []

    def test_a_value_out_of_range_warns_in_words(self):
        (flag,) = flags_of(self.result(Metric("pepsi", "T1w", "brain_volume", "2431.2", "ml")))
        assert flag.about == "T1w"
        assert "2,431 ml" in flag.text

    def test_two_models_tables_warn_once(self):
        metrics = [Metric(model, "T1w", "brain_volume", "500", "ml") for model in ("pepsi", "brainid")]
        assert len(flags_of(self.result(*metrics))) == 1

    def test_flags_are_summed_up(self):
        metrics = [Metric("pepsi", scan, "brain_volume", "500", "ml") for scan in ("T1w", "T2w")]
        assert in_short(flags_of(self.result(*metrics))) == ["Brain volume: T1w 500 ml; T2w 500 ml"]

    def test_unknown_metrics_have_their_own_name(self):
        assert measure_of("grey_matter_share").title == "Grey matter share"

    @pytest.mark.parametrize(
        ("value", "unit", "shown"), [("1312.4", "ml", "1,312 ml"), ("", "ml", "n/a"), ("?", "", "?")]
    )
    def test_values_are_shown_as_people_write_them(self, value, unit, shown):
        assert measure_of("brain_volume").show(Metric("pepsi", "T1w", "brain_volume", value, unit)) == shown

    def test_no_number_raises_no_flag(self):
        assert flags_of(self.result(Metric("pepsi", "T1w", "brain_volume", "nan", "ml"))) == []


def test_a_session_object_is_enough_to_find_the_log(tmp_path):
    assert session_dir(tmp_path, Session("01", "A"), "log") == tmp_path / "sub-01" / "ses-A" / "log"


def test_json_that_nests_too_deeply_is_none(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert read_object(path) == {}
