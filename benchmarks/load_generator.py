"""HTTP load on keep-alive connections: as fast as the answers come (closed loop), or at a fixed rate (open loop).

    python benchmarks/load_generator.py http://127.0.0.1:9000/model/predict/ cat.jpg --connections 4 --seconds 10

prints the result as JSON. Tests and benchmarks import `run_load`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from urllib.parse import SplitResult, urlsplit

import httptools
import uvloop

Check = Callable[[bytes], None]
Observer = Callable[[float, bytes], None]

_BOUNDARY = "----tf2x-load-generator"
# A closed loop would otherwise spin while nothing listens.
_PAUSE_AFTER_LOST_CONNECTION_SECONDS = 0.05
_SHOWN_CHARACTERS = 200


@dataclass
class LoadResult:
    """What became of the requests of one run.

    `failed` counts by HTTP status ("503"), by exception ("ConnectionRefusedError"), "timeout" or "invalid answer",
    `examples` holds the first text of each, and `failed_sent` when each was sent (`time.monotonic`). `unsent` requests
    were due at the fixed rate, but every connection was still busy when the time was up. `seconds` runs from the first
    request to the last answer. `latencies_ms` are those of the requests that went well, in order of their answers; at a
    fixed rate they start when a request was due, so that the wait for a free connection is part of them.
    """

    sent: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    failed_sent: list[float] = field(default_factory=list)
    unsent: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def ok(self) -> int:
        """Requests answered with status 200 and a body that passed the check."""
        return len(self.latencies_ms)

    @property
    def rate(self) -> float:
        """Requests per second that went well."""
        return self.ok / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency in ms that `percent` % of the good requests did not exceed; NaN if there was none."""
        ordered = sorted(self.latencies_ms)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan

    def summary(self) -> dict[str, Any]:
        """Return the result without the single latencies, ready for JSON."""
        percentiles = {f"p{percent}_ms": self.percentile(percent) for percent in (50, 95, 99)}
        return {
            "sent": self.sent,
            "ok": self.ok,
            "failed": dict(self.failed),
            "examples": self.examples,
            "unsent": self.unsent,
            "seconds": round(self.seconds, 3),
            "rate": round(self.rate, 2),
            **{name: None if math.isnan(value) else round(value, 3) for name, value in percentiles.items()},
        }

    def add_failure(self, kind: str, text: str, sent: float) -> None:
        """Count a failed request."""
        self.failed_sent.append(sent)
        self.failed[kind] += 1
        self.examples.setdefault(kind, text[:_SHOWN_CHARACTERS])


def multipart(name: str, *contents: bytes, content_type: str = "image/jpeg") -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form with a file for each of `contents`, all in the field `name`."""
    head = (
        f'Content-Disposition: form-data; name="{name}"; filename="image.jpg"\r\nContent-Type: {content_type}\r\n\r\n'
    )
    parts = [b"--%b\r\n%b%b\r\n" % (_BOUNDARY.encode(), head.encode(), content) for content in contents]
    body = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def check_prediction(body: bytes) -> None:
    """Raise ValueError unless `body` is a gateway's answer with at least one label and its score."""
    _check_scores(json.loads(body))


def check_batch(body: bytes) -> None:
    """Raise ValueError unless `body` is the answer to a batch in which every image was classified."""
    document = json.loads(body)
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, list) or not results:
        raise ValueError(f"no results: {document}")
    for result in results:
        _check_scores(result)


def _check_scores(document: Any) -> None:
    try:
        valid = document["success"] is True and len(document["predictions"]) > 0
        valid = valid and all(item["label"] and math.isfinite(item["score"]) for item in document["predictions"])
    except (LookupError, TypeError) as error:
        raise ValueError(f"no predictions: {document}") from error
    if not valid:
        raise ValueError(f"no valid predictions: {document}")


