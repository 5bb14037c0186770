"""Requests that cannot be answered: each with the right status, code and words, and the next one is answered."""

from __future__ import annotations

import random
import struct
import time
import zlib

import grpc
import pytest
from gateway_process import encode_image, multipart, noise
from PIL import Image
from stub_protobuf import float_tensor, message
from stub_serving import Failure

IMAGE = encode_image(noise())
LIMIT = 20 * 1024 * 1024


@pytest.fixture(autouse=True)
def still_answers(gateway, stub):
    """Whatever a test did to the gateway, a good request after it gets a good answer."""
    yield
    stub.reset()
    assert gateway.upload(IMAGE).status == 200


def post(gateway, body, **headers):
    return gateway.request("POST", "/model/predict/", body, {key.replace("_", "-"): v for key, v in headers.items()})


# ---- the form


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((("files", IMAGE),), "'files'"),
        ((), "none"),
        ((("file", b""),), "empty"),
    ],
)
def test_missing_file(gateway, fields, words):
    body, headers = multipart(*fields)
    answer = gateway.request("POST", "/model/predict/", body, headers)
    assert answer.error == (422, "missing_file")
    assert words in answer.message


def test_missing_file_in_raw_body(gateway):
    assert gateway.send(b"").error == (422, "missing_file")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/x-www-form-urlencoded", ""])
def test_other_content_types(gateway, content_type):
    answer = post(gateway, IMAGE, Content_Type=content_type)
    assert answer.error == (415, "unsupported_type")
    assert repr(content_type) in answer.message
    assert "multipart/form-data" in answer.message


def test_form_without_boundary(gateway):
    answer = post(gateway, IMAGE, Content_Type="multipart/form-data")
    assert answer.error == (400, "bad_request")
    assert "boundary" in answer.message


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda body: body[:-20], id="cut off"),
        pytest.param(lambda body: b"no form at all", id="no form"),
        pytest.param(lambda body: b"", id="empty"),
        pytest.param(lambda body: body.replace(b"Content-Type", b"Content Type"), id="broken part header"),
    ],
)
def test_broken_form(gateway, spoil):
    body, headers = multipart(("file", IMAGE))
    assert gateway.request("POST", "/model/predict/", spoil(body), headers).error == (400, "bad_request")


def test_form_with_two_files(gateway):
    body, headers = multipart(("file", IMAGE), ("file", IMAGE))
    answer = gateway.request("POST", "/model/predict/", body, headers)
    assert answer.error == (400, "bad_request")
    assert "more than 1 'file'" in answer.message


def test_form_of_very_many_fields(gateway):
    body, headers = multipart(*((f"f{number}", b"") for number in range(1000)), ("file", IMAGE))
    assert gateway.request("POST", "/model/predict/", body, headers).error == (400, "bad_request")


# ---- its size


def test_21_mb_form(gateway):
    body, headers = multipart(("file", b"\xff\xd8\xff" + random.Random(1).randbytes(21 * 1024 * 1024)))
    answer = gateway.request("POST", "/model/predict/", body, headers)
    assert answer.error == (413, "file_too_large")
    assert str(LIMIT) in answer.message


def test_21_mb_raw(gateway):
    assert gateway.send(bytes(21 * 1024 * 1024)).error == (413, "file_too_large")


@pytest.mark.parametrize("kind", ["form", "raw"])
def test_21_mb_without_a_length(gateway, kind):
    content = bytes(21 * 1024 * 1024)
    body, headers = multipart(("file", content)) if kind == "form" else (content, {"Content-Type": "image/png"})
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert gateway.request("POST", "/model/predict/", chunks, headers).error == (413, "file_too_large")


def test_21_mb_in_another_field(gateway):
    body, headers = multipart(("comment", bytes(21 * 1024 * 1024)), ("file", IMAGE))
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    assert gateway.request("POST", "/model/predict/", chunks, headers).error == (413, "file_too_large")


def test_limit_counts_the_file_and_not_the_form_around_it(gateway):
    """A file of exactly the limit passes on to the next check, one byte more does not."""
    exact = IMAGE + bytes(LIMIT - len(IMAGE))
    assert gateway.upload(exact).status == 200
    assert gateway.send(exact).status == 200
    assert gateway.upload(exact + b"\0").error == (413, "file_too_large")
    assert gateway.send(exact + b"\0").error == (413, "file_too_large")


# ---- the image


def test_text_file(gateway):
    answer = gateway.upload(b"Hello, this is no image")
    assert answer.error == (415, "unsupported_type")
    assert "JPEG, PNG, WebP, GIF, BMP" in answer.message


@pytest.mark.parametrize("image_format", ["TIFF", "PPM", "ICO", "EPS"])
def test_formats_that_are_not_allowed(gateway, image_format):
    answer = gateway.upload(encode_image(noise(), image_format))
    assert answer.error == (415, "unsupported_type")


