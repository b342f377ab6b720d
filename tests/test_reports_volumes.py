"""The page's tables of volumes, and its matrices of how alike the features of a session's scans are."""

import numpy as np
import pytest
from fake_derivatives import CARD, FakeRun, write, write_json

from bidsrep.bids.outputs import output
from bidsrep.bids.scans import Scan
from bidsrep.evaluation import volumes as of_template
from bidsrep.imaging.volume import Volume
from bidsrep.reports.matrices import invariance_matrices
from bidsrep.reports.results import Metric, ScanResult, SessionResult, read_session
from bidsrep.reports.subject import write_subject_report
from bidsrep.reports.volumes import volume_tables

EVIL = '"><img src=x>'


def labels(*counts: tuple[int, int]) -> Volume:
    """Make a segmentation of voxels of 1 ml: so many of each value."""
    values = np.concatenate([np.full(count, value) for value, count in counts] + [np.zeros(1)])
    return Volume(values[:, None, None], np.diag([10.0, 10.0, 10.0, 1.0]))


@pytest.fixture
def run(tmp_path):
    """A session in which brainid found the white matter and the brain stem on both scans."""
    fake = FakeRun(tmp_path, "brainid", lesions=False)
    fake.session("01", "A")
    found = {
        "T1w": labels((2, 200), (41, 220), (16, 20)),
        "FLAIR": labels((2, 180), (41, 180), (16, 30), (99, 10)),
    }
    reference = Scan(tmp_path / "T1w.nii.gz", "01", "A", "T1w")
    for suffix, volume in found.items():
        scan = Scan(tmp_path / f"{suffix}.nii.gz", "01", "A", suffix)
        made = output("dseg", tmp_path, scan, reference=reference, model="brainid")
        volume.save(made.path)
        write_json(made.path, {"Model": CARD | {"Name": "brainid"}})
    return fake


class TestVolumes:
    def test_scans_stand_side_by_side(self, run):
        (table,) = volume_tables(run.out_dir, read_session(run.out_dir, "01", "A"))
        assert (table.model, table.seg, table.scans) == ("brainid", "aseg", ["T1w", "FLAIR"])
        white, stem = table.lines
        assert (white.name, white.is_paired) == ("cerebral white matter", True)
        assert [(c.left, c.right, c.total, c.share) for c in white.scans] == [
            ("200", "220", "420", "95.5"),
            ("180", "180", "360", "90.0"),
        ]
        assert (white.mean, white.spread, white.mean_share) == ("390", "± 42.4", "92.7")
        assert (stem.name, stem.is_paired, stem.scans[1].total) == ("brain stem", False, "30.0")
        groups = {line.name: [cells.total for cells in line.scans] for line in table.groups}
        assert groups["cerebral white matter"] == ["420", "360"]
        assert groups["ventricles"] == ["0.00", "0.00"]

    def test_the_template_is_shown_for_weights_that_are_known(self, run, monkeypatch):
        (table,) = volume_tables(run.out_dir, read_session(run.out_dir, "01", "A"))
        assert not table.has_template
        assert table.lines[0].template is None
        monkeypatch.setattr(
            "bidsrep.reports.volumes.template_volumes",
            lambda sha256, seg: (
                {2: 300.0, 10: 100.0} if (sha256, seg) == (CARD["WeightsSHA256"], "aseg") else {}
            ),
        )
        (table,) = volume_tables(run.out_dir, read_session(run.out_dir, "01", "A"))
        assert [line.name for line in table.lines] == ["cerebral white matter", "thalamus", "brain stem"]
        assert table.lines[0].template.share == "75.0"
        assert table.lines[1].scans[0].total == "0.00"

    def test_one_scan_has_no_spread(self, run):
        next(run.out_dir.rglob("*FromFLAIR_dseg.nii.gz")).unlink()
        (table,) = volume_tables(run.out_dir, read_session(run.out_dir, "01", "A"))
        assert table.scans == ["T1w"]
        assert table.lines[0].spread == "–"

    def test_a_segmentation_that_cannot_be_read_is_left_out(self, run):
        next(run.out_dir.rglob("*FromFLAIR_dseg.nii.gz")).write_bytes(b"no image")
        (table,) = volume_tables(run.out_dir, read_session(run.out_dir, "01", "A"))
        assert table.scans == ["T1w"]

    def test_the_page_has_groups_and_folds_the_rest(self, run):
        text = write_subject_report(run.out_dir, "01").read_text()
        section = text[text.index('<section id="volumes">') : text.index('<section id="measurements">')]
        shown, folded = section.split("<details>")
        assert "deep grey matter" in shown
        assert "no normal range" in shown
        assert "for the template is not known" in shown
        assert '<th scope="row"><span class="swatch" style="background:#F5F5F5">' in folded
        assert '<td class="n first" colspan="2">20.0</td>' in folded

    def test_no_segmentation_no_section(self, tmp_path):
        FakeRun(tmp_path).session("01")
        assert 'id="volumes"' not in write_subject_report(tmp_path, "01").read_text()

    def test_the_bundled_weights_are_compared_with_the_template(self, run):
        with (of_template._path()).open() as stream:
            sha256 = stream.read().splitlines()[1].split("\t")[1]
        for path in run.out_dir.rglob("*.json"):
            if "brainidFrom" in path.name:
                path.write_text(path.read_text().replace(CARD["WeightsSHA256"], sha256))
        text = write_subject_report(run.out_dir, "01").read_text()
        assert '<th scope="colgroup" class="n first" colspan="2">Template</th>' in text


class TestMatrices:
    def session(self, *metrics: tuple[str, str, str]) -> SessionResult:
        """Make a session of three scans; metrics are scan, reference and value."""
        scans = tuple(ScanResult(key, key) for key in ("T1w", "FLAIR", "T2w"))
        rows = [Metric("pepsi", scan, "contrast_invariance", value, "", to) for scan, to, value in metrics]
        return SessionResult("01", None, scans, metrics=tuple(rows))

    def test_it_is_symmetric_and_in_the_order_of_the_scans(self):
        (matrix,) = invariance_matrices(
            self.session(("T2w", "FLAIR", "0.5"), ("FLAIR", "T1w", "0.812"), ("T2w", "T1w", "-0.1"))
        )
        assert matrix.scans == ["T1w", "FLAIR", "T2w"]
        texts = [[cell.text for cell in row] for row in matrix.rows]
        assert texts == [["–", "0.81", "−0.10"], ["0.81", "–", "0.50"], ["−0.10", "0.50", "–"]]
        assert matrix.rows[0][1].strength == 0.81
        assert matrix.rows[0][2].strength == 0

    def test_what_could_not_be_measured_is_said(self):
        (matrix,) = invariance_matrices(self.session(("FLAIR", "T1w", "n/a")))
        assert [[cell.text for cell in row] for row in matrix.rows] == [["–", "n/a"], ["n/a", "–"]]

    def test_a_single_scan_has_none(self):
        assert invariance_matrices(self.session()) == []

    def test_the_page_shows_it_as_text(self, tmp_path):
        FakeRun(tmp_path).session("01", "A")
        table = next((tmp_path / "sub-01/ses-A/anat").glob("*_metrics.tsv"))
        row = "FLAIR\tcontrast_invariance\t0.7249\tn/a\tT1w\n"
        write(table, f"{table.read_text()}{row}{EVIL}\tcontrast_invariance\t{EVIL}\t{EVIL}\t{EVIL}\n")
        text = write_subject_report(tmp_path, "01").read_text()
        assert "<img" not in text
        assert text.count('<td style="--part:0.72">0.72</td>') == 2
