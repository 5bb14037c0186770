"""`swarm_stack_converged` against an engine whose swarm converges, is late, fails and rolls back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_stub import IMAGE, STACK, Docker, Swarm, docker_engine, node, service, task

MODULE = "swarm_stack_converged"
NEW = "tf2x/tf_serving:def456"


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def address(docker: Docker, tmp_path: Path) -> Iterator[str]:
    with docker_engine(docker, tmp_path) as host:
        yield host


@pytest.fixture
def converge(run_module: Any, docker: Docker, address: str) -> Any:
    """Run the module on `looks`; a short timeout keeps the hopeless cases short."""

    def run(*looks: Swarm, **options: Any) -> dict[str, Any]:
        docker.looks = list(looks)
        defaults = {"stack": STACK, "docker_host": address, "timeout": 1, "poll_interval": 0.05}
        return run_module(MODULE, **{**defaults, **options})

    return run


def whole(owner: dict[str, Any], age: float = 60) -> Swarm:
    return Swarm([owner], [task(owner, 1, age=age), task(owner, 2, on="node-2", age=age)])


@pytest.mark.parametrize("update", [None, "completed"])
def test_a_stack_that_has_converged(converge: Any, docker: Docker, update: str | None) -> None:
    result = converge(whole(service(update=update)))

    assert result["changed"] is False
    assert result["converged"] is True
    assert docker.asked.count("/v1.41/services") == 1
    assert result["services"] == [
        {
            "name": "PROD-STACK_tf_serving",
            "image": IMAGE,
            "mode": "replicated",
            "wanted": 2,
            "running": 2,
            "update_state": update,
            "errors": [],
        }
    ]
    assert [(one["slot"], one["node"], one["state"]) for one in result["tasks"]] == [
        (1, "node-1", "running"),
        (2, "node-2", "running"),
    ]
    assert all(one["container_id"] and one["image"] == IMAGE and one["error"] is None for one in result["tasks"])


def test_waits_for_an_update_to_complete(converge: Any, docker: Docker) -> None:
    old, updating, done = service(), service(image=NEW, update="updating"), service(image=NEW, update="completed")
    looks = [
        Swarm([updating], [task(old, 1), task(old, 2)]),
        Swarm([updating], [task(updating, 1, state="starting"), task(old, 1, desired="shutdown"), task(old, 2)]),
        Swarm([updating], [task(updating, 1), task(updating, 2)]),
        Swarm([done], [task(updating, 1), task(updating, 2)]),
    ]
    result = converge(*looks, timeout=10)

    assert result["converged"] is True
    assert result["services"][0]["image"] == NEW
    assert docker.asked.count("/v1.41/services") == 4


@pytest.mark.parametrize(
    "newer", [{"image": NEW}, {"force": 1}], ids=["another image", "the same image, updated by force"]
)
def test_an_update_that_has_not_begun_is_not_taken_for_done(converge: Any, newer: dict[str, Any]) -> None:
    old, new = service(), service(**newer)
    result = converge(Swarm([new], [task(old, 1), task(old, 2)]))

    assert result["failed"]
    assert "2 tasks run an older specification" in result["msg"]
    assert converge(Swarm([new], [task(old, 1), task(old, 2)]), whole(new), timeout=10)["converged"] is True


def test_another_placement_does_not_make_a_task_old(converge: Any) -> None:
    swarm = whole(service())
    swarm.services[0]["Spec"]["TaskTemplate"]["Placement"] = {"Constraints": []}
    assert converge(swarm)["converged"] is True


def test_old_tasks_must_have_ended(converge: Any) -> None:
    owner = service(replicas=1)
    swarm = Swarm([owner], [task(owner, 1), task(owner, 2, desired="shutdown")])
    assert "1 older tasks have not ended" in converge(swarm)["msg"]
    ended = Swarm([owner], [task(owner, 1), task(owner, 2, desired="shutdown", state="shutdown")])
    assert converge(ended)["converged"] is True


def test_tasks_of_a_lost_node_do_not_count(converge: Any) -> None:
    owner = service()
    nodes = [node("node-1"), node("node-2", "down")]
    lost = task(owner, 2, on="node-2", desired="shutdown")
    replaced = Swarm([owner], [task(owner, 1), task(owner, 2), lost], nodes)
    assert converge(replaced)["converged"] is True
    assert "1 tasks run, 2 would be right" in converge(Swarm([owner], [task(owner, 1), lost], nodes))["msg"]


def test_a_paused_update_fails_at_once(converge: Any) -> None:
    owner = service(update="paused", message="update paused due to failure or early termination of task x1")
    failed = task(owner, 1, state="failed", desired="shutdown", error="task: non-zero exit (1)")
    result = converge(Swarm([owner], [task(owner, 2), failed]), timeout=60)

    assert result["failed"]
    assert result["seconds"] < 30
    assert "its update is paused (update paused due to failure" in result["msg"]
    assert "node-1: task: non-zero exit (1)" in result["msg"]
    assert result["converged"] is False
    assert result["services"][0]["update_state"] == "paused"


@pytest.mark.parametrize("state", ["rollback_completed", "rollback_paused"])
def test_a_rollback_fails_though_all_tasks_run(converge: Any, state: str) -> None:
    swarm = whole(service(update=state, message="rollback completed"))
    bad = service(image=NEW)
    swarm.tasks += [
        task(bad, 1, state="rejected", desired="shutdown", error=f"No such image: {NEW}", age=age) for age in (30, 40)
    ]
    result = converge(swarm, timeout=60)

    assert result["failed"]
    assert result["seconds"] < 30
    assert f"its update was rolled back ({state}: rollback completed); 2 of 2 running" in result["msg"]
    assert result["services"][0]["errors"] == [f"node-1: No such image: {NEW} (2 times)"]


def test_a_rollback_that_is_under_way_is_waited_for(converge: Any, docker: Docker) -> None:
    under_way = whole(service(update="rollback_started"))
    result = converge(
        under_way,
        under_way,
        whole(service(update="rollback_completed")),
        timeout=10,
        services=[{"name": "tf_serving", "image": NEW}],
    )

    assert "rolled back (rollback_completed" in result["msg"]
    assert docker.asked.count("/v1.41/services") == 3


def test_a_crash_loop(converge: Any) -> None:
    owner = service(replicas=1)
    history = [
        task(owner, 1, state="failed", desired="shutdown", error="task: non-zero exit (255)", age=age, on=on)
        for age, on in ((20, "node-1"), (30, "node-2"), (40, "node-1"))
    ]
    result = converge(Swarm([owner], [task(owner, 1, state="ready"), *history]))

    assert "0 tasks run, 1 would be right" in result["msg"]
    assert "(waited 1 s)" in result["msg"]
    assert result["services"][0]["errors"] == [
        "node-1: task: non-zero exit (255) (2 times)",
        "node-2: task: non-zero exit (255)",
    ]


@pytest.mark.parametrize("seen_down", [True, False])
def test_a_container_that_falls_over_at_once_is_not_taken_for_running(converge: Any, seen_down: bool) -> None:
    owner = service(replicas=1)
    looks = []
    for attempt in range(80):
        # Without help from time stamps: the clock of the node is ahead.
        looks.append(Swarm([owner], [task(owner, 1, age=-3600 - attempt)]))
        if seen_down:
            looks.append(Swarm([owner], [task(owner, 1, state="ready")]))
    assert converge(*looks, stable_for=0.5)["failed"]
    assert converge(*looks, stable_for=0)["converged"] is True


def test_a_new_task_is_watched_until_it_is_stable(converge: Any, docker: Docker) -> None:
    young = whole(service(), age=-3600)  # The clock of the node is an hour ahead.
    started = time.monotonic()
    result = converge(young, stable_for=0.4, timeout=10)

    assert result["converged"] is True
    assert 0.4 <= time.monotonic() - started < 9
    assert "its tasks have not run for 5 s" in converge(young, stable_for=5)["msg"]


def test_a_missing_image(converge: Any) -> None:
    owner = service(image=NEW)
    tasks = [task(owner, slot, state="rejected", desired="shutdown", error=f"No such image: {NEW}") for slot in (1, 2)]
    pending = [task(owner, slot, state="preparing") for slot in (1, 2)]
    result = converge(Swarm([owner], [*tasks, *pending]))
    assert f"0 of 2 running; last task errors: node-1: No such image: {NEW} (2 times)" in result["msg"]


def test_no_node_fits(converge: Any) -> None:
    owner = service(replicas=1)
    waiting = task(owner, 1, state="pending", on="", error="no suitable node (scheduling constraints not satisfied)")
    result = converge(Swarm([owner], [waiting]))

    assert "no node: no suitable node (scheduling constraints not satisfied)" in result["msg"]
    assert result["tasks"][0]["node"] is None
    assert result["tasks"][0]["container_id"] is None


def test_a_global_service(converge: Any) -> None:
    owner = service("balancer", replicas=None)
    both = [task(owner, None, on="node-1"), task(owner, None, on="node-2")]
    result = converge(Swarm([owner], both))
    assert result["services"][0]["mode"] == "global"
    assert (result["services"][0]["wanted"], result["services"][0]["running"]) == (2, 2)
    assert result["tasks"][0]["slot"] is None

    starting = [both[0], task(owner, None, on="node-2", state="starting")]
    assert "1 tasks run, 2 would be right" in converge(Swarm([owner], starting))["msg"]
    assert "0 tasks run, at least 1 would be right" in converge(Swarm([owner], []))["msg"]
    three = [{"name": "balancer", "replicas": 3}]
    assert "2 tasks run, 3 would be right" in converge(Swarm([owner], both), services=three)["msg"]


def test_a_service_of_no_replicas_has_converged(converge: Any) -> None:
    assert converge(Swarm([service(replicas=0)], []))["converged"] is True


def test_every_service_counts_and_other_stacks_do_not(converge: Any) -> None:
    first, second, foreign = service("a", replicas=1), service("b", replicas=1), service("c", replicas=1)
    for labels in (foreign["Spec"]["Labels"], foreign["Spec"]["TaskTemplate"]["ContainerSpec"]["Labels"]):
        labels["com.docker.stack.namespace"] = "OTHER"
    swarm = Swarm([second, first, foreign], [task(first, 1), task(second, 1)])
    result = converge(swarm)
    assert [one["name"] for one in result["services"]] == ["PROD-STACK_a", "PROD-STACK_b"]

    result = converge(Swarm([first, second], [task(first, 1)]))
    assert "PROD-STACK_b: 0 tasks run" in result["msg"]
    assert "PROD-STACK_a" not in result["msg"]


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"image": NEW}, f"it asks for image {IMAGE}, {NEW} would be right"),
        ({"replicas": 4}, "it asks for 2 replicas, 4 would be right"),
        ({"name": "web"}, "service PROD-STACK_web does not exist"),
    ],
)
def test_what_is_expected_beyond_the_specification(converge: Any, expected: dict[str, Any], message: str) -> None:
    result = converge(whole(service()), services=[{"name": "tf_serving", **expected}], timeout=60)

    assert message in result["msg"]
    assert result["seconds"] < 30


def test_what_is_expected_may_fit(converge: Any) -> None:
    pinned = whole(service(image=f"{IMAGE}@sha256:00ff"))
    expected = {"image": IMAGE, "replicas": 2}
    for name in ("tf_serving", "PROD-STACK_tf_serving"):
        assert converge(pinned, services=[{"name": name, **expected}])["converged"] is True
    other = [{"name": "tf_serving", "image": f"{IMAGE}@sha256:1234"}]
    assert f"{IMAGE}@sha256:1234 would be right" in converge(pinned, services=other)["msg"]


def test_a_stack_that_is_not_there(converge: Any) -> None:
    assert "the swarm has no service of a stack PROD-STACK" in converge(Swarm([], []), timeout=60)["msg"]


def test_a_job_is_refused(converge: Any) -> None:
    swarm = whole(service())
    swarm.services[0]["Spec"]["Mode"] = {"ReplicatedJob": {}}
    assert "its mode is ReplicatedJob, replicated or global would be right" in converge(swarm)["msg"]


def test_a_swarm_that_elects_a_leader_is_waited_for(converge: Any, docker: Docker) -> None:
    docker.failures = [(500, "rpc error: The swarm does not have a leader")] * 3
    assert converge(whole(service()), timeout=10)["converged"] is True

    docker.failures = [(500, "rpc error: The swarm does not have a leader")] * 1000
    assert "The swarm does not have a leader (waited 1 s)" in converge(whole(service()))["msg"]


def test_a_node_that_is_no_manager(converge: Any, docker: Docker) -> None:
    docker.failures = [(503, "This node is not a swarm manager.")]
    result = converge(whole(service()), timeout=60)

    assert "This node is not a swarm manager." in result["msg"]
    assert result["seconds"] < 30


def test_no_engine(run_module: Any, tmp_path: Path) -> None:
    result = run_module(MODULE, stack=STACK, docker_host=f"unix://{tmp_path}/none.sock")
    assert "none.sock does not answer" in result["msg"]


def test_check_mode_takes_one_look(converge: Any, docker: Docker) -> None:
    owner = service()
    result = converge(Swarm([owner], [task(owner, 1)]), whole(owner), check=True, timeout=60)

    assert (result["converged"], result["services"][0]["running"]) == (False, 1)
    assert docker.asked.count("/v1.41/services") == 1
    assert converge(whole(owner), check=True)["converged"] is True
    assert converge(whole(service(update="rollback_completed")), check=True)["converged"] is False
    assert converge(Swarm([], []), check=True)["converged"] is False


def test_check_mode_on_a_fresh_host(run_module: Any, converge: Any, docker: Docker, tmp_path: Path) -> None:
    result = run_module(MODULE, check=True, stack=STACK, docker_host=f"unix://{tmp_path}/none.sock")
    assert (result["converged"], result["services"], result["tasks"]) == (False, [], [])
    assert "does not answer" in str(result["warnings"])

    docker.failures = [(503, "This node is not a swarm manager.")]
    assert converge(whole(service()), check=True)["converged"] is False
