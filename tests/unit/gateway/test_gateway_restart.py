"""Stop and start again behind a socket that stays open, as systemd keeps it: nobody notices."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway_process import Gateway, encode_image, gateway_config, noise, received
from stub_serving import wait_until

IMAGE = encode_image(noise())
RESTARTS = 2


@pytest.fixture
def listener():
    """A listening socket that outlives the gateways."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as found:
        yield found


@pytest.fixture
def start(stub, listener):
    """Starts gateways on the listener, and stops them."""
    gateways = []

    def new(**changes) -> Gateway:
        gateways.append(Gateway(gateway_config(stub.address, **changes), listener))
        return gateways[-1]

    yield new
    for gateway in gateways:
        gateway.stop()


class Load:
    """Callers that ask without a pause, over kept connections and over new ones, and never try anything twice."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self._callers = ThreadPoolExecutor(4)
        self.results: Counter[tuple[str, object]] = Counter()

    def __enter__(self) -> Load:
        for kind in ("kept", "new"):
            for _unused in range(2):
                self._callers.submit(self._ask, kind)
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._callers.shutdown()

    def answered(self, kind: str) -> int:
        return self.results[kind, 200]

    def _ask(self, kind: str) -> None:
        connection = None
        while not self._ended.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                headers = {"Content-Type": "image/png", **({"Connection": "close"} if kind == "new" else {})}
                connection.request("POST", "/model/predict/", IMAGE, headers)
                response = connection.getresponse()
                response.read()
                self.results[kind, response.status] += 1
                closed = response.will_close
            except (OSError, http.client.HTTPException) as error:
                self.results[kind, repr(error)] += 1
                closed = True
            if closed:
                connection.close()
                connection = None
            time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
def test_restarts_fail_no_request(start, listener, workers):
    gateway = start(workers=workers)
    with Load(gateway.port) as load:
        for _unused in range(RESTARTS):
            before = {kind: load.answered(kind) for kind in ("kept", "new")}
            wait_until(lambda before=before: all(load.answered(kind) > before[kind] + 20 for kind in before))
            assert gateway.stop() in {0, -signal.SIGTERM}
            gateway = start(workers=workers)
        before = {kind: load.answered(kind) for kind in ("kept", "new")}
        wait_until(lambda: all(load.answered(kind) > before[kind] + 20 for kind in before))
    assert set(load.results) == {("kept", 200), ("new", 200)}, load.results


def test_requests_that_come_while_none_serves_are_answered(start, listener):
    gateway = start()
    gateway.stop()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.request("POST", "/model/predict/", IMAGE, {"Content-Type": "image/png"})
    start()
    assert connection.getresponse().status == 200
    connection.close()


def test_configured_address_is_not_used_beside_the_socket(start, listener):
    gateway = start(port=1, bind_address="192.0.2.1")
    assert gateway.get("/healthz").status == 200


def test_request_on_an_idle_connection_at_shutdown_is_answered(stub, new_gateway):
    """And its answer says that the connection ends."""
    gateway = new_gateway(stub.address, deadline_seconds=60)
    connections = [gateway.connection() for _unused in range(2)]
    for connection in connections:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    gateway.process.send_signal(signal.SIGTERM)
    # Only its listening socket tells that it has begun to stop.
    wait_until(lambda: refused(gateway.port))
    connections[0].request("POST", "/model/predict/", IMAGE, {"Content-Type": "image/png"})
    answer = connections[0].getresponse()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    # Who asks for nothing is not waited for as long as a request under way.
    assert gateway.process.wait(20) in {0, -signal.SIGTERM}
    for connection in connections:
        connection.close()


def test_headers_under_way_at_shutdown_are_waited_for(stub, new_gateway):
    gateway = new_gateway(stub.address)
    with gateway.raw_connection() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        gateway.get("/healthz")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(gateway.port))
        time.sleep(1)
        connection.sendall(b"Host: x\r\n\r\n")
        assert received(connection).status == 200
    assert gateway.process.wait(30) in {0, -signal.SIGTERM}


def test_uploads_under_way_at_shutdown_are_waited_for(stub, new_gateway):
    gateway = new_gateway(stub.address)
    with gateway.raw_connection() as connection:
        head = b"POST /model/predict/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        connection.sendall(head + f"Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE[:-9])
        gateway.get("/healthz")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refused(gateway.port))
        time.sleep(1)
        connection.sendall(IMAGE[-9:])
        assert received(connection).status == 200
    assert gateway.process.wait(30) in {0, -signal.SIGTERM}


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionError:
        return True
    return False
