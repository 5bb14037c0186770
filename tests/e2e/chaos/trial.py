"""One case: traffic that goes on while something is taken away, and what is wrong with the outcome."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from answers import Timeline, golden_scores, judge, phase
from cluster import SERVING, Cluster
from hosts import Command, LabError
from rows import Findings, NotReady, Row
from traffic import Traffic

# Of traffic before and after a case.
LEAD_SECONDS = 1.0
TAIL_SECONDS = 2.0
# Until all is as it should be, before a case and after it.
SETTLE_SECONDS = 120
# Within them the replicas must be back.
REPLICAS_SECONDS = 60

# A host that stops is worth this many seconds of requests at most: those that it had in hand.
_IN_FLIGHT_SECONDS = 0.25
# Enough for two seconds in which nothing is answered. With more, connections would rest for longer than a gateway that
# ends waits for them, and some would be closed at the very moment of their next request.
_CONNECTIONS = 100


@dataclass(frozen=True)
class Load:
    """What the gateways are asked for: `rate` requests a second each, with `picture`, whose right scores are known."""

    model: str
    version: int
    scores: dict[str, float]
    picture: bytes
    rate: float


@dataclass(kw_only=True)
class Trial(Findings):
    """What a case works with. It calls `play` for its playbooks, `expect` for what must hold, and `note` for figures.

    Requests to the gateways on the hosts `uncounted` do not count.
    """

    cluster: Cluster
    load: Load
    traffic: Traffic
    uncounted: set[str] = field(default_factory=set)
    _lost_until: float = -math.inf

    def leave_out(self, *hosts: str) -> None:
        """Do not count requests to the gateways of hosts that are to stop. Raises NotReady if no gateway remains."""
        self.uncounted |= self.cluster.gateways.keys() & set(hosts)
        if self.uncounted == self.cluster.gateways.keys():
            raise NotReady(f"no gateway is left without {', '.join(hosts)}")

    def forgive_in_flight(self) -> None:
        """A host is gone by now: a few requests that were sent before may have been lost with it."""
        self._lost_until = time.monotonic()

    async def play(
        self, playbook: str, *, fails: str | None = None, inventory: Path | None = None, **extra: Any
    ) -> Command:
        """Run a playbook with `extra` variables; one that is to fail must print what the expression `fails` finds."""
        command = await self.cluster.play(playbook, extra, inventory=inventory)
        self.expect_end(playbook, command, fails)
        return command

    async def expect_replicas(self, without: str = "") -> None:
        """As many replicas as wanted must run in time on nodes that are there, the task `without` not being one."""
        wanted = await self.cluster.wanted()

        async def trouble() -> str:
            running = await self.cluster.running(SERVING) - {without}
            return "" if len(running) == wanted else f"{len(running)} of {wanted} replicas run"

        self.note(f"{wanted} replicas after {await self.cluster.until(trouble, REPLICAS_SECONDS):.1f} s")

    def finish(self, row: Row) -> None:
        """Judge the traffic, which has ended, and complete the row."""
        timeline = Timeline()
        timeline.allow(phase(self.load.version), -math.inf, math.inf)
        judgement = judge(self.traffic.answers, self.load.model, {self.load.version: self.load.scores}, timeline)
        counted = [url for host, url in self.cluster.gateways.items() if host not in self.uncounted]
        result = self.traffic.result_of(counted)
        lost = sum(sent <= self._lost_until for sent in result.failed_sent)
        forgiven = min(lost, math.ceil(self.load.rate * len(counted) * _IN_FLIGHT_SECONDS))
        if forgiven:
            self.note(f"{forgiven} requests were in flight when the host went and are not counted as failed")
        if self.uncounted:
            self.note(f"without the gateway of {', '.join(sorted(self.uncounted))}")
        self.complete(row, result, judgement, forgiven)


@dataclass(frozen=True)
class Case:
    """What happens, how long it may take, and whether it is one of the short form."""

    story: Callable[[Trial], Awaitable[None]]
    seconds: float
    short: bool


async def load_of(cluster: Cluster, model: str, rate: float) -> Load:
    """Return the load for a model: its stable version's first golden picture, from a host's store."""
    manager, store = cluster.managers[0], cluster.serving[0]
    registry = json.loads(await cluster.read(manager, f"{cluster.root}/registry.json"))
    try:
        version = int(registry["models"][model]["labels"]["stable"])
    except LookupError:
        raise LabError(f"the registry on {manager} has no stable version of {model}: {registry}") from None
    folder = f"{cluster.root}/models/{model}/{version}/assets.extra"
    golden = json.loads(await cluster.read(store, f"{folder}/golden.json"))
    picture = await cluster.read(store, f"{folder}/{golden['cases'][0]['image']}")
    return Load(model, version, golden_scores(golden), picture, rate)


async def run_case(name: str, case: Case, *, cluster: Cluster, load: Load, log: Path) -> Row:
    """Run a case under traffic and return its row; a log of its playbooks is written if anything failed.

    The row's seconds end when all is as it should be again.
    """
    row = Row(name)
    log.unlink(missing_ok=True)
    trial: Trial | None = None
    try:
        await cluster.until(cluster.trouble, SETTLE_SECONDS)
        urls = list(cluster.gateways.values())
        rate = load.rate * len(urls)
        async with Traffic(urls, load.model, load.picture, rate=rate, connections=_CONNECTIONS) as traffic:
            trial = Trial(cluster=cluster, load=load, traffic=traffic)
            await traffic.lead(LEAD_SECONDS)
            began = time.monotonic()
            await _tell(case, trial)
            row.seconds = time.monotonic() - began
            await asyncio.sleep(TAIL_SECONDS)
        trial.finish(row)
    except (LabError, OSError) as error:
        row.detail = f"FAULT: {error}"
    if trial is not None and not row.ok and trial.commands:
        trial.write_log(log)
    return row


async def _tell(case: Case, trial: Trial) -> None:
    try:
        async with asyncio.timeout(case.seconds):
            await case.story(trial)
    except TimeoutError:
        trial.faults.append(f"it was not over after {case.seconds:g} s")
    except (LabError, NotReady) as error:
        trial.faults.append(str(error))
    try:
        trial.note(f"as before {await trial.cluster.until(trial.cluster.trouble, SETTLE_SECONDS):.1f} s later")
    except LabError as error:
        trial.faults.append(str(error))
