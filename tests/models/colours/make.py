"""Write the SavedModel `colours`: unlike the demo model in all that a gateway can read from a signature.

    python make.py     # with TensorFlow; writes 1/

Input `picture`, uint8 (n, 96, 64, 3); output `scores`, float32 (n, 3), how red, green and blue a picture is on average,
adding up to 1. There is nothing to train. `variants.py` makes further versions of it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

FOLDER = Path(__file__).resolve().parent / "1"
LABELS = ("red", "green", "blue")
HEIGHT, WIDTH = 96, 64


class Colours(tf.Module):
    """The softmax of the mean colour, with a temperature that is a variable: TF Serving wants one to restore."""

    def __init__(self, temperature: float = 32.0) -> None:
        super().__init__()
        self.temperature = tf.Variable(temperature, name="temperature", trainable=False)

    @tf.function(input_signature=[tf.TensorSpec((None, HEIGHT, WIDTH, 3), tf.uint8, name="picture")])
    def classify(self, picture: tf.Tensor) -> dict[str, tf.Tensor]:
        means = tf.reduce_mean(tf.cast(picture, tf.float32), axis=(1, 2))
        return {"scores": self.scores(means)}

    def scores(self, means: tf.Tensor) -> tf.Tensor:
        """Return the scores (n, 3) of mean colours (n, 3)."""
        return tf.nn.softmax(means / self.temperature)


def golden_picture() -> Image.Image:
    """Stripes of many colours, rather green."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(
        np.stack([rows * 2 % 256, (columns * 3 + rows) % 256, (columns * 7) % 100], axis=-1).astype(np.uint8)
    )


def save(model: Colours, folder: Path, labels: Sequence[str] = LABELS) -> None:
    """Write a model into `folder`, with a golden file that holds what it answers."""
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.classify})
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    picture = golden_picture()
    picture.save(extra / "golden-stripes.png", optimize=True)
    pixels = np.asarray(picture)[np.newaxis]
    scores = tf.saved_model.load(str(folder)).signatures["serving_default"](picture=tf.constant(pixels))["scores"]
    case = {
        "name": "stripes",
        "inputs": {
            "picture": {
                "dtype": "DT_UINT8",
                "shape": list(pixels.shape),
                "zlib_base64": base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode("ascii"),
            }
        },
        "outputs": {
            "scores": {
                "dtype": "DT_FLOAT",
                "shape": list(scores.shape),
                "values": [float(str(score)) for score in scores.numpy().ravel()],
            }
        },
        "image": "golden-stripes.png",
    }
    golden = {
        "format": 1,
        "signature_name": "serving_default",
        "tolerance": 1e-5,
        "labels": list(labels),
        "cases": [case],
    }
    (extra / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    save(Colours(), FOLDER)
