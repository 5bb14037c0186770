"""The swarm as the Docker API tells it, cut down to what somebody looks at."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from cluster_page.http_client import Unreachable, get

DOCKER_SECONDS = 10.0
STACK_LABEL = "com.docker.stack.namespace"
# A slot that waits before it starts again has a task that shall be ready; one of a job that has ended, complete.
CURRENT = ("ready", "running", "complete")
REPLACED = ("shutdown",)
# Tasks that ended as they should are not told of.
FAILED = ("failed", "rejected", "orphaned")
# TF Serving cannot list its models, but its health check asks for each of them.
_MODEL_IN_HEALTH_CHECK = re.compile(r"GET /v1/models/([^\s/:]+)[\s?]")
_NEVER = "0001"

Item = TypeVar("Item")


class SwarmError(Exception):
    """The swarm could not be read; the message says why."""


@dataclass(frozen=True)
class Node:
    """A host of the swarm."""

    id: str
    name: str
    role: str
    leader: bool
    reachability: str
    state: str
    availability: str
    message: str
    address: str
    engine: str
    cpus: float
    memory: int


@dataclass(frozen=True)
class Service:
    """A service; `wanted` tasks, or None where every node that fits has one."""

    id: str
    name: str
    stack: str
    image: str
    wanted: int | None
    update: str
    update_message: str

    @property
    def short_name(self) -> str:
        """The name that the stack's file has for it."""
        return self.name.removeprefix(f"{self.stack}_") if self.stack else self.name


@dataclass(frozen=True)
class Task:
    """A task that is meant to run. `models`: those that its health check asks TF Serving for."""

    id: str
    service: str
    node: str
    slot: int | None
    state: str
    since: int
    image: str
    error: str
    address: str
    models: tuple[str, ...]

    @property
    def place(self) -> tuple[str, int | str]:
        """What the next task that replaces this one has in common with it."""
        return self.service, self.slot or self.node


@dataclass(frozen=True)
class Failures:
    """What happened to the tasks that a task replaces, as far as the swarm remembers."""

    count: int
    at: int
    error: str


class Swarm:
    """The newest state that was read. `network`: the one on which tasks are reached."""

    def __init__(self, host: str, port: int, network: str) -> None:
        self._address = (host, port)
        self._nodes: _List[Node] = _List("/nodes", _node)
        self._services: _List[Service] = _List("/services", _service)
        self._tasks: _List[Task] = _List(_tasks_path(CURRENT), lambda found: _task(found, network))
        self._replaced: _List[Task] = _List(_tasks_path(REPLACED), lambda found: _task(found, network))
        self._failures: dict[tuple[str, int | str], Failures] = {}
        self._failures_of: set[str] = set()
        self._failures_settled = False

    async def read(self, *, failures: bool) -> None:
        """Read what is there now; the failures only if they are wanted. Raises SwarmError, and then keeps the old."""
        await asyncio.gather(*(one.read(*self._address) for one in (self._nodes, self._services, self._tasks)))
        if failures:
            await self._read_failures()

    @property
    def nodes(self) -> dict[str, Node]:
        return self._nodes.items

    @property
    def services(self) -> dict[str, Service]:
        return self._services.items

    @property
    def tasks(self) -> dict[str, Task]:
        return self._tasks.items

    def failures_of(self, task: Task) -> Failures | None:
        return self._failures.get(task.place)

    async def _read_failures(self) -> None:
        # A task fails before another one takes its place, so they are as they were while no task is new. Read once more
        # when that has become so: what the swarm says of the old one may come a little later.
        current = set(self.tasks)
        settled = current == self._failures_of
        if settled and self._failures_settled:
            return
        await self._replaced.read(*self._address)
        self._failures = _failures(self._replaced.items.values())
        self._failures_of, self._failures_settled = current, settled


