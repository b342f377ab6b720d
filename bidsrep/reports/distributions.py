"""Distributions of a cohort's metrics as inline SVG: every point is a session, and a link to its page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import quantiles

WIDTH, LEFT, RIGHT = 440.0, 104.0, 14.0
ROW, TOP, AXIS = 46.0, 8.0, 26.0
RADIUS = 4.0
BAND_FROM = 5
"""With fewer values a median and quartiles say nothing."""


@dataclass(frozen=True)
class Point:
    """One value: the row it is in, its colour (a contrast), what it is, its page, and its session's number."""

    row: str
    contrast: str
    value: float
    label: str
    href: str
    session: int


def strip_plot(points: Sequence[Point], name: str, limits: tuple[float, float]) -> str:
    """Draw values as strips of dots, one strip a row, with median and quartiles.

    Parameters
    ----------
    points : sequence of Point
        The values; rows are drawn in the order they first appear.
    name : str
        What is drawn, for those who cannot see it.
    limits : tuple of float
        Beyond them the pages warn; drawn where they are in sight. May be infinite.
    """
    rows: dict[str, list[Point]] = {}
    for point in points:
        rows.setdefault(point.row, []).append(point)
    axis = Axis.of([point.value for point in points])
    height = TOP + ROW * len(rows) + AXIS
    body = [_grid(axis, TOP + ROW * len(rows), limits)]
    for index, (row, members) in enumerate(rows.items()):
        middle = TOP + ROW * (index + 0.5)
        body.append(f'<text class="row" x="{LEFT - 12:g}" y="{middle + 4:g}">{escape(row)}</text>')
        band, median = _quartiles(axis, [point.value for point in members], middle)
        body += [band, _dots(axis, members, middle), median]
    return (
        f'<svg class="strip" viewBox="0 0 {WIDTH:g} {height:g}" role="group" aria-label="{escape(name)}">'
        + "".join(body)
        + "</svg>"
    )


@dataclass(frozen=True)
class Axis:
    """A horizontal axis from `low` to `high`, with ticks every `step`."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Axis":
        """Choose round numbers around some values.

        >>> Axis.of([0.12, 0.93])
        Axis(low=0.0, high=1.0, step=0.2)
        """
        low, high = min(values), max(values)
        whole = all(float(value).is_integer() for value in values)
        if low == high:
            room = 1.0 if whole else abs(low) * 0.05 + 1e-9
            low, high = low - room, high + room
        rough = (high - low) / 4.5
        power = 10.0 ** _floor_log10(rough)
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        step = max(step, 1.0) if whole else step
        return cls(_round(low // step * step), _round(-(-high // step) * step), _round(step))

    def x(self, value: float) -> float:
        """Place a value, in units of the figure."""
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        """List the values that are marked."""
        count = round((self.high - self.low) / self.step)
        return [_round(self.low + index * self.step) for index in range(count + 1)]


def beeswarm(positions: Sequence[float], room: float) -> list[float]:
    """Shift dots apart that would lie on each other: one offset (up or down) per position.

    Dots of one column are stacked around the middle, closer where there is no `room` for all.
    """
    columns: dict[int, list[int]] = {}
    for index in sorted(range(len(positions)), key=lambda i: (positions[i], i)):
        columns.setdefault(int(positions[index] // (2 * RADIUS)), []).append(index)
    tallest = max((len(members) for members in columns.values()), default=1)
    spacing = min(2 * RADIUS + 0.4, room / max(tallest - 1, 1))
    offsets = [0.0] * len(positions)
    for members in columns.values():
        for rank, index in enumerate(members):
            offsets[index] = ((rank + 1) // 2) * (1 if rank % 2 else -1) * spacing
    return offsets


def _dots(axis: Axis, members: Sequence[Point], middle: float) -> str:
    positions = [axis.x(point.value) for point in members]
    dots = []
    for point, x, shift in zip(members, positions, beeswarm(positions, ROW - 14), strict=True):
        inside = (
            f"<title>{escape(point.label)}</title>"
            f'<circle class="c-{_class(point.contrast)}" cx="{x:.1f}" cy="{middle + shift:.1f}" r="{RADIUS:g}"/>'
        )
        attributes = f'data-k="{point.session}"'
        if point.href:
            dots.append(f'<a href="{escape(point.href)}" {attributes}>{inside}</a>')
        else:
            dots.append(f"<g {attributes}>{inside}</g>")
    return "".join(dots)


def _quartiles(axis: Axis, values: Sequence[float], middle: float) -> tuple[str, str]:
    """Draw the middle half of the values, and their median: below and above the dots."""
    if len(values) < BAND_FROM:
        return "", ""
    low, median, high = (axis.x(value) for value in quantiles(values, n=4, method="inclusive"))
    top = f"{middle - 17:g}"
    band = f'<rect class="band" x="{low:.1f}" y="{top}" width="{max(high - low, 1):.1f}" height="34" rx="3"/>'
    return band, f'<path class="median" d="M{median:.1f} {top}v34"/>'


def _grid(axis: Axis, bottom: float, limits: tuple[float, float]) -> str:
    parts = []
    for tick in axis.ticks():
        parts.append(f'<path class="grid" d="M{axis.x(tick):.1f} {TOP:g}V{bottom:g}"/>')
        parts.append(f'<text class="tick" x="{axis.x(tick):.1f}" y="{bottom + 17:g}">{_show(tick)}</text>')
    for limit in limits:
        if axis.low < limit < axis.high:
            parts.append(f'<path class="limit" d="M{axis.x(limit):.1f} {TOP:g}V{bottom:g}"/>')
    return "".join(parts)


def _class(contrast: str) -> str:
    return contrast if contrast in ("T1w", "T2w", "FLAIR", "PDw") else "other"


def _show(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−") if abs(value) < 1e6 else f"{value:.3g}"


def _round(value: float) -> float:
    return float(f"{value:.9g}")


def _floor_log10(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])
