"""An HTTP/1.1 client that sends any bytes, however wrong, and reads what comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httptools

# Lets a piece go out as a packet of its own.
_BETWEEN_PIECES_SECONDS = 0.001


@dataclass(frozen=True)
class Reply:
    """An answer, and the seconds that it took from the first byte sent to the last one received."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self.reusable = True
        self._reply: asyncio.Future[Reply] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to 127.0.0.1. Raises OSError."""
        _transport, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Send bytes, without waiting for an answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._reply = asyncio.get_running_loop().create_future()
        self._started = time.perf_counter()
        for index, piece in enumerate(pieces):
            if index:
                await asyncio.sleep(_BETWEEN_PIECES_SECONDS)
            self._transport.write(piece)
            await self._writable.wait()

    async def reply(self, seconds: float) -> Reply | None:
        """Return the answer to what was sent; None if the gateway closes the connection instead.

        Raises asyncio.TimeoutError after `seconds`, and httptools.HttpParserError for what is no answer.
        """
        try:
            return await asyncio.wait_for(self._reply, seconds)
        except ConnectionError:
            return None

    async def ask(self, pieces: Iterable[bytes], seconds: float = 30) -> Reply | None:
        """Send a request and return its answer, as `reply` does."""
        await self.send(pieces)
        return await self.reply(seconds)

    def close(self) -> None:
        """Leave, whatever is under way."""
        self.reusable = False
        self._transport.abort()
        if self._reply is not None:
            self._reply.cancel()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self._fail(ConnectionResetError(str(exc or "closed without an answer")))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.reusable = self._parser.should_keep_alive()
        if not self._reply.done():
            seconds = time.perf_counter() - self._started
            self._reply.set_result(Reply(status, self._headers, b"".join(self._body), seconds))

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)
            # Whoever left does not ask for it any more.
            self._reply.exception()


async def ask(port: int, pieces: Iterable[bytes], seconds: float = 30) -> Reply | None:
    """Send a request on a connection of its own and return the answer, as `Connection.reply` does."""
    connection = await Connection.open(port)
    try:
        return await connection.ask(pieces, seconds)
    finally:
        connection.close()


def get(path: str, *header_lines: bytes) -> bytes:
    """Return a GET request."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % path.encode(), b"Host: gateway", *header_lines]) + b"\r\n\r\n"
