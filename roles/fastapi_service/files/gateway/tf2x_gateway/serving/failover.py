"""Which address a call asks, and when it gives up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Callable, Union

from tf2x_gateway.serving.errors import DeadlineExceeded, ServingError, Unavailable

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Attempt:
    """Ask `address` over its connection number `connection` and wait at most `seconds` for the answer."""

    address: str
    connection: int
    seconds: float


@dataclass(frozen=True)
class Pause:
    """Do nothing for `seconds`."""

    seconds: float


Step = Union[Attempt, Pause]


class Failover:
    """The addresses of a service, and what its calls have learned about them.

    It knows nothing of how a call is made or how one waits, so that blocking and asynchronous clients share it. Calls
    may be under way in several threads.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        connections: int,
        patience_seconds: float,
        on_retry: Callable[[str], None],
    ) -> None:
        self._addresses = tuple(addresses)
        self._connections = connections
        self._turns = itertools.count()
        self._patience_seconds = patience_seconds
        self._on_retry = on_retry
        self._outage_began: float | None = None

    def answered(self) -> None:
        """Note that some address answered a call."""
        self._outage_began = None

    def steps(self, deadline: float) -> Generator[Step, ServingError | None, None]:
        """Yield what a call is to do next, until it has its answer; `send` in the error of an attempt that failed.

        Raises the ServingError with which the call ends.
        """
        connection = next(self._turns) % self._connections
        failure: ServingError | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            for address in self._addresses:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise failure or DeadlineExceeded("DEADLINE_EXCEEDED", "no time was left to ask", address)
                if failure is not None:
                    self._on_retry(address)
                failure = yield Attempt(address, connection, remaining)
                assert failure is not None, "only a failed attempt asks for the next step"
                if not isinstance(failure, Unavailable):
                    self.answered()
                    raise failure
            now = time.monotonic()
            if self._outage_began is None:
                self._outage_began = now
            if now - self._outage_began >= self._patience_seconds or now + pause >= deadline:
                raise failure
            yield Pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
