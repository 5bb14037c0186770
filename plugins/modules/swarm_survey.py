#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_survey
version_added: 0.1.0
short_description: Survey the nodes of a swarm, and wait until they are as they must be
description:
  - Returns every node of the swarm with its part, state, labels and number of running tasks, and how many managers the
    swarm can do without, in one call on one manager.
  - With O(expect), waits until the named nodes are as expected, and fails with what was found when that takes too long.
  - A swarm without a leader is waited for, since an election takes a moment. Without a quorum there will be none, and
    the module says so.
  - Never returns join tokens or keys.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
  - tf2x.serving.docker_sdk
options:
  expect:
    description:
      - What nodes must be like.
    type: list
    elements: dict
    default: []
    suboptions:
      node:
        description:
          - ID of the node. Host names are not unique in a swarm.
        type: str
        required: true
      name:
        description:
          - What to call the node in messages. Its host name by default.
        type: str
      state:
        description:
          - State that the swarm must have the node in.
        type: str
        choices: [ready, down]
      role:
        description:
          - Part that the node must play. A V(manager) counts once the other managers reach it, a V(worker) once it
            manages no more.
        type: str
        choices: [manager, worker]
      idle:
        description:
          - Whether no task may run on the node.
        type: bool
        default: false
  expect_certificates:
    description:
      - Whether every node must have a certificate of the swarm's present CA, and no rotation of the CA be under way.
    type: bool
    default: false
  timeout:
    description:
      - Seconds to wait for what is expected, and for a leader.
    type: float
    default: 20
  poll_interval:
    description:
      - Seconds between two looks.
    type: float
    default: 1
notes:
  - Must run on a manager of the swarm.
  - In check mode nothing was changed that could be waited for, so this takes one look and returns, whatever it finds.
"""

EXAMPLES = r"""
- name: Survey the swarm
  tf2x.serving.swarm_survey:
  register: survey
  delegate_to: "{{ groups.swarm_managers | first }}"
  run_once: true

- name: Wait until a drained node has nothing left to do
  tf2x.serving.swarm_survey:
    expect:
      - node: 9m3f1vh0o5c1xqk6s8r2
        idle: true
    timeout: 180
"""

RETURN = r"""
cluster_id:
  description: ID of the swarm.
  returned: success
  type: str
  sample: 6q1v0p0x0d8b0y7f7t8m1k2c3
autolock:
  description: Whether a manager stays locked after its engine was restarted, until it is given the unlock key.
  returned: success
  type: bool
  sample: false
ca_rotating:
  description: Whether a rotation of the CA is under way.
  returned: success
  type: bool
  sample: false
quorum:
  description: What the managers can bear.
  returned: success
  type: dict
  contains:
    managers:
      description: How many managers there are.
      type: int
    reachable:
      description: How many of them the leader reaches.
      type: int
    needed:
      description: How many it needs.
      type: int
    spare:
      description: How many more may fail.
      type: int
  sample: {managers: 3, reachable: 3, needed: 2, spare: 1}
stacks:
  description: Names of the stacks that have services.
  returned: success
  type: list
  elements: str
  sample: [PROD-MONITORING, PROD-STACK]
nodes:
  description: The nodes, by host name and ID.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: ID of the node.
      type: str
    hostname:
      description: Host name, which other nodes may have, too.
      type: str
    address:
      description: Address of the node as the swarm sees it.
      type: str
    role:
      description: V(manager) or V(worker), as it was asked for.
      type: str
    manages:
      description: Whether it takes part in the managers' consensus.
      type: bool
    reachable:
      description: Whether it manages and the leader reaches it.
      type: bool
    leader:
      description: Whether it is the leader.
      type: bool
    state:
      description: V(ready), V(down), V(unknown) or V(disconnected).
      type: str
    availability:
      description: V(active), V(pause) or V(drain).
      type: str
    tasks:
      description: How many tasks run on it. Those of a node that is down are as they were when it was lost.
      type: int
    labels:
      description: Labels of the node.
      type: dict
    engine:
      description: Version of its engine.
      type: str
    certificate_current:
      description: Whether its certificate is of the swarm's present CA.
      type: bool
  sample:
    - id: 9m3f1vh0o5c1xqk6s8r2
      hostname: node-1
      address: 10.0.0.1
      role: manager
      manages: true
      reachable: true
      leader: true
      state: ready
      availability: active
      tasks: 3
      labels: {tf2x.serving: "true"}
      engine: 20.10.24
      certificate_current: true
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils._docker import (
    ARGUMENT_SPEC,
    STACK_LABEL,
    Engine,
    EngineError,
)
from ansible_collections.tf2x.serving.plugins.module_utils._swarm_stack import ENDED

_NO_LEADER = ("does not have a leader", "deadline exceeded")
_NOTHING: dict[str, Any] = {
    "cluster_id": "",
    "autolock": False,
    "ca_rotating": False,
    "quorum": {"managers": 0, "reachable": 0, "needed": 0, "spare": 0},
    "stacks": [],
    "nodes": [],
}


def _has_no_leader(error: EngineError) -> bool:
    return any(words in str(error) for words in _NO_LEADER)


