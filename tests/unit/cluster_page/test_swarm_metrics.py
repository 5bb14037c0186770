"""What the alerts are told of the swarm."""

from __future__ import annotations

from types import SimpleNamespace

from cluster_page.swarm_metrics import SwarmMetrics
from prometheus_client import CollectorRegistry


def registry(watch: SimpleNamespace) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(SwarmMetrics(watch))
    return found


def node(name: str, role: str, state: str, reachability: str = "") -> SimpleNamespace:
    return SimpleNamespace(name=name, role=role, state=state, reachability=reachability)


def test_nodes_and_services():
    swarm = SimpleNamespace(
        nodes={
            "1": node("a", "manager", "ready", "reachable"),
            "2": node("b", "manager", "down", "unreachable"),
            "3": node("c", "worker", "down"),
        },
        services={
            "r": SimpleNamespace(id="r", name="S_tf_serving", wanted=4),
            "g": SimpleNamespace(id="g", name="S_balancer", wanted=None),
            "j": SimpleNamespace(id="j", name="S_job", wanted=1),
        },
        tasks={
            str(number): SimpleNamespace(service=service, state=state)
            for number, (service, state) in enumerate(
                [*[("r", "running")] * 3, ("r", "pending"), ("g", "running"), ("g", "starting"), ("j", "complete")]
            )
        },
    )
    found = registry(SimpleNamespace(swarm=swarm))

    def value(name: str, **labels: str) -> float | None:
        return found.get_sample_value(f"tf2x_swarm_{name}", labels)

    assert value("up") == 1
    assert [value("node_ready", node=one, role=role) for one, role in zip("abc", ("manager", "manager", "worker"))] == [
        1,
        0,
        0,
    ]
    assert [value("manager_reachable", node=one) for one in "abc"] == [1, 0, None]
    for service, desired, running in (("S_tf_serving", 4, 3), ("S_balancer", 2, 1), ("S_job", 1, 1)):
        assert value("service_desired_tasks", service=service) == desired
        assert value("service_running_tasks", service=service) == running


def test_old_knowledge_is_not_told_as_new():
    found = registry(SimpleNamespace(swarm=None))
    assert [sample.name for metric in found.collect() for sample in metric.samples] == ["tf2x_swarm_up"]
    assert found.get_sample_value("tf2x_swarm_up") == 0
