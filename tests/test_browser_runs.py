"""The pages of real runs, of the demo and of a clinical session, in a real browser and away from where they were made."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from browsing import NEEDS_CHROMIUM, READY, faults, leaves, visit

pytestmark = NEEDS_CHROMIUM
MODEL = "pepsi"
FIGURES = ("brain", "registration", f"{MODEL}Synthesis", f"{MODEL}Lesions", f"{MODEL}Components")
MOST_BYTES = 5e6
"""Of a session's page and figures."""

DECODED = """Promise.all([...document.querySelectorAll("image")].map(async element => {
    const picture = new Image();
    picture.src = element.href.baseVal;
    await picture.decode();
    return picture.naturalWidth;
}))"""
"""Widths of the pictures in a figure; a picture that is none is an error."""


@dataclass(frozen=True)
class Run:
    """What a run left, copied elsewhere: the folder, the subject and its session, and the contrasts."""

    folder: Path
    subject: str
    session: str
    scans: tuple[str, ...] = ("T1w", "FLAIR")

    @property
    def pages(self) -> dict[str, Path]:
        return {name: self.folder / f"{name}.html" for name in (f"sub-{self.subject}", "group")}

    @property
    def figures(self) -> list[Path]:
        return sorted((self.folder / f"sub-{self.subject}" / "figures").iterdir())


def call(module: str, arguments: Sequence[object]) -> None:
    """Run one of the commands in a process of its own."""
    program = f"import sys; from {module} import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def process(root: Path, bids: Path, subject: str, session: str, *options: object) -> Run:
    """Run both levels on one session; what they wrote is then moved, so that nothing is found where it was."""
    chosen = ["--participant-label", subject, "--session-label", session, "--modalities", "T1w", "FLAIR"]
    computed = ["--model", MODEL, "--nprocs", 1, "--omp-nthreads", 1, "--work-dir", root / "work", "--quiet"]
    call("bidsrep.cli.run", [bids, root / "out", "participant", *chosen, *computed, *options])
    call("bidsrep.cli.run", [bids, root / "out", "group", "--quiet"])
    return Run((root / "out").rename(root / "a copy"), subject, session)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("demo")
    call("bidsrep.cli.demo", [root / "bids", "--subjects", 1, "--sloppy"])
    return process(root, root / "bids", "01", "A", "--resolution", 2)


@pytest.fixture(scope="session")
def clinical(tmp_path_factory, test_data) -> Run:
    bids = test_data / "data/bids-ms"
    if not bids.is_dir():
        pytest.skip("bids-ms is not among the real scans")
    return process(tmp_path_factory.mktemp("clinical"), bids, "long01", "01")


@pytest.fixture(params=["demo", pytest.param("clinical", marks=pytest.mark.data)])
def run(request) -> Run:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["subject", "group"])
def page_file(request, run) -> Path:
    subject, group = run.pages.values()
    return {"subject": subject, "group": group}[request.param]


class TestBothPages:
    def test_they_load_nothing_from_outside_their_folder(self, context, run, page_file):
        page = visit(context, page_file)
        page.wait_for_load_state("load")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(100)
        assert leaves(context, run.folder) == []
        assert page_file.as_uri() in context.fetched

    @pytest.mark.parametrize("width", [1400, 390])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_they_are_accessible_and_fit_the_screen(self, context, page_file, width, scheme):
        page = visit(context, page_file)
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)  # colours fade
        assert faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


class TestSubjectPage:
    def test_every_figure_is_there_and_loads(self, context, run):
        made = {re.search(r"desc-(\w+)_(\w+)\.svg", path.name).groups() for path in run.figures}
        wanted = {(desc, scan) for desc in FIGURES for scan in run.scans} - {("registration", "T1w")}
        assert made == wanted
        page = visit(context, run.pages[f"sub-{run.subject}"])
        page.wait_for_load_state("load")
        assert {path.as_uri() for path in run.figures} <= set(context.fetched)
        shown = page.locator("object")
        assert shown.count() == len(wanted)
        assert min(box["height"] for box in (o.bounding_box() for o in shown.all())) > 100

    def test_every_picture_in_the_figures_can_be_decoded(self, context, run):
        page = context.new_page()
        for path in run.figures:
            page.goto(path.as_uri())
            widths = page.evaluate(DECODED)
            assert widths, path.name
            assert min(widths) > 200, path.name

    def test_the_viewer_draws(self, context, run):
        page = visit(context, run.pages[f"sub-{run.subject}"])
        page.locator("#slices").scroll_into_view_if_needed()
        page.wait_for_selector("[data-viewer='0'][data-drawn=yes]")

    def test_the_features_of_its_scans_are_compared(self, context, run):
        page = visit(context, run.pages[f"sub-{run.subject}"])
        texts = page.locator("table.matrix tbody td").all_inner_texts()
        assert (texts[0], texts[3]) == ("–", "–")
        assert texts[1] == texts[2]
        assert 0 < float(texts[1]) <= 1

    def test_it_is_light(self, run):
        page = run.pages[f"sub-{run.subject}"]
        assert page.stat().st_size + sum(path.stat().st_size for path in run.figures) < MOST_BYTES

    def test_ratings_by_keyboard_survive_a_reload(self, context, run):
        page = visit(context, run.pages[f"sub-{run.subject}"])
        for key in ("p", "ArrowRight", "f"):
            page.keyboard.press(key)
        page.reload()
        page.wait_for_function(READY)
        assert "2 of 2 rated" in page.locator("#rating output").inner_text()
        assert page.locator("#rating button.pass[aria-pressed=true]").count() == 1
        page.keyboard.press("ArrowRight")
        assert page.locator("#rating button.fail[aria-pressed=true]").count() == 1
        assert page.locator(".of-scan.current").first.get_attribute("data-scan") == f"ses-{run.session}/FLAIR"


class TestGroupPage:
    def test_filters_choose_rows(self, context, run):
        page = visit(context, run.pages["group"])
        rows = page.locator("#table tbody tr")
        assert rows.count() == len(run.scans)
        page.locator("#words").fill(f"sub-{run.subject} flair")
        assert rows.count() == 1
        assert page.locator("#shown").inner_text() == f"1 of {len(run.scans)} rows"
        page.get_by_role("button", name="Show all").click()
        page.locator("select[data-column=Contrast]").select_option(label="T1w")
        assert [row.split("\t")[0] for row in rows.all_inner_texts()] == [f"sub-{run.subject}"]
        page.get_by_role("button", name="Show all").click()
        assert rows.count() == len(run.scans)

    def test_a_name_leads_to_the_subjects_page(self, context, run):
        page = visit(context, run.pages["group"])
        page.locator("#table tbody a").first.click()
        page.wait_for_url(f"**/sub-{run.subject}.html#**")
        page.wait_for_function(READY)
        assert leaves(context, run.folder) == []
