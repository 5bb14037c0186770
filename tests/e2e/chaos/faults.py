"""The cases. Each takes something away, sees that the rest goes on, and leaves the hosts as it found them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from cluster import BALANCER, BALANCER_PORT, SERVING, Cluster
from hosts import LabError
from rows import NotReady
from trial import Case, Trial

CASES: dict[str, Case] = {}

BALANCER_SECONDS = 30
# A manager that hears no leader calls an election after 10 to 20 s; the engine has no setting for it.
LEADER_SECONDS = 22
CUT_SECONDS = 40
QUORUM_SECONDS = 60
_ELECTION_LIMIT_SECONDS = 60
_QUESTION_SECONDS = 3

# Both playbooks must say what is the matter, and what to do.
_QUORUM_LOST = r"(?i)(quorum|too few managers).{0,2000}restore_swarm\.yml"


def _case(name: str, *, seconds: float = 600, short: bool = False) -> Callable[..., Callable[[Trial], Awaitable[None]]]:
    def add(story: Callable[[Trial], Awaitable[None]]) -> Callable[[Trial], Awaitable[None]]:
        CASES[name] = Case(story, seconds, short)
        return story

    return add


@_case("kill-replica", short=True)
async def _kill_replica(trial: Trial) -> None:
    for host in reversed(trial.cluster.serving):
        if await trial.cluster.containers(host, SERVING):
            killed = await trial.cluster.kill(host, SERVING)
            await trial.expect_replicas(without=killed)
            return
    raise NotReady("no replica runs")


@_case("kill-balancer", short=True)
async def _kill_balancer(trial: Trial) -> None:
    """On a gateway's node: the gateway takes the other nodes' until it is back."""
    host = next(iter(trial.cluster.gateways))
    killed = await trial.cluster.kill(host, BALANCER)

    async def trouble() -> str:
        tasks = await trial.cluster.tasks(BALANCER)
        back = [task for task in tasks if task["Node"] == host and task["ID"] != killed]
        return "" if any(task["CurrentState"].startswith("Running") for task in back) else f"{host} has no balancer"

    trial.note(f"back after {await trial.cluster.until(trouble, BALANCER_SECONDS):.1f} s")


@_case("stop-worker", short=True)
async def _stop_worker(trial: Trial) -> None:
    host = _worker_without_gateway(trial.cluster)
    async with trial.cluster.stopped(host):
        trial.forgive_in_flight()
        await trial.expect_replicas()


@_case("stop-leader", short=True)
async def _stop_leader(trial: Trial) -> None:
    old = await _leader(trial.cluster)
    trial.leave_out(old)
    watching = asyncio.create_task(_successor(trial.cluster, old))
    try:
        async with trial.cluster.stopped(old):
            trial.forgive_in_flight()
            new, seconds = await asyncio.wait_for(watching, _ELECTION_LIMIT_SECONDS)
            trial.note(f"{new} leads after {seconds:.1f} s without a leader")
            trial.expect(
                seconds <= LEADER_SECONDS, f"there was no leader for {seconds:.1f} s, {LEADER_SECONDS} at most"
            )
            # The swarm still manages.
            await trial.expect_replicas()
    except asyncio.TimeoutError:
        raise LabError(f"no manager leads {_ELECTION_LIMIT_SECONDS} s after {old} stopped") from None
    finally:
        watching.cancel()


@_case("cut-network")
async def _cut_network(trial: Trial) -> None:
    """What runs on the cut side is given up there once it is healed."""
    cluster = trial.cluster
    host, other = _worker_without_gateway(cluster), cluster.managers[0]
    if not await cluster.reaches(other, host, BALANCER_PORT):
        raise NotReady(f"{other} does not reach port {BALANCER_PORT} of {host} to begin with")
    async with cluster.cut(host):
        trial.forgive_in_flight()
        began = time.monotonic()
        reached = await cluster.reaches(other, host, BALANCER_PORT)
        trial.expect(not reached, f"{other} still reaches port {BALANCER_PORT} of {host}")
        await asyncio.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
        states = [node["Status"] for node in await cluster.nodes() if node["Hostname"] == host]
        trial.expect(states == ["Down"], f"node {host} is {states} at the end of the cut")
        trial.note(f"{len(await cluster.running(SERVING))} replicas on the other side at the end of the cut")


@_case("rolling-upgrade", seconds=3600)
async def _rolling_upgrade(trial: Trial) -> None:
    before = await trial.cluster.engine_starts()
    async with trial.cluster.aged_engines():
        await trial.play("upgrade")
    after = await trial.cluster.engine_starts()
    same = [host for host in before if after[host] == before[host]]
    trial.expect(not same, f"the engines of {', '.join(same)} were not upgraded")


@_case("two-managers-lost", seconds=900)
async def _two_managers_lost(trial: Trial) -> None:
    """What runs goes on without a quorum, and the playbooks say what to do."""
    cluster = trial.cluster
    leader = await _leader(cluster)
    # Those with a gateway last, the leader in any case.
    order = sorted(cluster.managers, key=lambda host: (host != leader, host in cluster.gateways))
    lost = order[: (len(order) + 1) // 2]
    if not {task["Node"] for task in await cluster.tasks(SERVING)} - set(lost):
        raise NotReady(f"all replicas are on {', '.join(lost)}; scale.yml spreads them")
    trial.leave_out(*lost)
    async with cluster.stopped(*lost):
        trial.forgive_in_flight()
        await cluster.until(lambda: _no_quorum(cluster), QUORUM_SECONDS)
        await trial.play("health_check", fails=_QUORUM_LOST)
        await trial.play("site", fails=_QUORUM_LOST)

    async def trouble() -> str:
        away = {node["Hostname"] for node in await cluster.nodes() if node["ManagerStatus"] in ("Leader", "Reachable")}
        return ", ".join(f"manager {host} is not reachable" for host in cluster.managers if host not in away)

    trial.note(f"quorum {await cluster.until(trouble, QUORUM_SECONDS):.1f} s after the hosts came back")


@_case("scale", seconds=1200)
async def _scale(trial: Trial) -> None:
    usual = await trial.cluster.wanted()
    for wanted in (usual + 2, usual):
        await trial.play("scale", replicas=wanted)
        found = await trial.cluster.wanted(), len(await trial.cluster.running(SERVING))
        trial.expect(found == (wanted, wanted), f"{found[0]} replicas are wanted and {found[1]} run, not {wanted}")


@_case("add-and-remove-node", seconds=2400)
async def _add_and_remove_node(trial: Trial) -> None:
    cluster = trial.cluster
    host = _worker_without_gateway(cluster)
    try:
        cluster.away.add(host)
        with cluster.inventory_without(host) as inventory:
            await trial.play("site", inventory=inventory)
        names = [node["Hostname"] for node in await cluster.nodes()]
        trial.expect(host not in names, f"{host} is still a node of the swarm")
        state = (await cluster.on(host, "docker", "info", "--format", "{{.Swarm.LocalNodeState}}")).strip()
        trial.expect(state == "inactive", f"{host} is {state} in a swarm, not inactive")
        await trial.expect_replicas()
    finally:
        cluster.away.discard(host)
        await trial.play("site")


def _worker_without_gateway(cluster: Cluster) -> str:
    """Return a worker that serves, rather not the monitoring node. Raises NotReady without one."""
    found = [host for host in cluster.workers if host in cluster.serving and host not in cluster.gateways]
    if not found:
        raise NotReady("no worker serves without being a gateway")
    return min(found, key=lambda host: host in cluster.monitoring)


async def _leader(cluster: Cluster) -> str:
    leader = await cluster.leader()
    if leader is None:
        raise NotReady("no manager leads")
    return leader


async def _successor(cluster: Cluster, old: str) -> tuple[str, float]:
    """Wait for another leader; return it, and how long ago the old one was seen last as such."""
    seen = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            leader = await cluster.leader(_QUESTION_SECONDS)
        except LabError:
            leader = None
        if leader == old:
            seen = asked
        elif leader is not None:
            return leader, time.monotonic() - seen
        await asyncio.sleep(0.2)


async def _no_quorum(cluster: Cluster) -> str:
    try:
        await cluster.nodes()
    except LabError:
        return ""
    return "docker node ls still answers without a quorum"
