"""Bodies that are wrong in every way: each costs an answer below 500, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from fuzz import LIMITS, fuzz, refuse_bomb, schemathesis
from gateway_process import received, until_closed
from http_client import Reply, ask
from image_files import PNG_SIGNATURE, black_png, encode, picture, png_chunk, png_chunks, samples
from requests_to_send import BATCH, SINGLE, TWO_GB, chunked, form, form_type, head, length, make_case
from watched_gateway import WatchedGateway

ANSWERED = None


def send(gateway: WatchedGateway, *pieces: bytes) -> Reply:
    reply = asyncio.run(ask(gateway.port, pieces))
    assert reply is not None
    return reply


def send_form(gateway: WatchedGateway, body: bytes, path: str = SINGLE) -> Reply:
    return send(gateway, head(path, form_type(), length(body)) + body)


def upload(gateway: WatchedGateway, file: bytes) -> Reply:
    return send_form(gateway, form(b"file", [file]))


def code(reply: Reply) -> str | None:
    """The code of an error, None of an answer with predictions."""
    return None if reply.json["success"] else reply.json["error"]["code"]


# ---- many


def test_hundreds_of_mutated_bodies(gateway):
    findings = asyncio.run(fuzz(gateway, range(500), seed=2))
    assert findings.faults == []
    assert findings.bodies == 500
    # The mutations are neither so weak that all pass nor so strong that none does.
    assert findings.statuses[200] > 50
    assert findings.statuses[422] > 50


def test_what_the_openapi_document_promises(gateway):
    found, words = schemathesis(gateway.port, max_examples=5)
    assert found["ok"], words
    assert found["requests"] > 50
    assert max(found["statuses"]) < 500


def test_a_case_follows_from_its_numbers():
    assert make_case(1, 7) == make_case(1, 7)
    assert make_case(1, 7) != make_case(2, 7)


# ---- by name


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(samples()["JPEG"][:-300], (422, "image_truncated"), id="truncated JPEG"),
        pytest.param(samples()["PNG"][:-300], (422, "image_truncated"), id="truncated PNG"),
        pytest.param(samples()["WebP"][:-30], (422, "image_truncated"), id="truncated WebP"),
        pytest.param(samples()["GIF"][:-300], (422, "image_truncated"), id="truncated GIF"),
        pytest.param(samples()["BMP"][:-300], (422, "image_truncated"), id="truncated BMP"),
        pytest.param(samples()["GIF animated"], (200, ANSWERED), id="animated GIF"),
        pytest.param(samples()["WebP animated"], (200, ANSWERED), id="animated WebP"),
        pytest.param(samples()["PNG animated"], (200, ANSWERED), id="APNG"),
        pytest.param(samples()["JPEG CMYK"], (200, ANSWERED), id="CMYK"),
        pytest.param(samples()["PNG 16-bit"], (200, ANSWERED), id="16-bit"),
        pytest.param(samples()["PNG palette"], (200, ANSWERED), id="palette"),
        pytest.param(samples()["JPEG EXIF"], (200, ANSWERED), id="EXIF-rotated"),
        pytest.param(b"", (422, "missing_file"), id="empty"),
        pytest.param(b"%PDF-1.7\n", (415, "unsupported_type"), id="wrong type"),
        pytest.param(encode(picture(), "TIFF"), (415, "unsupported_type"), id="TIFF"),
    ],
)
def test_file(gateway, file, expected):
    reply = upload(gateway, file)
    assert (reply.status, code(reply)) == expected
    raw = send(gateway, head(SINGLE, b"image/png", length(file)) + file)
    assert (raw.status, code(raw)) == expected


def with_size(file: bytes, width: int, height: int) -> bytes:
    """A PNG file that says to have another size, under a valid checksum."""
    (kind, header), *others = png_chunks(file)
    sides = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in [(kind, sides + header[8:]), *others])


@pytest.mark.parametrize("size", [(0, 0), (0, 48), (64, 0)])
def test_zero_size(gateway, size):
    gif = samples()["GIF"]
    start = gif.index(b",", 13)
    sides = b"".join(side.to_bytes(2, "little") for side in size)
    for file in (
        with_size(samples()["PNG"], *size),
        gif[:6] + sides + gif[10 : start + 5] + sides + gif[start + 9 :],
        samples()["BMP"][:18] + b"".join(side.to_bytes(4, "little") for side in size) + samples()["BMP"][26:],
    ):
        assert code(upload(gateway, file)) in {"image_invalid", "image_truncated"}


@pytest.mark.parametrize("size", [(2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (10_000, 5001), (2**32 - 1, 2**32 - 1)])
def test_header_with_an_extreme_size(gateway, size):
    assert code(upload(gateway, with_size(samples()["PNG"], *size))) in {"image_too_large", "image_invalid"}


def test_two_gigabytes_declared(gateway):
    """Refused by the declaration, before any of it is sent."""
    for content_type in (form_type(), b"image/jpeg"):
        reply = send(gateway, head(SINGLE, content_type, b"Content-Length: %d" % TWO_GB))
        assert (reply.status, code(reply)) == (413, "file_too_large")
        assert reply.seconds < LIMITS["body_seconds"]


@pytest.mark.parametrize("content_type", [form_type(), b"image/jpeg"])
def test_chunks_of_one_byte(gateway, content_type):
    file = samples()["JPEG"]
    body = form(b"file", [file]) if content_type == form_type() else file
    reply = send(gateway, head(SINGLE, content_type, b"Transfer-Encoding: chunked") + chunked(body, 1))
    assert (reply.status, code(reply)) == (200, ANSWERED)


def test_packets_of_one_byte(gateway):
    file = samples()["JPEG grey"]
    message = head(SINGLE, b"image/jpeg", length(file)) + file
    reply = send(gateway, *(message[at : at + 1] for at in range(200)), message[200:])
    assert (reply.status, code(reply)) == (200, ANSWERED)


@pytest.mark.parametrize("content_type", [form_type(), b"image/jpeg"])
def test_less_sent_than_declared(gateway, content_type):
    body = form(b"file", [bytes(900)]) if content_type == form_type() else bytes(900)
    reply = send(gateway, head(SINGLE, content_type, length(body)) + body[:500])
    assert (reply.status, code(reply)) == (408, "read_timeout")
    assert LIMITS["body_seconds"] <= reply.seconds < LIMITS["body_seconds"] + 8


def test_more_sent_than_declared(gateway):
    """The answer is that to what was declared; the rest is no request, and ends the connection."""
    file = samples()["JPEG"]
    start = head(SINGLE, b"image/jpeg", length(file)) + file
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(start)
        assert received(client).status == 200
        client.sendall(b"\0" * 100)
        assert received(client).status == 400
        assert until_closed(client) == b""


def test_a_batch_with_bad_images(gateway):
    files = {
        "good": samples()["JPEG"],
        "image_truncated": samples()["PNG"][:-300],
        "missing_file": b"",
        "unsupported_type": b"%PDF-1.7\n",
        "image_too_large": with_size(samples()["PNG"], 13_000, 13_000),
        "good too": samples()["GIF animated"],
    }
    reply = send_form(gateway, form(b"files", files.values()), BATCH)
    assert reply.status == 200
    found = [None if result["success"] else result["error"]["code"] for result in reply.json["results"]]
    assert found == [None if name.startswith("good") else name for name in files]


# ---- what they cost


def test_13000_x_13000_pixels_are_refused_at_once(gateway):
    assert 480_000 < len(black_png(13_000, 13_000)) < 510_000
    for _unused in range(3):
        upload(gateway, samples()["JPEG"])
    for _unused in range(5):
        refusal = refuse_bomb(gateway)
        # The machine may be busy with something else.
        if refusal.cheap:
            break
    assert refusal.codes == {"image_too_large"}
    assert refusal.milliseconds <= 20
    assert refusal.memory_mb < 5


def test_damaged_images_are_forgotten(gateway):
    """Their pixels, 48 MB each here, are held no longer than it takes to find the damage."""
    damaged = black_png(4000, 4000)[:-60]
    assert code(upload(gateway, damaged)) == "image_truncated"
    gateway.forget_peak()
    before = gateway.peak_rss_bytes
    for _unused in range(12):
        upload(gateway, damaged)
    assert gateway.peak_rss_bytes - before < 120_000_000


def test_a_slow_sender_is_not_waited_for_in_the_headers(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        started = time.monotonic()
        client.sendall(b"POST /model/predict/ HTTP/1.1\r\nHost: x\r\n")
        assert received(client).status == 408
        assert time.monotonic() - started < LIMITS["header_seconds"] + 8
