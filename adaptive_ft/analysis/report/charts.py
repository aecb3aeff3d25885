"""Line charts and histograms as inline SVG, coloured by the page's own variables, so that they fit light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from adaptive_ft.analysis.report.run_files import is_number

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 58, 12, 34
_LINE_HEIGHT = 14
TONES = 8
"""How many colours the style sheet has for lines."""


@dataclass(frozen=True)
class Line:
    """Points to join; `tone` is a colour of the style sheet, below TONES; `dashed` is for what is compared with."""

    name: str
    points: Sequence[tuple[float, float]]
    tone: int
    dashed: bool = False


@dataclass(frozen=True)
class Scale:
    """Where a value of the data lies in the picture."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def drawable(lines: Sequence[Line]) -> list[Line]:
    """The lines without points that are no numbers (NaN, infinite), as far as that leaves a point."""
    kept = [replace(line, points=[point for point in line.points if all(map(is_number, point))]) for line in lines]
    return [line for line in kept if line.points]


def line_chart(lines: Sequence[Line], x_name: str, decimals: int = 1, between: bool = False) -> Markup:
    """Lines over a common axis, the last value written at each end; `between` fills the gap of the first two.

    Points that are no numbers are left out; empty where no line has another.
    """
    lines = drawable(lines)
    if not lines:
        return Markup("")
    x_ticks, x = _axis([px for line in lines for px, _ in line.points], LEFT, WIDTH - RIGHT, whole=True)
    y_ticks, y = _axis([py for line in lines for _, py in line.points], HEIGHT - BOTTOM, TOP)
    drawn = [_grid(x_ticks, x, y_ticks, y, x_name)]
    if between and len(lines) > 1 and len(lines[0].points) > 1:
        outline = [*lines[0].points, *reversed(lines[1].points)]
        drawn.append(Markup('<path class="between" d="{}Z"/>').format(_path(outline, x, y)))
    drawn += [_drawn_line(line, x, y) for line in lines]
    heights = _apart([y(line.points[-1][1]) for line in lines])
    drawn += [
        Markup('<text class="end tone{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
            line.tone, x(line.points[-1][0]) + 8, height + 4, f"{line.points[-1][1]:.{decimals}f}"
        )
        for line, height in zip(lines, heights, strict=True)
    ]
    return _svg(drawn, ", ".join(line.name for line in lines))


def histogram(counts: dict[int, int], x_name: str, noun: str) -> Markup:
    """A bar per value that occurs, over a whole-number axis; empty without any."""
    if not counts:
        return Markup("")
    low, high = min(counts), max(counts)
    x_ticks, x = _axis([low - 0.5, high + 0.5], LEFT, WIDTH - 12, whole=True)
    y_ticks, y = _counts_axis(max(counts.values()), HEIGHT - BOTTOM, TOP)
    room = abs(x(1) - x(0))
    wide = max(1.5, min(36.0, room - 2))
    bars = [
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"><title>{}</title></rect>')
        .format(x(value) - wide / 2, y(count), wide, y(0) - y(count), f"{count} {noun} with {value}")
        for value, count in sorted(counts.items())
    ]  # fmt: skip
    return _svg([_grid(x_ticks, x, y_ticks, y, x_name), *bars], f"histogram of {x_name}")


def _axis(values: Sequence[float], start: float, stop: float, whole: bool = False) -> tuple[list[float], Scale]:
    """Round ticks around the values, and the scale that spans both."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    ticks = [float(tick) for tick in MaxNLocator(nbins=5, integer=whole, min_n_ticks=2).tick_values(low, high)]
    if whole:
        ticks = [tick for tick in ticks if low <= tick <= high]
        return ticks, Scale(low, high, start, stop)
    return ticks, Scale(min(ticks[0], low), max(ticks[-1], high), start, stop)


def _counts_axis(highest: int, start: float, stop: float) -> tuple[list[float], Scale]:
    """Whole ticks from 0 up to one that is not below the highest count, and the scale that ends there."""
    ticks = [float(tick) for tick in MaxNLocator(nbins=5, integer=True, min_n_ticks=2).tick_values(0, highest)]
    return ticks, Scale(0, ticks[-1], start, stop)


def _grid(x_ticks: Sequence[float], x: Scale, y_ticks: Sequence[float], y: Scale, x_name: str) -> Markup:
    across = Markup("").join(
        Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" '
               'text-anchor="end">{:g}</text>').format(x.start, x.stop, y(t), y(t), LEFT - 7, y(t) + 4, round(t, 6))
        for t in y_ticks
    )  # fmt: skip
    below = Markup("").join(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>').format(x(t), HEIGHT - BOTTOM + 16, t)
        for t in x_ticks
    )
    name = Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
        (x.start + x.stop) / 2, HEIGHT - 3, x_name
    )
    return across + below + name


def _drawn_line(line: Line, x: Scale, y: Scale) -> Markup:
    last_x, last_y = line.points[-1]
    return Markup(
        '<path class="line tone{}{}" d="{}"/><circle class="dot tone{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>'
    ).format(line.tone, " dashed" if line.dashed else "", _path(line.points, x, y), line.tone, x(last_x), y(last_y))


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in points)


def _apart(heights: Sequence[float]) -> list[float]:
    """The heights, moved down where two would write over each other, and up again where that leaves the picture."""
    placed = dict.fromkeys(range(len(heights)), 0.0)
    before = -float(_LINE_HEIGHT)
    for number in sorted(placed, key=lambda own: heights[own]):
        before = placed[number] = max(heights[number], before + _LINE_HEIGHT)
    over = max(0.0, before - (HEIGHT - BOTTOM))
    return [placed[number] - over for number in range(len(heights))]


def _svg(parts: Sequence[Markup], described: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, escape(described), Markup("").join(parts)
    )
