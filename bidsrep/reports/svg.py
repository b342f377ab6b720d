"""Figures as SVG: pictures as WebP inside, outlines and words as vectors on top.

A figure is a column of strips, each a row of tiles. Written by hand rather than with matplotlib: a
tenth of the size, a hundredth of the time, sharp at every zoom, and the same bytes every time.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from bidsrep.bids.files import write_text

WIDTH = 1200.0
"""Width of a figure in its own units; on a page it takes the width it is given."""

GUTTER = 104.0
GAP = 2.0
LETTER = 6.4
"""About the width of a letter of the smaller text: browsers' fonts differ."""

QUALITY = 78
"""WebP quality: at this, 14 tiles of an MRI take some 60 kB and show no blocks."""

STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#c9d1da}
.title{font-size:15px;font-weight:600;fill:#fff}.note{fill:#9fb0c0}.strong{font-weight:600;fill:#fff}
.cap{font-size:11px;fill:#9fb0c0}.side{font-size:13px;font-weight:700;fill:#ffd479}
.cap,.side,.tag{paint-order:stroke;stroke:#000;stroke-width:3px;stroke-linejoin:round}
.line{fill:none;stroke-linejoin:round;stroke-width:1.5px;vector-effect:non-scaling-stroke}
.brain{stroke:#ffb000}.lesion{stroke:#ff5c6c;fill:#ff5c6c;fill-opacity:.28}.glass{stroke:#74818f}
.tag{font-size:12px;font-weight:600;fill:#fff}
.over,.flick{transition:opacity .12s}
svg:hover .over,svg:focus .over{opacity:0}svg:focus{outline:none}
@keyframes flick{0%,49.9%{opacity:1}50%,100%{opacity:0}}
svg:hover .flick,svg:focus .flick{animation:flick 1.3s infinite}
@media (prefers-reduced-motion:reduce){svg:hover .flick,svg:focus .flick{animation:none;opacity:0}}
"""


@dataclass(frozen=True)
class Strip:
    """Where the tiles of one row lie in the figure: x of each, y, and figure units per pixel.

    `rows` is the height in pixels; lower tiles stand in its middle.
    """

    left: tuple[float, ...]
    top: float
    scale: float
    shapes: tuple[tuple[int, int], ...]
    rows: int

    @property
    def bottom(self) -> float:
        """Where the strip ends."""
        return self.top + self.rows * self.scale

    def part(self, start: int, stop: int) -> "Strip":
        """Return some of the tiles."""
        return Strip(self.left[start:stop], self.top, self.scale, self.shapes[start:stop], self.rows)


class Figure:
    """An SVG figure, built from top to bottom.

    Parameters
    ----------
    title, note : str
        Shown above the pictures, to the left and to the right; any text, it is escaped.
    description : str
        What the figure shows, for those who cannot see it.
    """

    def __init__(self, title: str, note: str = "", description: str = "") -> None:
        self.description = description or title
        self.body: list[str] = []
        self.y = 30.0
        self.text(8, 20, title, "title")
        self.text(WIDTH - 8, 20, note, "note", anchor="end")

    def text(self, x: float, y: float, text: str, css: str = "", anchor: str = "start") -> None:
        """Write one line; `css` names classes of `STYLE`."""
        if text:
            attributes = f' class="{css}"' if css else ""
            attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
            self.body.append(f'<text x="{_number(x)}" y="{_number(y)}"{attributes}>{escape(text)}</text>')

    def gutter(self, strip: Strip, *lines: str) -> None:
        """Write lines to the left of a strip that was placed with a gutter; the first one stands out."""
        y = (strip.top + strip.bottom) / 2 - 8 * len(lines) + 12
        for index, line in enumerate(lines):
            self.text(8, y + 16 * index, line, "strong" if index == 0 else "cap")

    def place(self, shapes: Sequence[tuple[int, int]], gutter: bool = False) -> Strip:
        """Make room for a row of tiles of the given shapes (rows, columns), as wide as the figure."""
        start = GUTTER if gutter else 0.0
        free = WIDTH - start - GAP * (len(shapes) - 1)
        scale = free / sum(columns for _, columns in shapes)
        left, x = [], start
        for _, columns in shapes:
            left.append(x)
            x += columns * scale + GAP
        strip = Strip(tuple(left), self.y, scale, tuple(shapes), max(rows for rows, _ in shapes))
        self.y = strip.bottom + GAP
        return strip

    def pictures(self, strip: Strip, tiles: Sequence[np.ndarray]) -> str:
        """Put pictures (rows, columns[, 3]; uint8) into a strip, joined to one image to save space.

        Returns its name, for `repeat`.
        """
        return self._image(strip, _joined(strip, tiles), "webp")

    def labels(self, strip: Strip, tiles: Sequence[np.ndarray], palette: np.ndarray) -> None:
        """Lay numbered colours over a strip: tiles (rows, columns; uint8) number the rows of a palette.

        The palette is (N, 4; uint8), red, green, blue and opacity; its first colour fills the gaps.
        """
        self._image(strip, _joined(strip, tiles), "png", palette)

    def _image(self, strip: Strip, picture: np.ndarray, kind: str, palette: np.ndarray | None = None) -> str:
        code = _webp(picture) if palette is None else _png(picture, palette)
        x, width = strip.left[0], WIDTH - strip.left[0]
        name = f"p{len(self.body)}"
        self.body.append(
            f'<image id="{name}" x="{_number(x)}" y="{_number(strip.top)}" width="{_number(width)}" '
            f'height="{_number(strip.rows * strip.scale)}" preserveAspectRatio="none" '
            f'href="data:image/{kind};base64,{code}"/>'
        )
        return name

    def repeat(self, name: str, first: Strip, strip: Strip) -> None:
        """Show the pictures of strip `first` again in another strip, without storing them twice."""
        self.body.append(f'<use href="#{name}" y="{_number(strip.top - first.top)}"/>')

    def outlines(self, strip: Strip, masks: Sequence[np.ndarray], css: str) -> None:
        """Draw where tiles (rows, columns) cross one half, in the class `css` of `STYLE`."""
        for x, mask, (rows, _) in zip(strip.left, masks, strip.shapes, strict=True):
            path = outline(mask, strip.scale)
            if path:
                offset = (strip.rows - rows) // 2 * strip.scale
                move = f"translate({_number(x)} {_number(strip.top + offset)}) scale(.1)"
                self.body.append(f'<path class="line {css}" transform="{move}" d="{path}"/>')

    def color_bar(self, x: float, y: float, colors: Sequence[str], low: str, high: str) -> None:
        """Draw a scale of colours with the values at its ends."""
        width = GUTTER - 2 * x - 8
        for index, color in enumerate(colors):
            left = x + width * index / len(colors)
            step = width / len(colors) + 0.3
            self.body.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{step:.1f}" height="7" fill="{color}"/>'
            )
        self.text(x, y + 20, low, "cap")
        self.text(x + width, y + 20, high, "cap", anchor="end")

    def legend(self, entries: Sequence[tuple[Sequence[str], str]]) -> None:
        """Name colours, below what is there: each entry has one colour or more, and a word."""
        x, y = 8.0, self.y + 14
        for colors, text in entries:
            width = 11.0 * len(colors) + 6 + LETTER * len(text)
            if x + width > WIDTH - 8:
                x, y = 8.0, y + 18
            for index, color in enumerate(colors):
                left = _number(x + 11 * index)
                self.body.append(
                    f'<rect x="{left}" y="{_number(y - 9)}" width="10" height="10" fill="{color}"/>'
                )
            self.text(x + 11 * len(colors) + 5, y, text, "cap")
            x += width + 14
        self.y = y + 6

    def captions(self, strip: Strip, texts: Sequence[str]) -> None:
        """Write a line at the foot of every tile."""
        for x, text in zip(strip.left, texts, strict=True):
            self.text(x + 5, strip.bottom - 6, text, "cap")

    def sides(self, strip: Strip, index: int, sides: tuple[str, str]) -> None:
        """Mark the two sides of one tile, such as L and R."""
        middle = (strip.top + strip.bottom) / 2
        width = strip.shapes[index][1] * strip.scale
        self.text(strip.left[index] + 4, middle, sides[0], "side")
        self.text(strip.left[index] + width - 4, middle, sides[1], "side", anchor="end")

    def begin(self, css: str) -> None:
        """Open a group: ``over`` hides while the pointer is on the figure, ``flick`` blinks."""
        self.body.append(f'<g class="{css}">')

    def end(self) -> None:
        """Close the group."""
        self.body.append("</g>")

    def render(self) -> str:
        """Return the SVG document.

        ``<svg`` shares its line with the XML declaration: nireports rewrites files whose line starts
        with it, not atomically.
        """
        height = _number(self.y + 2)
        return (
            '<?xml version="1.0" encoding="UTF-8"?><svg xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {_number(WIDTH)} {height}" role="img" tabindex="0">\n'
            f"<title>{escape(self.description)}</title>\n<style>{STYLE}</style>\n"
            f'<rect width="100%" height="100%"/>\n' + "\n".join(self.body) + "\n</svg>\n"
        )

    def save(self, out_file: Path) -> Path:
        """Write the figure, whole or not at all."""
        write_text(out_file, self.render())
        return out_file


def outline(mask: np.ndarray, scale: float) -> str:
    """Trace where a tile (rows, columns) crosses one half, as an SVG path in tenths of figure units."""
    from contourpy import contour_generator

    lines = contour_generator(z=np.pad(mask.astype(np.float32), 1)).lines(0.5)
    path = []
    for line in lines:
        points = np.round((np.asarray(line) - 0.5) * scale * 10).astype(int)
        steps = np.diff(_thin(points, 15), axis=0)
        if len(steps) < 3:
            continue
        path.append(f"M{points[0][0]} {points[0][1]}l" + " ".join(f"{x} {y}" for x, y in steps) + "z")
    return "".join(path).replace(" -", "-")


def _thin(points: np.ndarray, distance: float) -> np.ndarray:
    """Drop points that are nearer than `distance` to the one before, along the line."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    keep = np.unique(np.floor(along / distance), return_index=True)[1]
    return points[keep]


def _joined(strip: Strip, tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Join the tiles of a strip to one picture, lower ones in the middle, zeros between them."""
    gap = max(round(GAP / strip.scale), 1)
    joined = []
    for tile in tiles:
        rest = strip.rows - tile.shape[0]
        pad = [(rest // 2, rest - rest // 2), (0, 0), (0, 0)][: tile.ndim]
        joined += [np.pad(tile, pad), np.zeros((strip.rows, gap, *tile.shape[2:]), np.uint8)]
    return np.concatenate(joined[:-1], axis=1)


def _png(picture: np.ndarray, palette: np.ndarray) -> str:
    from PIL import Image

    buffer, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(picture))
    image.putpalette(palette[:, :3].tobytes())
    image.save(buffer, "png", optimize=True, transparency=palette[:, 3].tobytes())
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _webp(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "webp", quality=QUALITY, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _number(value: float) -> str:
    """Write a coordinate with one decimal at most.

    >>> _number(3.0), _number(2.25)
    ('3', '2.2')
    """
    return f"{value:.1f}".rstrip("0").rstrip(".")
