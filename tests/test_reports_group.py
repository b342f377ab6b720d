"""The group level: tables from the derivatives alone, and the cohort's page."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_derivatives import FakeRun, write

from bidsrep.bids.dataset import write_dataset_files
from bidsrep.errors import InputError
from bidsrep.reports.distributions import Axis, Point, beeswarm, strip_plot
from bidsrep.reports.group import run_group
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

    def test_points_and_rows_lead_to_the_pages(self, run):
        write(run.out_dir / "sub-01.html", "")
        text = self.page(run)
        assert '<a href="sub-01.html" data-k="0"><title>sub-01 ses-A T1w: 1,300 ml</title>' in text
        assert '<a href="sub-02.html"' not in text
        assert "there is no page of this subject" in text

    def test_it_counts(self, run):
        text = self.page(run)
        assert "<b>2</b><span>subjects</span>" in text
        assert "<b>3</b><span>sessions</span>" in text
        assert "<b>5</b><span>scans</span>" in text

    def test_it_loads_nothing(self, run):
        text = self.page(run)
        assert "://" not in text.replace("http://www.w3.org", "")
        assert "src=" not in text

    def test_failures_and_gaps_are_listed(self, run):
        run.crash("02", "B")
        next((run.out_dir / "sub-01" / "ses-A" / "anat").glob("*pepsiFromFLAIR_T1w.nii.gz")).unlink()
        text = self.page(run)
        assert "conform: &lt;script&gt;alert(1)&lt;/script&gt;.nii.gz: is cut short." in text
        assert "missing: pepsi: T1w from FLAIR" in text
        assert "<script>alert" not in text

    def test_tables_are_text(self, run):
        evil = '</script><img src=x onerror="alert(1)">'
        path = next((run.out_dir / "sub-02").rglob("*pepsi_metrics.tsv"))
        path.write_text(path.read_text() + f"{evil}\tbrain_volume\t100\tml\t{evil}\n")
        text = self.page(run)
        assert "<img" not in text
        assert text.count("</script>") == 1

    def test_one_value_is_a_page_too(self, tmp_path):
        FakeRun(tmp_path).session("01", None, ("T1w",))
        run_group(settings_of(tmp_path))
        assert "<circle" in (tmp_path / "group.html").read_text()


class TestStripPlot:
    def points(self, values) -> list[Point]:
        return [Point("T1w", "T1w", value, f"p{i}", "", i) for i, value in enumerate(values)]

    def test_every_value_is_a_dot_inside_the_figure(self):
        svg = strip_plot(self.points([0.1, 0.5, 0.9, 0.5, 0.5]), "x", (0.2, float("inf")))
        assert svg.count("<circle") == 5
        assert svg.count('class="limit"') == 1
        assert svg.count('class="median"') == 1

    def test_names_are_escaped(self):
        svg = strip_plot([Point("<a>", "T1w", 1.0, "<b>", '"', 0)], '"<c>', (0.0, 1.0))
        assert "<a>" not in svg
        assert "<b>" not in svg
        assert "<c>" not in svg

    def test_equal_values_do_not_hide_each_other(self):
        offsets = beeswarm([5.0] * 4, room=100)
        assert len(set(offsets)) == 4
        assert max(map(abs, offsets)) < 20

    def test_a_crowd_stays_in_its_row(self):
        assert max(map(abs, beeswarm([5.0] * 1000, room=32))) <= 17

    @pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-3.0, 1e6], [1e-7, 2e-7], [-1.0, -1.0]])
    def test_axes_hold_their_values(self, values):
        axis = Axis.of(values)
        assert axis.low <= min(values)
        assert max(values) <= axis.high
        assert 2 <= len(axis.ticks()) <= 12
