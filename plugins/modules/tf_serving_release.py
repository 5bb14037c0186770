#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tf_serving_release
version_added: 0.1.0
short_description: Plan how a model version is published, tried, promoted or rolled back
description:
  - Computes from the registry, the document that says which versions of which models there are, what an action comes
    to. That is what TF Serving's C(models.config) names in each step, what share of the requests the gateways send to a
    canary, and what the registry is once the action has succeeded.
  - Reads and writes no file and asks no host, so that it can run on the controller before anything is touched.
  - In the first step the version that is needed is loaded beside what is loaded already. In the second, labels are
    added or moved. In the last, labels and versions that are not needed any more go. So no label ever points to a
    version that is not loaded, which TF Serving refuses.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
options:
  registry:
    description:
      - The registry, V({}) where there is none yet. One that contradicts itself is refused.
    type: dict
    required: true
  action:
    description:
      - V(publish) takes a new version on. It becomes stable, and the one that was stays loaded for a rollback. With
        O(stable=false) it is loaded only. Content that is a version already is not published again.
      - V(canary) gives a version a share of the requests, or changes that share.
      - V(promote) makes a version stable, by default the canary.
      - V(rollback) ends a canary. Where there is none, it makes the version stable that was so before. With O(version)
        it makes that one stable and ends a canary, too.
      - V(prune) forgets old versions that are neither loaded nor among the newest O(keep).
      - V(failure) puts on record that an action failed.
    type: str
    required: true
    choices: [publish, canary, promote, rollback, prune, failure]
  model:
    description:
      - Name of the model. Required by every action but V(prune), which is about all models without it.
    type: str
  version:
    description:
      - Version that the action is about.
      - By default V(publish) takes the number after the highest one that was ever used, V(canary) the newest version
        that is loaded without a label, or else the newest one that is newer than the stable one, V(promote) the canary,
        and V(rollback) the version that was stable before.
    type: int
  digest:
    description:
      - Digest of the version's content. Required by V(publish).
    type: str
  size_bytes:
    description:
      - Size of the version, for the record.
    type: int
  source:
    description:
      - Where the version came from, for the record.
    type: str
  stable:
    description:
      - Whether a published version becomes stable. A model's first version always does.
    type: bool
    default: true
  percent:
    description:
      - Share of the requests that the canary gets, from 0 to 100. Required by V(canary), unless it changes one that is
        under way.
    type: float
  mode:
    description:
      - V(split) sends the share to the canary. V(shadow) sends it copies, and its answers are compared only.
      - V(split) by default, or what it is for a canary that is under way.
    type: str
    choices: [split, shadow]
  sticky:
    description:
      - Whether a client that the canary answered goes on being answered by it.
      - V(false) by default, or what it is for a canary that is under way.
    type: bool
  if_canary:
    description:
      - Version that must be the model's canary. Nothing changes when it is not, because somebody has decided about it
        in the meantime. For V(promote) and V(rollback).
    type: int
  keep:
    description:
      - How many of the newest versions V(prune) keeps in any case. Required by V(prune).
    type: int
  failed_action:
    description:
      - Action that failed. Required by V(failure).
    type: str
    choices: [publish, canary, promote, rollback, prune]
  detail:
    description:
      - What went wrong. Required by V(failure).
    type: str
notes:
  - RV(ignore:changed) says whether the action would change something. The module itself never does.
"""

EXAMPLES = r"""
- name: Plan the release of a new version
  tf2x.serving.tf_serving_release:
    registry: "{{ lookup('ansible.builtin.file', 'models.json') | from_json }}"
    action: publish
    model: pets
    digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    size_bytes: 684000
    source: pets-2.zip
  delegate_to: localhost

- name: Plan to end a canary that did not do well, unless somebody has ended it already
  tf2x.serving.tf_serving_release:
    registry: "{{ registry }}"
    action: rollback
    model: pets
    if_canary: 3
  delegate_to: localhost

- name: Plan a canary with a tenth of the requests
  tf2x.serving.tf_serving_release:
    registry: "{{ registry }}"
    action: canary
    model: pets
    percent: 10
  delegate_to: localhost
