"""Draw the panels of Grafana's dashboards from live data, one SVG file a dashboard, for light and for dark pages.

    python tools/panel_pictures.py http://127.0.0.1:9002 [--minutes 30] [--output docs/images]

Grafana takes no part in it: the queries, titles, units and places are those of its dashboards, the data Prometheus'.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dashboards import Dashboard, Panel, Prometheus, PrometheusError, Series, load

ROOT = Path(__file__).resolve().parents[1]

_WIDTH, _ROW, _GAP, _HEAD = 1200, 34, 6, 40
_CHARACTER = 6.8
# Space in a panel: for the title, the values beside the axis, the times below it, a line of the legend.
_TITLE, _AXIS, _TIMES, _LEGEND_LINE, _LEGEND_LINES = 26, 62, 18, 15, 2
_POINTS, _LINES, _SHADES = 160, 16, 12
_COLOURS = ("#2f7fd0", "#c9602f", "#3f9142", "#9a5fc0", "#b58a1b", "#c2477f", "#1f9aa3", "#7d7f86")
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #57606a }
.page { fill: #f3f4f6 } .panel { fill: #ffffff; stroke: #d8dee4 } .grid { stroke: #d8dee4 }
.title { font-size: 12px; font-weight: 600; fill: #1f2328 } .head { font-size: 18px; font-weight: 600; fill: #1f2328 }
.number { font-size: 26px; fill: #1f2328 }
polyline { fill: none; stroke-width: 1.4 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 } .title, .head, .number { fill: #e6edf3 }
.page { fill: #0d1117 } .panel { fill: #161b22; stroke: #30363d } .grid { stroke: #30363d }
}
"""
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_SUFFIXES = {"reqps": " req/s", "percent": " %"}
_MICROSECOND, _MILLISECOND = 1e-6, 1e-3


@dataclass(frozen=True)
class Line:
    """A series with what stands beside it."""

    legend: str
    series: Series

    @property
    def last(self) -> float:
        """The newest value."""
        return self.series.points[-1][1]


