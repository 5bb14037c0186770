"""The picture that the page draws, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_page.swarm import Node, Service, Swarm, Task

Picture = dict[str, dict[str, Any]]
SECTIONS = ("nodes", "services", "tasks")


def picture_of(swarm: Swarm, models_of: Callable[[str], list[dict[str, Any]] | None]) -> Picture:
    """Return nodes, services and tasks by id, without what says nothing. `models_of` a task: what it serves."""
    return {
        "nodes": {one.id: _node(one) for one in swarm.nodes.values()},
        "services": {one.id: _service(one) for one in swarm.services.values()},
        "tasks": {one.id: _task(one, swarm, models_of(one.id)) for one in swarm.tasks.values()},
    }


def difference(old: Picture, new: Picture) -> Picture:
    """Return what is new or changed, by section and id, and None for what has gone. Empty: nothing differs."""
    found: Picture = {}
    for section in SECTIONS:
        before, after = old.get(section, {}), new[section]
        changed: dict[str, Any] = {name: one for name, one in after.items() if before.get(name) != one}
        changed.update(dict.fromkeys(before.keys() - after.keys()))
        if changed:
            found[section] = changed
    return found


def targets(swarm: Swarm, service: str, port: int) -> list[dict[str, Any]]:
    """Return the running tasks of a service, by its full name or its name within a stack, as Prometheus' HTTP-SD."""
    found = []
    for task in swarm.tasks.values():
        of = swarm.services.get(task.service)
        if of and service in (of.name, of.short_name) and task.state == "running" and task.address:
            node = swarm.nodes.get(task.node)
            host = node.name if node else task.node
            labels = {"task": f"{of.name}.{task.slot or host}", "node": host, "service": of.short_name}
            found.append({"targets": [f"{task.address}:{port}"], "labels": labels})
    return sorted(found, key=lambda one: one["labels"]["task"])


def _node(node: Node) -> dict[str, Any]:
    return _said(
        name=node.name,
        role=node.role,
        leader=node.leader,
        reachability="" if node.reachability == "reachable" else node.reachability,
        state=node.state,
        availability=node.availability,
        message=node.message,
        address=node.address,
        engine=node.engine,
        cpus=node.cpus,
        memory=node.memory,
    )


def _service(service: Service) -> dict[str, Any]:
    # An update that is over says nothing of today.
    update = "" if service.update in ("completed", "rollback_completed") else service.update
    return {
        **_said(
            name=service.short_name,
            stack=service.stack,
            image=service.image,
            update=update,
            update_message=service.update_message if update else "",
        ),
        "wanted": service.wanted,
    }


def _task(task: Task, swarm: Swarm, models: list[dict[str, Any]] | None) -> dict[str, Any]:
    service = swarm.services.get(task.service)
    failures = swarm.failures_of(task)
    return _said(
        service=task.service,
        node=task.node,
        slot=task.slot,
        state=task.state,
        since=task.since,
        image="" if service and service.image == task.image else task.image,
        error=task.error,
        failures=failures and {"count": failures.count, "at": failures.at, "error": failures.error},
        serves=bool(task.models),
        models=models,
    )


def _said(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or (value == 0 and value is not False)}
