#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_local_task_info
version_added: 0.1.0
short_description: List the swarm tasks that run on this node
description:
  - Lists the containers on this node that belong to a swarm service, and where this node reaches each of them.
  - Needs no manager. It asks the node's own engine, so it runs on workers, too.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
  - tf2x.serving.docker_sdk
options:
  service:
    description:
      - List only tasks of the service with this name, with the stack's name before it.
    type: str
notes:
  - Containers that have ended are not listed.
"""

EXAMPLES = r"""
- name: Find the replicas on this node
  tf2x.serving.swarm_local_task_info:
    service: PROD-STACK_tf_serving
  register: replicas

- name: Verify each of them
  tf2x.serving.tf_serving_verify:
    endpoints: "{{ replicas.tasks | map(attribute='address') | map('regex_replace', '^(.*)$', 'http://\\1:8501') }}"
    model: pets
"""

RETURN = r"""
tasks:
  description: The tasks on this node, by service and name.
  returned: success
  type: list
  elements: dict
  contains:
    service:
      description: Name of the service.
      type: str
    slot:
      description: Number among the replicas. V(null) for a global service.
      type: int
    task_name:
      description: Name of the task.
      type: str
    task_id:
      description: ID of the task.
      type: str
    container_id:
      description: ID of the container.
      type: str
    image:
      description: Image that the container was made from.
      type: str
    state:
      description: State of the container, such as V(running).
      type: str
    health:
      description: V(healthy), V(unhealthy) or V(starting). V(null) when the container has no health check.
      type: str
    address:
      description:
        - IPv4 address of the container on this node's C(docker_gwbridge) network, where this node, and no other,
          reaches all of its ports.
        - V(null) when the container is not on that network.
      type: str
    started_at:
      description: When the container was started.
      type: str
  sample:
    - service: PROD-STACK_tf_serving
      slot: 1
      task_name: PROD-STACK_tf_serving.1.k2m0c8w1x5tq
      task_id: k2m0c8w1x5tq
      container_id: 3f4e1c0f5c7c
      image: tensorflow/serving:2.20.0
      state: running
      health: healthy
      address: 172.18.0.3
      started_at: "2026-01-02T03:04:05.678901234Z"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils._docker import ARGUMENT_SPEC, Engine, EngineError

_SERVICE_LABEL = "com.docker.swarm.service.name"
_TASK_NAME_LABEL = "com.docker.swarm.task.name"
_TASK_ID_LABEL = "com.docker.swarm.task.id"

# The bridge between a node and its containers on overlay networks; overlay addresses are out of the node's own reach.
_BRIDGE = "docker_gwbridge"


def _addresses(engine: Engine) -> dict[str, str]:
    """Return the IPv4 address on the bridge by container ID."""
    if not engine.ask("networks", names=[_BRIDGE]):
        return {}
    containers = engine.ask("inspect_network", _BRIDGE).get("Containers") or {}
    return {name: entry["IPv4Address"].split("/")[0] for name, entry in containers.items() if entry.get("IPv4Address")}


def _slot(service: str, task_name: str) -> int | None:
    """Read the slot out of `<service>.<slot>.<task ID>`; a global service has its node's ID there."""
    slot = task_name[len(service) + 1 :].split(".", maxsplit=1)[0]
    return int(slot) if slot.isdigit() else None


def _task(container: dict[str, Any], addresses: dict[str, str]) -> dict[str, Any]:
    config, state = container["Config"], container["State"]
    labels = config["Labels"]
    service, task_name = labels[_SERVICE_LABEL], labels.get(_TASK_NAME_LABEL, "")
    return {
        "service": service,
        "slot": _slot(service, task_name),
        "task_name": task_name,
        "task_id": labels.get(_TASK_ID_LABEL, ""),
        "container_id": container["Id"],
        "image": config["Image"],
        "state": state["Status"],
        "health": (state.get("Health") or {}).get("Status"),
        "address": addresses.get(container["Id"]),
        "started_at": state["StartedAt"],
    }


def _local_tasks(engine: Engine, service: str | None) -> list[dict[str, Any]]:
    label = _SERVICE_LABEL if service is None else f"{_SERVICE_LABEL}={service}"
    containers = engine.ask("containers", filters={"label": label})
    addresses = _addresses(engine) if containers else {}
    found = []
    for container in containers:
        try:
            found.append(_task(engine.ask("inspect_container", container["Id"]), addresses))
        except EngineError as error:
            # Swarm may have removed it since it was listed.
            if not error.missing:
                raise
    return sorted(found, key=lambda task: (task["service"], task["slot"] or 0, task["task_name"]))


def main() -> None:
    module = AnsibleModule(argument_spec={**ARGUMENT_SPEC, "service": {"type": "str"}}, supports_check_mode=True)
    tasks: list[dict[str, Any]] = []
    try:
        engine = Engine(module.params["docker_host"])
        try:
            tasks = _local_tasks(engine, module.params["service"])
        finally:
            engine.close()
    except EngineError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error), exception=error.details)
        module.warn(str(error))
    module.exit_json(changed=False, tasks=tasks)


if __name__ == "__main__":
    main()
