"""Labelled drawings as the model sees them: 380x380 RGB bytes, in sets whose seeds never meet."""

from __future__ import annotations

import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from random import Random

import numpy as np
from drawings import KINDS, draw
from PIL import Image

SIDE = 380
# A seed stands for one cat and one dog.
TRAINING_SEEDS = range(0, 2500)
VALIDATION_SEEDS = range(1_000_000, 1_000_200)
HELD_OUT_SEEDS = range(2_000_000, 2_000_500)


def example(kind: str, seed: int) -> np.ndarray:
    """Return drawing `seed` of `kind` as an upload reaches the model: uint8 of shape (380, 380, 3).

    It is drawn at a size and aspect of its own, half of the time saved as JPEG, then resized as a gateway does it
    (nearest neighbour, aspect not kept).
    """
    random = Random(f"upload:{seed}")
    image = draw(kind, seed, (random.randint(260, 720), random.randint(260, 720)))
    if random.random() < 0.5:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=random.randint(60, 95))
        image = Image.open(stream)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.NEAREST))


def _pair(seed: int) -> list[np.ndarray]:
    return [example(kind, seed) for kind in KINDS]


def examples(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Return the drawings of `seeds`, uint8 (2 * seeds, 380, 380, 3), and their classes (indices into KINDS), int64."""
    # Spawned, because a fork of a process in which TensorFlow runs threads may hang.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        pairs = pool.map(_pair, seeds, chunksize=25)
        images = np.empty((2 * len(seeds), SIDE, SIDE, 3), np.uint8)
        for i, pair in enumerate(pairs):
            images[2 * i : 2 * i + 2] = pair
    return images, np.tile(np.arange(len(KINDS)), len(seeds))
