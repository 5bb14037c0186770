"""A swarm that is not there: the Docker API's lists, and TF Serving replicas on addresses of their own, over HTTP."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NETWORK = "tf2x"
# About what the engine tells of a task beside what the page needs.
FILLING = {f"com.example.label-{number}": "x" * 60 for number in range(18)}


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return as soon as the condition holds; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.02)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _serve(address: str, port: int, answer: Callable[[str], tuple[int, bytes]]) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            # The engine sends long lists in chunks.
            chunked = len(body) > 2048
            self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))))
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = _Server((address, port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


class Replica:
    """TF Serving's REST interface at an address. `models`: states by name and version; `labels`: versions by both."""

    def __init__(self, address: str, port: int, models: dict[str, dict[int, str]]) -> None:
        self.models = models
        self.labels: dict[str, dict[str, int]] = {name: {"stable": min(states)} for name, states in models.items()}
        self.asked: list[str] = []
        self._server = _serve(address, port, self._answer)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        match = re.fullmatch(r"/v1/models/([^/]+)(?:/labels/([^/]+)/metadata)?", path)
        name, label = match.groups() if match else ("", None)
        if name not in self.models:
            return 404, json.dumps({"error": f"Servable not found for request: Latest({name})"}).encode()
        if label is None:
            return 200, json.dumps({"model_version_status": [*self._states(name)]}).encode()
        version = self.labels[name].get(label)
        if version is None:
            return 400, json.dumps({"error": f"Unrecognized servable version label: {label}"}).encode()
        return 200, json.dumps({"model_spec": {"name": name, "version": str(version)}, "metadata": {}}).encode()

    def _states(self, name: str):
        for version, text in self.models[name].items():
            state, _colon, error = text.partition(": ")
            status = {"error_code": "UNKNOWN" if error else "OK", "error_message": error}
            yield {"version": str(version), "state": state, "status": status}


