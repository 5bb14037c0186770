"""`swarm_survey` against a swarm that is whole, changes, loses managers and has none left to lead it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_stub import Docker, Swarm, docker_engine, node, service, swarm_info, task

MODULE = "swarm_survey"
NO_LEADER = (500, "rpc error: code = Unknown desc = The swarm does not have a leader.")


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def address(docker: Docker, tmp_path: Path) -> Iterator[str]:
    with docker_engine(docker, tmp_path) as host:
        yield host


@pytest.fixture
def survey(run_module: Any, docker: Docker, address: str) -> Any:
    def run(*looks: Swarm, **options: Any) -> dict[str, Any]:
        docker.looks = list(looks)
        return run_module(MODULE, **{"docker_host": address, "timeout": 0.5, "poll_interval": 0.05, **options})

    return run


def managers(*reachabilities: str) -> list[dict[str, Any]]:
    return [node(f"m{number}", manager=how) for number, how in enumerate(reachabilities, start=1)]


def swarm(nodes: list[dict[str, Any]], tasks: Any = (), **info: Any) -> Swarm:
    return Swarm([service()], list(tasks), nodes, swarm_info(**info))


def test_returns_nodes_with_what_they_do(survey: Any) -> None:
    worker = node("w1", role="worker", labels={"tf2x.serving": "true"})
    ended = task(service(), 1, on="w1", state="shutdown", desired="shutdown")
    tasks = [task(service(), 1, on="w1"), task(service(), 2, on="w1", state="starting"), ended]
    result = survey(swarm([*managers("leader", "reachable", "reachable"), worker], tasks))

    assert result["changed"] is False
    assert result["cluster_id"] == "swarm-1"
    assert result["quorum"] == {"managers": 3, "reachable": 3, "needed": 2, "spare": 1}
    assert result["stacks"] == ["PROD-STACK"]
    assert [one["hostname"] for one in result["nodes"] if one["leader"]] == ["m1"]
    assert result["nodes"][-1] == {
        "id": "id-w1",
        "hostname": "w1",
        "address": "172.17.0.2",
        "role": "worker",
        "manages": False,
        "reachable": False,
        "leader": False,
        "state": "ready",
        "availability": "active",
        "tasks": 2,
        "labels": {"tf2x.serving": "true"},
        "engine": "20.10.24",
        "certificate_current": True,
    }


def test_never_returns_a_token(survey: Any) -> None:
    assert "SWMTKN" not in json.dumps(survey(swarm(managers("leader"))))


@pytest.mark.parametrize(
    ("reachabilities", "spare"),
    [
        (["leader"], 0),
        (["leader", "reachable"], 0),
        (["leader", "reachable", "unreachable"], 0),
        (["leader", "reachable", "reachable", "reachable"], 1),
        (["leader", "reachable", "reachable", "reachable", "reachable"], 2),
    ],
)
def test_how_many_managers_may_fail(survey: Any, reachabilities: list[str], spare: int) -> None:
    assert survey(swarm(managers(*reachabilities)))["quorum"]["spare"] == spare


def test_a_manager_that_waits_for_its_promotion_does_not_count(survey: Any) -> None:
    result = survey(swarm([*managers("leader"), node("m2")]))
    assert result["quorum"]["managers"] == 1


def test_waits_until_a_node_is_idle(survey: Any, docker: Docker) -> None:
    busy = swarm(managers("leader"), [task(service(), 1, on="m1")])
    idle = swarm(managers("leader"), [task(service(), 1, on="m1", state="shutdown", desired="shutdown")])
    assert survey(busy, busy, idle, expect=[{"node": "id-m1", "idle": True}], timeout=10)["nodes"][0]["tasks"] == 0
    assert docker.asked.count("/v1.41/services") == 3


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"node": "id-m1", "idle": True}, "m1 (node id-m1): 1 tasks run on it, none would be right"),
        ({"node": "id-m1", "state": "down"}, "m1 (node id-m1): its state is ready, down would be right"),
        ({"node": "id-m1", "role": "worker"}, "it is a manager, a worker would be right"),
        ({"node": "id-m2", "role": "manager"}, "it is a manager that cannot be reached"),
        ({"node": "id-w1", "role": "manager", "name": "web"}, "web (node id-w1): it is a worker, a manager that"),
        ({"node": "id-x"}, "node id-x: the swarm does not know it"),
    ],
)
def test_says_what_is_not_as_expected(survey: Any, expected: dict[str, Any], words: str) -> None:
    nodes = [*managers("leader", "unreachable"), node("w1", role="worker")]
    look = swarm(nodes, [task(service(), 1, on="m1")])
    result = survey(look, expect=[expected])

    assert result["failed"]
    assert words in result["msg"]
    assert "(waited 0.5 s)" in result["msg"]
    assert len(result["nodes"]) == 3
    assert "failed" not in survey(look, expect=[expected], check=True)


def test_waits_until_every_node_has_a_new_certificate(survey: Any) -> None:
    nodes = [node("m1", manager="leader", trust_root="root-2"), node("w1", role="worker")]
    rotating = swarm(nodes, rotating=True, trust_root="root-2")
    result = survey(rotating, expect_certificates=True)
    assert "the rotation of the CA has not ended" in result["msg"]
    assert "w1 (node id-w1) is ready and has a certificate of another CA" in result["msg"]

    done = [node("m1", manager="leader", trust_root="root-2"), node("w1", role="worker", trust_root="root-2")]
    result = survey(rotating, swarm(done, trust_root="root-2"), expect_certificates=True, timeout=10)
    assert result["ca_rotating"] is False


def test_autolock(survey: Any) -> None:
    assert survey(swarm(managers("leader"), autolock=True))["autolock"] is True


def test_waits_for_an_election(survey: Any, docker: Docker) -> None:
    docker.failures = [NO_LEADER, NO_LEADER]
    assert survey(swarm(managers("leader")), timeout=10)["quorum"]["managers"] == 1


def test_a_lost_quorum(survey: Any, docker: Docker) -> None:
    docker.failures = [NO_LEADER] * 100
    result = survey(swarm(managers("leader")))
    assert result["failed"]
    assert "the swarm has no leader" in result["msg"]


def test_a_host_that_does_not_manage(survey: Any, docker: Docker) -> None:
    docker.failures = [(503, "This node is not a swarm manager.")]
    assert "not a swarm manager" in survey(swarm(managers("leader")), timeout=60)["msg"]


def test_no_engine(run_module: Any, tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/none.sock"
    assert "none.sock does not answer" in run_module(MODULE, docker_host=host)["msg"]
    fresh = run_module(MODULE, docker_host=host, check=True)
    assert fresh["nodes"] == []
    assert "does not answer" in str(fresh["warnings"])
