"""Write the demo model's golden file, the pictures of its cases, and the sample pictures.

python golden.py           # after train.py; writes 1/assets.extra/ and samples/
"""

from __future__ import annotations

import argparse
import base64
import json
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from dataset import HELD_OUT_SEEDS, SIDE
from drawings import KINDS, draw

FOLDER = Path(__file__).resolve().parent
TOLERANCE = 1e-4
FIRST = HELD_OUT_SEEDS[0]
# Drawings about which the model is not quite sure: a saturated score would not move with wrong pixels.
CASES = (("cat", FIRST + 56), ("cat", FIRST + 58), ("dog", FIRST + 24), ("dog", FIRST + 30))
# (kind, seed, size, JPEG quality): pictures as people upload them, drawn from held-out seeds.
SAMPLES = (("cat", FIRST + 16, (403, 500), 92), ("dog", FIRST + 21, (1280, 853), 85))


def keras_pixels(picture: Path) -> np.ndarray:
    """Return the picture as Keras users feed it to a model: float32 (1, 380, 380, 3) in [0, 1]."""
    image = keras.utils.load_img(picture, target_size=(SIDE, SIDE), interpolation="nearest")
    return keras.utils.img_to_array(image)[np.newaxis] / 255.0


def golden_case(name: str, picture: Path, predict: tf.types.experimental.ConcreteFunction) -> dict:
    """Return the golden case of a picture: its tensor as bytes, and what the model makes of it."""
    pixels = keras_pixels(picture)
    scores = predict(input_1=tf.constant(pixels))["probabilities"].numpy()
    packed = base64.b64encode(zlib.compress(pixels.astype("<f4").tobytes(), 9)).decode("ascii")
    return {
        "name": name,
        "inputs": {"input_1": {"dtype": "DT_FLOAT", "shape": list(pixels.shape), "zlib_base64": packed}},
        "outputs": {
            "probabilities": {
                "dtype": "DT_FLOAT",
                "shape": list(scores.shape),
                "values": [float(str(score)) for score in scores.ravel()],
            }
        },
        "image": picture.name,
    }


def main() -> None:
    """Draw the golden pictures and the samples, and record the model's answers to the former."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder that holds 1/ (default: here)")
    output = parser.parse_args().output
    predict = tf.saved_model.load(str(output / "1")).signatures["serving_default"]
    extra = output / "1" / "assets.extra"
    extra.mkdir(exist_ok=True)
    cases = []
    for i, (kind, seed) in enumerate(CASES):
        name = f"{kind}-{sum(other == kind for other, _unused in CASES[: i + 1])}"
        picture = extra / f"golden-{name}.png"
        draw(kind, seed, (SIDE, SIDE)).save(picture, optimize=True)
        cases.append(golden_case(name, picture, predict))
    golden = {
        "format": 1,
        "signature_name": "serving_default",
        "tolerance": TOLERANCE,
        "labels": list(KINDS),
        "cases": cases,
    }
    (extra / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    samples = output / "samples"
    samples.mkdir(exist_ok=True)
    for kind, seed, size, quality in SAMPLES:
        draw(kind, seed, size).save(samples / f"{kind}.jpg", quality=quality)


if __name__ == "__main__":
    main()
