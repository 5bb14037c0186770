"""Predictions: what the model is sent for an image, and what is made of its answer."""

from __future__ import annotations

import struct
from html.parser import HTMLParser

import numpy as np
import pytest
from gateway_process import encode_image, multipart, noise
from PIL import Image
from stub_protobuf import float_tensor, tensor, varint
from stub_serving import red_and_green

LABELS = {"red", "green"}


def keras_pixels(image: Image.Image, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    """The reference: RGB, NEAREST, a float32 division by 255, with a batch dimension."""
    resized = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    return (np.asarray(resized, dtype=np.float32) / np.float32(255))[np.newaxis]


def test_multipart_upload_is_answered_with_sorted_scores(gateway, stub):
    image = noise(size=(40, 30))
    answer = gateway.upload(encode_image(image))
    assert answer.status == 200, answer.body
    ((red, green),) = red_and_green(keras_pixels(image)).tolist()
    expected = sorted([("red", red), ("green", green)], key=lambda pair: -pair[1])
    assert answer.json["success"] is True
    assert [entry["label"] for entry in answer.json["predictions"]] == [label for label, _unused in expected]
    assert [entry["score"] for entry in answer.json["predictions"]] == pytest.approx(
        [score for _unused, score in expected]
    )
    assert answer.json["model"] == {"name": "pets", "version": "1", "label": None}


@pytest.mark.parametrize("scores", [[0.1, 0.9], [0.9, 0.1]])
def test_best_label_comes_first(gateway, stub, scores):
    stub.model.answer = lambda _pixels: float_tensor((1, 2), scores)
    predictions = gateway.upload(encode_image(noise())).json["predictions"]
    best = ["red", "green"][scores.index(max(scores))]
    assert predictions[0] == {"label": best, "score": float(np.float32(max(scores)))}


@pytest.mark.parametrize("path", ["/model/predict/", "/model/predict", "/models/pets/predict", "/models/pets/predict/"])
def test_every_path_takes_forms_and_raw_images(gateway, path):
    image = encode_image(noise())
    form, raw = gateway.upload(image, path), gateway.send(image, path=path)
    assert form.status == raw.status == 200
    assert form.body == raw.body


def test_request_names_model_signature_and_output(gateway, stub):
    image = noise()
    assert gateway.upload(encode_image(image)).status == 200
    (call,) = stub.calls
    assert (call.name, call.signature_name, call.version_label) == ("pets", "serving_default", "")
    assert (call.input_name, call.output_filter, call.shape) == ("image", ["scores"], (1, 6, 8, 3))
    assert call.content == keras_pixels(image).tobytes()
    assert 0 < call.seconds_left < 6


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 6), (9, 7), (123, 77)])
def test_other_sizes_are_resized_with_nearest(gateway, stub, size):
    image = noise(size=size)
    assert gateway.upload(encode_image(image)).status == 200
    assert stub.calls[0].content == keras_pixels(image).tobytes()


def test_form_with_other_fields_and_small_chunks(gateway, stub):
    image = encode_image(noise(size=(40, 30)))
    body, headers = multipart(("comment", b"--\r\nnot a boundary\r\n"), ("file", image), ("more", b""))
    chunks = [body[at : at + 7] for at in range(0, len(body), 7)]
    answer = gateway.request("POST", "/model/predict/", chunks, headers)
    assert answer.status == 200
    assert answer.body == gateway.upload(image).body


def packed(code: str, *values: float) -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


@pytest.mark.parametrize(
    ("encoded", "scores"),
    [
        pytest.param(tensor(1, (1, 2), (4, packed("f", 0.25, 0.75))), [0.25, 0.75], id="float tensor_content"),
        pytest.param(
            tensor(1, (1, 2)) + b"\x2d" + packed("f", 0.25) + b"\x2d" + packed("f", 0.75), [0.25, 0.75], id="unpacked"
        ),
        pytest.param(tensor(1, (1, 2), (5, packed("f", 0.5))), [0.5, 0.5], id="one value for all"),
        pytest.param(tensor(1, (1, 2)), [0.0, 0.0], id="no value"),
        pytest.param(tensor(2, (1, 2), (6, packed("d", 0.1, 0.9))), [0.1, 0.9], id="double"),
        pytest.param(tensor(19, (1, 2), (13, varint(0x3400) + varint(0x3A00))), [0.25, 0.75], id="half"),
        pytest.param(tensor(14, (1, 2), (4, b"\x80\x3e\x40\x3f")), [0.25, 0.75], id="bfloat16 tensor_content"),
        pytest.param(tensor(3, (2,), (7, 2**64 - 3), (7, 4)), [-3.0, 4.0], id="negative int"),
    ],
)
def test_scores_in_any_encoding(gateway, stub, encoded, scores):
    stub.model.answer = lambda _pixels: encoded
    answer = gateway.upload(encode_image(noise()))
    assert answer.status == 200, answer.body
    found = {entry["label"]: entry["score"] for entry in answer.json["predictions"]}
    assert found == dict(zip(["red", "green"], scores))


def test_declared_names_label_and_signature_are_used(new_stub, new_gateway):
    stub = new_stub().start()
    stub.model.signature_name = "classify"
    stub.model.inputs = {"image": (1, (-1, 6, 8, 3)), "mask": (1, (-1, 4, 4, 3))}
    stub.model.outputs = {"scores": (1, (-1, 2)), "features": (1, (-1, 1280))}
    declaration = {
        "signature_name": "classify",
        "version_label": "stable",
        "input_name": "mask",
        "output_name": "scores",
    }
    gateway = new_gateway(stub.address, model=declaration)
    assert gateway.upload(encode_image(noise())).status == 200
    (call,) = stub.calls
    assert (call.signature_name, call.version_label) == ("classify", "stable")
    assert (call.input_name, call.output_filter, call.shape) == ("mask", ["scores"], (1, 4, 4, 3))


class _Form(HTMLParser):
    """The first form of a page, and the names of its file inputs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: dict = {}
        self.file_fields: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "form":
            self.attributes = values
        if tag == "input" and values.get("type") == "file":
            self.file_fields.append(values["name"])


def test_upload_form_does_what_its_page_says(gateway):
    page = gateway.get("/form")
    assert page.status == 200
    assert page.headers.get_content_type() == "text/html"
    form = _Form(page.body.decode())
    assert (form.attributes["method"], form.attributes["enctype"]) == ("post", "multipart/form-data")
    (field,) = form.file_fields
    answer = gateway.upload(encode_image(noise()), form.attributes["action"], field)
    assert {entry["label"] for entry in answer.json["predictions"]} == LABELS
