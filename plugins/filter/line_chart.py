# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Draws what Prometheus has recorded as an HTML figure that needs nothing besides the page's style."""

from __future__ import annotations

DOCUMENTATION = r"""
name: line_chart
version_added: 0.1.0
short_description: Draw series of Prometheus as an HTML figure
description:
  - Gives an HTML C(figure) with an inline SVG, a line for each series, and the last value of each in its legend. What
    was not measured is a gap.
  - Its colours are those of the page, by the classes C(line-0) to C(line-5), which are repeated.
author:
  - tf2x maintainers (@tf2x)
positional: title
options:
  _input:
    description:
      - Series as Prometheus' C(query_range) answers, C(data.result).
    type: list
    elements: dict
    required: true
  title:
    description:
      - What is drawn.
    type: str
    required: true
  unit:
    description:
      - Unit of the values, with the space that stands before it.
    type: str
    default: ""
  start:
    description:
      - Where the time axis begins, in seconds since 1970.
    type: float
    required: true
  end:
    description:
      - Where it ends.
    type: float
    required: true
  step:
    description:
      - Seconds between two samples.
    type: float
    required: true
  labels:
    description:
      - Labels that name a series, in this order.
    type: list
    elements: str
    default: []
notes:
  - Times are in UTC.
"""

EXAMPLES = r"""
- name: Draw the last hour
  ansible.builtin.set_fact:
    figure: >-
      {{ answer.json.data.result | tf2x.serving.line_chart('Requests', start=now - 3600, end=now, step=30) }}
"""

RETURN = r"""
_value:
  description:
    - The C(figure), as HTML.
  type: str
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from typing import Any

from ansible.errors import AnsibleFilterError

_WIDTH = 360
_HEIGHT = 170
_LEFT = 44
_RIGHT = 12
_TOP = 8
_BOTTOM = 22
_COLOURS = 6
_Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Line:
    name: str
    points: _Points


@dataclass(frozen=True)
class _Axes:
    start: float
    end: float
    top: float

    def x(self, time: float) -> float:
        return _LEFT + (time - self.start) / (self.end - self.start) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(
    series: Sequence[Mapping[str, Any]],
    title: str,
    *,
    start: float,
    end: float,
    step: float,
    unit: str = "",
    labels: Sequence[str] = (),
) -> str:
    """Return the figure."""
    start, end, step = float(start), float(end), float(step)
    if start >= end or step <= 0:
        raise AnsibleFilterError(f"line_chart: from {start:g} to {end:g} by {step:g} s is no span of time")
    try:
        lines = sorted(
            (_Line(_name(one["metric"], labels), _points(one["values"])) for one in series), key=lambda line: line.name
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"line_chart: these are no series of Prometheus: {error}") from error
    lines = [line for line in lines if line.points]
    values = [value for line in lines for _time, value in line.points]
    ticks = _ticks(max(values, default=0.0))
    axes = _Axes(start, end, ticks[-1])
    told = "; ".join(f"{line.name} {_number(line.points[-1][1])}{unit}".strip() for line in lines) or "nothing recorded"
    return "".join(
        [
            f'<figure class="chart"><figcaption>{escape(f"{title}, {unit.strip()}" if unit else title)}</figcaption>',
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: {escape(told)}">',
            *_grid(axes, ticks),
            *(
                f'<path class="line line-{number % _COLOURS}" d="{_path(line.points, axes, step)}"/>'
                for number, line in enumerate(lines)
            ),
            "</svg>",
            _legend(lines, unit) if lines else '<p class="muted small">Nothing was recorded.</p>',
            "</figure>",
        ]
    )


def _name(metric: Mapping[str, str], labels: Sequence[str]) -> str:
    return " ".join(str(metric[label]) for label in labels if metric.get(label))


def _points(samples: Sequence[Sequence[Any]]) -> _Points:
    """Return the samples that are numbers; of nothing, Prometheus makes a share that is none."""
    found = ((float(time), float(value)) for time, value in samples)
    return [(time, value) for time, value in found if math.isfinite(value)]


def _ticks(highest: float) -> list[float]:
    """Return two to five round numbers from 0 to above the highest value."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(size * power for size in (0.25, 0.5, 1.0, 2.0, 2.5, 5.0) if highest <= 4 * size * power)
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _grid(axes: _Axes, ticks: Sequence[float]) -> Iterator[str]:
    for value in ticks:
        y = axes.y(value)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
    for part in range(5):
        time = axes.start + part * (axes.end - axes.start) / 4
        clock = datetime.fromtimestamp(time, timezone.utc).strftime("%H:%M")
        anchor = "end" if part == 4 else "middle"
        x = _WIDTH if part == 4 else axes.x(time)
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{clock}</text>'


def _path(points: _Points, axes: _Axes, step: float) -> str:
    """Return the line, with gaps where samples are missing. A sample alone is a dot, by its round ends."""
    parts = []
    last = -math.inf
    for time, value in points:
        x, y = axes.x(time), axes.y(max(value, 0.0))
        parts.append(f"{'L' if time - last <= 1.5 * step else 'M'}{x:.1f} {y:.1f}")
        if parts[-1][0] == "M":
            parts.append("h0")
        last = time
    return "".join(parts)


def _legend(lines: Sequence[_Line], unit: str) -> str:
    entries = (
        f'<li><svg class="swatch" viewBox="0 0 18 8" aria-hidden="true"><path class="line line-{number % _COLOURS}" '
        f'd="M1 4H17"/></svg>{escape(line.name)} <b>{escape(_number(line.points[-1][1]) + unit)}</b></li>'
        for number, line in enumerate(lines)
    )
    return f'<ul class="legend small">{"".join(entries)}</ul>'


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"line_chart": line_chart}