@dataclass(frozen=True)
class Box:
    """A rectangle in the picture."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Span:
    """The time that is shown."""

    start: float
    end: float

    @property
    def step(self) -> int:
        """Seconds between two points."""
        return max(1, round((self.end - self.start) / _POINTS))

    def across(self, box: Box, moment: float) -> float:
        """Return where a moment is in a box."""
        return box.x + box.width * (moment - self.start) / (self.end - self.start)


def picture(dashboard: Dashboard, prometheus: Prometheus, span: Span) -> str:
    """Return the SVG document of a dashboard. Raises PrometheusError."""
    rows = max(panel.y + panel.height for panel in dashboard.panels)
    height = _HEAD + rows * _ROW + _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img">',
        f"<title>{escape(dashboard.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text class="head" x="{2 * _GAP}" y="26">{escape(dashboard.title)}</text>',
    ]
    unit = _WIDTH / 24
    for panel in dashboard.panels:
        box = Box(
            panel.x * unit + _GAP / 2,
            _HEAD + panel.y * _ROW + _GAP / 2,
            panel.width * unit - _GAP,
            panel.height * _ROW - _GAP,
        )
        found = [
            Line(query.legend_of(series), series)
            for query in panel.queries
            for series in prometheus.answer(query, span.start, span.end, span.step)
            if series.points
        ]
        lines += _panel(panel, box, found, span)
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, box: Box, found: Sequence[Line], span: Span) -> Iterator[str]:
    x, y, width, height = (round(each) for each in (box.x, box.y, box.width, box.height))
    yield f'<rect class="panel" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'
    yield f'<text class="title" x="{x + 8}" y="{y + 17}">{escape(panel.title)}</text>'
    inner = Box(box.x + _AXIS, box.y + _TITLE, box.width - _AXIS - 12, box.height - _TITLE - _TIMES - 8)
    if not found:
        yield f'<text x="{x + width // 2}" y="{y + height // 2}" text-anchor="middle">no data</text>'
    elif panel.kind == "stat":
        yield from _stat(panel, box, found)
    elif panel.kind == "heatmap":
        yield from _heatmap(panel, inner, found, span)
    else:
        yield from _timeseries(panel, inner, found, span)


def _stat(panel: Panel, box: Box, found: Sequence[Line]) -> Iterator[str]:
    for number, line in enumerate(found):
        x = box.x + box.width * (number + 0.5) / len(found)
        text = number_text(line.last, panel.unit)
        yield f'<text class="number" x="{x:.0f}" y="{box.y + 72:.0f}" text-anchor="middle">{escape(text)}</text>'
        if len(found) > 1 or panel.width > 4:
            yield f'<text x="{x:.0f}" y="{box.y + 92:.0f}" text-anchor="middle">{escape(line.legend)}</text>'


def _timeseries(panel: Panel, box: Box, found: Sequence[Line], span: Span) -> Iterator[str]:
    plot = Box(box.x, box.y, box.width, box.height - _LEGEND_LINES * _LEGEND_LINE)
    # Beyond some, lines tell nothing; those that were there for longest stay.
    shown = sorted(found, key=lambda line: len(line.series.points), reverse=True)[:_LINES]
    ticks = axis_ticks(max(value for line in shown for _time, value in line.series.points))
    top = ticks[-1]
    for tick in ticks:
        y = plot.y + plot.height * (1 - tick / top)
        yield f'<line class="grid" x1="{plot.x:.0f}" x2="{plot.x + plot.width:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _axis_text(plot.x - 6, y + 4, number_text(tick, panel.unit))
    yield from _times(plot, span)
    for number, line in enumerate(shown):
        colour = _COLOURS[number % len(_COLOURS)]
        for part in _unbroken(line.series.points, 2.5 * span.step):
            points = [
                f"{span.across(plot, moment):.1f},{plot.y + plot.height * (1 - max(0.0, value) / top):.1f}"
                for moment, value in part
            ]
            # A line needs two.
            drawn = " ".join(points if len(points) > 1 else points * 2)
            yield f'<polyline stroke="{colour}" stroke-linecap="round" points="{drawn}"/>'
    yield from _legend(Box(plot.x - _AXIS + 8, plot.y + plot.height + 4, plot.width + _AXIS, 0), shown, len(found))


def _heatmap(panel: Panel, box: Box, found: Sequence[Line], span: Span) -> Iterator[str]:
    """Draw buckets as rows; each counts what is in the buckets below it as well."""
    buckets = sorted(found, key=lambda line: float(line.series.labels["le"]))
    below: dict[float, float] = {}
    counts: list[tuple[str, dict[float, float]]] = []
    for bucket in buckets:
        points = dict(bucket.series.points)
        counts.append((bucket.legend, {when: max(0.0, value - below.get(when, 0.0)) for when, value in points.items()}))
        below = points
    filled = [number for number, (_legend, cells) in enumerate(counts) if any(cells.values())]
    # What lies outside of the buckets that hold something tells nothing.
    counts = counts[max(0, min(filled, default=0) - 1) : max(filled, default=len(counts)) + 1]
    most = max((value for _legend, cells in counts for value in cells.values()), default=0.0)
    row, width = box.height / len(counts), box.width * span.step / (span.end - span.start)
    shades: dict[int, list[str]] = {}
    labelled = max(1, math.ceil(len(counts) * 12 / box.height))
    for number, (legend, cells) in enumerate(counts):
        y = box.y + box.height - (number + 1) * row
        if number % labelled == 0:
            text = "more" if legend == "+Inf" else number_text(float(legend), panel.unit)
            yield _axis_text(box.x - 6, y + row / 2 + 4, text)
        for moment, value in cells.items():
            if value > 0:
                # The first point is at the left edge; a cell ends with its point.
                x = max(box.x, span.across(box, moment) - width)
                # Few things are to be seen beside many.
                shade = max(1, round(_SHADES * math.sqrt(value / most)))
                shades.setdefault(shade, []).append(f"M{x:.1f},{y:.1f}h{width:.1f}v{row:.1f}h-{width:.1f}z")
    for shade, squares in sorted(shades.items()):
        drawn = "".join(squares)
        yield f'<path fill="{_COLOURS[1]}" fill-opacity="{shade / _SHADES:.2f}" d="{drawn}"/>'
    yield from _times(box, span)


def _legend(box: Box, shown: Sequence[Line], total: int) -> Iterator[str]:
    x, y, left = box.x, box.y + _TIMES + 6, _LEGEND_LINES
    for number, line in enumerate(shown):
        width = 22 + _CHARACTER * len(line.legend)
        more = f"and {total - number} more"
        room = box.width - (_CHARACTER * len(more) if left == 1 else 0)
        if x + width - box.x > room and x > box.x:
            left -= 1
            if left == 0:
                yield f'<text x="{x:.0f}" y="{y:.0f}">{more}</text>'
                return
            x, y = box.x, y + _LEGEND_LINE
        yield f'<rect fill="{_COLOURS[number % len(_COLOURS)]}" x="{x:.0f}" y="{y - 5:.0f}" width="10" height="3"/>'
        yield f'<text x="{x + 14:.0f}" y="{y:.0f}">{escape(line.legend)}</text>'
        x += width
    if total > len(shown):
        yield f'<text x="{x:.0f}" y="{y:.0f}">and {total - len(shown)} more</text>'


def _times(box: Box, span: Span) -> Iterator[str]:
    for part, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        moment = time.gmtime(span.start + part * (span.end - span.start))
        text = time.strftime("%H:%M" + (" UTC" if part == 1 else ""), moment)
        x, y = box.x + part * box.width, box.y + box.height + 13
        yield f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{text}</text>'


def _axis_text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="end">{escape(text)}</text>'


def _unbroken(points: Sequence[tuple[float, float]], gap: float) -> Iterator[list[tuple[float, float]]]:
    part: list[tuple[float, float]] = []
    for point in points:
        if part and point[0] - part[-1][0] > gap:
            yield part
            part = []
        part.append(point)
    yield part


def axis_ticks(most: float) -> list[float]:
    """Return round values from 0 to one that is not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most / 4))
    # Rounding must not push a tick beyond the last one.
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if 4 * each * power >= most * (1 - 1e-9))
    return [number * step for number in range(5)]


