"""The subject's page: what it shows, that it loads nothing from elsewhere, that nothing breaks out of the text."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from fake_derivatives import CARD, FIGURE, FakeRun, write, write_json
from PIL import Image

from bidsrep.bids.methods import write_citation
from bidsrep.bids.scans import Scan
from bidsrep.imaging.volume import Volume
from bidsrep.reports.boilerplate import methods_bibtex, methods_html, methods_markdown, read_bibtex
from bidsrep.reports.results import ModelUse
from bidsrep.reports.subject import write_subject_report
from bidsrep.settings import MODELS, Settings


class Links(HTMLParser):
    """Collects what a page loads or links to, and the ids it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.loaded += [values[name] for name in ("src", "data", "srcset") if values.get(name)]
        if tag == "link":
            self.loaded.append(values.get("href", ""))
        elif values.get("href"):
            self.linked.append(values["href"])
        if values.get("id"):
            self.ids.append(values["id"])


@pytest.fixture
def run(tmp_path):
    """Two sessions of one subject and one of another, with the text to cite."""
    out = tmp_path / "out"
    fake = FakeRun(out)
    fake.session("01", "1")
    fake.session("01", "10", ("T1w",))
    fake.session("010", "1")
    settings = Settings(bids_dir=tmp_path / "raw", out_dir=out, models=("pepsi",), work_dir=tmp_path / "work")
    write_citation(out, settings)
    return fake


class TestPage:
    def test_it_is_named_as_the_design_says(self, run):
        assert write_subject_report(run.out_dir, "01") == run.out_dir / "sub-01.html"

    def test_every_figure_is_there_once(self, run):
        text = write_subject_report(run.out_dir, "01").read_text()
        shown = [name.removeprefix("./") for name in Links(text).loaded]
        figures = sorted((run.out_dir / "sub-01" / "figures").iterdir())
        assert sorted(shown) == [path.relative_to(run.out_dir).as_posix() for path in figures]

    def test_a_session_shows_its_own_figures_alone(self, run):
        """Sessions 1 and 10: a match by a part of the label would mix them."""
        text = write_subject_report(run.out_dir, "01").read_text()
        first = text[text.index('id="group-2-1"') : text.index('id="group-2-2"')]
        assert "ses-1_desc-brain_T1w.svg" in first
        assert "ses-10_" not in first

    def test_nothing_is_loaded_from_elsewhere(self, run):
        links = Links(write_subject_report(run.out_dir, "01").read_text())
        assert all((run.out_dir / name).is_file() for name in links.loaded)
        outside = [name for name in links.linked if "://" in name]
        assert all(name.startswith("https://doi.org/") or "nipreps.org" in name for name in outside)

    def test_links_inside_the_page_lead_somewhere(self, run):
        links = Links(write_subject_report(run.out_dir, "01").read_text())
        assert {name[1:] for name in links.linked if name.startswith("#")} <= set(links.ids)
        assert len(links.ids) == len(set(links.ids))

    def test_the_summary_names_scans_weights_and_licences(self, run):
        text = write_subject_report(run.out_dir, "01").read_text()
        for wanted in ("sub-01_ses-1_FLAIR.nii.gz", "1,312 ml", "pepsi-compact-1", "ab" * 32, "Apache-2.0"):
            assert wanted in text

    def test_figures_are_not_rewritten(self, run):
        before = {path: path.stat().st_mtime_ns for path in (run.out_dir / "sub-01" / "figures").iterdir()}
        write_subject_report(run.out_dir, "01")
        assert before == {path: path.stat().st_mtime_ns for path in before}
        assert all(path.read_text() == FIGURE for path in before)

    def test_the_same_derivatives_give_the_same_bytes(self, run):
        first = write_subject_report(run.out_dir, "01").read_bytes()
        (run.out_dir / "sub-01.html").unlink()
        assert write_subject_report(run.out_dir, "01").read_bytes() == first
        assert str(run.out_dir).encode() not in first

    def test_an_unchanged_page_is_left_alone(self, run):
        page = write_subject_report(run.out_dir, "01")
        before = page.stat().st_mtime_ns
        assert write_subject_report(run.out_dir, "01").stat().st_mtime_ns == before

    def test_no_session_no_heading(self, tmp_path):
        fake = FakeRun(tmp_path)
        fake.session("01")
        text = write_subject_report(tmp_path, "01").read_text()
        assert "Session 1" not in text
        assert "sub-01_desc-pepsiLesions_FLAIR.svg" in text

    def test_a_subject_without_results_has_a_page(self, tmp_path):
        FakeRun(tmp_path).crash("01")
        text = write_subject_report(tmp_path, "01").read_text()
        assert "nothing was made" in text
        assert "1 step failed" in text

    def test_notes_are_shown(self, run):
        text = write_subject_report(run.out_dir, "01", notes=["T2w.nii.gz is empty & left out"]).read_text()
        assert "T2w.nii.gz is empty &amp; left out" in text

    def test_warnings_are_in_plain_words(self, tmp_path):
        FakeRun(tmp_path).session("01", volume=500)
        text = write_subject_report(tmp_path, "01").read_text()
        assert "a whole adult brain holds 1,000 to 1,800 ml" in text
        assert "complete, 2 warnings" in text
        assert "Likewise: FLAIR 510 ml." in text


