#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_stack_converged
version_added: 0.1.0
short_description: Wait until a stack runs what was deployed
description:
  - Waits until every service of a stack runs its current specification with all its replicas, and fails when that will
    not happen.
  - C(docker stack deploy) succeeds once it has told the swarm what to do, and succeeds even when the swarm then pauses
    the update or rolls it back. This module fails in these cases, and returns the tasks' own errors.
  - A task counts once the swarm has it as running. With a health check, that is when its container is healthy.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
  - tf2x.serving.docker_sdk
options:
  stack:
    description:
      - Name of the stack.
    type: str
    required: true
  services:
    description:
      - What to expect of services beyond what their specifications ask for, so that a deployment that never reached
        the swarm, or was undone since, is noticed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the service, with or without the stack's name before it.
        type: str
        required: true
      image:
        description:
          - Image that the service must ask for. Without a digest here, the digest that the swarm adds does not matter.
        type: str
      replicas:
        description:
          - Number of tasks that must run. For a global service, the number of nodes that it must run on.
        type: int
  timeout:
    description:
      - Seconds to wait.
    type: float
    default: 300
  poll_interval:
    description:
      - Seconds between two looks.
    type: float
    default: 1
  stable_for:
    description:
      - Seconds for which all tasks must have run, so that a container which starts and falls over at once does not
        count. Tasks that have run for that long need no waiting.
    type: float
    default: 3
notes:
  - Must run on a manager of the swarm.
  - In check mode nothing was deployed, so this takes one look and returns, whatever it finds.
  - Global services are compared with the tasks that the swarm has planned for nodes that are not down.
"""

EXAMPLES = r"""
- name: Wait until the stack runs what was deployed
  tf2x.serving.swarm_stack_converged:
    stack: PROD-STACK
    services:
      - name: tf_serving
        image: tensorflow/serving:2.20.0
        replicas: 4
"""

RETURN = r"""
converged:
  description: Whether the stack runs what its services ask for. Always V(true) on success, except in check mode.
  returned: always
  type: bool
  sample: true
seconds:
  description: How long the module has waited.
  returned: always
  type: float
  sample: 12.4
services:
  description: The services of the stack, by name.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service.
      type: str
    image:
      description: Image that its specification asks for.
      type: str
    mode:
      description: V(replicated) or V(global).
      type: str
    wanted:
      description: How many tasks must run.
      type: int
    running:
      description: How many tasks run.
      type: int
    update_state:
      description: State of its last update as the swarm has it. V(null) when it has none.
      type: str
    errors:
      description: The newest different errors of its tasks, with the nodes' names.
      type: list
      elements: str
  sample:
    - name: PROD-STACK_tf_serving
      image: tensorflow/serving:2.20.0
      mode: replicated
      wanted: 4
      running: 4
      update_state: completed
      errors: []
tasks:
  description: The tasks that the swarm wants to run, by service and slot.
  returned: always
  type: list
  elements: dict
  contains:
    service:
      description: Name of the service.
      type: str
    slot:
      description: Number among the replicas. V(null) for a global service.
      type: int
    node:
      description: Host name of the node. V(null) when there is none yet.
      type: str
    state:
      description: State of the task as the swarm has it.
      type: str
    container_id:
      description: ID of the container. V(null) when there is none yet.
      type: str
    image:
      description: Image that the task runs.
      type: str
    error:
      description: Error of the task. V(null) when there is none.
      type: str
  sample:
    - service: PROD-STACK_tf_serving
      slot: 1
      node: node-1
      state: running
      container_id: 3f4e1c0f5c7c
      image: tensorflow/serving:2.20.0
      error: null
