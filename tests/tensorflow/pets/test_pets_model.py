"""The demo SavedModel: its signature, its golden file, its accuracy on new drawings, its size."""

from __future__ import annotations

import base64
import json
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from dataset import HELD_OUT_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS, examples
from drawings import KINDS

FRESH_SEEDS = range(3_000_000, 3_000_100)
MARGIN = 0.03  # over two standard deviations of an accuracy of 0.97 that is measured on 200 drawings


def keras_pixels(picture) -> np.ndarray:
    image = keras.utils.load_img(picture, target_size=(380, 380), interpolation="nearest")
    return keras.utils.img_to_array(image)[np.newaxis] / 255.0


def tensor_of(case: dict) -> np.ndarray:
    tensor = case["inputs"]["input_1"]
    assert tensor["dtype"] == "DT_FLOAT"
    return np.frombuffer(zlib.decompress(base64.b64decode(tensor["zlib_base64"])), "<f4").reshape(tensor["shape"])


def test_the_one_signature_takes_pixels_and_gives_two_probabilities(pets, signature):
    assert list(tf.saved_model.load(str(pets / "1")).signatures) == ["serving_default"]
    (_unused, inputs) = signature.structured_input_signature
    assert inputs == {"input_1": tf.TensorSpec((None, 380, 380, 3), tf.float32, name="input_1")}
    (output,) = signature.structured_outputs.items()
    assert output[0] == "probabilities"
    assert (output[1].shape.as_list(), output[1].dtype) == ([None, 2], tf.float32)
    scores = signature(input_1=tf.zeros((3, 380, 380, 3)))["probabilities"].numpy()
    assert scores.shape == (3, 2)
    assert np.allclose(scores.sum(axis=1), 1)


def test_the_golden_cases_come_out_of_the_model(signature, golden):
    assert (golden["format"], golden["signature_name"], golden["labels"]) == (1, "serving_default", list(KINDS))
    assert [case["name"] for case in golden["cases"]] == ["cat-1", "cat-2", "dog-1", "dog-2"]
    for case in golden["cases"]:
        output = case["outputs"]["probabilities"]
        expected = np.array(output["values"]).reshape(output["shape"])
        scores = signature(input_1=tf.constant(tensor_of(case)))["probabilities"].numpy()
        assert np.abs(scores - expected).max() <= golden["tolerance"], case["name"]
        assert KINDS[expected.argmax()] == case["name"].split("-")[0]


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda pixels: pixels[..., ::-1], id="channels in the order of OpenCV"),
        pytest.param(lambda pixels: pixels * np.float32(255 / 256), id="divided by 256"),
        pytest.param(lambda pixels: np.roll(pixels, 1, axis=2), id="one column off"),
        pytest.param(lambda pixels: pixels.transpose(0, 2, 1, 3), id="width and height swapped"),
    ],
)
def test_the_golden_cases_notice_wrong_pixels(signature, golden, mistake):
    for case in golden["cases"]:
        expected = np.array(case["outputs"]["probabilities"]["values"])
        wrong = np.ascontiguousarray(mistake(tensor_of(case)))
        scores = signature(input_1=tf.constant(wrong))["probabilities"].numpy()[0]
        assert np.abs(scores - expected).max() > 2 * golden["tolerance"], case["name"]


def test_the_golden_pictures_decode_to_the_golden_tensors(pets, golden):
    for case in golden["cases"]:
        pixels = keras_pixels(pets / "1" / "assets.extra" / case["image"])
        assert pixels.dtype == np.float32
        assert pixels.tobytes() == tensor_of(case).tobytes(), case["name"]


def test_fresh_drawings_are_told_apart_as_well_as_stated(pets, signature):
    assert not {*FRESH_SEEDS} & {*TRAINING_SEEDS, *VALIDATION_SEEDS, *HELD_OUT_SEEDS}
    stated = json.loads((pets / "accuracy.json").read_text())["held_out_accuracy"]
    assert stated >= 0.95
    images, classes = examples(FRESH_SEEDS)
    scores = [
        signature(input_1=tf.constant(part / np.float32(255)))["probabilities"].numpy()
        for part in np.array_split(images, 10)
    ]
    assert np.mean(np.concatenate(scores).argmax(axis=1) == classes) >= stated - MARGIN


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_picture_gets_its_label_with_confidence(pets, signature, kind):
    scores = signature(input_1=tf.constant(keras_pixels(pets / "samples" / f"{kind}.jpg")))["probabilities"].numpy()[0]
    assert scores[KINDS.index(kind)] >= 0.9


def test_the_readme_quotes_the_measured_accuracy(pets):
    report = json.loads((pets / "accuracy.json").read_text())
    readme = (pets / "README.md").read_text()
    assert f"{report['held_out_accuracy']:.1%}".replace("%", " %") in readme
    assert f"{report['colour_only_accuracy']:.1%}".replace("%", " %") in readme


def test_the_version_is_small_and_complete(pets):
    version = pets / "1"
    sizes = {str(path.relative_to(version)): path.stat().st_size for path in version.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 2 * 1024**2
    assert sizes["assets.extra/golden.json"] <= 700_000
    assert {"saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"} <= set(sizes)