class TestScripts:
    """What the page gives its scripts: the scans to rate, and the viewer's images."""

    def data(self, path) -> dict:
        return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text())[1])

    def test_every_scan_can_be_rated(self, run):
        data = self.data(write_subject_report(run.out_dir, "01"))
        assert data["participant"] == "sub-01"
        assert data["scans"] == [
            {"session": "ses-1", "scan": "T1w"},
            {"session": "ses-1", "scan": "FLAIR"},
            {"session": "ses-10", "scan": "T1w"},
        ]

    def test_figures_name_their_scan(self, run):
        text = write_subject_report(run.out_dir, "01").read_text()
        assert text.count('data-scan="ses-1/FLAIR"') == 3
        assert text.count('data-scan="ses-10/T1w"') == 3

    def test_images_that_cannot_be_read_have_no_viewer(self, run):
        page = write_subject_report(run.out_dir, "01")
        assert self.data(page)["viewers"] == []
        assert 'data-viewer="0"' not in page.read_text()

    def test_the_viewer_has_scans_lesions_and_predictions(self, tmp_path):
        FakeRun(tmp_path, images=True).session("01")
        page = write_subject_report(tmp_path, "01")
        (viewer,) = self.data(page)["viewers"]
        assert [image["name"] for image in viewer["images"]] == [
            "T1w",
            "FLAIR",
            "synthetic T1w: pepsi, from FLAIR",
            "synthetic T1w: pepsi, from T1w",
        ]
        assert [entry["name"] for entry in viewer["overlays"]] == [
            "lesions: pepsi, from FLAIR",
            "lesions: pepsi, from T1w",
        ]
        assert viewer["shape"] == [38, 38, 38]  # the ball: 19 voxels of 3 mm
        assert viewer["affine"] == [[1.5, 0, 0, 9], [0, 1.5, 0, 15], [0, 0, 1.5, 6]]
        assert page.stat().st_size < 1e6

    def test_the_viewer_s_grid_is_the_reference_s_and_as_oblique(self, tmp_path):
        FakeRun(tmp_path, images=True).session("01", None, ("T1w", "FLAIR"))
        anat = tmp_path / "sub-01" / "anat"
        reference = next(anat.glob("sub-01_desc-preproc_T1w.nii.gz"))
        image = Volume.load(reference)
        angle = np.deg2rad(20)
        turned = np.eye(4)
        turned[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turned[:3, 3] = -7, 4, 2
        image = Volume(image.data, turned @ image.affine)
        image.save(reference)
        slab = np.where(np.arange(image.shape[2]) < 12, image.data, 0)
        partial = anat / "sub-01_acq-hipp_space-T1w_res-1mm_desc-preproc_T2w.nii.gz"
        Volume(slab, image.affine).save(partial)
        (viewer,) = self.data(write_subject_report(tmp_path, "01"))["viewers"]
        assert viewer["images"][0]["name"] == "T1w"
        assert all(38 <= side <= 39 for side in viewer["shape"])
        corner = np.argwhere(image.data != 0).min(axis=0)
        first = image.affine[:3, :3] @ corner + image.affine[:3, 3]
        np.testing.assert_allclose(np.array(viewer["affine"])[:, 3], first, atol=0.01)
        np.testing.assert_allclose(np.array(viewer["affine"])[:, :3] / 1.5, turned[:3, :3], atol=1e-4)
        assert sorted({entry["name"] for entry in viewer["overlays"]}) == [
            e["name"] for e in viewer["overlays"]
        ]

    def test_figures_of_scans_without_a_session_stand_before_the_others(self, run):
        run.session("01", None, ("T1w",))
        run.session("01", "2", ("T1w",))
        text = write_subject_report(run.out_dir, "01").read_text()
        places = [text.index(f'data-scan="{place}/T1w"') for place in ("n/a", "ses-1", "ses-2", "ses-10")]
        assert places == sorted(places)
        assert ">Without a session<" in text

    def test_the_viewer_keeps_left_on_the_left(self, tmp_path):
        """An image whose axes run to the left and back is shown like any other."""
        fake = FakeRun(tmp_path, images=True)
        fake.session("01", None, ("T1w",))
        path = next(tmp_path.rglob("*desc-preproc_T1w.nii.gz"))
        data = np.zeros((20, 20, 20))
        data[2:18, 2:18, 2:18] = 1
        data[2:6, 2:6, 2:18] = 3
        pixels = []
        for flip in (1, -1):
            affine = np.diag([flip * 3.0, flip * 3.0, 3.0, 1.0])
            affine[:2, 3] = 0 if flip > 0 else 57
            Volume(data[::flip, ::flip], affine).save(path)
            (viewer,) = self.data(write_subject_report(tmp_path, "01"))["viewers"]
            picture = Image.open(io.BytesIO(base64.b64decode(viewer["images"][0]["src"].partition(",")[2])))
            x, y, _ = viewer["shape"]
            pixels.append(np.asarray(picture.convert("L"))[:y, :x])
        first, second = pixels
        assert np.abs(first.astype(int) - second).max() < 12
        assert first[-5:, :5].mean() > first[:5, -5:].mean() + 50  # bright where x and y are low: lower left

    def test_an_embedded_page_needs_nothing_else(self, run):
        text = write_subject_report(run.out_dir, "01", embed=True).read_text()
        loaded = Links(text).loaded
        assert len(loaded) == 9
        assert all(name.startswith("data:image/svg+xml,") for name in loaded)
        assert unquote(loaded[0].partition(",")[2]) == FIGURE
        assert "Get figure file" not in text
        assert not re.search(r'(data|href)="[^"]*\.svg"', text)


class TestEscaping:
    def test_crash_files_are_text(self, run):
        run.crash("01", "1")
        text = write_subject_report(run.out_dir, "01").read_text()
        assert "&lt;script&gt;alert(1)&lt;/script&gt;.nii.gz: is cut short." in text
        assert "<script>alert" not in text

    def test_sidecars_and_tables_are_text(self, run):
        evil = '"><img src=x onerror=alert(1)>'
        for path in (run.out_dir / "sub-01" / "ses-1" / "anat").glob("*embedding.tsv"):
            write_json(path, {"Model": CARD | {"Weights": evil, "License": evil}})
        table = next((run.out_dir / "sub-01" / "ses-1" / "anat").glob("*_metrics.tsv"))
        table.write_text(table.read_text() + f"{evil}\t{evil}\t{evil}\t{evil}\t{evil}\n")
        text = write_subject_report(run.out_dir, "01").read_text()
        assert "<img" not in text
        assert Links(text).loaded
        assert evil.replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;") in text

    def test_the_output_folder_may_have_any_name(self, tmp_path):
        folder = tmp_path / "o'ut {subject} <b>"
        fake = FakeRun(folder)
        fake.session("01")
        text = write_subject_report(folder, "01").read_text()
        assert "<b>.svg" not in text
        assert sum(name.endswith(".svg") for name in Links(text).loaded) == 6

    def test_figures_of_foreign_names_are_left_out(self, run):
        scan = Scan(run.out_dir, "01", "1", "T1w")
        write(run.figure(scan, "brain").with_name('sub-01_ses-1_desc-"><script>_T1w.svg'), FIGURE)
        assert '"><script>_' not in write_subject_report(run.out_dir, "01").read_text()


class TestMethods:
    text = "We used *pepsi* [@pepsi; @bids] & <others> [@pepsi].\n\n# Head\n\nMore [@nobody].\n"

    def test_citations_are_numbered_in_the_order_of_the_text(self):
        html = methods_html(self.text)
        assert '<a href="#ref-pepsi">1</a>, <a href="#ref-bids">2</a>' in html
        assert html.index('id="ref-pepsi"') < html.index('id="ref-bids"')
        assert "<em>pepsi</em>" in html
        assert "&amp; &lt;others&gt;" in html
        assert "[nobody]" in html

    def test_references_are_readable(self):
        html = methods_html(self.text)
        assert "Liu P, Puonti O, Sorby-Adams A, et al. (2024)" in html
        assert "PEPSI: Pathology-Enhanced" in html
        assert 'href="https://doi.org/10.48550/arXiv.2403.06227"' in html
        assert 'href="https://doi.org/10.1038/sdata.2016.44"' in html

    def test_bibtex_has_what_is_cited(self):
        keys = [reference.key for reference in read_bibtex(methods_bibtex(self.text + "[@nibabel]"))]
        assert keys == ["pepsi", "bids", "nibabel"]

    def test_the_weights_are_named(self, tmp_path):
        use = ModelUse("pepsi", "pepsi-compact-1", "ab" * 32, "self-trained", "Apache-2.0")
        text = methods_markdown(tmp_path, [use])
        assert "weights pepsi-compact-1 (SHA-256 abababababab, self-trained, licence Apache-2.0)" in text
        assert "not there" in text  # no CITATION.md

    def test_systems_of_earlier_runs_are_cited_too(self, run):
        """The folder's text is the last run's; `run` was told to use pepsi alone."""
        text = methods_markdown(run.out_dir, [ModelUse("pepsi", "a"), ModelUse("cifl", "b")])
        keys = {reference.key for reference in read_bibtex(methods_bibtex(text))}
        assert keys & set(MODELS) == {"pepsi", "cifl"}

    def test_a_reference_without_authors_starts_with_the_year(self):
        (reference,) = read_bibtex("@misc{x,\n  title = {T},\n  year = {2024},\n  url = {https://x.org}\n}")
        assert reference.to_html() == '(2024). T. <a href="https://x.org">https://x.org</a>'

    def test_a_link_is_https_or_none(self):
        entry = "@misc{x,\n  title = {T},\n  howpublished = {javascript:alert(1)}\n}"
        (reference,) = read_bibtex(entry)
        assert "href" not in reference.to_html()

    def test_every_citation_of_a_run_is_resolved(self, run):
        text = methods_markdown(run.out_dir, [])
        assert not re.search(r"\[@", methods_html(text))
        assert 'href="#ref-nipype"' in methods_html(text)