"""

import time
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils._docker import (
    ARGUMENT_SPEC,
    STACK_LABEL,
    Engine,
    EngineError,
)
from ansible_collections.tf2x.serving.plugins.module_utils._swarm_stack import Expectation, ServiceReport, report


@dataclass(frozen=True)
class _Look:
    """What one look at the stack has found; `absent` names expected services that the stack does not have."""

    reports: list[ServiceReport]
    absent: list[str]

    @property
    def converged(self) -> bool:
        return bool(self.reports) and not self.absent and not any(one.missing for one in self.reports)

    @property
    def lost(self) -> bool:
        return not self.reports or bool(self.absent) or any(one.lost for one in self.reports)

    @property
    def containers(self) -> set[str | None]:
        return {task["container_id"] for one in self.reports for task in one.tasks}

    def explain(self, stack: str) -> str:
        if not self.reports:
            return f"the swarm has no service of a stack {stack}"
        absent = [f"service {name} does not exist" for name in self.absent]
        return " | ".join(absent + [one.explain() for one in self.reports if one.missing])

    def result(self) -> dict[str, Any]:
        return {
            "services": [one.as_dict() for one in self.reports],
            "tasks": [task for one in self.reports for task in one.tasks],
        }


_NOTHING = _Look([], [])


def _look(engine: Engine, stack: str, expectations: dict[str, Expectation]) -> _Look:
    label = {"label": f"{STACK_LABEL}={stack}"}
    services = {service["ID"]: service for service in engine.ask("services", filters=label)}
    tasks: dict[str, list[dict[str, Any]]] = {service: [] for service in services}
    for task in engine.ask("tasks", filters=label) if services else []:
        tasks.setdefault(task["ServiceID"], []).append(task)
    nodes = {node["ID"]: node for node in engine.ask("nodes")}
    names = {service["Spec"]["Name"] for service in services.values()}
    reports = [
        report(service, tasks[service_id], nodes, expectations.get(service["Spec"]["Name"], Expectation()))
        for service_id, service in services.items()
    ]
    return _Look(sorted(reports, key=lambda one: one.name), sorted(expectations.keys() - names))


def _wait(engine: Engine, params: dict[str, Any], expectations: dict[str, Expectation]) -> tuple[_Look, str]:
    """Look until the stack has converged and is stable; return the last look and why it is not good, if so."""
    deadline = time.monotonic() + params["timeout"]
    found, reason, since, containers = _NOTHING, "", time.monotonic(), None
    while True:
        try:
            found = _look(engine, params["stack"], expectations)
            reason = "" if found.converged else found.explain(params["stack"])
            if found.lost:
                return found, reason
        except EngineError as error:
            if not error.passing:
                raise
            reason = str(error)
        if reason or found.containers != containers:
            since, containers = time.monotonic(), None if reason else found.containers
        if not reason:
            # The tasks' own time stamps spare the wait; a clock that runs ahead on a node only brings it back.
            ran = time.time() - max(one.youngest for one in found.reports)
            if max(ran, time.monotonic() - since) >= params["stable_for"]:
                return found, ""
        if time.monotonic() + params["poll_interval"] > deadline:
            unstable = f"its tasks have not run for {params['stable_for']:g} s"
            return found, f"{reason or unstable} (waited {params['timeout']:g} s)"
        time.sleep(params["poll_interval"])


def _full_name(stack: str, name: str) -> str:
    return name if name.startswith(f"{stack}_") else f"{stack}_{name}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENT_SPEC,
            "stack": {"type": "str", "required": True},
            "services": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "image": {"type": "str"},
                    "replicas": {"type": "int"},
                },
            },
            "timeout": {"type": "float", "default": 300},
            "poll_interval": {"type": "float", "default": 1},
            "stable_for": {"type": "float", "default": 3},
        },
        supports_check_mode=True,
    )
    params = module.params
    stack = params["stack"]
    expectations = {
        _full_name(stack, service["name"]): Expectation(service["image"], service["replicas"])
        for service in params["services"]
    }
    started = time.monotonic()
    found, reason, details = _NOTHING, "", None
    try:
        engine = Engine(params["docker_host"])
        try:
            if module.check_mode:
                found = _look(engine, stack, expectations)
            else:
                found, reason = _wait(engine, params, expectations)
        finally:
            engine.close()
    except EngineError as error:
        reason, details = str(error), error.details
        if module.check_mode:
            module.warn(reason)
    result = {
        "changed": False,
        "converged": found.converged and not reason,
        "seconds": round(time.monotonic() - started, 1),
        **found.result(),
    }
    if reason and not module.check_mode:
        module.fail_json(msg=f"stack {stack} has not converged: {reason}", exception=details, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
