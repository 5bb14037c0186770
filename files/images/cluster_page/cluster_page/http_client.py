"""GET over plain HTTP/1.1, as much of it as the Docker API and TF Serving need."""

from __future__ import annotations

import asyncio

import httptools

CHUNK = 1 << 18
MAX_BODY = 64 << 20


class Unreachable(Exception):
    """No answer, or none that is HTTP; the message says of whom and why."""


class _Answer:
    """What the parser tells about a response."""

    def __init__(self) -> None:
        self.complete = False
        self.size = 0
        self.parts: list[bytes] = []

    def on_body(self, part: bytes) -> None:
        self.size += len(part)
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True


async def get(host: str, port: int, target: str, seconds: float) -> tuple[int, bytes]:
    """Return status and body. Raises Unreachable, also after `seconds`."""
    address = f"http://{host}:{port}"
    try:
        async with asyncio.timeout(seconds):
            return await _get(host, port, target)
    except TimeoutError:
        raise Unreachable(f"{address} did not answer within {seconds:g} s") from None
    except OSError as error:
        raise Unreachable(f"{address} cannot be reached: {error.strerror or error}") from error
    except httptools.HttpParserError as error:
        raise Unreachable(f"{address} answered with something that is not HTTP: {error}") from error


async def _get(host: str, port: int, target: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port, limit=CHUNK)
    try:
        head = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            part = await reader.read(CHUNK)
            if not part:
                raise ConnectionResetError("the connection was closed within the answer")
            parser.feed_data(part)
            if answer.size > MAX_BODY:
                raise OSError(f"the answer is longer than {MAX_BODY} bytes")
        return parser.get_status_code(), b"".join(answer.parts)
    finally:
        writer.close()
