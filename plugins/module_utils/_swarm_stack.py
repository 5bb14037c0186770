# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""How far the services of a stack are from what they ask for, judged from the engine's own JSON.

Terms are the engine's: a task is `running` only once its container is healthy, if the container has a health check.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# States in which a task is over.
ENDED = ("complete", "failed", "rejected", "shutdown", "orphaned", "remove")

_ROLLED_BACK = ("rollback_completed", "rollback_paused")
_MAX_ERRORS = 3


@dataclass(frozen=True)
class Expectation:
    """What the caller expects of a service beyond what its specification says; None where it does not care."""

    image: str | None = None
    replicas: int | None = None


@dataclass(frozen=True)
class ServiceReport:
    """`missing`: why the service has not converged; `lost`: that waiting will not help; `errors`: of its tasks."""

    name: str
    image: str
    mode: str
    wanted: int
    running: int
    update_state: str | None
    missing: list[str]
    lost: bool
    errors: list[str]
    tasks: list[dict[str, Any]] = field(default_factory=list)
    youngest: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        names = ("name", "image", "mode", "wanted", "running", "update_state", "errors")
        return {name: getattr(self, name) for name in names}

    def explain(self) -> str:
        errors = f"; last task errors: {'; '.join(self.errors)}" if self.errors else ""
        return f"{self.name}: {', '.join(self.missing)}; {self.running} of {self.wanted} running{errors}"


def report(
    service: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    nodes: Mapping[str, Mapping[str, Any]],
    expectation: Expectation,
) -> ServiceReport:
    """Judge one service from its own tasks and from the swarm's nodes by ID."""
    spec = service["Spec"]
    template = spec["TaskTemplate"]
    image = template["ContainerSpec"]["Image"]
    mode, replicas = _mode(spec["Mode"])
    update = service.get("UpdateStatus") or {}
    update_state = update.get("State")

    # Tasks of a lost node keep the state they had when it was lost.
    reachable = [task for task in tasks if _node_state(nodes, task) != "down"]
    current = [task for task in reachable if task.get("DesiredState") == "running"]
    running = [task for task in current if _state(task) == "running"]
    leaving = [task for task in reachable if task not in current and _state(task) not in ENDED]
    # An update that has completed is one whose tasks swarm itself has compared. Before one begins there is no status.
    outdated = [] if update_state == "completed" else [task for task in running if _is_outdated(task, template)]
    other_image = [task for task in running if _image(task) != image]
    if replicas is None:
        replicas = expectation.replicas if mode == "global" else None
    wanted = len(current) if replicas is None else replicas

    lost, missing = _update_trouble(update)
    if not lost:
        wrong = _spec_trouble(image, wanted, mode, expectation)
        # A rollback that is under way explains the wrong image better once it has ended.
        lost, missing = bool(wrong) and update_state != "rollback_started", missing + wrong
    if mode not in ("replicated", "global"):
        lost, missing = True, [f"its mode is {mode}, replicated or global would be right"]
    if len(running) != wanted or (mode == "global" and not running):
        missing.append(
            f"{len(running)} tasks run, {wanted if wanted or replicas == 0 else 'at least 1'} would be right"
        )
    if outdated or other_image:
        stale = len({task["ID"] for task in [*outdated, *other_image]})
        missing.append(f"{stale} tasks run an older specification, {image} would be right")
    if leaving:
        missing.append(f"{len(leaving)} older tasks have not ended")

    return ServiceReport(
        name=spec["Name"],
        image=image,
        mode=mode,
        wanted=wanted,
        running=len(running),
        update_state=update_state,
        missing=missing,
        lost=lost,
        errors=_errors(tasks, nodes),
        tasks=[_task_dict(spec["Name"], task, nodes) for task in sorted(current, key=_slot_key)],
        youngest=max((_timestamp(task["Status"].get("Timestamp")) for task in running), default=0.0),
    )


