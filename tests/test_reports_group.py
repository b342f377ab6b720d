"""The group level: tables from the derivatives alone, and the cohort's page."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_derivatives import FakeRun, write

from bidsrep.bids.dataset import write_dataset_files
from bidsrep.errors import InputError
from bidsrep.reports.group import run_group
from bidsrep.reports.ratings import Rating, agreement, read_ratings
from bidsrep.settings import Settings


def settings_of(out: Path, **more) -> Settings:
    """Settings of the group level; there is no raw dataset."""
    return Settings(bids_dir=Path("/nowhere"), out_dir=out, analysis_level=("group",), **more)


def table(path: Path) -> list[dict[str, str]]:
    """Read a table."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture
def run(tmp_path):
    """Two subjects, one of them with two sessions, and two models."""
    for model in ("pepsi", "brainid"):
        fake = FakeRun(tmp_path / "out", model, lesions=model == "pepsi")
        fake.session("01", "A", volume=1300)
        fake.session("01", "B", volume=1310)
        fake.session("02", "A", ("FLAIR",), volume=1400)
    return fake


class TestTables:
    def test_metrics_are_one_long_table(self, run):
        assert run_group(settings_of(run.out_dir)) == 0
        rows = table(run.out_dir / "group_metrics.tsv")
        assert rows[0] == {
            "participant_id": "sub-01",
            "session_id": "ses-A",
            "model": "brainid",
            "scan": "T1w",
            "metric": "brain_volume",
            "value": "1300",
            "unit": "ml",
            "reference": "n/a",
        }
        assert len({tuple(row.values()) for row in rows}) == len(rows)

    def test_volumes_have_one_row_per_session(self, run):
        run_group(settings_of(run.out_dir))
        rows = table(run.out_dir / "group_volumes.tsv")
        assert [(row["participant_id"], row["session_id"]) for row in rows] == [
            ("sub-01", "ses-A"),
            ("sub-01", "ses-B"),
            ("sub-02", "ses-A"),
        ]
        assert rows[1]["brain_volume_T1w"] == "1310"
        assert rows[2]["brain_volume_T1w"] == "n/a"
        assert rows[2]["pepsi_lesion_volume_FLAIR"] == "3.25"

    def test_phenotype_tables_have_one_row_per_participant(self, run):
        run_group(settings_of(run.out_dir))
        for name in ("volumes", "embedding_pepsi", "embedding_brainid"):
            path = run.out_dir / "phenotype" / f"bidsrep_{name}.tsv"
            assert [row["participant_id"] for row in table(path)] == ["sub-01", "sub-02"]
            second = table(path.with_name(f"bidsrep_{name}_visit2.tsv"))
            assert [(row["participant_id"], row["session_id"]) for row in second] == [("sub-01", "ses-B")]

    def test_a_session_without_results_is_a_visit_all_the_same(self, run):
        run.session("01", "C")
        shutil.rmtree(run.out_dir / "sub-01" / "ses-B" / "anat")
        run_group(settings_of(run.out_dir))
        third = table(run.out_dir / "phenotype" / "bidsrep_volumes_visit3.tsv")
        assert [row["session_id"] for row in third] == ["ses-C"]

    def test_every_column_of_the_phenotype_is_described(self, run):
        run_group(settings_of(run.out_dir))
        for path in (run.out_dir / "phenotype").glob("*.tsv"):
            described = json.loads(path.with_suffix(".json").read_text())
            assert set(table(path)[0]) <= described.keys()
            assert "MeasurementToolMetadata" in described
        volumes = json.loads((run.out_dir / "phenotype" / "bidsrep_volumes.json").read_text())
        assert volumes["brain_volume_T1w"]["Units"] == "mL"

    def test_embeddings_are_averaged_over_the_scans(self, run):
        run_group(settings_of(run.out_dir))
        row = table(run.out_dir / "phenotype" / "bidsrep_embedding_pepsi.tsv")[0]
        assert row["scans"] == "T1w,FLAIR"
        assert float(row["channel01"]) == pytest.approx((0.1 + 1.1) / 2)

    def test_regional_embeddings_are_all_there(self, run):
        run_group(settings_of(run.out_dir))
        rows = table(run.out_dir / "group_embedding_pepsi.tsv")
        assert len(rows) == 5 * 2  # scans x regions
        assert rows[0]["region"] == "brain"
        assert rows[0]["scan"] == "T1w"

    def test_embeddings_of_other_widths_are_not_mixed(self, run):
        FakeRun(run.out_dir, channels=8).session("03", "A")
        run_group(settings_of(run.out_dir))
        assert {row["participant_id"] for row in table(run.out_dir / "group_embedding_pepsi.tsv")} == {
            "sub-01",
            "sub-02",
        }

    def test_without_sessions_the_session_is_not_available(self, tmp_path):
        FakeRun(tmp_path).session("01")
        run_group(settings_of(tmp_path))
        assert table(tmp_path / "phenotype" / "bidsrep_volumes.tsv")[0]["session_id"] == "n/a"

    def test_tables_of_an_earlier_run_do_not_linger(self, run):
        run_group(settings_of(run.out_dir))
        shutil.rmtree(run.out_dir / "sub-01" / "ses-B")
        own = write(run.out_dir / "phenotype" / "bidsrep_notes.tsv", "participant_id\n")
        run_group(settings_of(run.out_dir))
        assert not list((run.out_dir / "phenotype").glob("*_visit2*"))
        assert own.is_file()

    def test_the_same_derivatives_give_the_same_bytes(self, run):
        def everything() -> dict[str, bytes]:
            run_group(settings_of(run.out_dir))
            made = [*run.out_dir.glob("group*"), *run.out_dir.glob("phenotype/*")]
            return {path.name: path.read_bytes() for path in made}

        first = everything()
        assert len(first) == 5 + 12
        assert everything() == first
        assert all(str(run.out_dir).encode() not in content for content in first.values())

    def test_a_failure_leaves_the_earlier_tables(self, run, monkeypatch):
        run_group(settings_of(run.out_dir))
        before = (run.out_dir / "group_metrics.tsv").read_bytes()
        monkeypatch.setattr("bidsrep.reports.tables.GroupTables.add", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_group(settings_of(run.out_dir))
        assert (run.out_dir / "group_metrics.tsv").read_bytes() == before
        assert not list(run.out_dir.rglob(".tmp-*"))

    def test_labels_choose_subjects_and_sessions(self, run):
        run_group(settings_of(run.out_dir, participant_label=("01",), session_label=("B",)))
        rows = table(run.out_dir / "group_volumes.tsv")
        assert [(row["participant_id"], row["session_id"]) for row in rows] == [("sub-01", "ses-B")]

    def test_nothing_to_collect_is_told(self, tmp_path):
        with pytest.raises(InputError, match="no subjects' results"):
            run_group(settings_of(tmp_path))

    def test_a_subject_that_cannot_be_read_does_not_stop_the_others(self, run, caplog):
        next((run.out_dir / "sub-01").rglob("*_metrics.tsv")).write_bytes(b"\xff\xfe\x00")
        assert run_group(settings_of(run.out_dir)) == 0
        assert {row["participant_id"] for row in table(run.out_dir / "group_volumes.tsv")} == {"sub-02"}
        assert "its results cannot be read" in (run.out_dir / "group.html").read_text()


def test_the_validator_finds_no_fault_in_the_tables(tmp_path):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists() and not shutil.which(validator.name):
        pytest.skip("bids-validator-deno is not installed")
    fake = FakeRun(tmp_path)
    for subject in ("01", "02"):
        fake.session(subject, "A")
    fake.session("01", "B")
    settings = settings_of(tmp_path, work_dir=tmp_path / "work")
    write_dataset_files(settings)
    write(tmp_path / "ratings" / "ratings_Ann.tsv", "participant_id\tscan\trating\nsub-01\tT1w\tpass\n")
    run_group(settings)
    for image in tmp_path.rglob("*.nii.gz"):  # made-up images are no images; the tables are what counts
        image.unlink()
        image.with_name(image.name.replace(".nii.gz", ".json")).unlink(missing_ok=True)
    command = [str(validator) if validator.exists() else validator.name, str(tmp_path), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    issues = [(i["code"], i["location"]) for i in told["issues"]["issues"] if "phenotype" in i["location"]]
    assert issues == []
    assert not [i for i in told["issues"]["issues"] if i.get("severity") == "error"]


class TestPage:
    def page(self, run) -> str:
        run_group(settings_of(run.out_dir))
        return (run.out_dir / "group.html").read_text()

    def data(self, run) -> dict:
        """What the page's scripts draw from."""
        return json.loads(re.search(r'id="data">(.*?)</script>', self.page(run))[1])

    def test_points_and_rows_lead_to_the_pages(self, run):
        write(run.out_dir / "sub-01.html", "")
        data = self.data(run)
        assert data["subjects"] == [{"id": "sub-01", "href": "sub-01.html"}, {"id": "sub-02", "href": ""}]
        assert data["scans"] == [[0, "T1w"], [0, "FLAIR"], [1, "T1w"], [1, "FLAIR"], [2, "FLAIR"]]
        volume = data["measures"][0]
        assert (volume["name"], volume["model"]) == ("brain_volume", "")
        assert volume["rows"] == [0, 1, 2, 3, 4]
        assert volume["values"] == [1300, 1310, 1310, 1320, 1400]
        assert {
            "kind": "missing",
            "session": None,
            "who": "sub-02",
            "texts": ["there is no page of this subject"],
        } in data["problems"]

    def test_it_counts(self, run):
        text = self.page(run)
        assert "<b>2</b><span>subjects</span>" in text
        assert "<b>3</b><span>sessions</span>" in text
        assert "<b>5</b><span>scans</span>" in text

    def test_it_loads_nothing(self, run):
        text = self.page(run)
        assert "://" not in text
        assert "src=" not in text
        assert "default-src 'none'" in text

    def test_it_adds_no_markup_by_script(self, run):
        text = self.page(run)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)

    def test_failures_and_gaps_are_listed(self, run):
        run.crash("02", "B")
        next((run.out_dir / "sub-01" / "ses-A" / "anat").glob("*pepsiFromFLAIR_T1w.nii.gz")).unlink()
        found = {(p["kind"], p["who"]): p["texts"] for p in self.data(run)["problems"]}
        assert found["failed", "sub-02 ses-B"] == ["conform: <script>alert(1)</script>.nii.gz: is cut short."]
        assert found["missing", "sub-01 ses-A"] == ["pepsi: T1w from FLAIR"]
        assert "<script>alert" not in self.page(run)

    def test_what_was_made_is_counted(self, run):
        outputs = self.data(run)["outputs"]
        assert (outputs["contrasts"], outputs["scans"], outputs["incomplete"]) == (
            ["T1w", "FLAIR"],
            [2, 3],
            False,
        )
        assert {"model": "pepsi", "role": "lesion mask", "made": [2, 3]} in outputs["rows"]

    def test_a_scan_denoised_in_its_own_contrast_lacks_nothing(self, run):
        for suffix in ("T1w", "FLAIR"):
            name = f"sub-01_ses-A_space-T1w_res-1mm_desc-seqinvDenoisedFrom{suffix}_{suffix}.nii.gz"
            write(run.out_dir / "sub-01" / "ses-A" / "anat" / name, "")
        data = self.data(run)
        assert not [p for p in data["problems"] if p["texts"] != ["there is no page of this subject"]]
        assert {"model": "seqinv", "role": "denoised", "made": [1, 1]} in data["outputs"]["rows"]

    def test_tables_are_text(self, run):
        evil = '</script><img src=x onerror="alert(1)">'
        path = next((run.out_dir / "sub-02").rglob("*pepsi_metrics.tsv"))
        path.write_text(path.read_text() + f"FLAIR\tbrain_volume\t100\tml\t{evil}\n")
        write(run.out_dir / "participants.tsv", f"participant_id\t{evil}\nsub-01\t{evil}\n")
        text = self.page(run)
        assert "<img" not in text
        assert text.count("</script>") == 2
        assert self.data(run)["columns"][0]["levels"] == [evil]

    def test_one_value_is_a_page_too(self, tmp_path):
        run = FakeRun(tmp_path)
        run.session("01", None, ("T1w",))
        data = self.data(run)
        assert data["sessions"] == [[0, "n/a", "complete"]]
        assert data["maps"][0]["plain"] == {"x": [0], "y": [0], "explained": [0, 0]}


class TestCohort:
    """What the page says of a cohort as a whole."""

    @pytest.fixture
    def cohort(self, tmp_path):
        """Twelve people on two scanners; the last has ten times the others' lesions."""
        fake = FakeRun(tmp_path / "out")
        rows = ["participant_id\tage\tscanner"]
        for number in range(12):
            subject = f"{number:02d}"
            lesion = 40.0 if number == 11 else 3.0 + 0.1 * number
            fake.session(subject, None, ("FLAIR",), volume=1300 + 100 * (number % 2), lesion=lesion)
            rows.append(f"sub-{subject}\t{30 + number}\t{'BA'[number % 2]}")
        write(fake.out_dir / "participants.tsv", "\n".join(rows) + "\n")
        return fake

    def data(self, run) -> dict:
        return TestPage().data(run)

    def test_a_lesion_load_out_of_range_is_a_flag(self, cohort):
        (flag,) = [p for p in self.data(cohort)["problems"] if p["kind"] == "lesions"]
        assert flag["who"] == "sub-11"
        assert flag["texts"][0].startswith("FLAIR: lesion volume by pepsi is 40.00 ml, far above")

    def test_columns_are_words_or_numbers(self, cohort):
        age, scanner = self.data(cohort)["columns"]
        assert (age["levels"], age["values"][:2]) == (None, [30, 31])
        assert (scanner["levels"], scanner["values"][:2]) == (["A", "B"], [1, 0])

    def test_the_scanner_explains_what_it_explains(self, cohort):
        (effect,) = self.data(cohort)["effects"]
        assert effect["column"] == "scanner"
        volume = next(row for row in effect["rows"] if row["what"] == "Brain volume")
        assert volume["eta"] == 1
        assert volume["eta_chance"] == pytest.approx(1 / 11, rel=1e-4)

    def test_the_raw_table_is_found_by_the_link(self, cohort, tmp_path):
        (cohort.out_dir / "participants.tsv").rename(write(tmp_path / "raw" / "participants.tsv", ""))
        assert self.data(cohort)["columns"] == []
        write(cohort.out_dir / "dataset_description.json", '{"DatasetLinks": {"raw": "../raw"}}')
        write(tmp_path / "raw" / "participants.json", '{"age": {"Description": "Age", "Units": "year"}}')
        columns = self.data(cohort)["columns"]
        assert [(column["name"], column["text"]) for column in columns] == [
            ("age", "Age, year"),
            ("scanner", ""),
        ]

    def test_the_scanner_is_taken_from_sidecars(self, tmp_path):
        run = FakeRun(tmp_path / "out")
        for subject in ("01", "02"):
            run.session(subject, None, ("T1w",))
            sidecar = {"Manufacturer": "Maker", "ManufacturersModelName": "X", "MagneticFieldStrength": 3}
            write(
                tmp_path / "raw" / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.json", json.dumps(sidecar)
            )
        write(run.out_dir / "dataset_description.json", '{"DatasetLinks": {"raw": "../raw"}}')
        (column,) = self.data(run)["columns"]
        assert (column["name"], column["levels"]) == ("Scanner", ["Maker X 3 T"])

    def test_sessions_may_have_their_own_scanner(self, tmp_path):
        run = FakeRun(tmp_path)
        for session in "AB":
            run.session("01", session, ("T1w",))
        write(tmp_path / "participants.tsv", "participant_id\tscanner\nsub-01\tfirst\n")
        write(tmp_path / "sub-01" / "sub-01_sessions.tsv", "session_id\tscanner\nses-B\tsecond\n")
        (column,) = self.data(run)["columns"]
        assert [column["levels"][value] for value in column["values"]] == ["first", "second"]

    def test_numbers_may_be_names(self, cohort):
        rows = ["participant_id\tage\tsite\tbatch\tStatus"]
        for number in range(12):
            age = "NA" if number == 3 else 30 + number
            rows.append(f"sub-{number:02d}\t{age}\t{1 + number % 3}\t{number // 2}\t{number}")
        write(cohort.out_dir / "participants.tsv", "\n".join(rows) + "\n")
        columns = {column["name"]: column for column in self.data(cohort)["columns"]}
        assert columns["site"]["levels"] == ["1", "2", "3"]
        assert columns["age"]["levels"] is columns["batch"]["levels"] is None
        assert columns["age"]["values"][3] is None
        write(cohort.out_dir / "participants.json", '{"batch": {"Levels": {"0": "first"}}}')
        columns = {column["name"]: column for column in self.data(cohort)["columns"]}
        assert columns["batch"]["levels"] == ["0", "1", "2", "3", "4", "5"]

    def test_a_few_people_s_ages_are_no_names_and_a_person_is_no_group(self, tmp_path):
        run, rows = FakeRun(tmp_path), ["participant_id\tage\tsite"]
        for number, age in enumerate((25, 31, 47, 52, 60)):
            for session in "AB":
                run.session(f"{number:02d}", session)
            rows.append(f"sub-{number:02d}\t{age}\tS{number}")
        write(tmp_path / "participants.tsv", "\n".join(rows) + "\n")
        data = self.data(run)
        assert next(column for column in data["columns"] if column["name"] == "age")["levels"] is None
        assert data["effects"] == []

    def test_scans_of_a_person_count_once_in_what_groups_explain(self, tmp_path):
        run, rows = FakeRun(tmp_path), ["participant_id\tscanner"]
        for number in range(8):
            for session in "ABCD":
                run.session(f"{number:02d}", session, ("T1w",), volume=1300 + 50 * (number % 3))
            rows.append(f"sub-{number:02d}\t{'XY'[number % 2]}")
        write(tmp_path / "participants.tsv", "\n".join(rows) + "\n")
        (effect,) = self.data(run)["effects"]
        volume = next(row for row in effect["rows"] if row["what"] == "Brain volume")
        assert (volume["scans"], volume["groups"]) == (32, 2)
        assert volume["eta_chance"] == pytest.approx(1 / 7, rel=1e-4)

    def test_runs_of_a_person_are_one_repeat(self, tmp_path):
        run = FakeRun(tmp_path)
        for number in range(3):
            for session in "AB":
                run.session(f"0{number}", session, ("T1w",), volume=1300 + 50 * number)
                anat = run.out_dir / f"sub-0{number}" / f"ses-{session}" / "anat"
                for path in anat.glob("*_desc-preproc_T1w.*"):
                    shutil.copy(path, path.with_name(path.name.replace("_desc", "_run-2_desc")))
                (metrics,) = anat.glob("*_metrics.tsv")
                header, *rows = metrics.read_text().splitlines()
                again = [row.replace("T1w\t", "run-2_T1w\t", 1) for row in rows]
                metrics.write_text("\n".join([header, *rows, *again]) + "\n")
        volumes = [row for row in self.data(run)["repeats"] if row["what"] == "Brain volume"]
        assert [row["people"] for row in volumes] == [3]

    def test_an_embedding_that_cannot_be_read_costs_itself(self, cohort, caplog):
        path = next((cohort.out_dir / "sub-03").rglob("*_embedding.tsv"))
        path.write_bytes(b"\xff\xfe")
        assert run_group(settings_of(cohort.out_dir)) == 0
        assert f"{path}: this table cannot be read" in caplog.text

    def test_repeats_are_compared(self, tmp_path):
        run = FakeRun(tmp_path)
        for number in range(4):
            for session in "AB":
                run.session(f"0{number}", session, ("T1w",), volume=1300 + 50 * number + (session == "B"))
        (volume,) = [row for row in self.data(run)["repeats"] if row["what"] == "Brain volume"]
        assert volume["people"] == 4
        assert volume["icc"] > 0.99


class TestRatings:
    HEADER = "participant_id\tsession_id\tscan\trating\tnote\trater\tbidsrep_version\n"

    def table(self, run, name: str, *rows: str) -> None:
        write(run.out_dir / "ratings" / name, self.HEADER + "".join(f"{row}\t0.1.0\n" for row in rows))

    def test_files_of_several_raters_are_merged(self, run):
        self.table(
            run, "a.tsv", "sub-01\tses-A\tT1w\tpass\tn/a\tAnn", "sub-01\tses-A\tFLAIR\tfail\tcut off\tAnn"
        )
        write(
            run.out_dir / "ratings" / "b.json",
            json.dumps(
                {
                    "Ratings": [
                        {
                            "participant_id": "01",
                            "session_id": "A",
                            "scan": "T1w",
                            "rating": "Fail",
                            "rater": "Ben",
                        }
                    ]
                }
            ),
        )
        data = TestPage().data(run)["ratings"]
        assert data["rows"] == [[1, "Ann", "fail", "cut off"], [0, "Ann", "pass", ""], [0, "Ben", "fail", ""]]
        assert data["pairs"] == [{"raters": ["Ann", "Ben"], "count": 1, "same": 0, "kappa": 0}]
        merged = table(run.out_dir / "group_ratings.tsv")
        assert [(row["scan"], row["rater"], row["rating"], row["note"]) for row in merged] == [
            ("FLAIR", "Ann", "fail", "cut off"),
            ("T1w", "Ann", "pass", "n/a"),
            ("T1w", "Ben", "fail", "n/a"),
        ]

    def test_the_same_ratings_twice_count_once(self, run, caplog):
        row = "sub-01\tses-A\tT1w\tpass\tn/a\tAnn"
        self.table(run, "a.tsv", row)
        self.table(run, "b.tsv", row)
        assert len(read_ratings(run.out_dir)) == 1
        assert not caplog.records

    def test_of_two_ratings_of_one_rater_the_last_file_counts(self, run, caplog):
        self.table(run, "a.tsv", "sub-01\tses-A\tT1w\tpass\tn/a\tAnn")
        self.table(run, "b.tsv", "sub-01\tses-A\tT1w\tfail\tn/a\tAnn")
        assert [rating.rating for rating in read_ratings(run.out_dir)] == ["fail"]
        assert "rated sub-01 ses-A T1w before, and otherwise" in caplog.text

    def test_what_is_no_rating_is_told(self, run, caplog):
        write(run.out_dir / "ratings" / "a.json", "{")
        write(run.out_dir / "ratings" / "b.tsv", "participant_id\tscan\nsub-01\tT1w\n")
        self.table(run, "c.tsv", "sub-01\tses-A\tT1w\tsplendid\tn/a\tAnn")
        assert read_ratings(run.out_dir) == []
        assert [name in caplog.text for name in ("a.json", "b.tsv", "c.tsv")] == [True] * 3

    def test_ratings_of_scans_that_are_gone_are_counted(self, run):
        self.table(run, "a.tsv", "sub-99\tn/a\tT1w\tpass\tn/a\tAnn")
        assert TestPage().data(run)["ratings"]["elsewhere"] == 1

    def test_without_ratings_there_is_no_table(self, run):
        self.table(run, "a.tsv", "sub-01\tses-A\tT1w\tpass\tn/a\tAnn")
        run_group(settings_of(run.out_dir))
        (run.out_dir / "ratings" / "a.tsv").unlink()
        run_group(settings_of(run.out_dir))
        assert not (run.out_dir / "group_ratings.tsv").exists()

    def test_agreement_of_three_raters(self):
        """Ann and Ben differ on one of four scans; Cat has rated two."""
        given = {"Ann": "pass pass fail fail", "Ben": "pass pass fail pass", "Cat": "pass pass"}
        ratings = [
            Rating("sub-01", "n/a", f"s{index}", word, "", rater, "")
            for rater, words in given.items()
            for index, word in enumerate(words.split())
        ]
        found = agreement(ratings)
        assert found["raters"][0] == {"rater": "Ann", "count": 4, "pass": 2, "unsure": 0, "fail": 2}
        assert found["pairs"][0] == {"raters": ["Ann", "Ben"], "count": 4, "same": 0.75, "kappa": 0.5}
        assert (found["common"], found["fleiss"]) == (2, None)
