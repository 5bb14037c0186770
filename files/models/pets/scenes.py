"""The places in which the animals are drawn, and the light that falls on them. Nothing here knows the animal."""

from __future__ import annotations

from random import Random

from pen import Colour, Pen, mix
from PIL import Image, ImageChops

PASTELS: tuple[Colour, ...] = (
    (247, 214, 196),
    (205, 226, 214),
    (201, 219, 240),
    (250, 232, 180),
    (226, 210, 236),
    (236, 236, 228),
    (186, 208, 190),
    (244, 196, 186),
    (168, 192, 214),
    (214, 196, 170),
)
WOODS: tuple[Colour, ...] = ((176, 128, 88), (205, 164, 118), (132, 92, 66), (222, 192, 152), (150, 132, 120))
GREENS: tuple[Colour, ...] = ((126, 176, 92), (156, 190, 98), (98, 152, 96), (178, 186, 104))
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((122, 184, 232), (214, 238, 250)),
    ((164, 206, 234), (250, 240, 222)),
    ((248, 178, 132), (252, 226, 178)),
    ((62, 70, 122), (206, 142, 150)),
    ((36, 46, 88), (92, 116, 160)),
)


def _fade(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    mask = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), mask)


def paint_scene(image: Image.Image, ground: float, random: Random) -> None:
    """Paint a random place over all of `image`; things stand on its floor at `ground` (share of the height)."""
    random.choice((_studio, _room, _room, _meadow, _meadow, _beach))(image, ground, random)


def _pen(image: Image.Image) -> Pen:
    """A pen whose unit is the picture's height, with its origin at the top of the middle."""
    return Pen(image, image.width / 2, 0, image.height)


def _studio(image: Image.Image, ground: float, random: Random) -> None:
    wall = random.choice(PASTELS)
    image.paste(_fade(image.size, mix(wall, (255, 255, 255), 0.3), mix(wall, (90, 80, 90), random.uniform(0, 0.35))))
    pen, side = _pen(image), image.width / image.height / 2
    accent = (*mix(wall, random.choice(PASTELS), 0.6), 150)
    motif = random.choice(("dots", "rings", "plain", "disc"))
    if motif == "disc":
        pen.ellipse(random.uniform(-0.1, 0.1), 0.45, 0.4, 0.4, accent)
    elif motif != "plain":
        for _unused in range(random.randint(5, 14)):
            x, y, r = random.uniform(-side, side), random.uniform(0, ground), random.uniform(0.02, 0.09)
            if motif == "dots":
                pen.ellipse(x, y, r, r, accent)
            else:
                pen.ellipse(x, y, r, r, (0, 0, 0, 0), outline=accent[:3], width=0.012)


def _room(image: Image.Image, ground: float, random: Random) -> None:
    wall, wood = random.choice(PASTELS), random.choice(WOODS)
    horizon = ground - random.uniform(0.08, 0.25)
    image.paste(_fade(image.size, mix(wall, (255, 255, 255), 0.15), mix(wall, (110, 100, 100), 0.15)))
    pen, side = _pen(image), image.width / image.height / 2
    if random.random() < 0.4:
        stripe, x, step = (*mix(wall, random.choice(PASTELS), 0.5), 130), -side, random.uniform(0.06, 0.14)
        while x < side:
            pen.polygon(_box(x, 0, x + step / 2, horizon), stripe)
            x += step
    if random.random() < 0.7:
        _window(pen, random.uniform(-side, side), random.uniform(0.15, 0.3), random)
    pen.polygon(_box(-side, horizon, side, 1.01), wood)
    for i in range(1, 6):
        y = horizon + (1 - horizon) * (i / 6) ** 1.4
        pen.line([(-side, y), (side, y)], mix(wood, (60, 40, 30), 0.25), 0.004)
    pen.polygon(_box(-side, horizon - 0.03, side, horizon), mix(wall, (255, 255, 255), 0.7))
    if random.random() < 0.6:
        rug = random.choice(PASTELS)
        x, width = random.uniform(-0.1, 0.1), random.uniform(0.4, 0.6)
        pen.ellipse(x, ground, width, 0.11, mix(rug, (120, 60, 70), 0.35))
        pen.ellipse(x, ground, width * 0.88, 0.088, rug)


def _window(pen: Pen, x: float, y: float, random: Random) -> None:
    width, height = random.uniform(0.1, 0.2), random.uniform(0.1, 0.17)
    frame = random.choice((*WOODS, (250, 248, 244)))
    pen.polygon(_box(x - width, y - height, x + width, y + height), frame)
    glass = random.choice(SKIES)[0] if random.random() < 0.7 else random.choice(GREENS)
    pane = mix(glass, (255, 255, 255), 0.2)
    for left in (x - width + 0.015, x + 0.006):
        pen.polygon(_box(left, y - height + 0.015, left + width - 0.021, y + height - 0.015), pane)


