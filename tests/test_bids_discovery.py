"""What is found in a dataset, and what is said about what cannot be used."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bidsrep.bids.discovery import find_sessions, find_subjects
from bidsrep.bids.filters import read_filter_file
from bidsrep.bids.scans import Session
from bidsrep.errors import InputError, UsageError
from bidsrep.settings import Settings

MakeBids = Callable[..., Path]
AS_ROOT = os.geteuid() == 0

TWO_SUBJECTS = (
    "sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz",
    "sub-01/ses-A/anat/sub-01_ses-A_acq-tra_run-1_FLAIR.nii.gz",
    "sub-01/ses-A/anat/sub-01_ses-A_acq-tra_run-2_FLAIR.nii.gz",
    "sub-01/ses-B/anat/sub-01_ses-B_T2w.nii",
    "sub-02/anat/sub-02_PDw.nii.gz",
    "sub-02/func/sub-02_task-rest_bold.nii.gz",
)


def find(root: Path, **options: object) -> list[Session]:
    return find_sessions(Settings(bids_dir=root, out_dir=root / "out", **options))  # type: ignore[arg-type]


def found(root: Path, **options: object) -> dict[str, list[str]]:
    return {session.label: [scan.key for scan in session.scans] for session in find(root, **options)}


def complaints(root: Path, **options: object) -> list[str]:
    return [str(problem) for session in find(root, **options) for problem in session.problems]


def test_every_scan_of_every_session_is_found(make_bids: MakeBids) -> None:
    assert found(make_bids(TWO_SUBJECTS)) == {
        "sub-01_ses-A": ["T1w", "acq-tra_run-1_FLAIR", "acq-tra_run-2_FLAIR"],
        "sub-01_ses-B": ["T2w"],
        "sub-02": ["PDw"],
    }


def test_subjects_sessions_and_modalities_are_chosen(make_bids: MakeBids) -> None:
    root = make_bids(TWO_SUBJECTS)
    assert set(found(root, participant_label=("02",))) == {"sub-02"}
    assert set(found(root, session_label=("B",))) == {"sub-01_ses-B"}
    assert found(root, modalities=("T1w",)) == {"sub-01_ses-A": ["T1w"]}


def test_only_the_wanted_subject_is_looked_at(make_bids: MakeBids, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_bids(TWO_SUBJECTS)
    seen: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(str(path)) or scandir(path))
    found(root, participant_label=("01",))
    assert seen
    assert not [path for path in seen if "sub-02" in path or path == str(root)]


def test_an_unknown_subject_is_refused_with_those_that_are_close(make_bids: MakeBids) -> None:
    with pytest.raises(InputError, match=r"no such subject: sub-03\. There are 2 subjects, such as"):
        find(make_bids(TWO_SUBJECTS), participant_label=("03",))


def test_a_named_subject_without_scans_does_not_pass_as_done(make_bids: MakeBids) -> None:
    root = make_bids(TWO_SUBJECTS)
    told = complaints(root, participant_label=("01", "02"), modalities=("T1w",))
    assert len(told) == 1
    assert "sub-02: it has no T1w scan" in told[0]


def test_a_subject_without_scans_is_left_out_of_a_whole_cohort(make_bids: MakeBids) -> None:
    root = make_bids(TWO_SUBJECTS)
    (root / "sub-03" / "ses-A" / "anat").mkdir(parents=True)
    assert {session.subject for session in find(root)} == {"01", "02"}


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda root: root / "missing", "there is no such folder"),
        (lambda root: root / "sub-01", "it has no dataset_description.json"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused(make_bids: MakeBids, prepare: Callable, told: str) -> None:
    with pytest.raises(InputError, match=told):
        find(prepare(make_bids(TWO_SUBJECTS)))


def test_without_validation_no_description_is_needed_but_subjects_are(
    make_bids: MakeBids, tmp_path: Path
) -> None:
    root = make_bids(TWO_SUBJECTS)
    (root / "dataset_description.json").unlink()
    assert len(find(root, skip_bids_validation=True)) == 3
    with pytest.raises(InputError, match=r"it has no sub-\* folder"):
        find_subjects(root / "sub-01")


def test_nothing_to_process_says_what_was_looked_for(make_bids: MakeBids) -> None:
    with pytest.raises(InputError, match=r"no FLAIR scan of session Z was found\. Looked at 2 subject"):
        find(make_bids(TWO_SUBJECTS), modalities=("FLAIR",), session_label=("Z",))


def test_unusable_files_are_problems_and_the_others_go_on(make_bids: MakeBids) -> None:
    root = make_bids(TWO_SUBJECTS)
    anat = root / "sub-02" / "anat"
    (anat / "sub-02_T1w.nii.gz").touch()
    (anat / "sub-02_T2w.nii.gz").symlink_to("../../.git/annex/objects/gone")
    (anat / "sub-02_my_FLAIR.nii.gz").write_bytes(b"x")
    (anat / "sub-01_FLAIR.nii.gz").write_bytes(b"x")
    (anat / "._sub-02_T1w.nii.gz").write_bytes(b"x")
    told = "\n".join(complaints(root, participant_label=("02",)))
    assert found(root)["sub-02"] == ["PDw"]
    assert "sub-02_T1w.nii.gz: the file is empty (0 bytes)" in told
    assert "sub-02_T2w.nii.gz: the file's content is not there" in told
    assert "sub-02_my_FLAIR.nii.gz: the name is not a BIDS name" in told
    assert "sub-01_FLAIR.nii.gz: the name and the folders" in told
    assert len(told.splitlines()) == 4


def test_folders_whose_labels_are_not_bids_are_told(
    make_bids: MakeBids, caplog: pytest.LogCaptureFixture
) -> None:
    odd = ("sub-01/ses-2019-01-02/anat/sub-01_T1w.nii.gz", "sub-A_03/anat/sub-A_03_T1w.nii.gz")
    root = make_bids(
        (*TWO_SUBJECTS, *odd, "sub-01/ses-x_y/func/a_bold.nii.gz", "sub-03/ses-1_1/anat/x_T1w.nii.gz")
    )
    folders = [problem.split("folder's label")[0] for problem in complaints(root)]
    assert folders == [f"{root}/sub-01/ses-2019-01-02: the ", f"{root}/sub-03/ses-1_1: the "]
    assert found(root)["sub-01_ses-A"] == ["T1w", "acq-tra_run-1_FLAIR", "acq-tra_run-2_FLAIR"]
    assert "sub-A_03" in caplog.text
    assert not complaints(root, session_label=("A",))


def test_twins_are_refused_because_their_results_would_share_a_name(make_bids: MakeBids) -> None:
    anat = "sub-01/anat/sub-01"
    root = make_bids([f"{anat}_T1w.nii.gz", f"{anat}_T1w.nii", f"{anat}_dir-AP_FLAIR.nii", f"{anat}_T2w.nii"])
    assert found(root) == {"sub-01": ["FLAIR", "T2w"]}
    assert "sub-01_T1w.nii, sub-01_T1w.nii.gz" in complaints(root)[0]


def test_phase_images_are_no_anatomy(make_bids: MakeBids) -> None:
    anat = "sub-01/anat/sub-01"
    root = make_bids([f"{anat}_part-mag_T1w.nii", f"{anat}_part-phase_T1w.nii"])
    assert found(root) == {"sub-01": ["part-mag_T1w"]}


@pytest.mark.skipif(AS_ROOT, reason="root may read everything")
def test_an_unreadable_subject_is_a_problem_of_that_subject(make_bids: MakeBids) -> None:
    root = make_bids(TWO_SUBJECTS)
    (root / "sub-02").chmod(0)
    try:
        assert "cannot be read" in complaints(root)[0]
    finally:
        (root / "sub-02").chmod(0o755)


class TestFilterFile:
    """``--bids-filter-file``."""

    NAMES = tuple(
        f"sub-01/anat/sub-01_{rest}.nii.gz"
        for rest in ("acq-mp_T1w", "ce-gad_T1w", "T1w", "run-01_FLAIR", "run-02_FLAIR", "T2starw", "UNIT1")
    )

    def keys(self, make_bids: MakeBids, filters: dict, **options: object) -> list[str]:
        root = make_bids(self.NAMES)
        path = root / "filter.json"
        path.write_text(json.dumps(filters))
        return found(root, bids_filter_file=path, **options)["sub-01"]

    def test_null_wants_the_entity_absent(self, make_bids: MakeBids) -> None:
        keys = self.keys(make_bids, {"t1w": {"ceagent": None, "acquisition": None}}, modalities=("T1w",))
        assert keys == ["T1w"]

    def test_star_wants_it_present(self, make_bids: MakeBids) -> None:
        assert self.keys(make_bids, {"T1w": {"acq": "*"}}, modalities=("T1w",)) == ["acq-mp_T1w"]

    def test_lists_and_query_names_work_as_in_fmriprep(self, make_bids: MakeBids) -> None:
        keys = self.keys(
            make_bids, {"t1w": {"ceagent": ["gad", None], "acq": "Query.NONE"}}, modalities=("T1w",)
        )
        assert keys == ["T1w", "ce-gad_T1w"]

    def test_runs_are_compared_as_numbers(self, make_bids: MakeBids) -> None:
        assert self.keys(make_bids, {"flair": {"run": 2}}, modalities=("FLAIR",)) == ["run-02_FLAIR"]

    def test_other_anatomical_contrasts_are_added(self, make_bids: MakeBids) -> None:
        keys = self.keys(make_bids, {"t2starw": {}, "mp2rage": {"suffix": "UNIT1"}}, modalities=("FLAIR",))
        assert keys == ["T2starw", "UNIT1", "run-01_FLAIR", "run-02_FLAIR"]

    def test_filters_for_other_programs_change_nothing(self, make_bids: MakeBids) -> None:
        filters = {"bold": {"task": "rest"}, "fmap": {"datatype": "fmap"}, "t2w": {"acq": "*"}}
        assert self.keys(make_bids, filters, modalities=("T1w",)) == ["T1w", "acq-mp_T1w", "ce-gad_T1w"]

    @pytest.mark.parametrize("text", ["{", "[1]", '{"t1w": 3}'])
    def test_broken_files_are_refused_by_name(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "filter.json"
        path.write_text(text)
        with pytest.raises(UsageError, match="--bids-filter-file"):
            read_filter_file(path)


@pytest.mark.slow
def test_a_pybids_database_finds_the_same(make_bids: MakeBids, tmp_path: Path) -> None:
    root = make_bids(TWO_SUBJECTS)
    assert found(root, bids_database_dir=tmp_path / "db") == found(root)
    assert (tmp_path / "db").is_dir()


@pytest.mark.data
def test_the_clinical_scans_are_all_found(test_data: Path) -> None:
    sessions = find(test_data / "data" / "bids-ms")
    assert len(sessions) == 7
    assert sum(len(session.scans) for session in sessions) == 17
    assert not [problem for session in sessions for problem in session.problems]