def _look(engine: Engine) -> dict[str, Any]:
    labels = [service["Spec"].get("Labels") or {} for service in engine.ask("services")]
    swarm = engine.ask("inspect_swarm")
    tasks: dict[str, int] = {}
    for task in engine.ask("tasks"):
        if task["Status"]["State"] not in ENDED:
            node = task.get("NodeID", "")
            tasks[node] = tasks.get(node, 0) + 1
    root = (swarm.get("TLSInfo") or {}).get("TrustRoot")
    nodes = [_node(node, tasks.get(node["ID"], 0), root) for node in engine.ask("nodes")]
    managers = sum(node["manages"] for node in nodes)
    reachable = sum(node["reachable"] for node in nodes)
    needed = managers // 2 + 1
    return {
        "cluster_id": swarm["ID"],
        "autolock": bool((swarm["Spec"].get("EncryptionConfig") or {}).get("AutoLockManagers")),
        "ca_rotating": bool(swarm.get("RootRotationInProgress")),
        "quorum": {"managers": managers, "reachable": reachable, "needed": needed, "spare": reachable - needed},
        "stacks": sorted({entry[STACK_LABEL] for entry in labels if STACK_LABEL in entry}),
        "nodes": sorted(nodes, key=lambda node: (node["hostname"], node["id"])),
    }


def _node(node: dict[str, Any], tasks: int, root: str | None) -> dict[str, Any]:
    spec, description = node["Spec"], node.get("Description") or {}
    manager = node.get("ManagerStatus") or {}
    return {
        "id": node["ID"],
        # A node that has never been up has no description yet.
        "hostname": description.get("Hostname", ""),
        "address": node["Status"].get("Addr", ""),
        "role": spec["Role"],
        "manages": bool(manager),
        "reachable": manager.get("Reachability") == "reachable",
        "leader": bool(manager.get("Leader")),
        "state": node["Status"]["State"],
        "availability": spec["Availability"],
        "tasks": tasks,
        "labels": spec.get("Labels") or {},
        "engine": (description.get("Engine") or {}).get("EngineVersion", ""),
        "certificate_current": (description.get("TLSInfo") or {}).get("TrustRoot") == root,
    }


def _trouble(found: dict[str, Any], params: dict[str, Any]) -> list[str]:
    """Say what is not as expected."""
    nodes = {node["id"]: node for node in found["nodes"]}
    trouble = []
    for expected in params["expect"]:
        node = nodes.get(expected["node"])
        name = expected["name"] or (node["hostname"] if node else "")
        where = f"{name} (node {expected['node']})" if name else f"node {expected['node']}"
        wrong = _wrong(node, expected) if node else ["the swarm does not know it"]
        if wrong:
            trouble.append(f"{where}: {', '.join(wrong)}")
    if params["expect_certificates"]:
        if found["ca_rotating"]:
            trouble.append("the rotation of the CA has not ended")
        trouble += [
            f"{node['hostname']} (node {node['id']}) is {node['state']} and has a certificate of another CA"
            for node in found["nodes"]
            if not node["certificate_current"]
        ]
    return trouble


def _wrong(node: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    wrong = []
    if expected["state"] and node["state"] != expected["state"]:
        wrong.append(f"its state is {node['state']}, {expected['state']} would be right")
    if expected["role"] == "manager" and not node["reachable"]:
        wrong.append(f"it is {_part(node)}, a manager that the others reach would be right")
    if expected["role"] == "worker" and (node["manages"] or node["role"] != "worker"):
        wrong.append(f"it is {_part(node)}, a worker would be right")
    if expected["idle"] and node["tasks"]:
        wrong.append(f"{node['tasks']} tasks run on it, none would be right")
    return wrong


def _part(node: dict[str, Any]) -> str:
    if node["manages"]:
        return "a manager" if node["reachable"] else "a manager that cannot be reached"
    return "to become a manager" if node["role"] == "manager" else "a worker"


def _survey(engine: Engine, params: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Look until all is as expected; return the last look and what is wrong with it, if so."""
    deadline = time.monotonic() + params["timeout"]
    while True:
        try:
            found = _look(engine)
            reason = " | ".join(_trouble(found, params))
        except EngineError as error:
            if not error.passing and not _has_no_leader(error):
                raise
            found, reason = _NOTHING, str(error)
            if _has_no_leader(error):
                reason = f"the swarm has no leader, so no more than half of its managers are up: {error}"
        if not reason:
            return found, ""
        if time.monotonic() + params["poll_interval"] > deadline:
            return found, f"{reason} (waited {params['timeout']:g} s)"
        time.sleep(params["poll_interval"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENT_SPEC,
            "expect": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "node": {"type": "str", "required": True},
                    "name": {"type": "str"},
                    "state": {"type": "str", "choices": ["ready", "down"]},
                    "role": {"type": "str", "choices": ["manager", "worker"]},
                    "idle": {"type": "bool", "default": False},
                },
            },
            "expect_certificates": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 20},
            "poll_interval": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    found, reason, details = _NOTHING, "", None
    try:
        engine = Engine(module.params["docker_host"])
        try:
            if module.check_mode:
                found = _look(engine)
            else:
                found, reason = _survey(engine, module.params)
        finally:
            engine.close()
    except EngineError as error:
        reason, details = str(error), error.details
        if module.check_mode:
            module.warn(reason)
    if reason and not module.check_mode:
        module.fail_json(msg=reason, exception=details, changed=False, **found)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