def image_matches(found: str, wanted: str) -> bool:
    """Tell whether a service's image is the wanted one; the digest that the engine adds does not matter."""
    return found == wanted or ("@" not in wanted and found.split("@", maxsplit=1)[0] == wanted)


def _mode(mode: Mapping[str, Any]) -> tuple[str, int | None]:
    if "Replicated" in mode:
        return "replicated", mode["Replicated"].get("Replicas", 1)
    return ("global", None) if "Global" in mode else (", ".join(mode), None)


def _update_trouble(update: Mapping[str, Any]) -> tuple[bool, list[str]]:
    state, message = update.get("State"), update.get("Message", "")
    if state == "paused":
        return True, [f"its update is paused ({message})"]
    if state in _ROLLED_BACK:
        return True, [f"its update was rolled back ({state}: {message})"]
    if state in ("updating", "rollback_started"):
        return False, [f"its update is in state {state}"]
    return False, []


def _spec_trouble(image: str, wanted: int, mode: str, expectation: Expectation) -> list[str]:
    trouble = []
    if expectation.image is not None and not image_matches(image, expectation.image):
        trouble.append(f"it asks for image {image}, {expectation.image} would be right")
    if expectation.replicas is not None and mode == "replicated" and wanted != expectation.replicas:
        trouble.append(f"it asks for {wanted} replicas, {expectation.replicas} would be right")
    return trouble


def _is_outdated(task: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    """Tell whether a task was made from another template. Swarm keeps a task whose node fits a new placement."""
    return _comparable(task["Spec"]) != _comparable(template)


def _comparable(value: Any) -> Any:
    """Drop what is empty, which the engine's JSON leaves out at times, the placement, and what tasks do not repeat."""
    if isinstance(value, Mapping):
        parts = {key: _comparable(part) for key, part in value.items() if key not in ("Placement", "Runtime")}
        return {key: part for key, part in parts.items() if part not in (None, "", 0, [], {})}
    return [_comparable(part) for part in value] if isinstance(value, list) else value


def _errors(tasks: Sequence[Mapping[str, Any]], nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the newest distinct errors of tasks, with where and how often."""
    counts: dict[str, int] = {}
    for task in sorted(tasks, key=lambda task: task["Status"].get("Timestamp", ""), reverse=True):
        error = task["Status"].get("Err")
        if error:
            text = f"{_node_name(nodes, task) or 'no node'}: {error}"
            counts[text] = counts.get(text, 0) + 1
    newest = list(counts.items())[:_MAX_ERRORS]
    return [f"{text} ({count} times)" if count > 1 else text for text, count in newest]


def _task_dict(service: str, task: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    status = task["Status"]
    return {
        "service": service,
        "slot": task.get("Slot") or None,
        "node": _node_name(nodes, task),
        "state": _state(task),
        "container_id": (status.get("ContainerStatus") or {}).get("ContainerID") or None,
        "image": _image(task),
        "error": status.get("Err") or None,
    }


def _state(task: Mapping[str, Any]) -> str:
    return task["Status"]["State"]


def _image(task: Mapping[str, Any]) -> str:
    return task["Spec"]["ContainerSpec"]["Image"]


def _slot_key(task: Mapping[str, Any]) -> tuple[int, str]:
    return task.get("Slot") or 0, task.get("NodeID", "")


def _node_state(nodes: Mapping[str, Mapping[str, Any]], task: Mapping[str, Any]) -> str:
    return nodes.get(task.get("NodeID", ""), {}).get("Status", {}).get("State", "")


def _node_name(nodes: Mapping[str, Mapping[str, Any]], task: Mapping[str, Any]) -> str | None:
    node_id = task.get("NodeID", "")
    return nodes.get(node_id, {}).get("Description", {}).get("Hostname") or node_id or None


def _timestamp(text: str | None) -> float:
    """Return seconds since the epoch of the engine's time stamps (UTC, with up to nine digits of a second)."""
    if not text:
        return 0.0
    whole, _dot, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
