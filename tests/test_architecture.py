"""The house, read from the source: no circles, no giants, everything public explained."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"bidsrep": ROOT / "bidsrep", "bidsrep.workflows": ROOT / "workflows"}
MODULES = {
    ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
    for package, folder in FOLDERS.items()
    for path in sorted(folder.rglob("*.py"))
}
LONGEST_FILE, LONGEST_FUNCTION = 500, 120
LEAN_ROOMS = {"synth", "tasks", "models", "training"}
LEAN_LIBRARIES = {"bidsrep", "torch", "numpy", "scipy", "nibabel", "safetensors", "isal", "pooch"}
TRAINING_LIBRARIES = {"lightning", "ants"}
"""ANTs only where a real T1w is prepared (N4), inside the function that does it."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="not a source checkout")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Absolute names that import statements mention."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def at_import(module: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when a module is imported: not those in functions, nor for type checkers only."""
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += list(ast.iter_child_nodes(node))


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: {n for n in imported(at_import(tree(path))) if n in MODULES} for name, path in MODULES.items()
    }
    # A package stands for what its __init__ imports; its modules importing one another through it is a circle too.
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_relative_imports() -> None:
    relative = [
        name
        for name, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_rooms_for_gpu_nodes_name_only_their_libraries() -> None:
    foreign = []
    for name, path in MODULES.items():
        room = (*name.split("."), "")[1]
        if room not in LEAN_ROOMS:
            continue
        known = set(sys.stdlib_module_names) | LEAN_LIBRARIES
        known |= TRAINING_LIBRARIES if room == "training" else set()
        top = {n.split(".")[0] for n in imported(ast.walk(tree(path)))}
        foreign += [f"{name} imports {other}" for other in sorted(top - known)]
        heavy = {n.split(".")[0] for n in imported(at_import(tree(path)))} & {"ants"}
        foreign += [f"{name} imports {other} at once" for other in heavy]
    assert foreign == []


def public(module: ast.Module, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Functions, classes and methods that others may use."""
    for node in module.body if isinstance(module, ast.Module | ast.ClassDef) else ():
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public(node, f"{prefix}{node.name}.")  # type: ignore[arg-type]


def overloaded(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(d).split(".")[-1] in ("overload", "setter") for d in decorators)


def test_everything_public_has_a_docstring() -> None:
    missing = [
        name for name, path in MODULES.items() if path.stat().st_size and not ast.get_docstring(tree(path))
    ]
    for module, path in MODULES.items():
        missing += [
            f"{module}.{name}"
            for name, node in public(tree(path))
            if not overloaded(node) and not ast.get_docstring(node)
        ]
    assert missing == []


def test_nothing_is_too_long() -> None:
    long = {
        name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    for module, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, Function) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{module}.{node.name}"] = lines
    assert long == {}


def test_no_module_prints_except_the_commands() -> None:
    printing = [
        name
        for name, path in MODULES.items()
        if not name.startswith("bidsrep.cli")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []
