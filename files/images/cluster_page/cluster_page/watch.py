"""One look at the swarm for everybody who looks at the page, and none when nobody does."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from cluster_page.metrics import READ_SECONDS, READS, VIEWERS
from cluster_page.picture import Picture, difference, picture_of, targets
from cluster_page.replicas import Replicas
from cluster_page.swarm import Swarm, SwarmError

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
# Reading a large swarm costs the manager most: it is given twenty times as long as it took.
REST = 20
# Prometheus asks for several services at about the same time.
TARGETS_SECONDS = 5.0
# What stands between may close a connection on which nothing comes.
ALIVE_SECONDS = 15.0
MAX_VIEWERS = 256
# Changes that a browser may be behind before it must begin anew.
MAX_BEHIND = 64


class TooManyViewers(Exception):
    """There are MAX_VIEWERS already."""


class Watch:
    """The swarm as it was read last, and those who are told when it changes."""

    def __init__(self, swarm: Swarm, replicas: Replicas) -> None:
        self._swarm = swarm
        self._replicas = replicas
        self._shown: Picture = {}
        self._shown_trouble = ""
        self._trouble = ""
        self._viewers: set[asyncio.Queue[bytes | None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._read_took = 0.0

    @property
    def swarm(self) -> Swarm | None:
        """The swarm as it was read last, or None where that failed or was not tried."""
        return None if self._trouble or not self._swarm.nodes else self._swarm

    async def targets(self, service: str, port: int) -> list[dict[str, Any]]:
        """Return the running tasks of a service. Raises SwarmError rather than to tell what may not be so any more."""
        await self._read(TARGETS_SECONDS, failures=False)
        if self._trouble:
            raise SwarmError(self._trouble)
        return targets(self._swarm, service, port)

    async def look(self) -> None:
        """Read the swarm for what metrics tell of it."""
        await self._read(TARGETS_SECONDS, failures=False)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the picture, then its changes, as server-sent events. Raises TooManyViewers."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers
        changes: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_BEHIND)
        if not self._follows:
            await self._read(EVERY_SECONDS, failures=True)
        # Nothing else runs from here until the viewer is among the others, so that it misses no change.
        self._publish()
        first = _event("picture", {**self._shown, "trouble": self._trouble, "now": int(time.time())})
        self._enter(changes)
        try:
            yield first
            while True:
                try:
                    change = await asyncio.wait_for(changes.get(), ALIVE_SECONDS)
                except TimeoutError:
                    yield b": alive\n\n"
                    continue
                if change is None:
                    return
                yield change
        finally:
            self._leave(changes)

    @property
    def _follows(self) -> bool:
        return self._work is not None and not self._work.done()

    def _enter(self, viewer: asyncio.Queue[bytes | None]) -> None:
        self._viewers.add(viewer)
        VIEWERS.set(len(self._viewers))
        if not self._follows:
            self._work = asyncio.create_task(self._follow())

    def _leave(self, viewer: asyncio.Queue[bytes | None]) -> None:
        self._viewers.discard(viewer)
        VIEWERS.set(len(self._viewers))
        if self._work and not self._viewers:
            self._work.cancel()
            self._work = None
            self._replicas.forget()

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._replicas.ask(self._publish))
            while True:
                await asyncio.sleep(max(EVERY_SECONDS, REST * self._read_took))
                await self._read(EVERY_SECONDS / 2, failures=True)
                self._publish()

    async def _read(self, max_age: float, *, failures: bool) -> None:
        """Read the swarm unless that was tried `max_age` seconds ago at most. `self._trouble` says what went wrong."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            begun = loop.time()
            if begun - self._read_at <= max_age:
                return
            try:
                await self._swarm.read(failures=failures)
            except SwarmError as error:
                self._note_trouble(str(error))
            except Exception as error:
                logger.exception("the swarm could not be read")
                self._note_trouble(repr(error))
            else:
                if self._trouble:
                    logger.warning("the swarm can be read again")
                self._trouble = ""
                READS.labels("ok").inc()
            self._read_at = loop.time()
            self._read_took = self._read_at - begun
            READ_SECONDS.observe(self._read_took)

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            logger.warning("%s", trouble)
        self._trouble = trouble
        READS.labels("error").inc()

    def _publish(self) -> None:
        """Tell all viewers what differs from what they were told last."""
        self._replicas.follow(self._swarm.tasks.values())
        picture = picture_of(self._swarm, self._replicas.models)
        changes: dict[str, Any] = difference(self._shown, picture)
        if self._trouble != self._shown_trouble:
            changes["trouble"] = self._trouble
        self._shown, self._shown_trouble = picture, self._trouble
        if not changes or not self._viewers:
            return
        event = _event("change", changes)
        for viewer in list(self._viewers):
            if viewer.full():
                # Its browser comes again, and begins with a whole picture.
                while not viewer.empty():
                    viewer.get_nowait()
                viewer.put_nowait(None)
                self._viewers.discard(viewer)
            else:
                viewer.put_nowait(event)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
