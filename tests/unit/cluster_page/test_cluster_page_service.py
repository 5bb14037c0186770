"""The cluster page's service: what it tells browsers and Prometheus, and what that costs."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from fake_swarm import large_swarm, wait_until
from page_process import PAGE_DIRECTORY, ClusterPage, Events

ROOT = Path(__file__).resolve().parents[3]


def tasks_of(picture: dict, service: str) -> list[dict]:
    ids = [name for name, one in picture["services"].items() if one["name"] == service]
    return [task for task in picture["tasks"].values() if task["service"] in ids]


def versions_of(task: dict) -> dict[int, tuple[str, list[str]]]:
    return {
        one["version"]: (one["state"], one["labels"]) for model in task.get("models", []) for one in model["versions"]
    }


# ---- the picture and its changes


def test_the_picture(page, look):
    picture = look(page).picture
    assert sorted(node["name"] for node in picture["nodes"].values()) == ["one", "three", "two"]
    leader = next(node for node in picture["nodes"].values() if node["name"] == "one")
    assert (leader["role"], leader["leader"], leader["state"], leader["cpus"]) == ("manager", True, "ready", 4)
    services = {one["name"]: one for one in picture["services"].values()}
    assert services["tf_serving"]["wanted"] == 2
    assert services["tf_serving"]["image"] == "tf2x/tf_serving_compat:1"
    assert services["balancer"]["wanted"] is None
    assert sorted(task["slot"] for task in tasks_of(picture, "tf_serving")) == [1, 2]
    assert {task["state"] for task in picture["tasks"].values()} == {"running"}
    assert all(abs(task["since"] - time.time()) < 60 for task in picture["tasks"].values())
    assert picture["trouble"] == ""


def test_what_services_keep_to_themselves_is_not_told(page, look):
    assert "not-for-everybody" not in json.dumps(look(page).picture)


def test_a_change_holds_what_changed_and_no_more(swarm, page, look):
    events = look(page)
    events.until(lambda picture: all("models" in task for task in tasks_of(picture, "tf_serving")))
    balancer = next(name for name in swarm.tasks if "Slot" not in swarm.tasks[name])
    swarm.set_state(balancer, "starting")
    change = events.follow()
    assert list(change) == ["tasks"]
    assert list(change["tasks"]) == [balancer]
    assert change["tasks"][balancer]["state"] == "starting"


def test_a_killed_task(swarm, page, look):
    events = look(page)
    killed = next(name for name in swarm.tasks if swarm.tasks[name].get("Slot") == 1)
    new = swarm.kill(killed)
    events.until(lambda picture: new in picture["tasks"] and killed not in picture["tasks"])
    events.until(lambda picture: "failures" in picture["tasks"][new])
    failures = events.picture["tasks"][new]["failures"]
    assert (failures["count"], failures["error"]) == (1, "task: non-zero exit (137)")


def test_a_task_that_no_node_can_take(swarm, page, look):
    events = look(page)
    serving = next(iter(swarm.services))
    waiting = swarm.task(serving, "", slot=3, state="pending")
    swarm.set_state(waiting, "pending", "no suitable node (insufficient resources on 3 nodes)")
    events.until(lambda picture: waiting in picture["tasks"])
    task = events.picture["tasks"][waiting]
    assert "node" not in task
    assert task["error"].startswith("no suitable node")


def test_a_node_that_goes_down(swarm, page, look):
    events = look(page)
    node = next(name for name, one in swarm.nodes.items() if one["Description"]["Hostname"] == "three")
    swarm.nodes[node]["Status"] = {"State": "down", "Message": "heartbeat failure"}
    events.until(lambda picture: picture["nodes"][node]["state"] == "down")
    assert events.picture["nodes"][node]["message"] == "heartbeat failure"


def test_a_node_that_has_never_been_up(swarm, page, look):
    """It has a certificate, and has told nothing of itself yet."""
    node = swarm.node("four")
    swarm.nodes[node] |= {"Description": {}, "Status": {"State": "unknown"}}
    picture = look(page).picture
    assert picture["trouble"] == ""
    assert picture["nodes"][node]["name"] == node


def test_trouble_and_its_end(swarm, page, look):
    events = look(page)
    swarm.refuse("rpc error: The swarm does not have a leader.")
    events.until(lambda picture: "does not have a leader" in picture["trouble"])
    assert len(events.picture["nodes"]) == 3
    swarm.refuse(None)
    events.until(lambda picture: picture["trouble"] == "")


@pytest.mark.parametrize("body", [b"no JSON", b'{"message": "a dictionary"}', b'[{"ID": "x"}]'])
def test_answers_that_are_not_the_docker_apis(swarm, page, look, body):
    swarm.only_answer = (200, body)
    assert "is not the Docker API's" in look(page).picture["trouble"]


def test_a_docker_api_that_is_not_there(swarm, page, look):
    swarm.stop()
    assert "cannot be reached" in look(page).picture["trouble"]


# ---- models


def test_what_replicas_serve(swarm, page, look):
    events = look(page)
    events.until(lambda picture: all("models" in task for task in tasks_of(picture, "tf_serving")))
    for task in tasks_of(events.picture, "tf_serving"):
        assert versions_of(task) == {1: ("AVAILABLE", ["stable"])}
    assert ["models" in task for task in tasks_of(events.picture, "balancer")] == [False] * 3


def test_a_canary_and_its_end(swarm, page, look):
    events = look(page)
    for replica in swarm.replicas.values():
        replica.models["pets"][2] = "LOADING"
    events.until(lambda picture: all(2 in versions_of(task) for task in tasks_of(picture, "tf_serving")))
    for replica in swarm.replicas.values():
        replica.models["pets"][2] = "AVAILABLE"
        replica.labels["pets"]["canary"] = 2
    both = {1: ("AVAILABLE", ["stable"]), 2: ("AVAILABLE", ["canary"])}
    events.until(lambda picture: all(versions_of(task) == both for task in tasks_of(picture, "tf_serving")))
    for replica in swarm.replicas.values():
        replica.labels["pets"] = {"stable": 2}
        replica.models["pets"][1] = "END"
    after = {2: ("AVAILABLE", ["stable"])}
    events.until(lambda picture: all(versions_of(task) == after for task in tasks_of(picture, "tf_serving")))


def test_a_version_that_cannot_be_loaded_says_why(swarm, page, look):
    events = look(page)
    replica = next(iter(swarm.replicas.values()))
    replica.models["pets"][2] = "END: variables are missing"
    events.until(lambda picture: any("variables are missing" in json.dumps(task) for task in picture["tasks"].values()))


def test_a_replica_that_does_not_answer(swarm, page, look):
    events = look(page)
    task, replica = next(iter(swarm.replicas.items()))
    replica.stop()
    del swarm.replicas[task]
    events.until(lambda picture: "cannot be reached" in json.dumps(picture["tasks"][task]))


def test_a_label_that_is_not_there_is_asked_for_by_one_replica(swarm, page, look):
    for replica in swarm.replicas.values():
        replica.models["pets"][2] = "AVAILABLE"
    begun = time.monotonic()
    look(page)
    # Round after round they are asked for everything else.
    wait_until(lambda: all(replica.asked.count("/v1/models/pets") >= 3 for replica in swarm.replicas.values()))
    asked = [path for replica in swarm.replicas.values() for path in replica.asked if "/canary/" in path]
    # It is asked for again after 15 s.
    assert 1 <= len(asked) <= 1 + (time.monotonic() - begun) // 15


# ---- Prometheus


def test_targets(swarm, page):
    status, body = page.get("/prometheus/tf_serving?port=8501")
    assert status == 200
    tasks = [name for name in swarm.tasks if swarm.tasks[name].get("Slot")]
    assert json.loads(body) == [
        {
            "targets": [f"{swarm.address(task)}:8501"],
            "labels": {"task": f"PROD-STACK_tf_serving.{slot}", "node": node, "service": "tf_serving"},
        }
        for task, slot, node in zip(tasks, (1, 2), ("one", "two"))
    ]


def test_targets_of_a_global_service_are_named_by_node(page):
    found = json.loads(page.get("/prometheus/balancer?port=8405")[1])
    names = [one["labels"]["task"] for one in found]
    assert names == ["PROD-STACK_balancer.one", "PROD-STACK_balancer.three", "PROD-STACK_balancer.two"]


def test_only_what_runs_on_the_network_is_a_target(swarm, page):
    serving = next(iter(swarm.services))
    swarm.task(serving, slot=3, state="starting")
    swarm.task(serving, slot=4, network="another")
    assert len(json.loads(page.get("/prometheus/PROD-STACK_tf_serving?port=1")[1])) == 2
    assert page.get("/prometheus/nothing?port=1") == (200, b"[]")


@pytest.mark.parametrize("query", ["", "?port=", "?port=x", "?port=0", "?port=65536", "?port=-1"])
def test_targets_need_a_port(page, query):
    status, body = page.get(f"/prometheus/tf_serving{query}")
    assert status == 400
    assert b"?port=8501" in body


def test_prometheus_keeps_its_targets_while_the_swarm_is_not_read(swarm, page):
    swarm.refuse("no leader")
    status, body = page.get("/prometheus/tf_serving?port=8501")
    assert status == 503
    assert b"no leader" in body


def test_metrics(swarm, page, look):
    assert page.metric("tf2x_swarm_up") == 1
    assert page.metric('tf2x_swarm_service_desired_tasks{service="PROD-STACK_tf_serving"}') == 2
    assert page.metric('tf2x_swarm_service_running_tasks{service="PROD-STACK_balancer"}') == 3
    assert page.metric("tf2x_swarm_node_ready") == 3
    assert page.metric("tf2x_swarm_manager_reachable") == 1
    events = look(page)
    assert page.metric("tf2x_cluster_page_viewers") == 1
    swarm.refuse("no leader")
    events.until(lambda picture: picture["trouble"])
    assert page.metric("tf2x_swarm_up") == 0
    assert page.metric("tf2x_swarm_node_ready") == 0


# ---- what it costs


def test_one_read_for_all_and_none_for_nobody(swarm, page, look):
    time.sleep(3)
    assert swarm.asked == []
    begun = time.monotonic()
    viewers = [look(page) for _unused in range(5)]
    wait_until(lambda: swarm.reads() >= 4)
    # One at once, and then one every two seconds.
    assert swarm.reads() <= 2 + (time.monotonic() - begun) / 2
    # What was replaced is read while tasks are new.
    assert swarm.reads("/tasks") <= swarm.reads() + 2
    for viewer in viewers:
        viewer.close()
    wait_until(lambda: page.metric("tf2x_cluster_page_viewers") == 0)
    time.sleep(1)
    reads, asked = swarm.reads(), [len(replica.asked) for replica in swarm.replicas.values()]
    time.sleep(6)
    assert swarm.reads() == reads
    assert [len(replica.asked) for replica in swarm.replicas.values()] == asked


def test_nothing_is_sent_while_nothing_changes(swarm, page, look):
    events = look(page)
    events.until(lambda picture: all("models" in task for task in tasks_of(picture, "tf_serving")))

    def is_quiet() -> bool:
        try:
            events.next(seconds=8)
        except TimeoutError:
            return True
        return False

    # A replica that a busy machine lets answer too late is news, and so is its next answer.
    assert any(is_quiet() for _unused in range(4))


def test_a_large_swarm_at_rest_takes_little_of_a_core():
    swarm = large_swarm()
    page = ClusterPage(swarm)
    try:
        viewers = [Events(page) for _unused in range(3)]
        assert len(viewers[0].picture["tasks"]) == 1000
        time.sleep(4)

        def share_of_a_core() -> float:
            before, begun = page.cpu_seconds(), time.monotonic()
            time.sleep(20)
            return (page.cpu_seconds() - before) / (time.monotonic() - begun)

        # The same work takes more time on a core whose caches others use.
        assert any(share_of_a_core() <= 0.05 for _unused in range(3))
        for viewer in viewers:
            viewer.close()
    finally:
        page.stop()
        swarm.stop()


def test_it_stops_while_browsers_look(page, look):
    look(page)
    page.process.terminate()
    # It would be there as long as they are.
    assert page.process.wait(20) in {0, -signal.SIGTERM}


# ---- its files


def test_the_page_needs_nothing_from_elsewhere():
    for name in ("page.html", "page.css", "page.js"):
        text = (PAGE_DIRECTORY / "cluster_page" / name).read_text()
        assert not re.search(r"(?:src|href|@import|url\()[=\s\"'(]*https?:", text)


def test_colours_are_the_gateways():
    gateway = ROOT / "roles" / "fastapi_service" / "files" / "gateway" / "tf2x_gateway" / "page.css"
    palette = gateway.read_text().partition("*, ::before")[0]
    assert palette.count("--ground") == 2
    assert (PAGE_DIRECTORY / "cluster_page" / "page.css").read_text().startswith(palette)


def test_the_lock_is_a_part_of_the_gateways():
    def pins(path: Path) -> set[tuple[str, ...]]:
        lines = path.read_text().replace("\\\n", "").splitlines()
        return {tuple(line.partition(" #")[0].split()) for line in lines if re.match(r"[a-z0-9]", line)}

    ours = pins(PAGE_DIRECTORY / "requirements.txt")
    assert {"starlette", "uvicorn", "httptools"} <= {pin[0].partition("==")[0] for pin in ours}
    assert ours <= pins(ROOT / "roles" / "miniconda_prod_env" / "files" / "requirements.txt")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/nodes", True),
        ("/v1.41/tasks", True),
        ("/services", True),
        ("/networks", True),
        ("/services/x/logs", False),
        ("/tasks/x", False),
        ("/containers/json", False),
        ("/nodes/../containers/json", False),
        ("/v1.41/secrets", False),
        ("/info", False),
        ("/v1.41/v1.41/nodes", False),
        ("/nodes%2f..", False),
    ],
)
def test_what_the_proxy_of_the_docker_api_lets_through(path, allowed):
    config = (ROOT / "roles" / "monitoring" / "templates" / "docker_proxy.cfg.j2").read_text()
    (rule,) = re.findall(r"http-request deny .* unless \{ method GET \} \{ path_reg (\S+) \}", config)
    assert bool(re.search(rule, path)) == allowed
