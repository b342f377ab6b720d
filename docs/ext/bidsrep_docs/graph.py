"""What happens in a Nipype workflow, without the bookkeeping: steps, what they write, what feeds what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Step:
    """One node that computes something; `branch` is the scan it belongs to, empty for the session's own."""

    name: str
    branch: str
    text: str
    files: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)


@dataclass
class Graph:
    """Steps by their full name, and which step feeds which."""

    steps: dict[str, Step]
    edges: set[tuple[str, str]]

    def rank(self) -> dict[str, int]:
        """Longest way from a start, by step."""
        ranks: dict[str, int] = {}

        def visit(name: str) -> int:
            if name not in ranks:
                ranks[name] = 1 + max((visit(a) for a, b in self.edges if b == name), default=-1)
            return ranks[name]

        for name in self.steps:
            visit(name)
        return ranks


def read_graph(workflow: Any) -> Graph:
    """Read the steps of a workflow.

    Nodes that only hand on are left out, nodes that write a file become a line of the step that made it,
    and so do nodes that draw a figure of the report (a line of the last step they need).
    """
    flat = workflow._create_flat_graph()
    kinds = {node: _kind(node) for node in flat.nodes}
    feeds = {node: _sources(flat, kinds, node) for node in flat.nodes if kinds[node] != "passes"}
    steps = {node: _step(node) for node, kind in kinds.items() if kind == "step"}
    names = {node: node.fullname for node in steps}
    edges = {(names[a], names[node]) for node in steps for a in feeds[node] if a in steps}
    graph = Graph({names[node]: step for node, step in steps.items()}, edges)
    ranks = graph.rank()
    for node in flat.nodes:
        if kinds[node] != "writes":
            continue
        # A sidecar may take a word or two from another step.
        (maker,) = _sources(flat, kinds, node, "in_file")
        file = Path(node.interface.inputs.out_path).name
        if kinds[maker] == "step":
            # The network's step draws what would be too large to hand on.
            (steps[maker].figures if file.endswith(".svg") else steps[maker].files).append(file)
        else:
            last = max((a for a in feeds[maker] if a in steps), key=lambda a: ranks[names[a]])
            steps[last].figures.append(file)
    return graph


def _kind(node: Any) -> str:
    name = type(node.interface).__name__
    if name == "IdentityInterface":
        return "passes"
    if name == "SaveDerivative":
        return "writes"
    return "draws" if name.endswith("Figure") else "step"


def _step(node: Any) -> Step:
    scans = [part.removesuffix("_wf") for part in node.fullname.split(".")[3:-1]]
    inner = [part for part in scans[1:] if part != "preprocess"]
    text = (type(node.interface).__doc__ or "").strip().splitlines()[0]
    return Step(" / ".join([*inner, node.name]), scans[0] if scans else "", text)


def _sources(flat: Any, kinds: dict[Any, str], node: Any, only: str | None = None) -> set[Any]:
    """Nodes that a node's inputs (or one of them) really come from, followed through those that only hand on."""
    found = set()
    for before in flat.predecessors(node):
        for source, target in flat.edges[before, node]["connect"]:
            if only in (None, target):
                found |= _follow(flat, kinds, before, source if isinstance(source, str) else source[0])
    return found


def _follow(flat: Any, kinds: dict[Any, str], node: Any, output: str) -> set[Any]:
    return _sources(flat, kinds, node, output) if kinds[node] == "passes" else {node}