class _List(Generic[Item]):
    """A list of the Docker API by id. Its text becomes objects only where it differs from the last one."""

    def __init__(self, path: str, convert: Callable[[dict[str, Any]], Item]) -> None:
        self.items: dict[str, Item] = {}
        self._path = path
        self._convert = convert
        self._text = b""

    async def read(self, host: str, port: int) -> None:
        try:
            status, text = await get(host, port, self._path, DOCKER_SECONDS)
        except Unreachable as error:
            raise SwarmError(f"the Docker API does not answer: {error}") from error
        if status != 200:
            raise SwarmError(f"the Docker API refused {self._path.partition('?')[0]}: HTTP {status}: {_message(text)}")
        if text == self._text:
            return
        try:
            self.items = {found["ID"]: self._convert(found) for found in json.loads(text)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SwarmError(f"{self._path.partition('?')[0]} is not the Docker API's: {error!r}") from error
        self._text = text


def _tasks_path(desired: tuple[str, ...]) -> str:
    return "/tasks?filters=" + quote(json.dumps({"desired-state": desired}, separators=(",", ":")))


def _node(found: dict[str, Any]) -> Node:
    # A node that has never been up has no description yet.
    spec, description, status = found["Spec"], found.get("Description") or {}, found["Status"]
    manager, resources = found.get("ManagerStatus") or {}, description.get("Resources") or {}
    return Node(
        id=found["ID"],
        name=description.get("Hostname") or found["ID"],
        role=spec["Role"],
        leader=manager.get("Leader", False),
        reachability=manager.get("Reachability", ""),
        state=status["State"],
        availability=spec["Availability"],
        message=status.get("Message", ""),
        address=status.get("Addr", ""),
        engine=(description.get("Engine") or {}).get("EngineVersion", ""),
        cpus=resources.get("NanoCPUs", 0) / 1e9,
        memory=resources.get("MemoryBytes", 0),
    )


def _service(found: dict[str, Any]) -> Service:
    spec = found["Spec"]
    mode, update = spec.get("Mode") or {}, found.get("UpdateStatus") or {}
    wanted = (mode.get("Replicated") or {}).get("Replicas")
    if "ReplicatedJob" in mode:
        wanted = mode["ReplicatedJob"].get("TotalCompletions")
    return Service(
        id=found["ID"],
        name=spec["Name"],
        stack=(spec.get("Labels") or {}).get(STACK_LABEL, ""),
        image=_image(spec["TaskTemplate"]),
        wanted=wanted,
        update=update.get("State", ""),
        update_message=update.get("Message", ""),
    )


def _task(found: dict[str, Any], network: str) -> Task:
    spec, status = found["Spec"], found["Status"]
    container = spec.get("ContainerSpec") or {}
    health_check = " ".join((container.get("Healthcheck") or {}).get("Test") or ())
    failed = status["State"] in FAILED
    return Task(
        id=found["ID"],
        service=found["ServiceID"],
        node=found.get("NodeID", ""),
        slot=found.get("Slot") or None,
        state=status["State"],
        since=_seconds(status.get("Timestamp") or _NEVER),
        image=_image(spec),
        error=status.get("Err") or (status.get("Message", "") if failed else ""),
        address=_address(found, network),
        models=tuple(dict.fromkeys(_MODEL_IN_HEALTH_CHECK.findall(health_check))),
    )


def _failures(replaced: Iterable[Task]) -> dict[tuple[str, int | str], Failures]:
    found: dict[tuple[str, int | str], Failures] = {}
    for task in replaced:
        if task.state in FAILED:
            known = found.get(task.place, Failures(0, -1, ""))
            at, error = max((known.at, known.error), (task.since, task.error))
            found[task.place] = Failures(known.count + 1, at, error)
    return found


def _image(spec: dict[str, Any]) -> str:
    return (spec.get("ContainerSpec") or {}).get("Image", "").partition("@")[0]


def _address(found: dict[str, Any], network: str) -> str:
    for attachment in found.get("NetworksAttachments") or ():
        if attachment["Network"]["Spec"]["Name"] == network and attachment.get("Addresses"):
            return attachment["Addresses"][0].partition("/")[0]
    return ""


def _seconds(timestamp: str) -> int:
    """Return a time of the Docker API, which is in UTC, in seconds since 1970; 0 for never."""
    if timestamp.startswith(_NEVER):
        return 0
    return int(datetime.fromisoformat(timestamp[:19] + "+00:00").timestamp())


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200].decode(errors="replace").strip()