class FakeSwarm:
    """Nodes, services and tasks as the Docker API has them, at `port`; replicas answer at `serving_port`."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.replicas: dict[str, Replica] = {}
        self.asked: list[str] = []
        # What every question is answered with, if anything.
        self.only_answer: tuple[int, bytes] | None = None
        self._numbers = itertools.count(1)
        self._server = _serve("127.0.0.1", 0, self._answer)
        self.port: int = self._server.server_address[1]
        self.serving_port = self.port

    def stop(self) -> None:
        for replica in self.replicas.values():
            replica.stop()
        self._server.shutdown()
        self._server.server_close()

    # ---- what happens in it

    def node(self, name: str, role: str = "worker", leader: bool = False) -> str:
        number = next(self._numbers)
        node: dict[str, Any] = {
            "ID": f"node{number:05}",
            "Spec": {"Role": role, "Availability": "active", "Labels": {}},
            "Description": {
                "Hostname": name,
                "Resources": {"NanoCPUs": 4_000_000_000, "MemoryBytes": 8 << 30},
                "Engine": {"EngineVersion": "20.10.24"},
            },
            "Status": {"State": "ready", "Addr": f"10.9.{number // 250}.{number % 250}"},
        }
        if role == "manager":
            node["ManagerStatus"] = {"Leader": leader, "Reachability": "reachable"}
        self.nodes[node["ID"]] = node
        return node["ID"]

    def service(
        self,
        name: str,
        *,
        stack: str = "PROD-STACK",
        image: str = "tf2x/thing:1",
        replicas: int | None = 1,
        models: tuple[str, ...] = (),
    ) -> str:
        checks = " && ".join(f"printf 'GET /v1/models/{model} HTTP/1.0\\r\\n\\r\\n' >&3" for model in models)
        container: dict[str, Any] = {"Image": f"{image}@sha256:{'0' * 64}", "Labels": FILLING}
        container["Env"] = ["PASSWORD=not-for-everybody"]
        if models:
            container["Healthcheck"] = {"Test": ["CMD", "bash", "-c", checks]}
        identifier = f"service{next(self._numbers):05}"
        self.services[identifier] = {
            "ID": identifier,
            "Spec": {
                "Name": f"{stack}_{name}",
                "Labels": {"com.docker.stack.namespace": stack},
                "TaskTemplate": {"ContainerSpec": container},
                "Mode": {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}},
            },
        }
        return identifier

    def task(
        self, service: str, node: str = "", *, slot: int | None = None, state: str = "running", network: str = NETWORK
    ) -> str:
        number = next(self._numbers)
        identifier = f"task{number:05}"
        self.tasks[identifier] = {
            "ID": identifier,
            "ServiceID": service,
            "NodeID": node,
            **({} if slot is None else {"Slot": slot}),
            "Spec": self.services[service]["Spec"]["TaskTemplate"],
            "Status": {"State": state, "Timestamp": _now(), "Message": "started"},
            "DesiredState": "running",
            "NetworksAttachments": [
                {
                    "Network": {"Spec": {"Name": network}},
                    "Addresses": [f"127.1.{number // 250}.{number % 250 + 1}/24"],
                }
            ],
        }
        return identifier

    def replica(self, service: str, node: str, slot: int, models: dict[str, dict[int, str]]) -> Replica:
        """Run a task that serves models."""
        task = self.task(service, node, slot=slot)
        address = self.address(task)
        self.replicas[task] = Replica(address, self.serving_port, models)
        return self.replicas[task]

    def address(self, task: str) -> str:
        return self.tasks[task]["NetworksAttachments"][0]["Addresses"][0].partition("/")[0]

    def set_state(self, task: str, state: str, error: str = "") -> None:
        self.tasks[task]["Status"] = {"State": state, "Timestamp": _now(), "Message": state, "Err": error}

    def kill(self, task: str) -> str:
        """End a task with an error and start another one in its place, as swarm does."""
        self.set_state(task, "failed", "task: non-zero exit (137)")
        old = self.tasks[task]
        old["DesiredState"] = "shutdown"
        return self.task(old["ServiceID"], old["NodeID"], slot=old.get("Slot"))

    def refuse(self, message: str | None) -> None:
        """Answer nothing but that something is wrong, until `message` is None."""
        self.only_answer = None if message is None else (503, json.dumps({"message": message}).encode())

    def reads(self, path: str = "/nodes") -> int:
        return sum(asked.partition("?")[0] == path for asked in self.asked)

    def _answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.only_answer:
            return self.only_answer
        found = urlsplit(path)
        if found.path == "/tasks":
            wanted = json.loads(parse_qs(found.query)["filters"][0])["desired-state"]
            return 200, json.dumps([one for one in [*self.tasks.values()] if one["DesiredState"] in wanted]).encode()
        lists = {"/nodes": self.nodes, "/services": self.services}
        return (200, json.dumps([*lists[found.path].values()]).encode()) if found.path in lists else (403, b"")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime())


def small_swarm() -> FakeSwarm:
    """Three nodes, two replicas of TF Serving with model `pets` version 1, a balancer on every node."""
    swarm = FakeSwarm()
    nodes = [swarm.node("one", "manager", leader=True), swarm.node("two"), swarm.node("three")]
    serving = swarm.service("tf_serving", image="tf2x/tf_serving_compat:1", replicas=2, models=("pets",))
    for slot, node in enumerate(nodes[:2], 1):
        swarm.replica(serving, node, slot, {"pets": {1: "AVAILABLE"}})
    balancer = swarm.service("balancer", image="tf2x/haproxy:1", replicas=None)
    for node in nodes:
        swarm.task(balancer, node)
    return swarm


def large_swarm(nodes: int = 100, tasks: int = 1000, services: int = 10) -> FakeSwarm:
    swarm = FakeSwarm()
    roles = ["manager"] * 3 + ["worker"] * (nodes - 3)
    hosts = [swarm.node(f"host-{number}", role, number == 0) for number, role in enumerate(roles)]
    kinds = [swarm.service(f"service-{number}", replicas=tasks // services) for number in range(services)]
    for number in range(tasks):
        swarm.task(kinds[number % services], hosts[number % nodes], slot=number // services + 1)
    return swarm
