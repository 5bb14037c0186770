"""What the gateway refuses because it would be too much at once, too slow or too large."""

from __future__ import annotations

import hashlib
import select
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest
from gateway_process import Gateway, encode_image, gateway_config, multipart, noise, plain, received, until_closed
from stub_serving import Failure, answer_pixels, wait_until

IMAGE = encode_image(noise())
DELAY = 15
SLOTS, QUEUE = 2, 3
HEADER_SECONDS = BODY_SECONDS = 2
MAX_UPLOAD_BYTES = 60_000
MAX_BUFFERED_BYTES = 100_000
POST = b"POST /model/predict/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def narrow_gateway(shared_stub):
    limits = {
        "max_in_flight": SLOTS,
        "max_queued": QUEUE,
        "header_seconds": HEADER_SECONDS,
        "body_seconds": BODY_SECONDS,
    }
    gateway = Gateway(gateway_config(shared_stub.address, limits=limits, deadline_seconds=20))
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(narrow_gateway, stub):
    """It works on SLOTS requests at once while QUEUE more wait, and answers after every test."""
    yield narrow_gateway
    release(stub)
    wait_until(lambda: load(narrow_gateway) == (0, 0))
    stub.reset()
    assert narrow_gateway.upload(IMAGE).status == 200


@pytest.fixture
def callers(stub):
    """Threads; what they wait for ends with the test."""
    with ThreadPoolExecutor(16) as pool:
        yield pool
        release(stub)


def release(stub) -> None:
    """Answer what waits for an answer, and from now on at once."""
    stub.delay = 0
    stub.released.set()


def load(gateway) -> tuple[float, float]:
    """Requests under way and in the queue."""
    found = gateway.samples()
    return found["tf2x_gateway_in_flight"], found["tf2x_gateway_queued"]


def refused(gateway, limit: str) -> float:
    return gateway.samples().get(f'tf2x_gateway_refused_total{{limit="{limit}"}}', 0)


def seconds_of(call):
    started = time.monotonic()
    return call(), time.monotonic() - started


def saturate(gateway, stub, callers, image: bytes = IMAGE) -> list[Future]:
    """Fill all slots and the queue with requests that TF Serving sits on until it is `released`."""
    assert gateway.upload(image).status == 200
    stub.delay = DELAY
    held = [callers.submit(gateway.upload, image) for _unused in range(SLOTS)]
    wait_until(lambda: load(gateway) == (SLOTS, 0))
    held += [callers.submit(gateway.upload, image) for _unused in range(QUEUE)]
    wait_until(lambda: load(gateway) == (SLOTS, QUEUE))
    return held


