"""The animals: what a cat and a dog have in common, and what makes each of them what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pen import Colour, Pen, Point, mix

COATS: tuple[Colour, ...] = (
    (58, 54, 58),
    (128, 130, 138),
    (240, 236, 228),
    (236, 214, 176),
    (226, 150, 78),
    (158, 104, 66),
    (96, 68, 54),
    (204, 168, 122),
    (112, 122, 140),
    (186, 176, 166),
)
IRISES: tuple[Colour, ...] = ((150, 186, 84), (232, 188, 72), (110, 176, 206), (196, 130, 60), (112, 74, 46))
COLLARS: tuple[Colour, ...] = ((206, 66, 66), (60, 116, 190), (70, 150, 100), (240, 180, 60), (150, 90, 170))
WHITE: Colour = (250, 247, 242)
INK: Colour = (48, 38, 40)
PINK: Colour = (240, 164, 164)
TONGUE: Colour = (236, 112, 126)


@dataclass(frozen=True)
class Look:
    """What a cat and a dog of one seed have in common."""

    coat: Colour
    marking: Colour
    line: Colour
    iris: Colour
    collar: Colour | None
    pattern: str
    lean: float  # degrees
    turn: float  # -1 (looks left) to 1 (looks right)
    mirror: bool
    mood: str

    @classmethod
    def of(cls, random: Random) -> Look:
        coat = mix(random.choice(COATS), random.choice(COATS), random.uniform(0, 0.35))
        dark = sum(coat) < 270
        marking = random.choice(COATS) if random.random() < 0.35 else WHITE
        if sum(abs(a - b) for a, b in zip(coat, marking, strict=True)) < 60:
            marking = mix(coat, INK if sum(coat) > 400 else WHITE, 0.45)
        return cls(
            coat=coat,
            marking=marking,
            line=mix(coat, (0, 0, 0), 0.45) if dark else mix(coat, (60, 30, 20), 0.5),
            iris=random.choice(IRISES),
            collar=random.choice(COLLARS) if random.random() < 0.5 else None,
            pattern=random.choice(("plain", "bib", "bib", "patches", "stripes", "blaze", "mask")),
            lean=random.gauss(0, 6),
            turn=random.uniform(-1, 1),
            mirror=random.random() < 0.5,
            mood=random.choices(("open", "happy", "wink"), (8, 1, 1))[0],
        )


def paint_animal(pen: Pen, kind: str, look: Look, random: Random) -> None:
    """Draw a sitting "cat" or "dog", its own shape from `random`.

    The unit is half a head, the origin the middle of the head, the floor at y = 3.25.
    """
    pen.ellipse(0, 3.22, 1.75, 0.22, (30, 24, 40, 70))
    (_cat_tail if kind == "cat" else _dog_tail)(pen, look, random)
    _body(pen, look, random.uniform(0.86, 1.0) if kind == "cat" else random.uniform(0.92, 1.1))
    head = pen.at(0, 0, look.lean)
    (_cat_head if kind == "cat" else _dog_head)(head, look, random)


def _body(pen: Pen, look: Look, girth: float) -> None:
    coat, line = look.coat, look.line
    for side in pen.pair():
        side.blob([(0.5, 2.0), (1.1 * girth, 2.1), (1.38 * girth, 2.75), (1.2 * girth, 3.2), (0.5, 3.2)], coat, line)
    trunk = [(0.0, 0.45), (0.62, 0.7), (0.9, 1.6), (0.98, 2.6), (0.7, 3.15), (0.0, 3.2)]
    pen.even([(x * girth, y) for x, y in trunk], coat, line)
    if look.pattern in ("bib", "blaze", "mask"):
        pen.even([(0, 0.8), (0.42, 1.0), (0.46, 1.7), (0, 2.3)], look.marking)
    elif look.pattern == "patches":
        pen.blob([(0.25, 1.5), (0.75 * girth, 1.6), (0.82 * girth, 2.3), (0.45, 2.4)], look.marking)
    elif look.pattern == "stripes":
        for side in pen.pair():
            for y in (1.5, 1.85, 2.2):
                side.line([(0.82 * girth, y), (0.62, y + 0.06), (0.48, y + 0.02)], mix(coat, INK, 0.45), 0.1)
    pen.even([(0, 0.6), (0.5, 0.75), (0, 1.15)], (*mix(coat, INK, 0.6), 90))
    for side in pen.pair():
        side.blob([(0.08, 1.9), (0.52, 1.9), (0.5, 2.7), (0.54, 3.1), (0.1, 3.1)], coat)
        side.line([(0.53, 2.0), (0.5, 2.6), (0.52, 3.0)], line, 0.05)
        side.line([(0.06, 2.3), (0.05, 2.7), (0.05, 3.0)], line, 0.05)
        paw = look.marking if look.pattern in ("bib", "patches", "mask") else coat
        side.ellipse(0.33, 3.12, 0.34, 0.2, paw, outline=line)
        for x in (0.23, 0.42):
            side.line([(x, 3.16), (x, 3.27)], line, 0.04)
        side.ellipse(1.0 * girth, 3.16, 0.36, 0.16, paw, outline=line)
    if look.collar:
        band = [(-0.58, 0.86), (0, 1.12), (0.58, 0.86)]
        pen.line(band, mix(look.collar, INK, 0.4), 0.24)
        pen.line(band, look.collar, 0.17)
        pen.ellipse(0, 1.3, 0.13, 0.13, (244, 206, 92), outline=(150, 110, 40), width=0.035)


def _cat_tail(pen: Pen, look: Look, random: Random) -> None:
    height, curl = random.uniform(0.4, 1.7), random.uniform(-0.5, 0.45)
    base = random.uniform(0.26, 0.38)
    points = [(0.7, 2.9), (1.6, 2.95), (2.05, 2.3), (1.85, 1.2 + 0.4 * height), (2.0 + curl, height)]
    if random.random() < 0.3:
        points = [(0.7, 3.0), (1.7, 3.05), (1.75, 3.35), (0.9, 3.42)]
    pen.rope(points, (base, base, base * random.uniform(0.7, 1.0)), look.coat, look.line)


def _dog_tail(pen: Pen, look: Look, random: Random) -> None:
    reach, lift = random.uniform(1.45, 2.1), random.uniform(1.1, 2.7)
    full = random.uniform(0.25, 0.6)
    points = [(0.8, 2.7), (1.25, 2.65), (reach - 0.1, lift + 0.45), (reach, lift)]
    pen.rope(points, (0.3, full, random.uniform(0.12, 0.3)), look.coat, look.line)


def _markings(pen: Pen, look: Look, width: float, height: float) -> None:
    """Draw the coat's pattern on a head of these half axes."""
    if look.pattern == "patches":
        top = -0.6 * height
        pen.blob([(0.1, -0.1), (0.2, top), (0.62 * width, top), (0.84 * width, 0), (0.5, 0.28)], look.marking)
    elif look.pattern == "stripes":
        dark = mix(look.coat, INK, 0.45)
        for x in (-0.2, 0.0, 0.2):
            pen.line([(x, -0.84 * height + abs(x) * 0.2), (x * 0.8, -0.5 * height)], dark, 0.08)
        for side in pen.pair():
            for y in (0.1, 0.3):
                side.line([(width * 0.93 - y * 0.2, y), (width * 0.7, y + 0.02)], dark, 0.07)
    elif look.pattern == "blaze":
        pen.even([(0, -0.92 * height), (0.13, -0.5), (0.2, 0.1), (0, 0.3)], look.marking)
    elif look.pattern == "mask":
        outer = [(0.7 * width, -0.1), (0.76 * width, 0.45), (0.3, 0.78 * height)]
        for side in pen.pair():
            side.blob([(0, -0.1), (0.3, -0.4), *outer, (0, 0.8 * height)], look.marking)