def _meadow(image: Image.Image, ground: float, random: Random) -> None:
    top, bottom = random.choice(SKIES)
    image.paste(_fade(image.size, top, bottom))
    pen, side = _pen(image), image.width / image.height / 2
    light = (255, 244, 206)
    x, y, r = random.uniform(-side, side), random.uniform(0.08, 0.3), random.uniform(0.04, 0.09)
    pen.ellipse(x, y, r * 1.5, r * 1.5, (*light, 70))
    pen.ellipse(x, y, r, r, light)
    for _unused in range(random.randint(0, 4)):
        x, y, r = random.uniform(-side, side), random.uniform(0.06, 0.35), random.uniform(0.03, 0.07)
        for dx, share in ((-1.2, 0.7), (0, 1), (1.2, 0.75)):
            pen.ellipse(x + dx * r, y + (1 - share) * r * 0.6, r * 1.3, r * share, (255, 255, 255, 170))
    grass = mix(random.choice(GREENS), bottom, random.uniform(0, 0.15))
    horizon = ground - random.uniform(0.1, 0.25)
    for shade, lift in ((0.35, 0.1), (0.18, 0.04), (0.0, 0.0)):
        heights = [horizon - lift + random.uniform(-0.05, 0.05) for _unused in range(5)]
        ridge = [(-side * 1.1 + side * 0.55 * i, height) for i, height in enumerate(heights)]
        pen.blob([*ridge, (side * 1.3, 1.2), (-side * 1.3, 1.2)], mix(grass, top, shade))
    blade = mix(grass, (40, 90, 50), 0.4)
    for _unused in range(random.randint(10, 40)):
        x, y = random.uniform(-side, side), random.uniform(horizon + 0.06, 1)
        pen.line([(x, y), (x + random.uniform(-0.01, 0.01), y - random.uniform(0.02, 0.04))], blade, 0.006)
    petals = random.choice(((255, 255, 255), (250, 210, 90), (236, 130, 150), (180, 150, 220)))
    for _unused in range(random.randint(0, 14)):
        x, y = random.uniform(-side, side), random.uniform(horizon + 0.08, 1)
        pen.ellipse(x, y, 0.014, 0.012, petals)
        pen.ellipse(x, y, 0.005, 0.005, (240, 180, 60))


def _beach(image: Image.Image, ground: float, random: Random) -> None:
    top, bottom = random.choice(SKIES)
    image.paste(_fade(image.size, top, bottom))
    pen, side = _pen(image), image.width / image.height / 2
    shore = ground - random.uniform(0.06, 0.14)
    sea = mix((64, 140, 170), top, random.uniform(0.1, 0.5))
    pen.polygon(_box(-side, shore - random.uniform(0.1, 0.25), side, shore + 0.05), sea)
    for _unused in range(random.randint(4, 12)):
        x, y = random.uniform(-side, side), shore - random.uniform(0.0, 0.1)
        pen.line([(x - 0.05, y), (x, y - 0.006), (x + 0.05, y)], mix(sea, (255,) * 3, 0.4), 0.006)
    sand = mix((232, 208, 160), bottom, random.uniform(0, 0.3))
    edge = [(-side * 1.1 + side * 0.55 * i, shore + random.uniform(-0.02, 0.02)) for i in range(5)]
    pen.blob([*edge, (side * 1.3, 1.2), (-side * 1.3, 1.2)], sand, mix(sea, (255,) * 3, 0.75), 0.015)
    for _unused in range(random.randint(5, 40)):
        x, y = random.uniform(-side, side), random.uniform(shore + 0.05, 1)
        pen.ellipse(x, y, 0.006, 0.004, mix(sand, (140, 110, 80), 0.35))


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def light(image: Image.Image, random: Random) -> Image.Image:
    """Return `image` under a random light: brighter or darker, warmer or cooler, at times from one side."""
    level = random.uniform(0.72, 1.12)
    warmth = random.uniform(-0.08, 0.08)
    lit = image.point([min(255, round(v * level * gain)) for gain in (1 + warmth, 1, 1 - warmth) for v in range(256)])
    if random.random() < 0.5:
        shade = Image.linear_gradient("L").rotate(random.choice((0, 90, 180, 270))).resize(image.size)
        depth = random.uniform(0.1, 0.4)
        lit = ImageChops.multiply(lit, Image.merge("RGB", [shade.point(lambda v: round(255 - v * depth))] * 3))
    return lit
