"""uvicorn's HTTP/1.1, with a bound on how long and how large headers may be, and an end that cuts nobody off."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tf2x_gateway.errors import error_body

_MAX_HEADER_BYTES = 64 * 1024
# How long a shutdown waits for a next request on an idle connection, which is answered with `Connection: close`, before
# it closes it. Whoever sends one at that very moment sees it fail, so the fewer are closed in this way the better; but
# new connections wait meanwhile.
_LINGER_SECONDS = 2.5
_UNREAD_SECONDS = 0.05


class HttpProtocol(HttpToolsProtocol):
    """One connection. A client has `header_seconds` for headers, from the connection or their first byte."""

    def __init__(self, *, header_seconds: float, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._header_seconds = header_seconds
        self._header_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = True
        self._draining = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._start_header_timer()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > _MAX_HEADER_BYTES:
            self._refuse(431, "headers_too_large", f"the headers have more than the {_MAX_HEADER_BYTES} bytes allowed")

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._stop_header_timer()
        super().on_headers_complete()
        if self._draining:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        early_refusal = self.app_state.get("early_refusal")
        answer = None if early_refusal is None else early_refusal(cycle.scope)
        if answer is None:
            super()._start_asgi_task(cycle, app)
            return
        head, body = answer.split(b"\r\n\r\n", 1)
        connection = b"" if cycle.keep_alive else b"\r\nconnection: close"
        self.transport.write(head + connection + b"\r\n\r\n" + body)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_message_complete(self) -> None:
        self._stop_header_timer()
        super().on_message_complete()
        self._in_headers = True
        self._header_bytes = 0
        # Where the answer came before the end of the body, the latter has ended uvicorn's own timer.
        if self._idle and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A body that was not waited for may still come; not for ever.
        if not self._in_headers:
            self._start_header_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", "this is no valid HTTP request")

    def shutdown(self) -> None:
        """Answer what is under way and what comes next; close the connection once it is idle."""
        self._draining = True
        if self._idle:
            self.loop.call_later(_LINGER_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        # A request that has begun to come is still taken; its headers have their time like any others.
        if not self._idle or self._header_bytes:
            return
        if self._has_unread_data():
            self.loop.call_later(_UNREAD_SECONDS, self._close_if_idle)
        else:
            self.transport.close()

    def _has_unread_data(self) -> bool:
        """Whether the kernel has bytes that were not read yet: a close would answer them with a reset."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self._header_seconds, self._headers_are_late)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_are_late(self) -> None:
        if self._in_headers and self._header_bytes:
            self._refuse(408, "read_timeout", f"the headers did not end within {self._header_seconds:g} s")
        else:
            # Nothing was asked, or it is answered and the rest of its body still drips in.
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers and not self._idle:
            # The answer to the request before comes first, and is the last.
            self.cycle.keep_alive = False
            return
        # An answer may be half sent, and nothing can be put into it.
        if self._idle or not (self.cycle.response_started or self.pipeline):
            body = error_body(code, message)
            head = (
                f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