def _eyes(pen: Pen, look: Look, x: float, y: float, *, radius: Point, pupil: Point, tilt: float) -> None:
    """Draw a pair of eyes at (±x, y); `radius` and `pupil` are half axes, `tilt` (degrees) lifts the outer corners."""
    shift = look.turn * 0.16
    (rx, ry), dark_coat = radius, sum(look.coat) < 240
    for way in (1, -1):
        eye = pen.at(way * x + shift, y, -tilt * way)
        if look.mood == "happy" or (look.mood == "wink" and way == 1):
            eye.line([(-rx, 0.06), (0, -0.1), (rx, 0.06)], mix(look.coat, WHITE, 0.7) if dark_coat else INK, 0.075)
            continue
        eye.ellipse(0, 0, rx, ry, look.iris if pupil[0] < 0.9 * rx else INK, outline=INK)
        eye.ellipse(look.turn * 0.04, 0, *pupil, (26, 20, 24))
        eye.ellipse(-0.07, -0.09, 0.062, 0.07, WHITE)
        eye.ellipse(0.06, 0.08, 0.03, 0.03, (255, 255, 255, 170))


def _cheeks(pen: Pen, x: float, y: float) -> None:
    for side in pen.pair():
        side.ellipse(x, y, 0.17, 0.1, (244, 130, 130, 70))