def number_text(value: float, unit: str) -> str:
    """Return a value in a unit of Grafana's, as short as it can be read."""
    if unit == "percentunit":
        return f"{_short(100 * value)} %"
    if unit == "bytes":
        power = min(len(_BINARY) - 1, int(math.log(value, 1024))) if value >= 1 else 0
        return f"{_short(value / 1024**power)} {_BINARY[power]}"
    if unit in ("s", "µs"):
        seconds = value * (_MICROSECOND if unit == "µs" else 1)
        if seconds >= 1 or seconds == 0:
            return f"{_short(seconds)} s"
        return f"{_short(1e3 * seconds)} ms" if seconds >= _MILLISECOND else f"{_short(1e6 * seconds)} µs"
    if unit == "short" and value >= 10_000:
        return f"{_short(value / 1000)} K"
    return _short(value) + _SUFFIXES.get(unit, "")


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prometheus", help="its base URL, e.g. http://127.0.0.1:9002")
    parser.add_argument("--minutes", type=int, default=30, help="how far back they look (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    prometheus, end = Prometheus(options.prometheus), time.time()
    span = Span(end - options.minutes * 60, end)
    options.output.mkdir(parents=True, exist_ok=True)
    for dashboard in load():
        path = options.output / f"dashboard-{dashboard.path.stem}.svg"
        try:
            path.write_text(picture(dashboard, prometheus, span))
        except PrometheusError as error:
            print(f"panel_pictures: {dashboard.title}: {error}", file=sys.stderr)
            return 1
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
