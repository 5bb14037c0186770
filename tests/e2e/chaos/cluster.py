"""The swarm of lab hosts: what runs where, and how its processes, hosts and network are taken away and given back."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hosts import Lab, LabError

SERVING = "PROD-STACK_tf_serving"
BALANCER = "PROD-STACK_balancer"
BALANCER_PORT = 9501

_GATEWAY_PORT = 9000
_REMOVED_GROUP = "swarm_removed"
_GROUPS_OF_MEMBERS = ("swarm", "swarm_managers", "swarm_workers", "serving", "gateway", "monitoring")
_ENGINE_PACKAGE = "docker.io"
_AGED_VERSION = "0~aged"
_PACKAGES = "/var/lib/dpkg/status"
_SET_VERSION = f"/^Package: {re.escape(_ENGINE_PACKAGE)}$/,/^$/ s/^Version: .*/Version: {{}}/"
_POLL_SECONDS = 0.5
_QUESTION_SECONDS = 20
_STOP_SECONDS = 10
_BOOT_SECONDS = 60
_INVENTORY_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Cluster(Lab):
    """The hosts by what they do; `gateways` are URLs by host. `away` are those that are not there at the moment."""

    managers: tuple[str, ...]
    workers: tuple[str, ...]
    serving: tuple[str, ...]
    monitoring: tuple[str, ...]
    gateways: dict[str, str]
    # As ansible-inventory lists them.
    groups: Mapping[str, Any] = field(default_factory=dict)
    root: str = "/opt/tf2x"
    away: set[str] = field(default_factory=set)

    @property
    def hosts(self) -> tuple[str, ...]:
        """All nodes."""
        return (*self.managers, *self.workers)

    @property
    def present(self) -> list[str]:
        """The nodes that are there."""
        return [host for host in self.hosts if host not in self.away]

    async def ask(self, *command: str, seconds: float = _QUESTION_SECONDS) -> str:
        """Run a docker command on the first manager that can answer. Raises LabError when none can."""
        failure = LabError(f"no manager is there to ask; away: {', '.join(sorted(self.away))}")
        for manager in self.managers:
            if manager in self.away:
                continue
            try:
                return await self.on(manager, "docker", *command, seconds=seconds)
            except LabError as error:
                failure = error
        raise failure

    async def nodes(self, seconds: float = _QUESTION_SECONDS) -> list[dict[str, Any]]:
        """Return the rows of `docker node ls`."""
        return _rows(await self.ask("node", "ls", "--format", "{{json .}}", seconds=seconds))

    async def leader(self, seconds: float = _QUESTION_SECONDS) -> str | None:
        """Return the leader's host, None without one. Raises LabError when no manager can tell."""
        return next((node["Hostname"] for node in await self.nodes(seconds) if node["ManagerStatus"] == "Leader"), None)

    async def tasks(self, service: str) -> list[dict[str, Any]]:
        """Return the rows of `docker service ps` for the tasks that are to run on nodes that are there."""
        form = ("--no-trunc", "--filter", "desired-state=running", "--format", "{{json .}}")
        return [
            task for task in _rows(await self.ask("service", "ps", *form, service)) if task["Node"] not in self.away
        ]

    async def running(self, service: str) -> set[str]:
        """Return the IDs of those that run; swarm says so of a container once it is healthy."""
        return {task["ID"] for task in await self.tasks(service) if task["CurrentState"].startswith("Running")}

    async def wanted(self) -> int:
        """Return how many replicas of TF Serving there are to be."""
        return int(await self.ask("service", "inspect", "--format", "{{.Spec.Mode.Replicated.Replicas}}", SERVING))

    async def containers(self, host: str, service: str) -> dict[str, str]:
        """Return the service's containers that really run on a host, by the ID of their task."""
        form = '{{.Label "com.docker.swarm.task.id"}} {{.ID}}'
        label = f"label=com.docker.swarm.service.name={service}"
        output = await self.on(host, "docker", "ps", "--no-trunc", "--filter", label, "--format", form)
        return dict(text.split() for text in output.splitlines())

    async def kill(self, host: str, service: str) -> str:
        """Kill the first process of one of the service's containers on a host and return the ID of its task."""
        found = await self.containers(host, service)
        if not found:
            raise LabError(f"{host} runs no container of {service}")
        task, container = next(iter(found.items()))
        process = (await self.on(host, "docker", "inspect", "--format", "{{.State.Pid}}", container)).strip()
        await self.on(host, "sh", "-c", 'kill -9 "$1"', "sh", process)
        return task

    async def address(self, host: str) -> str:
        """Return a host's address."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return (await self.engine("inspect", "--format", form, host)).decode().strip()

    async def reaches(self, source: str, host: str, port: int) -> bool:
        """Return whether a port of a host can be connected to from another one."""
        code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
        try:
            await self.on(source, "python3", "-c", code, await self.address(host), str(port))
        except LabError:
            return False
        return True

    async def engine_starts(self) -> dict[str, str]:
        """Return by host which start of its engine this is."""
        shown = ("systemctl", "show", "docker", "--property=InvocationID", "--value")
        starts = await asyncio.gather(*(self.on(host, *shown) for host in self.hosts))
        return dict(zip(self.hosts, map(str.strip, starts), strict=True))

    @contextlib.asynccontextmanager
    async def aged_engines(self) -> AsyncIterator[None]:
        """Let the hosts' package managers take their engines for older ones, so that there is something to upgrade."""
        shown = ("dpkg-query", "--show", "--showformat", "${Version}", _ENGINE_PACKAGE)
        versions = {host: (await self.on(host, *shown)).strip() for host in self.hosts}
        try:
            for host in self.hosts:
                await self.on(host, "sed", "-i", _SET_VERSION.format(_AGED_VERSION), _PACKAGES)
            yield
        finally:
            for host, version in versions.items():
                if (await self.on(host, *shown)).strip() == _AGED_VERSION:
                    await self.on(host, "sed", "-i", _SET_VERSION.format(version), _PACKAGES)

    @contextlib.contextmanager
    def inventory_without(self, host: str) -> Iterator[Path]:
        """Make the inventory in which a host is one of those to be removed; its variables stay what they are."""
        groups = {
            name: {
                "hosts": {
                    each: {} for each in group.get("hosts", []) if each != host or name not in _GROUPS_OF_MEMBERS
                },
                "children": {child: {} for child in group.get("children", [])},
            }
            for name, group in self.groups.items()
            if name not in ("_meta", "all", "ungrouped")
        }
        groups[_REMOVED_GROUP] = {"hosts": {host: {}}}
        if self.monitoring == (host,):
            groups["monitoring"] = {"hosts": {self.managers[-1]: {}}}
        beside = self.inventory if self.inventory.is_dir() else self.inventory.parent
        with tempfile.TemporaryDirectory() as folder:
            for entry in beside.iterdir():
                if entry.is_dir():
                    (Path(folder) / entry.name).symlink_to(entry.resolve())
            inventory = Path(folder) / "hosts.yml"
            inventory.write_text(json.dumps(groups))
            yield inventory

    async def trouble(self) -> str:
        """Say what is not as it should be with the nodes that are there, the replicas and the balancers; or nothing."""
        nodes = await self.nodes()
        for host in self.present:
            states = [
                (node["Status"], node["Availability"], node["ManagerStatus"])
                for node in nodes
                if node["Hostname"] == host
            ]
            roles = ("Leader", "Reachable") if host in self.managers else ("",)
            if states not in [[("Ready", "Active", role)] for role in roles]:
                return f"node {host} is {states}"
        wanted, running = await self.wanted(), await self.running(SERVING)
        if len(running) != wanted:
            return f"{len(running)} of {wanted} replicas run"
        waiting = [
            task["Node"] for task in await self.tasks(BALANCER) if not task["CurrentState"].startswith("Running")
        ]
        if waiting:
            return f"the balancer does not run on {', '.join(waiting)}"
        for host in self.present:
            strays = (await self.containers(host, SERVING)).keys() - running
            if strays:
                return f"{host} has replicas that the swarm does not want: {', '.join(sorted(strays))}"
        return ""

    async def until(self, trouble: Callable[[], Awaitable[str]], seconds: float) -> float:
        """Wait until there is no trouble and return how long that took. Raises LabError with the trouble that stays."""
        began = time.monotonic()
        while True:
            try:
                found = await trouble()
            except LabError as error:
                found = str(error)
            taken = time.monotonic() - began
            if not found:
                return taken
            if taken >= seconds:
                raise LabError(f"after {seconds:g} s, {found}")
            await asyncio.sleep(_POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def stopped(self, *hosts: str) -> AsyncIterator[None]:
        """Stop hosts, and start them again in the end."""
        addresses = {host: await self.address(host) for host in hosts}
        self.away.update(hosts)
        try:
            await asyncio.gather(*(self.engine("stop", "--time", str(_STOP_SECONDS), host) for host in hosts))
            yield
        finally:
            await self._start(addresses)

    async def _start(self, addresses: Mapping[str, str]) -> None:
        faults = []
        # A container gets the lowest address that is free: in this order each one gets its own again.
        for host in sorted(addresses, key=lambda host: ipaddress.ip_address(addresses[host])):
            try:
                await self.engine("start", host)
                self.away.discard(host)
                found = await self.address(host)
                if found != addresses[host]:
                    faults.append(f"{host} came back as {found}; the swarm knows it as {addresses[host]}")
            except LabError as error:
                faults.append(str(error))
        for host in addresses.keys() - self.away:
            try:
                await self.until(lambda host=host: self._boot_trouble(host), _BOOT_SECONDS)
            except LabError as error:
                faults.append(str(error))
        if faults:
            raise LabError("; ".join(faults))

    async def _boot_trouble(self, host: str) -> str:
        # It ends with 1 when the host is degraded, which is said and no fault here.
        state = (await self.on(host, "sh", "-c", "systemctl is-system-running || true")).strip()
        return "" if state in ("running", "degraded") else f"systemd of {host} is {state}"

    @contextlib.asynccontextmanager
    async def cut(self, host: str) -> AsyncIterator[None]:
        """Let no packet pass between a host and the other nodes; the engine that runs the hosts still reaches it."""
        others = await asyncio.gather(*(self.address(other) for other in self.hosts if other != host))
        self.away.add(host)
        try:
            await self.on(host, "sh", "-c", _CUT, "sh", *others)
            yield
        finally:
            await self.on(host, "sh", "-c", _HEAL)
            self.away.discard(host)


# FORWARD is what reaches containers by published ports.
_CUT = """set -eu
iptables -w -N TF2X-CUT
for address; do
  iptables -w -A TF2X-CUT -s "$address" -j DROP
  iptables -w -A TF2X-CUT -d "$address" -j DROP
done
for chain in INPUT OUTPUT FORWARD; do iptables -w -I "$chain" -j TF2X-CUT; done
"""
# Also after a cut that came only half the way.
_HEAL = """set -eu
iptables -w -n -L TF2X-CUT >/dev/null 2>&1 || exit 0
for chain in INPUT OUTPUT FORWARD; do
  if iptables -w -C "$chain" -j TF2X-CUT 2>/dev/null; then iptables -w -D "$chain" -j TF2X-CUT; fi
done
iptables -w -F TF2X-CUT
iptables -w -X TF2X-CUT
"""


async def cluster_of(inventory: Path, checkout: Path, programs: Path) -> Cluster:
    """Return the cluster of an inventory; `programs` is the folder of Ansible's. Raises LabError if it is not one."""
    command = [programs / "ansible-inventory", "-i", inventory, "--list"]
    listing = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, check=False, timeout=_INVENTORY_SECONDS
    )
    if listing.returncode != 0:
        raise LabError(f"the inventory {inventory} cannot be read: {listing.stderr.strip()}")
    groups = json.loads(listing.stdout)
    lab = Cluster(
        inventory=inventory,
        checkout=checkout,
        groups=groups,
        ansible_playbook=str(programs / "ansible-playbook"),
        managers=hosts_of(groups, "swarm_managers"),
        workers=hosts_of(groups, "swarm_workers"),
        serving=hosts_of(groups, "serving"),
        monitoring=hosts_of(groups, "monitoring"),
        gateways=dict.fromkeys(hosts_of(groups, "gateway"), ""),
    )
    if len(lab.managers) < 3 or not lab.workers or len(lab.gateways) < 2:
        raise LabError(
            f"{inventory} has {len(lab.managers)} managers, {len(lab.workers)} workers and {len(lab.gateways)}"
            " gateways; three managers, a worker and two gateways are the least"
        )
    for host in lab.gateways:
        lab.gateways[host] = f"http://{await lab.address(host)}:{_GATEWAY_PORT}"
    return lab


def hosts_of(groups: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the hosts of a group and of its children in a listing of ansible-inventory."""
    group = groups.get(name, {})
    found = [
        *group.get("hosts", []),
        *(host for child in group.get("children", []) for host in hosts_of(groups, child)),
    ]
    return tuple(dict.fromkeys(found))


def _rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in output.splitlines()]
