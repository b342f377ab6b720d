"""The documentation and the README: their code runs, their commands parse, their links lead somewhere.

A comment before a block says how it is tested; docs/developers.md lists what there is.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from random_weights import write_random_weights

from bidsrep.cli import demo, models, parser, slurm, train, verify
from bidsrep.cli.run import main as bidsrep_main
from bidsrep.errors import BidsrepError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CAMPAIGN = ROOT / "tests" / "faults" / "campaign.py"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
BLOCK = re.compile(
    r"(?:<!-- test: (?P<mark>[^>]+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HARMLESS = ("python3", "pip", ".", "git", "cd", "ls", "cat")
"""Commands that are not ours and are not run."""

PARSERS: dict[str, Callable] = {
    "bidsrep": lambda: parser.build_parser(),
    "bidsrep-demo": demo.build_parser,
    "bidsrep-models": models.build_parser,
    "bidsrep-train": train._parser,
    "bidsrep-verify": verify.build_parser,
    "bidsrep-slurm": slurm.build_parser,
}
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="not a source checkout")


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    page: Path
    line: int
    language: str
    code: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.stem}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code"))
            block = Block(page, line, match["language"], match["code"], match["mark"] or "")
            if block.language == language and not block.mark.startswith("skip"):
                found.append(block)
    return found


def commands(code: str) -> list[list[str]]:
    """Split a shell block into commands: comments and line ends with a backslash are understood."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def make_head(path: Path, stripped: bool) -> None:
    """Write a ball with a shell around it: enough of a head for the commands to go through."""
    axes = np.meshgrid(*(np.linspace(-1, 1, 32),) * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    data = np.where(radius < 0.6, 100 + 20 * axes[0], 0) + (
        0 if stripped else np.where(abs(radius - 0.8) < 0.1, 300, 0)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data.astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0])).to_filename(path)


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with the files that the pages talk about, and networks with random weights."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for model in ("pepsi", "brainid", "brainmask"):
        write_random_weights(weights, model)
    monkeypatch.setattr("bidsrep.models.library.bundled_dir", lambda: weights)
    monkeypatch.setenv("BIDSREP_MODELS_DIR", str(tmp_path / "models"))
    for root in ("demo/bids", "data/bids"):
        folder = tmp_path / root
        for suffix in ("T1w", "FLAIR"):
            make_head(folder / f"sub-01/anat/sub-01_{suffix}.nii.gz", stripped=False)
        description = {"Name": "pages", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
        (folder / "dataset_description.json").write_text(json.dumps(description))
    (tmp_path / "data/derivatives/masks").mkdir(parents=True)
    make_head(tmp_path / "sub-01_T1w.nii.gz", stripped=False)
    make_head(tmp_path / "sub-01_space-T1w_res-1mm_desc-preproc_FLAIR.nii.gz", stripped=True)
    (tmp_path / "filter.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def relocated(words: list[str], sandbox: Path) -> list[str]:
    """Put the pages' /data into the sandbox."""
    return [re.sub(r"(^|=)/data\b", rf"\1{sandbox}/data", word) for word in words]


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_parse(block: Block, sandbox: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in commands(block.code):
        name, arguments = words[0], relocated(words[1:], sandbox)
        if name in PARSERS:
            PARSERS[name]().parse_args(parser.normalise_spelling(arguments))
        elif name == "make":
            for target in (word for word in arguments if "=" not in word):
                assert re.search(rf"^{target}:", makefile, re.M), f"{block}: no target {target}"
        elif "/" in name:
            assert (ROOT / name).exists(), f"{block}: there is no {name}"
        else:
            assert name in HARMLESS, f"{block}: {name} is not known to this test"


@pytest.mark.parametrize("block", [b for b in blocks("bash") if b.mark == "dry-run"], ids=str)
def test_commands_do_a_dry_run(block: Block, sandbox: Path, capsys: pytest.CaptureFixture) -> None:
    for words in commands(block.code):
        if words[0] == "bidsrep":
            arguments = relocated(words[1:], sandbox)
            levels = [w for w in arguments if w != "group"]
            extra = [] if "--dry-run" in levels else ["--dry-run"]
            assert bidsrep_main([*levels, *extra]) == 0, f"{block}: {' '.join(words)}"
            listed = capsys.readouterr().out
            assert "sub-01_desc-preproc_T1w.nii.gz" in listed
            assert not list(sandbox.glob("**/derivatives/**/*.nii.gz"))


@pytest.mark.parametrize("page", sorted({b.page for b in blocks("python")}), ids=lambda p: p.stem)
def test_python_blocks_run(page: Path, sandbox: Path) -> None:
    namespace: dict = {"__name__": "page"}
    for block in blocks("python"):
        if block.page == page:
            source = "\n" * block.line + block.code  # so that a traceback shows the line of the page
            exec(compile(source, str(page), "exec"), namespace)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_blocks_are_json(block: Block) -> None:
    code = block.code.strip()
    json.loads(code if code.startswith("{") else f"{{{code}}}")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name}: {match['target']}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {match['target']}"


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text().split("toctree")[1], re.M)
    assert {f"{name}.md" for name in listed} == {
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")
    } - {"index.md"}


def test_pages_mention_only_options_that_exist() -> None:
    known = {o for build in PARSERS.values() for o in all_options(build())}
    known |= {"--extra-index-url", "--account", "--time"}
    known |= set(re.findall(r'"(--[a-z-]+)"', CAMPAIGN.read_text(encoding="utf-8")))
    known |= {"--ntasks-per-node"}  # of srun
    known |= {"--build-arg", "--rm", "--network", "--read-only", "--tmpfs", "--user"}
    for page in PAGES:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")):
            assert option in known, f"{page.name}: {option}"


def all_options(of) -> set[str]:
    options = {o for action in of._actions for o in action.option_strings}
    for action in of._actions:
        if isinstance(action.choices, dict):
            for child in action.choices.values():
                options |= all_options(child)
    return options


@pytest.fixture(scope="module")
def inserts():
    """The extension of the pages, as Sphinx imports it."""
    sys.path.insert(0, str(DOCS / "ext"))
    try:
        from bidsrep_docs import drawing, graph, tables
        from bidsrep_docs.example import example_session
    finally:
        sys.path.remove(str(DOCS / "ext"))
    return {"tables": tables, "graph": graph, "drawing": drawing, "session": example_session}


def test_every_insert_of_the_pages_is_filled(inserts) -> None:
    for page in DOCS.rglob("*.md"):
        text = inserts["tables"].fill(page.read_text(encoding="utf-8"))
        assert not re.search(r"^<!-- insert:", text, re.M), page.name


def test_the_picture_of_the_graph_shows_the_real_steps(inserts) -> None:
    with inserts["session"](("pepsi", "brainid")) as (plan, workflow):
        graph = inserts["graph"].read_graph(workflow)
        written = {name for step in graph.steps.values() for name in (*step.files, *step.figures)}
        assert written == {file.path.name for file in plan.planned()}
    branches = {step.branch for step in graph.steps.values()}
    assert {"T1w", "FLAIR"} <= branches
    ranks = graph.rank()
    assert all(ranks[a] < ranks[b] for a, b in graph.edges)
    svg = inserts["drawing"].draw(graph, "picture")
    assert svg.count("<rect") == len(graph.steps)
    assert "\n\n" not in svg


def test_boxes_of_the_picture_do_not_overlap(inserts) -> None:
    with inserts["session"](("pepsi", "brainid")) as (_, workflow):
        boxes, _, height = inserts["drawing"]._place(inserts["graph"].read_graph(workflow), "")
    placed = sorted(boxes.values(), key=lambda box: (box.x, box.y))
    for above, below in pairwise(placed):
        assert above.x != below.x or above.y + above.height < below.y
    assert max(box.y + box.height for box in placed) <= height


def test_the_readme_claims_no_other_weights_than_there_are() -> None:
    """The table of the README names exactly the models of the package."""
    from bidsrep.settings import MODELS

    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert set(MODELS) <= set(table)


def test_errors_are_documented() -> None:
    """Exit codes of the get-started page are those of the program."""
    page = (DOCS / "get-started.md").read_text()
    codes = {int(kind.exit_code) for kind in (BidsrepError, *BidsrepError.__subclasses__())}
    assert all(re.search(rf"\b{code}\b", page) for code in codes)
