"""`swarm_local_task_info` against an engine with containers of services and others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_stub import Docker, docker_engine

MODULE = "swarm_local_task_info"


def container(number: int, service: str | None, place: str = "1", health: str | None = None) -> dict[str, Any]:
    labels = {"com.example": "x"}
    if service:
        labels |= {
            "com.docker.swarm.service.name": service,
            "com.docker.swarm.task.id": f"task{number}",
            "com.docker.swarm.task.name": f"{service}.{place}.task{number}",
        }
    state: dict[str, Any] = {"Status": "running", "StartedAt": "2026-01-02T03:04:05.678901234Z"}
    if health:
        state["Health"] = {"Status": health, "FailingStreak": 0, "Log": []}
    return {
        "Id": f"c{number}",
        "Name": f"/container{number}",
        "State": state,
        "Image": "sha256:00",
        "Config": {"Image": "tf2x/tf_serving:abc123", "Labels": labels},
    }


@pytest.fixture
def docker() -> Docker:
    bridge = {
        "Name": "docker_gwbridge",
        "Containers": {
            "c1": {"Name": "gateway_1", "IPv4Address": "172.18.0.3/16"},
            "c3": {"Name": "gateway_3", "IPv4Address": ""},
            "ingress-sbox": {"Name": "gateway_ingress-sbox", "IPv4Address": "172.18.0.2/16"},
        },
    }
    containers = [
        container(2, "PROD-STACK_tf_serving", "10", "starting"),
        container(1, "PROD-STACK_tf_serving", "2", "healthy"),
        container(3, "PROD-STACK_balancer", "k2m0c8w1x5tq"),
        container(4, None),
    ]
    return Docker(containers=containers, bridge=bridge)


@pytest.fixture
def address(docker: Docker, tmp_path: Path) -> Iterator[str]:
    with docker_engine(docker, tmp_path) as host:
        yield host


def test_lists_tasks_with_their_addresses(run_module: Any, address: str) -> None:
    result = run_module(MODULE, docker_host=address)

    assert result["changed"] is False
    assert [(one["service"], one["slot"], one["address"], one["health"]) for one in result["tasks"]] == [
        ("PROD-STACK_balancer", None, None, None),
        ("PROD-STACK_tf_serving", 2, "172.18.0.3", "healthy"),
        ("PROD-STACK_tf_serving", 10, None, "starting"),
    ]
    assert result["tasks"][1] == {
        "service": "PROD-STACK_tf_serving",
        "slot": 2,
        "task_name": "PROD-STACK_tf_serving.2.task1",
        "task_id": "task1",
        "container_id": "c1",
        "image": "tf2x/tf_serving:abc123",
        "state": "running",
        "health": "healthy",
        "address": "172.18.0.3",
        "started_at": "2026-01-02T03:04:05.678901234Z",
    }


def test_lists_one_service(run_module: Any, address: str) -> None:
    result = run_module(MODULE, docker_host=address, service="PROD-STACK_balancer", check=True)
    assert [one["container_id"] for one in result["tasks"]] == ["c3"]
    assert run_module(MODULE, docker_host=address, service="PROD-STACK")["tasks"] == []


def test_a_node_without_the_bridge(run_module: Any, docker: Docker, address: str) -> None:
    docker.bridge = None
    assert {one["address"] for one in run_module(MODULE, docker_host=address)["tasks"]} == {None}


def test_a_container_that_ends_meanwhile_is_left_out(run_module: Any, docker: Docker, address: str) -> None:
    docker.failures = [None, None, None, (404, "No such container: c2")]
    tasks = run_module(MODULE, docker_host=address)["tasks"]
    assert [one["container_id"] for one in tasks] == ["c3", "c1"]


def test_no_engine(run_module: Any, tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/none.sock"
    assert "none.sock does not answer" in run_module(MODULE, docker_host=host)["msg"]
    fresh = run_module(MODULE, docker_host=host, check=True)
    assert fresh["tasks"] == []
    assert "does not answer" in str(fresh["warnings"])
