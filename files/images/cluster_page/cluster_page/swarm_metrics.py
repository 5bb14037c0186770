"""The swarm's nodes and services as metrics, for the alerts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster_page.watch import Watch

# A job's task that has ended as it should is not missing.
AS_WANTED = ("running", "complete")


class SwarmMetrics(Collector):
    """What was read last, which Prometheus' questions for targets keep fresh. Without an answer, it tells only that."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[GaugeMetricFamily]:
        swarm = self._watch.swarm
        yield GaugeMetricFamily(
            "tf2x_swarm_up", "Whether the managers answered the last read.", value=swarm is not None
        )
        if swarm is None:
            return
        ready = GaugeMetricFamily("tf2x_swarm_node_ready", "Whether a node is ready.", labels=("node", "role"))
        reachable = GaugeMetricFamily("tf2x_swarm_manager_reachable", "Whether a manager is.", labels=("node",))
        for node in swarm.nodes.values():
            ready.add_metric((node.name, node.role), node.state == "ready")
            if node.role == "manager":
                reachable.add_metric((node.name,), node.reachability == "reachable")
        desired = GaugeMetricFamily("tf2x_swarm_service_desired_tasks", "Tasks it should have.", labels=("service",))
        running = GaugeMetricFamily("tf2x_swarm_service_running_tasks", "Tasks that run.", labels=("service",))
        meant = Counter(task.service for task in swarm.tasks.values())
        found = Counter(task.service for task in swarm.tasks.values() if task.state in AS_WANTED)
        for service in swarm.services.values():
            # A global service has a task on every node that fits.
            desired.add_metric((service.name,), meant[service.id] if service.wanted is None else service.wanted)
            running.add_metric((service.name,), found[service.id])
        yield from (ready, reachable, desired, running)
