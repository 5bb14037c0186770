"""Through the whole stack, 50 drawings get the labels and scores that TensorFlow itself gives the same pixels.

Needs a running stack: the environment variable TF2X_GATEWAY_URL names the gateway, e.g. http://127.0.0.1:9000.
"""

import http.client
import io
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

PETS = Path(__file__).resolve().parents[2] / "files/models/pets"
LABELS = ["cat", "dog"]
sys.path.insert(0, str(PETS))

import drawings  # noqa: E402


@pytest.fixture(scope="module")
def classify():
    model = tf.saved_model.load(str(PETS / "1")).signatures["serving_default"]

    def run(pixels: np.ndarray) -> np.ndarray:
        return model(input_1=tf.constant(pixels[np.newaxis]))["probabilities"].numpy()[0]

    return run


def keras_pixels(jpeg: bytes) -> np.ndarray:
    image = tf.keras.utils.load_img(io.BytesIO(jpeg), target_size=(380, 380))
    return tf.keras.utils.img_to_array(image) / 255.0


def upload(jpeg: bytes) -> dict:
    connection = http.client.HTTPConnection(urlsplit(os.environ["TF2X_GATEWAY_URL"]).netloc, timeout=30)
    connection.request("POST", "/model/predict/", jpeg, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    return json.loads(body)


@pytest.mark.parametrize("number", range(50))
def test_gateway_and_tensorflow_agree(classify, number):
    seed = 5_000_000 + number
    size = [(380, 380), (403, 500), (1280, 853), (200, 300), (640, 480)][number % 5]
    buffer = io.BytesIO()
    picture: Image.Image = drawings.draw(LABELS[number % 2], seed, size)
    picture.save(buffer, "JPEG", quality=90)

    expected = classify(keras_pixels(buffer.getvalue()))
    predictions = upload(buffer.getvalue())["predictions"]

    assert predictions[0]["label"] == LABELS[int(expected.argmax())]
    scores = {entry["label"]: entry["score"] for entry in predictions}
    assert [scores[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
