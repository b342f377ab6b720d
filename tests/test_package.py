"""The package: nothing is left out of it, and rooms import downward only."""

import ast
import configparser
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bidsrep

ROOT = Path(bidsrep.__file__).parents[1]
ORDER = (
    ("errors", "resources", "toml"),
    ("labels", "settings"),
    ("bids",),
    ("imaging",),
    ("synth",),
    ("tasks",),
    ("models",),
    ("evaluation",),
    ("reports", "training"),
    ("interfaces",),
    ("workflows",),
    ("cli",),
)
"""The rooms from the ground up; see CONTRIBUTING.md."""

LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
NO_BIDS = ("synth", "tasks", "models", "training")
NOT_ON_GPU_NODES = ("nipype", "niworkflows", "nireports", "nitransforms", "nilearn", "ants", "bids", "monai")
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="not a source checkout")


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in (("bidsrep", ROOT / "bidsrep"), ("bidsrep.workflows", ROOT / "workflows")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(p for p in parts if p != "__init__")))] = path
    return found


def imports(path: Path) -> set[str]:
    """List what a module imports, in its functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_package_is_listed() -> None:
    listed = set(config()["options"]["packages"].split())
    there = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert listed == there


def test_every_command_exists() -> None:
    scripts = config()["options.entry_points"]["console_scripts"].strip().splitlines()
    for script in scripts:
        name, _, target = script.partition(" = ")
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_rooms_import_downward_only() -> None:
    upward = []
    for name, path in modules().items():
        room = name.split(".")[1] if "." in name else None
        if room is None:
            continue
        assert room in LEVEL, f"{room} has no place in the house"
        for target in imports(path):
            other = target.split(".")[1] if target.startswith("bidsrep.") else room
            if other != room and LEVEL.get(other, -1) >= LEVEL[room]:
                upward.append(f"{name} imports {target}")
    assert not upward


def test_what_trains_imports_without_nipype_and_bids() -> None:
    names = sorted(name for name in modules() if name.split(".")[1:2] and name.split(".")[1] in NO_BIDS)
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({NOT_ON_GPU_NODES!r}))
for name in {names!r}:
    importlib.import_module(name)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_bids_knows_no_torch() -> None:
    for name, path in modules().items():
        if name.startswith("bidsrep.bids"):
            assert not {t for t in imports(path) if t.split(".")[0] in ("torch", "monai", "nipype")}, name


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: n for name, n in lengths.items() if n > 500} == {}


def test_constraints_cover_what_is_required() -> None:
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    required = {
        line.split()[0].lower() for line in config()["options"]["install_requires"].strip().splitlines()
    }
    assert required <= pinned


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        bidsrep.no_such_thing  # noqa: B018


def modules_with_examples() -> list[str]:
    """Modules whose docstrings hold a ``>>>``."""
    found = []
    for root, package in ((ROOT / "bidsrep", "bidsrep"), (ROOT / "workflows", "bidsrep.workflows")):
        for path in sorted(root.rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(root).with_suffix("").parts
                found.append(".".join([package, *parts]).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
