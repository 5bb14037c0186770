"""How others fare while clients hold connections on which headers or bodies do not end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from http_client import Connection
from overload import IMAGE, load, predict_message, work_left
from sample_images import sample_jpeg
from watched_gateway import CONSTANT_MODEL, WatchedGateway, constant_serving, watched_gateway

_CONNECTIONS = 8


@dataclass(frozen=True)
class SlowClients:
    """Good answers per second without and with stalled connections, and how these end."""

    stalled: int
    alone: float
    goodput: float
    failed: dict[str, int]
    endings: dict[str, int]
    left_over: float
    crashes: list[str]

    @property
    def faults(self) -> list[str]:
        """What is not as it must be."""
        limits = {
            f"goodput is {self.goodput / self.alone:.1%} of that without stalled clients": self.goodput
            < 0.9 * self.alone,
            f"others got {self.failed}": bool(self.failed),
            f"the stalled clients got {self.endings}, not all 408": self.endings != {"408": self.stalled},
            f"{self.left_over:g} are in flight or queued afterwards": self.left_over != 0,
            f"{self.crashes}": bool(self.crashes),
        }
        return [text for text, broken in limits.items() if broken]

    def figures(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**asdict(self), "goodput_ratio": round(self.goodput / self.alone, 3), "faults": self.faults}


@contextlib.contextmanager
def patient_gateway(seconds: float) -> Iterator[WatchedGateway]:
    """A gateway that waits for slow clients longer than `slow_clients` measures for `seconds`, and then no more."""
    limits = dict.fromkeys(("header_seconds", "body_seconds"), 2 * seconds + 3)
    with constant_serving() as upstream, watched_gateway(upstream, limits=limits, **CONSTANT_MODEL) as gateway:
        yield gateway


async def slow_clients(gateway: WatchedGateway, seconds: float, stalled: int = 80) -> SlowClients:
    """Measure goodput for `seconds` without and with connections stalled in headers and bodies, half of each.

    Twice each in turn, so that a busy moment of the machine counts on both sides; the better of each is taken.
    """
    whole = predict_message(sample_jpeg(IMAGE))
    await load(gateway.port, 1, _CONNECTIONS)
    first = await load(gateway.port, seconds, _CONNECTIONS)
    connections = [await Connection.open(gateway.port) for _unused in range(stalled)]
    for index, connection in enumerate(connections):
        await connection.send([whole[:60] if index % 2 else whole[:-1000]])
    meanwhile = [await load(gateway.port, seconds, _CONNECTIONS) for _unused in range(2)]
    replies = await asyncio.gather(*(connection.reply(60) for connection in connections))
    for connection in connections:
        connection.close()
    last = await load(gateway.port, seconds, _CONNECTIONS)
    return SlowClients(
        stalled=stalled,
        alone=max(first["rate"], last["rate"]),
        goodput=max(result["rate"] for result in meanwhile),
        failed=dict(sum((Counter(result["failed"]) for result in (first, *meanwhile, last)), Counter())),
        endings=dict(Counter("closed" if reply is None else str(reply.status) for reply in replies)),
        left_over=await work_left(gateway.port),
        crashes=gateway.crashes,
    )
