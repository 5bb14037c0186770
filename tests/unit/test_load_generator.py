"""The load generator's counts, against a server that answers well, badly, late or not at all."""

from __future__ import annotations

import asyncio
import email
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from load_generator import check_batch, check_prediction, multipart, run_load

GOOD = {"success": True, "predictions": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]}
SLOW_SECONDS = 0.1


def response(status: int, document: object, *headers: str) -> bytes:
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


ANSWERS = {
    "/good": response(200, GOOD),
    "/slow": response(200, GOOD),
    "/last": response(200, GOOD, "Connection: close"),
    "/busy": response(503, {"success": False, "error": {"code": "overloaded", "message": "full"}}),
    "/empty": response(200, {"success": True, "predictions": []}),
    "/nan": response(200, {"success": True, "predictions": [{"label": "cat", "score": float("nan")}]}),
    "/other": response(200, ["something", "else"]),
    "/text": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "/torn": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    "/noise": b"SSH-2.0-OpenSSH_9.2\r\n",
}


class Server:
    """Answers after the path; notes connections and bodies."""

    def __init__(self) -> None:
        self.connections = 0
        self.bodies: list[bytes] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length:"))
                self.bodies.append(await reader.readexactly(int(length.split(":")[1])))
                path = head.split()[1]
                if path == "/alternating":
                    path = "/good" if len(self.bodies) % 2 else "/busy"
                if path == "/slow":
                    await asyncio.sleep(SLOW_SECONDS)
                writer.write(ANSWERS[path])
                await writer.drain()
                if path in ("/torn", "/last"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = Server()
    await started.start()
    yield started
    await started.stop()


async def test_good_answers_on_connections_that_are_kept(server: Server) -> None:
    result = await run_load(server.url + "/good", b"image", connections=3, requests=50)
    assert (result.sent, result.ok, result.failed, result.unsent) == (50, 50, {}, 0)
    assert server.connections == 3
    assert server.bodies == [b"image"] * 50
    assert (
        result.summary()["p50_ms"] <= result.summary()["p99_ms"] == pytest.approx(max(result.latencies_ms), abs=0.001)
    )


@pytest.mark.parametrize(
    ("path", "kind", "example"),
    [
        ("/busy", "503", "overloaded"),
        ("/empty", "invalid answer", "no valid predictions"),
        ("/nan", "invalid answer", "no valid predictions"),
        ("/other", "invalid answer", "no predictions"),
        ("/text", "invalid answer", "Expecting value"),
        ("/torn", "ConnectionResetError", "closed before the answer was complete"),
        ("/noise", "HttpParserError", "Expected HTTP"),
    ],
)
async def test_bad_answers_are_counted_by_kind(server: Server, path: str, kind: str, example: str) -> None:
    result = await run_load(server.url + path, b"image", connections=2, requests=6)
    assert (result.sent, result.ok, result.failed) == (6, 0, {kind: 6})
    assert example in result.examples[kind]
    assert result.summary()["p50_ms"] is None


async def test_good_and_bad_answers_are_told_apart(server: Server) -> None:
    result = await run_load(server.url + "/alternating", b"image", connections=1, requests=10)
    assert (result.sent, result.ok, result.failed) == (10, 5, {"503": 5})
    assert server.connections == 1


async def test_a_server_that_is_not_there(server: Server) -> None:
    await server.stop()
    result = await run_load(server.url + "/good", b"image", connections=2, requests=4)
    assert (result.sent, result.ok, result.failed) == (4, 0, {"ConnectionRefusedError": 4})


async def test_answers_that_come_too_late(server: Server) -> None:
    result = await run_load(server.url + "/slow", b"image", connections=2, requests=4, timeout=SLOW_SECONDS / 10)
    assert (result.sent, result.ok, result.failed) == (4, 0, {"timeout": 4})
    # None of them was asked again on a connection on which an old answer may still come.
    assert server.connections == 4


async def test_a_connection_that_the_server_ends_is_opened_again(server: Server) -> None:
    result = await run_load(server.url + "/last", b"image", connections=1, requests=5)
    assert (result.ok, result.failed, server.connections) == (5, {}, 5)


async def test_bodies_take_turns(server: Server) -> None:
    await run_load(server.url + "/good", [b"a", b"bb", b"ccc"], connections=1, requests=7)
    assert server.bodies == [b"a", b"bb", b"ccc", b"a", b"bb", b"ccc", b"a"]


async def test_a_closed_loop_ends_with_its_time(server: Server) -> None:
    result = await run_load(server.url + "/slow", b"image", connections=2, seconds=2.5 * SLOW_SECONDS)
    assert 0 < result.sent <= 6
    assert result.ok == result.sent
    assert result.seconds >= 2.5 * SLOW_SECONDS


@pytest.mark.parametrize("rate", [None, 50])
async def test_a_run_is_stopped_from_outside(server: Server, rate: float | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, stop.set)
    result = await run_load(server.url + "/slow", b"image", connections=20, rate=rate, stop=stop)
    assert result.seconds >= 0.5
    assert result.ok == result.sent >= 20
    assert len(server.bodies) == result.sent
    # Each connection waits for a request that is due after the end, and leaves it.
    if rate is not None:
        assert 25 <= result.sent + result.unsent <= result.seconds * rate + 1
        assert result.unsent >= 0


async def test_a_run_that_is_stopped_does_not_wait_for_what_is_due_later(server: Server) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    load = run_load(server.url + "/good", b"image", connections=3, rate=0.05, stop=stop)
    result = await asyncio.wait_for(load, 10)
    assert (result.sent, result.ok, result.unsent) == (1, 1, 0)


async def test_good_answers_are_shown_with_the_time_of_their_requests(server: Server) -> None:
    seen: list[tuple[float, bytes]] = []
    began = time.monotonic()
    result = await run_load(
        server.url + "/slow", b"image", connections=2, requests=4, observe=lambda *answer: seen.append(answer)
    )
    assert [json.loads(body) for _unused, body in seen] == [GOOD] * 4
    assert began <= seen[0][0] <= began + result.seconds - 2 * SLOW_SECONDS
    assert seen[-1][0] >= seen[0][0] + SLOW_SECONDS
    seen.clear()
    await run_load(server.url + "/busy", b"image", requests=4, observe=lambda *answer: seen.append(answer))
    assert seen == []


async def test_a_fixed_rate_is_kept(server: Server) -> None:
    result = await run_load(server.url + "/good", b"image", connections=4, rate=50, seconds=0.5, timeout=10)
    assert result.sent + result.unsent == 25
    assert result.ok == result.sent
    assert result.seconds >= 24 / 50


async def test_at_a_fixed_rate_the_wait_for_a_connection_counts(server: Server) -> None:
    result = await run_load(server.url + "/slow", b"image", connections=1, rate=100, seconds=5 * SLOW_SECONDS)
    assert result.ok == result.sent <= 5
    assert result.sent + result.unsent == 50
    # The last one was due 10 ms after the first one, and waited for all that came before it.
    assert result.latencies_ms[-1] > result.latencies_ms[0]
    assert result.latencies_ms[-1] > 1000 * (result.sent - 1) * SLOW_SECONDS


async def test_a_batch_with_one_image_that_failed_is_invalid() -> None:
    failed = {"success": False, "error": {"code": "image_invalid", "message": "damaged"}}
    check_batch(json.dumps({"success": True, "results": [GOOD, GOOD]}).encode())
    for results in ([GOOD, failed], [], "text"):
        with pytest.raises(ValueError, match="no "):
            check_batch(json.dumps({"success": True, "results": results}).encode())
    with pytest.raises(ValueError, match="no valid predictions"):
        check_prediction(json.dumps(failed).encode())


def test_a_form_holds_the_files_as_they_are() -> None:
    files = [b"\xff\xd8\r\n--", b"second"]
    body, headers = multipart("files", *files)
    form = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
    assert [part.get_payload(decode=True) for part in form.get_payload()] == files
    assert {part.get_param("name", header="Content-Disposition") for part in form.get_payload()} == {"files"}


@pytest.mark.parametrize(("url", "extent"), [("http://127.0.0.1/", {}), ("https://127.0.0.1/", {"requests": 1})])
async def test_what_cannot_be_run_is_refused(url: str, extent: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"would not end|is supported"):
        await run_load(url, b"image", **extent)