def _cat_head(pen: Pen, look: Look, random: Random) -> None:
    width, height = random.uniform(0.98, 1.14), random.uniform(0.8, 0.94)
    coat, line = look.coat, look.line
    folded = random.random() < 0.12
    inner = mix(PINK, coat, 0.35)
    ear_top, ear_out, ear_base = random.uniform(1.2, 1.6), random.uniform(0.68, 0.95), random.uniform(0.1, 0.26)
    for side in pen.pair():
        if not folded:
            corners = ((ear_base, -0.72 * height), (ear_out, -ear_top), (0.95 * width, -0.2))
            _standing_ear(side, corners, coat, inner, line)
    tuft = random.uniform(0.0, 0.12)
    outline = [
        (0, -height),
        (0.55 * width, -0.86 * height),
        (0.93 * width, -0.3 * height),
        ((0.97 + tuft) * width, 0.3 * height),
        (0.66 * width, 0.78 * height),
        (0, 0.97 * height),
    ]
    pen.even(outline, coat, line)
    _markings(pen, look, width, height)
    if folded:
        for side in pen.pair():
            flap = [(0.3, -0.92), (0.72, -0.98), (0.86, -0.52), (0.5, -0.6)]
            side.blob([(x, y * height) for x, y in flap], coat, line)
    _cheeks(pen, 0.68 * width, 0.34)
    big = random.uniform(0.9, 1.25)
    slit = random.uniform(0.045, 0.17)
    x, tilt, radius = random.uniform(0.4, 0.5), random.uniform(0, 14), 0.215 * big
    _eyes(pen, look, x, -0.08, radius=(radius, radius), pupil=(slit, 0.175 * big), tilt=tilt)
    face = pen.at(look.turn * 0.2, random.uniform(0.2, 0.28))
    puff = WHITE if look.pattern in ("bib", "mask", "blaze") else mix(coat, WHITE, random.uniform(0.12, 0.5))
    for side in face.pair():
        side.ellipse(0.15, 0.18, 0.2, 0.165, puff)
    face.ellipse(0, 0.32, 0.13, 0.09, puff)
    if random.random() < 0.15:
        face.even([(0.09, 0.24), (0.07, 0.4)], TONGUE, mix(TONGUE, INK, 0.3), 0.03)
    ink = mix(line, INK, 0.7)
    for side in face.pair():
        side.line([(0, 0.08), (0.01, 0.2), (0.12, 0.26), (0.23, 0.2)], ink, 0.045)
    nose = random.choice((PINK, mix(PINK, (150, 70, 70), 0.5), (90, 66, 66), INK))
    face.even([(0, -0.055), (0.12, -0.03), (0.03, 0.085)], nose, mix(nose, INK, 0.35), 0.03)
    whisker = mix(coat, WHITE, 0.75) if sum(coat) < 380 else mix(coat, INK, 0.55)
    reach = random.uniform(0.55, 0.95)
    if random.random() < 0.88:
        for side in face.pair():
            for y, slope in ((0.1, -0.14), (0.18, 0.0), (0.26, 0.14)):
                middle, end = (0.3 + reach * 0.6, y + slope * 0.8), (0.3 + reach, y + slope * 1.6)
                side.line([(0.3, y), middle, end], whisker, 0.026)


def _standing_ear(pen: Pen, corners: Sequence[Point], coat: Colour, inside: Colour, line: Colour) -> None:
    """Draw a pointed ear; its corners are the inner foot, the tip and the outer foot."""
    middle = tuple(sum(axis) / 3 for axis in zip(*corners, strict=True))
    for share, fill, outline in ((1.0, coat, line), (0.58, inside, None)):
        (ax, ay), (bx, by), (cx, cy) = (
            tuple(m + (v - m) * share for m, v in zip(middle, corner, strict=True)) for corner in corners
        )
        bulge = 0.05 * share
        inner_side = ((ax + bx) / 2 - bulge, (ay + by) / 2 - bulge)
        outer_side = ((bx + cx) / 2 + bulge * 2, (by + cy) / 2 - bulge)
        pen.blob(
            [(ax, ay), inner_side, (bx - 0.05, by + 0.02), (bx + 0.05, by + 0.03), outer_side, (cx, cy)], fill, outline
        )


