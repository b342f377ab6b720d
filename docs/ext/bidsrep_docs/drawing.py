"""A graph as SVG: one column per scan, one row per step, colours of the page's theme. No graphviz needed."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from bidsrep_docs.graph import Graph, Step

WIDTH, GUTTER, MARGIN, GAP = 330, 80, 44, 24
LINE, PAD = 15, 9
MAX_CHARACTERS = 52

STYLE = """
.wf text{font:12px system-ui,sans-serif;fill:var(--color-foreground-primary,#222)}
.wf .name{font-weight:600;font-size:13px}
.wf .file{font:10px ui-monospace,monospace;fill:var(--color-foreground-secondary,#555)}
.wf .figure{font-style:italic}
.wf .head{font-size:14px;font-weight:700}
.wf rect{fill:var(--color-background-secondary,#f6f6f6);stroke:var(--color-foreground-border,#999)}
.wf path{fill:none;stroke:var(--color-foreground-muted,#888);stroke-width:1.2}
.wf marker path{fill:var(--color-foreground-muted,#888);stroke:none}
"""


@dataclass
class Box:
    """Where a step is drawn (px)."""

    step: Step
    x: float
    y: float
    height: float
    column: int
    row: int


def draw(graph: Graph, title: str, prefix: str = "") -> str:
    """Draw a graph; ``prefix`` is what every file name begins with, and is left out. No blank lines in it."""
    boxes, heads, height = _place(graph, prefix)
    columns = max(box.column for box in boxes.values()) + 1
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GUTTER
    parts = [
        f'<svg class="wf" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"'
        ' xmlns="http://www.w3.org/2000/svg">',
        f"<style>{''.join(STYLE.splitlines())}</style>",
        '<defs><marker id="wf-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    parts += [_edge(boxes[a], boxes[b], columns) for a, b in sorted(graph.edges)]
    parts += [f'<text class="head" x="{x:g}" y="18">{escape(text)}</text>' for x, text in heads]
    parts += [_draw_box(box, prefix) for box in boxes.values()]
    return "\n".join([*parts, "</svg>"])


def _place(graph: Graph, prefix: str) -> tuple[dict[str, Box], list[tuple[float, str]], float]:
    """Give every step a row (its rank, one step of a column per row) and a column (its scan)."""
    ranks = graph.rank()
    order = sorted(graph.steps, key=lambda name: (ranks[name], name))
    # The reference's branch goes first: the others wait for it.
    branches = [b for b in dict.fromkeys(graph.steps[name].branch for name in order) if b]
    feeding = {
        a.split(".")[3]
        for a, b in graph.edges
        if _branch(graph, a) != _branch(graph, b) and _branch(graph, b)
    }
    branches.sort(key=lambda branch: f"{branch}_wf" not in feeding)
    rows: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    for name in order:
        step = graph.steps[name]
        column = branches.index(step.branch) if step.branch else -1
        row = max((rows[a] + 1 for a, b in graph.edges if b == name), default=0)
        while (column, row) in taken:
            row += 1
        if column < 0:
            row = max(row, max(rows.values(), default=-1) + 1)
        rows[name] = row
        taken.add((column, row))
    heights: dict[int, float] = {}
    for name, row in rows.items():
        heights[row] = max(heights.get(row, 0), 2 * PAD + LINE * len(_lines(graph.steps[name], prefix)))
    tops, y = {}, 32.0
    for row in sorted(heights):
        tops[row], y = y, y + heights[row] + GAP
    boxes = {}
    middle = (len(branches) - 1) / 2
    for name, row in rows.items():
        step = graph.steps[name]
        place = branches.index(step.branch) if step.branch else middle
        height = 2 * PAD + LINE * len(_lines(step, prefix))
        column = int(place) if step.branch else -1
        boxes[name] = Box(step, MARGIN + place * (WIDTH + GUTTER), tops[row], height, column, row)
    heads = [(MARGIN + n * (WIDTH + GUTTER), f"{branch} scan") for n, branch in enumerate(branches)]
    return boxes, heads, y


def _branch(graph: Graph, name: str) -> str:
    return graph.steps[name].branch


def _lines(step: Step, prefix: str) -> list[tuple[str, str]]:
    """Class and text of every line in a box."""
    lines = [("name", step.name)]
    for kind, names in (("file", step.files), ("file figure", step.figures)):
        lines += [(kind, _short(name, prefix)) for name in names]
    return lines


def _short(name: str, prefix: str) -> str:
    text = name.removeprefix(prefix).replace("space-T1w_res-1mm_", "space-T1w_")
    text = text.removesuffix(".nii.gz")
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _draw_box(box: Box, prefix: str) -> str:
    parts = [
        f'<g><title>{escape(box.step.text)}</title><rect x="{box.x:g}" y="{box.y:g}" width="{WIDTH}"'
        f' height="{box.height:g}" rx="5"/>'
    ]
    for n, (kind, text) in enumerate(_lines(box.step, prefix)):
        y = box.y + PAD + LINE * (n + 0.75)
        parts.append(f'<text class="{kind}" x="{box.x + PAD:g}" y="{y:g}">{escape(text)}</text>')
    return "".join([*parts, "</g>"])


def _edge(source: Box, target: Box, columns: int) -> str:
    tip = ' marker-end="url(#wf-tip)"'
    if source.column == target.column and target.row == source.row + 1:
        x = source.x + WIDTH / 2
        return f'<path d="M{x:g} {source.y + source.height:g}L{x:g} {target.y:g}"{tip}/>'
    y0, y1 = source.y + min(source.height / 2, 20), target.y + min(target.height / 2, 14)
    if source.column == target.column:
        # Past the boxes between them, on the outer side of the column.
        left = source.column < columns / 2
        x = source.x if left else source.x + WIDTH
        bulge = (-1 if left else 1) * min(10 + 7 * (target.row - source.row), MARGIN - 4)
        return f'<path d="M{x:g} {y0:g}C{x + bulge:g} {y0:g} {x + bulge:g} {y1:g} {x:g} {y1:g}"{tip}/>'
    if target.column < 0:
        rightward = source.x < target.x
        x0 = source.x + WIDTH if rightward else source.x
        x1 = target.x + WIDTH / 2 + (-30 if rightward else 30)
        return f'<path d="M{x0:g} {y0:g}C{x1:g} {y0:g} {x1:g} {y0 + 40:g} {x1:g} {target.y:g}"{tip}/>'
    rightward = source.x < target.x
    x0, x1 = (source.x + WIDTH, target.x) if rightward else (source.x, target.x + WIDTH)
    half = (x0 + x1) / 2
    return f'<path d="M{x0:g} {y0:g}C{half:g} {y0:g} {half:g} {y1:g} {x1:g} {y1:g}"{tip}/>'
