"""How much work the gateway takes on: beyond that it refuses at once, so that what it took on is done in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Callable

import anyio

from tf2x_gateway.errors import overloaded, too_many_requests


class Gate:
    """Lets `slots` requests through at a time, while `queue` more may wait in the order in which they came."""

    def __init__(self, slots: int, queue: int, on_refused: Callable[[], None]) -> None:
        self._limiter = anyio.CapacityLimiter(slots)
        self._slots = slots
        self._queue = queue
        self._waiting = 0
        self._on_refused = on_refused

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return self._waiting

    @property
    def full(self) -> bool:
        """Whether a request that comes now finds neither a slot nor a place in the queue."""
        return self._limiter.available_tokens < 1 and self._waiting >= self._queue

    def check(self) -> None:
        """Refuse a request that would find the queue full, before its body is read. Raises GatewayError overloaded."""
        if self.full:
            self._on_refused()
            raise overloaded(f"{self._slots} predictions are under way and {self._waiting} requests wait")

    @asynccontextmanager
    async def slot(self, seconds: float) -> AsyncIterator[None]:
        """Hold a slot; wait for it at most `seconds`. Raises GatewayError overloaded."""
        borrower = object()
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
        except anyio.WouldBlock:
            await self._wait(borrower, seconds)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(borrower)

    async def _wait(self, borrower: object, seconds: float) -> None:
        self.check()
        self._waiting += 1
        try:
            with anyio.fail_after(seconds):
                await self._limiter.acquire_on_behalf_of(borrower)
        except TimeoutError as error:
            self._on_refused()
            raise overloaded(f"none of the {self._slots} predictions under way ended within {seconds:g} s") from error
        finally:
            self._waiting -= 1


class ClientLimit:
    """Lets each client have at most `limit` requests under way, uploads included; None: any number."""

    def __init__(self, limit: int | None, on_refused: Callable[[], None]) -> None:
        self._limit = limit
        self._under_way: Counter[str] = Counter()
        self._on_refused = on_refused

    @contextmanager
    def request(self, client: str) -> Iterator[None]:
        """Count a request of `client` while it runs. Raises GatewayError too_many_requests."""
        if self._limit is None:
            yield
            return
        if self._under_way[client] >= self._limit:
            self._on_refused()
            raise too_many_requests(f"this client has {self._limit} requests under way, as many as it may have")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]


class BodyMemory:
    """Bounds the bytes of all request bodies together that are held in memory."""

    def __init__(self, limit: int, on_refused: Callable[[], None]) -> None:
        self._limit = limit
        self._held = 0
        self._on_refused = on_refused

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Yield a function to be told of bytes received; it raises GatewayError overloaded when they do not fit."""
        mine = 0

        def hold(size: int) -> None:
            nonlocal mine
            if self._held + size > self._limit:
                self._on_refused()
                raise overloaded(f"requests being read fill the {self._limit} bytes kept for them")
            self._held += size
            mine += size

        try:
            yield hold
        finally:
            self._held -= mine