def hang_up(connection: socket.socket) -> None:
    """Close a connection without a word of goodbye, as a client that dies does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


# ---- slots and queue


def test_more_than_slots_and_queue_hold_is_refused_at_once(gateway, stub, callers):
    before = refused(gateway, "queue")
    held = saturate(gateway, stub, callers)
    for send in (gateway.upload, gateway.send, lambda image: gateway.upload_batch([image])):
        answer, seconds = seconds_of(lambda send=send: send(IMAGE))
        assert answer.error == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        assert seconds < DELAY / 2
    assert refused(gateway, "queue") - before == 3
    assert len(stub.calls) == 1 + SLOTS
    release(stub)
    assert [call.result().status for call in held] == [200] * (SLOTS + QUEUE)


def test_refusal_does_not_wait_for_the_body(gateway, stub, callers):
    saturate(gateway, stub, callers)
    with gateway.raw_connection() as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        assert received(connection).error == (503, "overloaded")


def test_queue_is_served_in_order(gateway, stub, callers):
    """One slot is held all the time, so that the others of the queue go one by one through the other."""
    held, second = threading.Event(), threading.Event()

    def answer(pixels):
        red = round(pixels.max() * 255)
        if red <= 2:
            (held if red == 1 else second).wait(DELAY)
        return answer_pixels(pixels)

    stub.model.answer = answer
    calls = []
    for red in range(1, SLOTS + QUEUE + 1):
        calls.append(callers.submit(gateway.upload, plain(red, 0)))
        wait_until(lambda: sum(load(gateway)) == len(calls))
    second.set()
    wait_until(lambda: load(gateway) == (1, 0))
    held.set()
    assert [call.result().status for call in calls] == [200] * len(calls)
    asked = [round(call.pixels.max() * 255) for call in stub.calls]
    assert asked[SLOTS:] == list(range(SLOTS + 1, SLOTS + QUEUE + 1))


def test_state_is_told_while_everything_is_taken(gateway, stub, callers):
    saturate(gateway, stub, callers)
    for path in ("/healthz", "/readyz", "/metrics", "/models", "/form", "/"):
        answer, seconds = seconds_of(lambda path=path: gateway.get(path))
        assert answer.status == 200, answer.body
        assert seconds < DELAY / 2


def test_slots_are_free_again_after_errors(gateway, stub):
    for _unused in range(SLOTS + QUEUE + 1):
        assert gateway.upload(b"no image").error == (415, "unsupported_type")
        assert gateway.upload(IMAGE[:50]).status == 422
        assert gateway.upload(IMAGE, "/models/birds/predict").error == (404, "model_not_found")
        stub.failures = [Failure(grpc.StatusCode.INTERNAL)]
        assert gateway.upload(IMAGE).error == (502, "upstream_error")
        assert gateway.upload_batch([b"no image"]).status == 200
    assert load(gateway) == (0, 0)


def test_slots_are_free_again_after_clients_that_hang_up(gateway, stub):
    """While TF Serving works, while they wait in the queue, and in the middle of their upload."""
    assert gateway.upload(IMAGE).status == 200
    stub.delay = DELAY
    whole = POST + f"Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE
    connections = [gateway.raw_connection() for _unused in range(SLOTS + QUEUE)]
    for connection in connections:
        connection.sendall(whole)
    wait_until(lambda: load(gateway) == (SLOTS, QUEUE))
    for connection in connections:
        hang_up(connection)
    release(stub)
    wait_until(lambda: load(gateway) == (0, 0))
    for _unused in range(SLOTS + QUEUE + 1):
        connection = gateway.raw_connection()
        connection.sendall(whole[:-20])
        hang_up(connection)
    assert [gateway.upload(IMAGE).status for _unused in range(SLOTS + QUEUE)] == [200] * (SLOTS + QUEUE)
    assert "Traceback" not in gateway.log


def test_wait_in_the_queue_ends_at_the_deadline(stub, new_gateway, callers):
    limits = {"max_in_flight": 1, "max_queued": 1}
    gateway = new_gateway(stub.address, limits=limits, deadline_seconds=3)
    assert gateway.upload(IMAGE).status == 200
    stub.delay = DELAY
    held = callers.submit(gateway.upload, IMAGE)
    wait_until(lambda: load(gateway) == (1, 0))
    answer, seconds = seconds_of(lambda: gateway.upload(IMAGE))
    assert answer.status in {503, 504}
    assert seconds < DELAY / 2
    assert held.result().error == (504, "upstream_timeout")
    wait_until(lambda: load(gateway) == (0, 0))
    stub.delay = 0
    assert gateway.upload(IMAGE).status == 200


# ---- clients and memory

KEYS = {"alice": "alices-key", "bob": "bobs-key"}


@pytest.fixture(scope="module")
def shared_gateway_of_keys(shared_stub):
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": ["predict", "metrics"]}
        for name, key in KEYS.items()
    ]
    limits = {
        "max_in_flight_per_client": 2,
        "max_upload_bytes": MAX_UPLOAD_BYTES,
        "max_batch_bytes": MAX_UPLOAD_BYTES,
        "max_buffered_bytes": MAX_BUFFERED_BYTES,
    }
    gateway = Gateway(gateway_config(shared_stub.address, api_keys=keys, limits=limits, deadline_seconds=20))
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway_of_keys(shared_gateway_of_keys, stub):
    """Two requests at once for each of KEYS, MAX_BUFFERED_BYTES for all."""
    return shared_gateway_of_keys


def refused_to_keys(gateway, limit: str) -> float:
    lines = gateway.get("/metrics", X_API_Key=KEYS["bob"]).body.decode().splitlines()
    start = f'tf2x_gateway_refused_total{{limit="{limit}"}} '
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0)


def test_every_client_has_its_own_limit(gateway_of_keys, stub, callers):
    gateway, (alice, bob) = gateway_of_keys, KEYS.values()
    assert gateway.upload(IMAGE, X_API_Key=alice).status == 200
    before = refused_to_keys(gateway, "client")
    stub.delay = DELAY
    held = [callers.submit(gateway.upload, IMAGE, X_API_Key=alice) for _unused in range(2)]
    wait_until(lambda: len(stub.calls) == 3)
    answer, seconds = seconds_of(lambda: gateway.upload(IMAGE, X_API_Key=alice))
    assert answer.error == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) >= 1
    assert seconds < DELAY / 2
    assert gateway.get("/models", X_API_Key=alice).status == 200
    held.append(callers.submit(gateway.upload, IMAGE, X_API_Key=bob))
    wait_until(lambda: len(stub.calls) == 4)
    assert refused_to_keys(gateway, "client") - before == 1
    release(stub)
    assert [call.result().status for call in held] == [200] * 3
    for _unused in range(3):
        assert gateway.upload(b"no image", X_API_Key=alice).status == 415
        assert gateway.upload(IMAGE, X_API_Key=alice).status == 200


def test_uploads_count_for_their_client(gateway_of_keys):
    gateway, (alice, bob) = gateway_of_keys, KEYS.values()
    head = POST + f"X-API-Key: {alice}\r\nContent-Length: 999\r\n\r\n".encode()
    connections = [gateway.raw_connection() for _unused in range(2)]
    for connection in connections:
        connection.sendall(head + IMAGE[:9])
    wait_until(lambda: gateway.upload(IMAGE, X_API_Key=alice).status == 429)
    assert gateway.upload(IMAGE, X_API_Key=bob).status == 200
    for connection in connections:
        hang_up(connection)
    wait_until(lambda: gateway.upload(IMAGE, X_API_Key=alice).status == 200)


def test_bodies_held_in_memory_are_bounded_together(gateway_of_keys):
    gateway, (alice, bob) = gateway_of_keys, KEYS.values()
    image = IMAGE + bytes(MAX_UPLOAD_BYTES - len(IMAGE))
    before = refused_to_keys(gateway, "memory")
    with gateway.raw_connection() as connection:
        head = POST + f"X-API-Key: {alice}\r\nContent-Length: {len(image)}\r\n\r\n".encode()
        connection.sendall(head + image[:-1])
        answer = None

        def refusal() -> bool:
            nonlocal answer
            answer = gateway.upload(image, X_API_Key=bob)
            return answer.status != 200

        wait_until(refusal)
        assert answer.error == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        assert str(MAX_BUFFERED_BYTES) in answer.message
        assert refused_to_keys(gateway, "memory") - before == 1
        assert gateway.upload(IMAGE, X_API_Key=bob).status == 200
        connection.sendall(image[-1:])
        assert received(connection).status == 200
    for _unused in range(3):
        assert gateway.upload(image, X_API_Key=bob).status == 200


# ---- slow clients


def test_connection_without_a_word_is_closed(gateway):
    with gateway.raw_connection() as connection:
        answer, seconds = seconds_of(lambda: until_closed(connection))
    assert answer == b""
    assert HEADER_SECONDS * 0.9 < seconds < HEADER_SECONDS + 5


@pytest.mark.parametrize("start", [b"GET /health", POST, POST + b"X-Padding: "])
def test_headers_that_come_too_slowly(gateway, start):
    """However steadily the bytes drip in."""
    with gateway.raw_connection() as connection:
        connection.sendall(start)
        ends = time.monotonic() + HEADER_SECONDS + 5
        while not select.select([connection], [], [], 0.2)[0]:
            assert time.monotonic() < ends
            connection.sendall(b"x")
        answer = received(connection)
        assert answer.error == (408, "read_timeout")
        assert answer.headers["Connection"] == "close"
        assert until_closed(connection) == b""


@pytest.mark.parametrize("kind", ["raw", "form"])
def test_bodies_that_come_too_slowly(gateway, kind):
    body, headers = multipart(("file", IMAGE)) if kind == "form" else (IMAGE, {"Content-Type": "image/png"})
    head = f"POST /model/predict/ HTTP/1.1\r\nHost: x\r\nContent-Type: {headers['Content-Type']}\r\n"
    with gateway.raw_connection() as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:-5])
        # Whoever uploads has no slot.
        assert load(gateway) == (0, 0)
        answer, seconds = seconds_of(lambda: received(connection))
        assert answer.error == (408, "read_timeout")
        assert f"{len(body) - 5} bytes" in answer.message
        assert seconds < BODY_SECONDS + 5
        # The rest of the body is not waited for without end, and there is no second answer.
        assert until_closed(connection) == b""


def test_slow_uploads_leave_the_slots_to_others(gateway):
    connections = [gateway.raw_connection() for _unused in range(3 * (SLOTS + QUEUE))]
    for connection in connections:
        connection.sendall(POST + f"Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE[:-5])
    statuses = [gateway.upload(IMAGE).status for _unused in range(SLOTS + QUEUE)]
    assert statuses == [200] * (SLOTS + QUEUE)
    for connection in connections:
        assert received(connection).error == (408, "read_timeout")
        connection.close()


def test_idle_connections_outlast_the_limits_for_headers_and_bodies(gateway):
    connection = gateway.connection()
    for pause in (HEADER_SECONDS + 0.5, 0):
        connection.request("POST", "/model/predict/", IMAGE, {"Content-Type": "image/png"})
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        time.sleep(pause)
    connection.close()


def test_slow_answers_outlast_the_limits_for_headers_and_bodies(gateway, stub):
    assert gateway.upload(IMAGE).status == 200
    stub.delay = HEADER_SECONDS + BODY_SECONDS + 0.5
    assert gateway.upload(IMAGE).status == 200


def test_slow_next_request_does_not_cut_off_an_answer(gateway, stub, callers):
    """Headers that were sent early and do not end are no reason to break off what was asked before."""
    assert gateway.upload(IMAGE).status == 200
    stub.delay = DELAY
    with gateway.raw_connection() as connection:
        connection.sendall(POST + f"Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)
        wait_until(lambda: len(stub.calls) == 2)
        connection.sendall(b"GET /heal")
        time.sleep(HEADER_SECONDS + 0.5)
        release(stub)
        assert received(connection).status == 200
        assert until_closed(connection) == b""


# ---- what no HTTP client sends


def test_headers_that_are_too_large(gateway):
    with gateway.raw_connection() as connection:
        connection.sendall(POST)
        connection.sendall(b"".join(b"X-Padding-%d: %s\r\n" % (number, b"x" * 1000) for number in range(70)))
        assert received(connection).error == (431, "headers_too_large")
        assert until_closed(connection) == b""


def test_headers_that_are_large(gateway):
    answer = gateway.upload(IMAGE, **{f"X-Padding-{number}": "x" * 1000 for number in range(50)})
    assert answer.status == 200


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", id="TLS"),
        pytest.param(b"hello\r\n\r\n", id="hello"),
        pytest.param(b"GET / HTTP/1.1\r\n:\r\n\r\n", id="header without a name"),
        pytest.param(POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", id="two lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", id="length and chunks"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", id="chunk without a length"),
    ],
)
def test_words_that_are_no_http(gateway, words):
    with gateway.raw_connection() as connection:
        connection.sendall(words)
        assert received(connection).error == (400, "bad_request")
        assert until_closed(connection) == b""
    assert "Traceback" not in gateway.log


def test_answer_comes_before_the_end_when_no_http_follows(gateway, stub, callers):
    assert gateway.upload(IMAGE).status == 200
    stub.delay = DELAY
    with gateway.raw_connection() as connection:
        connection.sendall(POST + f"Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)
        wait_until(lambda: len(stub.calls) == 2)
        connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
        release(stub)
        assert received(connection).status == 200
        assert until_closed(connection) == b""