def _dog_head(pen: Pen, look: Look, random: Random) -> None:
    width, height = random.uniform(0.84, 1.02), random.uniform(0.92, 1.08)
    coat, line = look.coat, look.line
    ears = random.choices(("floppy", "long", "tipped", "pointed"), (4, 3, 2, 2))[0]
    ear_coat = random.choice((coat, mix(coat, INK, 0.3), look.marking if look.pattern == "patches" else coat))
    if ears == "pointed":
        tip = (random.uniform(0.72, 1.0), -random.uniform(1.35, 1.75))
        for side in pen.pair():
            corners = ((0.2, -0.8 * height), tip, (0.92 * width, -0.3))
            _standing_ear(side, corners, ear_coat, mix(PINK, ear_coat, 0.45), line)
    jowl = random.uniform(0.6, 0.85)
    outline = [
        (0, -height),
        (0.55 * width, -0.9 * height),
        (0.92 * width, -0.38 * height),
        (0.92 * width, 0.25 * height),
        (jowl * width, 0.75 * height),
        (0, 0.98 * height),
    ]
    pen.even(outline, coat, line)
    _markings(pen, look, width, height)
    _cheeks(pen, 0.68 * width, 0.3)
    drop = random.uniform(0.1, 0.4) if ears == "floppy" else random.uniform(0.55, 1.0)
    out = random.uniform(1.12, 1.4)
    for side in pen.pair():
        if ears == "tipped":
            stem = [(0.28, -0.88 * height), (0.62, -1.28), (0.95 * width, -0.5), (0.7, -0.62)]
            flap = [(0.5, -1.18), (0.72, -1.27), (1.16, -0.74), (1.02, -0.62), (0.72, -0.86)]
            side.blob(stem, ear_coat, line)
            side.blob(flap, mix(ear_coat, INK, 0.12), line)
        elif ears != "pointed":
            root = [(0.84, -0.2), (0.42, -0.93 * height), (0.85, -0.9 * height)]
            side.blob([*root, (out, -0.25), (out - 0.04, drop), (0.98, drop + 0.08)], ear_coat, line)
    radius, pale = random.uniform(0.15, 0.2), random.random() < 0.35
    pupil = radius * (0.62 if pale else 0.95)
    x, tilt = random.uniform(0.34, 0.44), -random.uniform(0, 10)
    _eyes(pen, look, x, -0.14, radius=(radius, radius * 1.05), pupil=(pupil, pupil), tilt=tilt)
    if random.random() < 0.3:
        for side in pen.pair():
            side.ellipse(0.38, -0.45, 0.11, 0.06, mix(coat, WHITE, 0.55))
    face = pen.at(look.turn * 0.2, random.uniform(0.12, 0.24))
    snout = WHITE if look.pattern in ("bib", "mask", "blaze") else mix(coat, WHITE, random.uniform(0.12, 0.5))
    wide, deep = random.uniform(0.4, 0.54), random.uniform(0.36, 0.46)
    if random.random() < 0.55:
        length = random.uniform(0.3, 0.55)
        tongue = [(0.16, 0.4), (0.17, 0.4 + length), (0, 0.5 + length)]
        face.even(tongue, TONGUE, mix(TONGUE, INK, 0.3), 0.04)
        face.line([(0, 0.45), (0, 0.35 + length)], mix(TONGUE, INK, 0.3), 0.035)
    muzzle = [(0, -0.18), (0.55 * wide, -0.08), (wide, 0.28), (0.7 * wide, 0.12 + deep), (0, 0.06 + deep)]
    face.even(muzzle, snout, mix(snout, line, 0.35), 0.035)
    ink, freckles = mix(line, INK, 0.7), random.random() < 0.5
    for side in face.pair():
        side.line([(0, 0.1), (0.01, 0.27), (0.16, 0.36), (0.7 * wide, 0.25)], ink, 0.05)
        if freckles:
            for x, y in ((0.2, 0.18), (0.28, 0.22), (0.24, 0.26)):
                side.ellipse(x, y, 0.018, 0.018, ink)
    nose = random.choice((INK, INK, (92, 62, 56), mix(PINK, (150, 70, 70), 0.5)))
    size = random.uniform(0.9, 1.25)
    tip = [(0, -0.15 * size), (0.2 * size, -0.1), (0.12 * size, 0.08), (0, 0.12)]
    face.even(tip, nose, mix(nose, INK, 0.35), 0.03)
    face.ellipse(-0.06, -0.07, 0.055, 0.03, (255, 255, 255, 130))