"""

RETURN = r"""
message:
  description: What the action comes to, in a sentence.
  returned: success
  type: str
  sample: "pets: stable 1 -> 2, version 1 stays loaded for a rollback"
version:
  description: Version that the action is about. V(null) for V(prune).
  returned: success
  type: int
  sample: 2
registry:
  description: The registry once the action has succeeded. As it was given if nothing changes.
  returned: success
  type: dict
serving:
  description: All models that C(models.config) names, step by step.
  returned: success
  type: dict
  contains:
    before:
      description: As it is.
      type: list
      elements: dict
    loading:
      description: With the version that is needed loaded, and the labels as they were.
      type: list
      elements: dict
    labelled:
      description: With labels added and moved, none removed yet.
      type: list
      elements: dict
    after:
      description: As it will be.
      type: list
      elements: dict
  sample:
    before: [{name: pets, versions: [1], labels: {stable: 1}}]
    loading: [{name: pets, versions: [1, 2], labels: {stable: 1}}]
    labelled: [{name: pets, versions: [1, 2], labels: {stable: 2}}]
    after: [{name: pets, versions: [1, 2], labels: {stable: 2}}]
traffic:
  description: Content of the gateways' C(traffic.json), before and after. Only models with a canary are in it.
  returned: success
  type: dict
  sample:
    before: {models: {}}
    after: {models: {pets: {canary: {mode: split, percent: 10, sticky: false}}}}
removed:
  description: Versions that V(prune) forgets, by model. Empty for other actions.
  returned: success
  type: dict
  sample: {pets: [1, 2]}
"""

from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils import _registry, _release


def _plan(planner: _release.Planner, params: dict[str, Any]) -> _release.Plan:
    action, model, version = params["action"], params["model"], params["version"]
    if version is not None and version < 1:
        raise _release.ReleaseError(f"version is {version}, 1 or more would be right")
    if action == "publish":
        record = {key: params[key] for key in ("digest", "size_bytes", "source", "stable")}
        return planner.publish(model, version=version, **record)
    if action == "canary":
        share = {key: params[key] for key in ("percent", "mode", "sticky")}
        return planner.canary(model, version=version, **share)
    if action == "promote":
        return planner.promote(model, version=version, if_canary=params["if_canary"])
    if action == "rollback":
        return planner.rollback(model, version=version, if_canary=params["if_canary"])
    if action == "prune":
        return planner.prune(model, keep=params["keep"])
    return planner.failure(model, action=params["failed_action"], version=version, detail=params["detail"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "dict", "required": True},
            "action": {
                "type": "str",
                "required": True,
                "choices": ["publish", "canary", "promote", "rollback", "prune", "failure"],
            },
            "model": {"type": "str"},
            "version": {"type": "int"},
            "digest": {"type": "str"},
            "size_bytes": {"type": "int"},
            "source": {"type": "str"},
            "stable": {"type": "bool", "default": True},
            "percent": {"type": "float"},
            "mode": {"type": "str", "choices": ["split", "shadow"]},
            "sticky": {"type": "bool"},
            "if_canary": {"type": "int"},
            "keep": {"type": "int"},
            "failed_action": {"type": "str", "choices": ["publish", "canary", "promote", "rollback", "prune"]},
            "detail": {"type": "str"},
        },
        required_if=[
            ("action", "publish", ["model", "digest"]),
            ("action", "canary", ["model"]),
            ("action", "promote", ["model"]),
            ("action", "rollback", ["model"]),
            ("action", "prune", ["keep"]),
            ("action", "failure", ["model", "failed_action", "detail"]),
        ],
        supports_check_mode=True,
    )
    document = module.params["registry"]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        plan = _plan(_release.Planner(_registry.parse(document), now), module.params)
    except (_registry.RegistryError, _release.ReleaseError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=plan.changed,
        message=plan.message,
        version=plan.version,
        registry=plan.registry.as_dict() if plan.changed else document,
        serving=plan.serving(),
        traffic=plan.traffic(),
        removed=plan.removed,
    )


if __name__ == "__main__":
    main()
