"""JPEG photographs that nobody took: shapes on soft colours with a little noise, the same in every run."""

from __future__ import annotations

import io
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

# name: (width, height), bytes of the file
IMAGES = {"31 KB": ((403, 500), 31_000), "250 KB": ((1920, 1080), 250_000), "850 KB": ((4032, 3024), 850_000)}
_TOLERANCE = 0.02


@cache
def sample_jpeg(name: str) -> bytes:
    """Return the JPEG file of one of IMAGES: of its size in pixels, and within 2 % of its size in bytes."""
    size, wanted = IMAGES[name]
    picture = _picture(size)
    # How well a picture compresses depends on its noise: find how much gives the file's size, at a camera's quality.
    low, high = 0.0, 24.0
    for _unused in range(12):
        amplitude = (low + high) / 2
        file = _encode(picture, amplitude)
        if abs(len(file) - wanted) <= wanted * _TOLERANCE:
            return file
        low, high = (amplitude, high) if len(file) < wanted else (low, amplitude)
    raise ValueError(f"no noise from 0 to 24 makes {name!r} a file of {wanted} bytes; the last one had {len(file)}")


def _picture(size: tuple[int, int]) -> Image.Image:
    random = Random(7)
    colours = Image.frombytes("RGB", (8, 6), bytes(random.randrange(40, 200) for _unused in range(8 * 6 * 3)))
    picture = colours.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    width, height = size
    for _unused in range(60):
        x, y, radius = random.randrange(width), random.randrange(height), random.uniform(0.01, 0.12) * height
        fill = tuple(random.randrange(256) for _unused in range(3))
        draw.ellipse((x - radius, y - radius * 0.7, x + radius, y + radius * 0.7), fill=fill)
    return picture


def _encode(picture: Image.Image, amplitude: float) -> bytes:
    noise = np.random.default_rng(7).standard_normal((picture.height, picture.width, 1), dtype=np.float32)
    pixels = np.clip(np.asarray(picture) + amplitude * noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