def test_type_is_told_by_content_and_not_by_header(gateway):
    assert gateway.send(encode_image(noise(), "JPEG"), "image/tiff").status == 200


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_images(gateway, image_format):
    whole = encode_image(noise(size=(200, 150)), image_format)
    assert gateway.upload(whole).status == 200
    answer = gateway.upload(whole[: len(whole) * 2 // 3])
    assert answer.error == (422, "image_truncated"), answer.message


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_images_with_only_a_first_line_of_header(gateway, image_format):
    whole = encode_image(noise(size=(200, 150)), image_format)
    status, code = gateway.upload(whole[:16]).error
    assert (status, code) in {(422, "image_truncated"), (422, "image_invalid")}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_images_never_cost_more_than_an_error(gateway, image_format):
    """Bytes spoilt at random: an answer or a 4xx, never a 5xx."""
    whole = encode_image(noise(size=(64, 48)), image_format)
    dice = random.Random(image_format)
    for _unused in range(60):
        spoilt = bytearray(whole)
        for _unused in range(dice.randint(1, 20)):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        answer = gateway.upload(bytes(spoilt))
        assert answer.status in {200, 413, 415, 422}, answer.body


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(13000, 13000), (7072, 7072), (30000, 30000)])
def test_decompression_bomb_is_refused_by_its_header(gateway, width, height):
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(width + 1)) for _unused in range(height)) + packer.flush()
    file = png(width, height, bomb)
    peak = gateway.peak_memory_bytes

    def seconds_of_the_refusal() -> float:
        started = time.monotonic()
        answer = gateway.upload(file)
        assert answer.error == (413, "image_too_large")
        assert "50000000" in answer.message
        return time.monotonic() - started

    # The machine may be busy with something else.
    assert any(seconds_of_the_refusal() < 2 for _unused in range(3))
    assert gateway.peak_memory_bytes - peak < 40 * 2**20


def test_webp_bomb_is_refused_by_its_header(gateway):
    bomb = encode_image(Image.new("RGB", (8000, 7000)), "WEBP", quality=1, method=0)
    peak = gateway.peak_memory_bytes
    assert gateway.upload(bomb).error == (413, "image_too_large")
    assert gateway.peak_memory_bytes - peak < 40 * 2**20


def test_image_of_exactly_the_pixel_limit(new_gateway, stub):
    gateway = new_gateway(stub.address, limits={"max_image_pixels": 48})
    assert gateway.upload(IMAGE).status == 200
    answer = gateway.upload(encode_image(noise(size=(7, 7))))
    assert answer.error == (413, "image_too_large")
    assert "48" in answer.message


def test_upload_limit_is_the_configurations(new_gateway, stub):
    gateway = new_gateway(stub.address, limits={"max_upload_bytes": len(IMAGE)})
    assert gateway.upload(IMAGE).status == 200
    assert gateway.upload(IMAGE + b"\0").error == (413, "file_too_large")


# ---- paths and methods


def test_unknown_model(gateway):
    answer = gateway.upload(IMAGE, "/models/birds/predict")
    assert answer.error == (404, "model_not_found")
    assert "'birds'" in answer.message
    assert "pets" in answer.message


def test_unknown_path(gateway):
    assert gateway.get("/nowhere").error == (404, "not_found")


def test_wrong_method(gateway):
    answer = gateway.get("/model/predict/")
    assert answer.error == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


# ---- the model's answer


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, (500, "model_contract")),
        (grpc.StatusCode.NOT_FOUND, (502, "upstream_error")),
        (grpc.StatusCode.FAILED_PRECONDITION, (502, "upstream_error")),
        (grpc.StatusCode.INTERNAL, (502, "upstream_error")),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, (502, "upstream_error")),
    ],
)
def test_upstream_errors(gateway, stub, code, expected):
    stub.failures = [Failure(code, "words of the server")]
    answer = gateway.upload(IMAGE)
    assert answer.error == expected
    assert "words of the server" in answer.message
    assert stub.address in answer.message
    assert len(stub.calls) == 1
    assert expected[1] in gateway.log


@pytest.mark.parametrize(("score", "words"), [("nan", "returned NaN"), ("inf", "infinite"), ("-inf", "infinite")])
def test_scores_that_are_no_numbers(gateway, stub, score, words):
    stub.model.answer = lambda _pixels: float_tensor((1, 2), [0.5, float(score)])
    answer = gateway.upload(IMAGE)
    assert answer.error == (502, "upstream_error")
    assert words in answer.message
    assert "'green'" in answer.message


def test_more_scores_than_labels(gateway, stub):
    stub.model.answer = lambda _pixels: float_tensor((1, 3), [0.1, 0.2, 0.7])
    answer = gateway.upload(IMAGE)
    assert answer.error == (500, "model_contract")
    assert "3 scores" in answer.message
    assert "2 labels are declared: red, green" in answer.message


def test_answer_without_the_output(gateway, stub):
    stub.raw_reply = message((1, message((1, "other"), (2, float_tensor((1, 2), [0.5, 0.5])))))
    answer = gateway.upload(IMAGE)
    assert answer.error == (502, "upstream_error")
    assert "'scores'" in answer.message
    assert "'other'" in answer.message


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"\x0a\x7f", id="cut off"),
        pytest.param(b"\xff" * 40, id="no protobuf"),
        pytest.param(b"<html>502</html>", id="html"),
        pytest.param(b"", id="empty"),
    ],
)
def test_answers_that_are_no_predict_response(gateway, stub, reply):
    stub.raw_reply = reply
    assert gateway.upload(IMAGE).error == (502, "upstream_error")
