"""A Docker engine's API on a socket, as much of it as the swarm modules ask, and the JSON it answers with.

The shapes are those of API 1.41 (Docker 20.10).
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

IMAGE = "tf2x/tf_serving:abc123"
STACK = "PROD-STACK"


def stamp(age: float) -> str:
    """The engine's time stamp of `age` seconds ago."""
    moment = time.time() - age
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f"{moment % 1:.9f}Z"[1:]


def node(
    name: str,
    state: str = "ready",
    *,
    manager: str | None = None,
    role: str = "manager",
    trust_root: str = "root-1",
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A node; `manager` is "leader", or how the leader reaches it, None where it does not manage."""
    content = {
        "ID": f"id-{name}",
        "Spec": {"Labels": labels or {}, "Role": role, "Availability": "active"},
        "Description": {
            "Hostname": name,
            "Engine": {"EngineVersion": "20.10.24"},
            "TLSInfo": {"TrustRoot": trust_root},
        },
        "Status": {"State": state, "Addr": "172.17.0.2"},
    }
    if manager:
        leads = manager == "leader"
        content["ManagerStatus"] = {
            **({"Leader": True} if leads else {}),
            "Reachability": "reachable" if leads else manager,
            "Addr": "172.17.0.2:2377",
        }
    return content


def swarm_info(*, autolock: bool = False, rotating: bool = False, trust_root: str = "root-1") -> dict[str, Any]:
    return {
        "ID": "swarm-1",
        "Spec": {"Name": "default", "EncryptionConfig": {"AutoLockManagers": autolock}},
        "TLSInfo": {"TrustRoot": trust_root},
        "RootRotationInProgress": rotating,
        "JoinTokens": {"Worker": "SWMTKN-1-worker", "Manager": "SWMTKN-1-manager"},
    }


def service(
    name: str = "tf_serving",
    *,
    image: str = IMAGE,
    replicas: int | None = 2,
    update: str | None = None,
    message: str = "",
    force: int = 0,
) -> dict[str, Any]:
    """A service of the stack; global when `replicas` is None."""
    full_name = f"{STACK}_{name}"
    mode: dict[str, Any] = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    content = {
        "ID": f"id-{name}",
        "Version": {"Index": 12},
        "CreatedAt": stamp(600),
        "UpdatedAt": stamp(60),
        "Spec": {
            "Name": full_name,
            "Labels": {"com.docker.stack.image": image, "com.docker.stack.namespace": STACK},
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": image,
                    "Labels": {"com.docker.stack.namespace": STACK},
                    "Args": ["--port=8500"],
                    "Privileges": {"CredentialSpec": None, "SELinuxContext": None},
                    "Isolation": "default",
                },
                "Resources": {},
                "Placement": {"Constraints": ["node.role == manager"]},
                "Networks": [{"Target": "net1", "Aliases": [name]}],
                "ForceUpdate": force,
                "Runtime": "container",
            },
            "Mode": mode,
            "EndpointSpec": {"Mode": "dnsrr"},
        },
        "Endpoint": {"Spec": {"Mode": "dnsrr"}},
    }
    if update:
        content["UpdateStatus"] = {"State": update, "StartedAt": stamp(50), "Message": message}
    return content


def task(
    owner: dict[str, Any],
    slot: int | None,
    *,
    on: str = "node-1",
    state: str = "running",
    desired: str = "running",
    error: str = "",
    age: float = 60,
) -> dict[str, Any]:
    """A task made from the template that `owner` has now; of a global service when `slot` is None."""
    template = copy.deepcopy(owner["Spec"]["TaskTemplate"])
    # The engine tells the runtime in a service's template, but not in its tasks.
    template.pop("Runtime")
    status: dict[str, Any] = {"Timestamp": stamp(age), "State": state, "Message": state, "PortStatus": {}}
    if error:
        status["Err"] = error
    identity = f"{owner['ID']}-{slot}-{on}-{state}-{age}-{template['ForceUpdate']}"
    if state not in ("pending", "rejected"):
        status["ContainerStatus"] = {"ContainerID": f"container-{identity}", "PID": 1, "ExitCode": 0}
    content = {
        "ID": identity,
        "Version": {"Index": 20},
        "Labels": {},
        "Spec": template,
        "ServiceID": owner["ID"],
        "NodeID": f"id-{on}" if on else "",
        "Status": status,
        "DesiredState": desired,
    }
    return content if slot is None else {**content, "Slot": slot}


@dataclass
class Swarm:
    """What the swarm looks like at one time."""

    services: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    nodes: list[dict[str, Any]] = field(default_factory=lambda: [node("node-1"), node("node-2")])
    info: dict[str, Any] = field(default_factory=swarm_info)


@dataclass
class Docker:
    """An engine. `looks` are the swarm's states, one a question for its services, the last one for ever.

    `failures` are (status, message) that the next questions get instead, None for an answer.
    """

    looks: list[Swarm] = field(default_factory=list)
    containers: list[dict[str, Any]] = field(default_factory=list)
    bridge: dict[str, Any] | None = None
    failures: list[tuple[int, str] | None] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, filters: dict[str, list[str]]) -> tuple[int, Any]:
        self.asked.append(path)
        if path == "/version":
            return 200, {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
        path = path.removeprefix("/v1.41")
        failure = self.failures.pop(0) if self.failures else None
        if failure:
            return failure[0], {"message": failure[1]}
        return 200, self._content(path, filters)

    def _content(self, path: str, filters: dict[str, list[str]]) -> Any:
        if path == "/services" and len(self.looks) > 1 and self.asked.count("/v1.41/services") > 1:
            self.looks.pop(0)
        found: dict[str, Any] = {
            "/services": lambda: _labelled(self.looks[0].services, filters, lambda one: one["Spec"]["Labels"]),
            "/tasks": lambda: _labelled(
                self.looks[0].tasks, filters, lambda one: one["Spec"]["ContainerSpec"]["Labels"]
            ),
            "/nodes": lambda: self.looks[0].nodes,
            "/swarm": lambda: self.looks[0].info,
            "/containers/json": lambda: _labelled(
                [{"Id": one["Id"], "Labels": one["Config"]["Labels"]} for one in self.containers],
                filters,
                lambda one: one["Labels"],
            ),
            "/networks": lambda: [self.bridge] if self.bridge else [],
            "/networks/docker_gwbridge": lambda: self.bridge,
            **{f"/containers/{one['Id']}/json": lambda one=one: one for one in self.containers},
        }
        return found[path]()


def _labelled(items: list[dict[str, Any]], filters: dict[str, list[str]], labels: Any) -> list[dict[str, Any]]:
    def fits(item: dict[str, Any]) -> bool:
        pairs = (wanted.partition("=") for wanted in filters.get("label", []))
        return all(key in labels(item) and (not equals or labels(item)[key] == value) for key, equals, value in pairs)

    return [item for item in items if fits(item)]


@contextmanager
def docker_engine(docker: Docker, folder: Path) -> Iterator[str]:
    """Serve `docker`; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            filters = json.loads(parse_qs(url.query).get("filters", ["{}"])[0])
            status, content = docker.answer(unquote(url.path), filters)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: Any) -> None:
            pass

    path = folder / "docker.sock"
    server = ThreadingUnixStreamServer(str(path), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"unix://{path}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
