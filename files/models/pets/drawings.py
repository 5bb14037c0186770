"""Cats and dogs, drawn by rule: every picture follows from a kind, a seed and a size.

One seed gives a cat and a dog the same place, light, coat, pose and collar, so that none of these tells the kind: what
does is the animal's own shape (ears, muzzle, nose, eyes, whiskers, tail), which varies by itself.

    python drawings.py cat 7 cat.png --size 640x480
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from animals import Look, paint_animal
from pen import Pen
from PIL import Image
from scenes import light, paint_scene

KINDS = ("cat", "dog")


def draw(kind: str, seed: int, size: tuple[int, int] = (380, 380)) -> Image.Image:
    """Return the picture number `seed` of a `kind` ("cat" or "dog") as an RGB image of `size` (width, height) pixels.

    Equal arguments give equal pixels with one version of Pillow. Raises ValueError for another kind or an empty size.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if min(size) < 1:
        raise ValueError(f"size is {size[0]}x{size[1]}; width and height must be at least 1 pixel")
    shared, own = Random(f"both:{seed}"), Random(f"{kind}:{seed}")
    fine = 2  # drawn larger and reduced, for soft edges
    image = Image.new("RGB", (size[0] * fine, size[1] * fine))
    look = Look.of(shared)
    portrait = shared.random() < 0.4
    unit = min(image.size) * (shared.uniform(0.25, 0.33) if portrait else shared.uniform(0.14, 0.176))
    ground = 1.0 if portrait else shared.uniform(0.84, 0.93)
    x = image.width / 2 + shared.uniform(-0.12, 0.12) * image.width
    y = image.height * shared.uniform(0.46, 0.54) if portrait else image.height * ground - 3.25 * unit
    paint_scene(image, min(ground, 0.93), shared)
    paint_animal(Pen(image, x, y, unit, mirror=look.mirror), kind, look, own)
    return light(image.reduce(fine), shared)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; it must look like 640x480")
    return int(width), int(height)


def main() -> None:
    """Draw one picture into a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("seed", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", type=_size, default="380x380", help="width x height, pixels (default: %(default)s)")
    args = parser.parse_args()
    draw(args.kind, args.seed, args.size).save(args.file)


if __name__ == "__main__":
    main()