async def run_load(
    url: str,
    body: bytes | Sequence[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    connections: int = 4,
    rate: float | None = None,
    seconds: float | None = None,
    requests: int | None = None,
    stop: asyncio.Event | None = None,
    timeout: float = 30.0,
    check: Check = check_prediction,
    observe: Observer | None = None,
) -> LoadResult:
    """Send requests to an http:// URL until `seconds`, `requests` or `stop`, and count what came back.

    Several bodies take turns. Without a `rate` each connection sends its next request when the last one was answered;
    with one, a request is due every 1 / `rate` seconds, and the first free connection sends it. A request fails after
    `timeout` seconds, or if its answer has another status than 200 or a body for which `check` raises ValueError.
    A lost connection is opened again for the next request. `observe` is called for each answer that went well, with the
    time at which its request was sent (`time.monotonic`) and its body.
    """
    if seconds is None and requests is None and stop is None:
        raise ValueError("neither seconds nor requests nor stop is given: the run would not end")
    target = urlsplit(url)
    if target.scheme != "http" or not target.hostname:
        raise ValueError(f"the URL is {url!r}; http://HOST[:PORT]/PATH is supported")
    bodies = [body] if isinstance(body, bytes) else body
    messages = [_request_message(method, target, headers or {}, each) for each in bodies]
    run = _Run(
        target, messages, rate=rate, seconds=seconds, requests=requests, timeout=timeout, check=check, observe=observe
    )
    return await run.execute(connections, stop)


def _request_message(method: str, target: SplitResult, headers: Mapping[str, str], body: bytes) -> bytes:
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    fields = {"Host": target.netloc, "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class _Run:
    def __init__(
        self,
        target: SplitResult,
        messages: Sequence[bytes],
        *,
        rate: float | None,
        seconds: float | None,
        requests: int | None,
        timeout: float,
        check: Check,
        observe: Observer | None,
    ) -> None:
        self._address = (target.hostname, target.port or 80)
        self._messages = messages
        self._rate = rate
        self._seconds = math.inf if seconds is None else seconds
        self._requests = math.inf if requests is None else requests
        self._timeout = timeout
        self._check = check
        self._observe = observe
        self._tickets = itertools.count()
        self._result = LoadResult()

    async def execute(self, connections: int, stop: asyncio.Event | None) -> LoadResult:
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._ending = None if stop is None else asyncio.create_task(self._end_with(stop))
        try:
            await asyncio.gather(*(self._keep_sending() for _unused in range(connections)))
        finally:
            if self._ending is not None:
                self._ending.cancel()
        self._result.seconds = time.monotonic() - self._began
        if self._rate is not None:
            due = min(self._requests, self._seconds * self._rate)
            self._result.unsent = math.ceil(due) - self._result.sent
        return self._result

    async def _end_with(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._seconds = min(self._seconds, time.monotonic() - self._began)

    async def _wait(self, seconds: float) -> None:
        """Wait, or until the run is stopped."""
        if self._ending is None:
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait([self._ending], timeout=seconds)

    async def _keep_sending(self) -> None:
        connection: _Connection | None = None
        try:
            for ticket in self._tickets:
                now = time.monotonic()
                due = now if self._rate is None else self._began + ticket / self._rate
                if ticket >= self._requests or max(now, due) - self._began >= self._seconds:
                    break
                if due > now:
                    await self._wait(due - now)
                    if due - self._began >= self._seconds:
                        break
                connection = await self._send(connection, self._messages[ticket % len(self._messages)], due)
        finally:
            if connection is not None:
                connection.close()

    async def _send(self, connection: _Connection | None, message: bytes, due: float) -> _Connection | None:
        """Send one request and count its outcome. Returns the connection if it can be used again."""
        self._result.sent += 1
        sent = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                if connection is None or not connection.reusable:
                    _unused, connection = await self._loop.create_connection(_Connection, *self._address)
                status, body = await connection.ask(message)
        # A TimeoutError is an OSError as well.
        except (OSError, httptools.HttpParserError) as error:
            kind = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
            self._result.add_failure(kind, str(error) or f"no answer within {self._timeout:g} s", sent)
            if connection is not None:
                connection.close()
            await asyncio.sleep(_PAUSE_AFTER_LOST_CONNECTION_SECONDS)
            return None
        self._note_answer(status, body, sent, (time.monotonic() - due) * 1000)
        return connection if connection.reusable else None

    def _note_answer(self, status: int, body: bytes, sent: float, latency_ms: float) -> None:
        if status != 200:
            self._result.add_failure(str(status), body.decode("utf-8", "replace"), sent)
            return
        try:
            self._check(body)
        except ValueError as error:
            self._result.add_failure("invalid answer", str(error), sent)
        else:
            self._result.latencies_ms.append(latency_ms)
            if self._observe is not None:
                self._observe(sent, body)


class _Connection(asyncio.Protocol):
    """A client's end of one HTTP/1.1 connection; one request at a time."""

    def __init__(self) -> None:
        self.reusable = True
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body. Raises OSError or httptools.HttpParserError."""
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._answer

    def close(self) -> None:
        self.reusable = False
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive()
        if not self.reusable:
            self._transport.close()
        self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the connection was closed before the answer was complete"))

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def main() -> None:
    """Run the load that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="where the images are posted to")
    parser.add_argument("images", type=Path, nargs="+", help="image files, one a request, in turn")
    parser.add_argument("--field", default="file", help="their field in the form (default: %(default)s)")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="a further header")
    parser.add_argument("--connections", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--rate", type=float, help="requests per second; without it, as fast as the answers come")
    parser.add_argument("--seconds", type=float, help="how long to send (default: 10, unless --requests is given)")
    parser.add_argument("--requests", type=int, help="how many to send")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for one request (default: %(default)s)")
    options = parser.parse_args()
    forms = [multipart(options.field, path.read_bytes()) for path in options.images]
    headers = forms[0][1] | {name: value.strip() for name, _unused, value in (h.partition(":") for h in options.header)}
    seconds = 10.0 if options.seconds is None and options.requests is None else options.seconds
    load = run_load(
        options.url,
        [body for body, _unused in forms],
        headers,
        connections=options.connections,
        rate=options.rate,
        seconds=seconds,
        requests=options.requests,
        timeout=options.timeout,
    )
    print(json.dumps(uvloop.run(load).summary(), indent=2))


if __name__ == "__main__":
    main()
