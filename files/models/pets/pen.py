"""Drawing primitives: a pen that draws smooth shapes in a coordinate frame of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, ...]
Point = tuple[float, float]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the RGB colour that is `share` (0 to 1) of the way from `first` to `second`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first[:3], second[:3], strict=True))


def smooth(points: Sequence[Point], closed: bool, steps: int = 12) -> list[Point]:
    """Return a Catmull-Rom curve through `points`, with `steps` points for each piece of it."""
    count = len(points)
    curve = []
    for i in range(count if closed else count - 1):
        if closed:
            before, start, end, after = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        else:
            before, start, end, after = (points[min(max(i + k, 0), count - 1)] for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            curve.append(
                tuple(
                    0.5 * (2 * s + (e - b) * t + (2 * b - 5 * s + 4 * e - a) * t**2 + (3 * s - b - 3 * e + a) * t**3)
                    for b, s, e, a in zip(before, start, end, after, strict=True)
                )
            )
    return curve if closed else [*curve, points[-1]]


class Pen:
    """Draws on `image` in a frame with its origin at pixel (x, y), `scale` pixels a unit, y pointing down.

    `mirror` turns the frame's x axis round; `angle` (degrees, clockwise) tilts the frame about its origin. Colours are
    RGB, or RGBA to blend with what is there.
    """

    def __init__(
        self, image: Image.Image, x: float, y: float, scale: float, *, angle: float = 0.0, mirror: bool = False
    ) -> None:
        self.image, self.x, self.y, self.scale, self.angle, self.mirror = image, x, y, scale, angle, mirror
        self._draw = ImageDraw.Draw(image, "RGBA")
        self._cos, self._sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def at(self, x: float, y: float, angle: float = 0.0, mirror: bool = False) -> Pen:
        """Return a pen whose frame lies at (x, y) of this one, tilted by `angle` within it."""
        (px, py) = self._pixel((x, y))
        turn = -angle if self.mirror else angle
        return Pen(self.image, px, py, self.scale, angle=self.angle + turn, mirror=self.mirror != mirror)

    def pair(self) -> tuple[Pen, Pen]:
        """Return this pen and its mirror image, to draw the right and the left one of a pair."""
        return self, self.at(0, 0, mirror=True)

    def _pixel(self, point: Point) -> Point:
        x, y = (-point[0] if self.mirror else point[0]) * self.scale, point[1] * self.scale
        return self.x + x * self._cos - y * self._sin, self.y + x * self._sin + y * self._cos

    def polygon(
        self, points: Iterable[Point], fill: Colour, outline: Colour | None = None, width: float = 0.05
    ) -> None:
        """Fill the polygon; an outline is `width` units wide and lies half inside the polygon."""
        pixels = [self._pixel(point) for point in points]
        self._draw.polygon(pixels, fill=fill)
        if outline:
            line = max(1, round(width * self.scale))
            self._draw.line([*pixels, *pixels[:2]], fill=outline, width=line, joint="curve")

    def blob(self, points: Sequence[Point], fill: Colour, outline: Colour | None = None, width: float = 0.05) -> None:
        """Fill the smooth closed shape through `points`."""
        self.polygon(smooth(points, closed=True), fill, outline, width)

    def even(self, half: Sequence[Point], fill: Colour, outline: Colour | None = None, width: float = 0.05) -> None:
        """Fill the smooth shape that is symmetric about the y axis; `half` is its right side from top to bottom."""
        left = [(-x, y) for x, y in reversed(half) if x]
        self.blob([*half, *left], fill, outline, width)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour,
        *,
        outline: Colour | None = None,
        width: float = 0.05,
    ) -> None:
        """Fill the ellipse about (x, y) with half axes `rx` and `ry`."""
        turns = [2 * math.pi * step / 48 for step in range(48)]
        self.polygon([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns], fill, outline, width)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """Draw a smooth open line through `points` with round ends."""
        pixels = [self._pixel(point) for point in smooth(points, closed=False)]
        size = max(1, round(width * self.scale))
        self._draw.line(pixels, fill=fill, width=size, joint="curve")
        if size > 2:
            for px, py in (pixels[0], pixels[-1]):
                self._draw.ellipse((px - size / 2, py - size / 2, px + size / 2, py + size / 2), fill=fill)

    def rope(self, points: Sequence[Point], widths: tuple[float, float, float], fill: Colour, outline: Colour) -> None:
        """Draw an outlined line whose width runs from the first of `widths` over the second to the third."""
        curve = smooth(points, closed=False, steps=24)
        for colour, extra in ((outline, 0.05), (fill, 0.0)):
            for i, point in enumerate(curve):
                t = 2 * i / (len(curve) - 1)
                low, high = widths[:2] if t <= 1 else widths[1:]
                radius = (low + (high - low) * (t - int(t > 1))) / 2 + extra
                px, py = self._pixel(point)
                reach = radius * self.scale
                self._draw.ellipse((px - reach, py - reach, px + reach, py + reach), fill=colour)
