#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_survey
version_added: 0.1.0
short_description: Compare a plan of Google Cloud resources with what is there
description:
  - Says what of a deployment's plan is there, what is missing, what differs, and what is there beside it.
  - The modules of C(google.cloud) have no check mode and do not see every difference. What this returns tells a
    playbook which of them have something to do, and a reader what they will do.
  - A resource belongs to the deployment when it carries its mark, which is the description, the display name of a
    service account, and the label C(tf2x_deployment) of an instance.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
requirements:
  - collection google.cloud
  - google-auth
  - requests
options:
  project:
    description:
      - ID of the project.
    type: str
    required: true
  zone:
    description:
      - The deployment's zone, which is in its region.
    type: str
    required: true
  deployment:
    description:
      - Name of the deployment. Everything of it has this name, or begins with it and a hyphen.
    type: str
    required: true
  mark:
    description:
      - What the description of the deployment's resources says.
    type: str
    required: true
  plan:
    description:
      - What there should be.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description:
          - Kind of the resource, as the Compute Engine API calls the collection, C(serviceAccounts), or
            C(globalAddresses) for addresses of load balancers.
        type: str
        required: true
      name:
        description:
          - Name of the resource, for a service account the part before C(@).
        type: str
        required: true
      want:
        description:
          - Fields that must be so, with the API's names. The last part of a URL stands for the URL, and the pairs of
            metadata for its list of items. Other fields may be as they like.
        type: dict
        default: {}
  settle_seconds:
    description:
      - How long to wait for instance group managers that still make or remove instances. V(0) takes one look.
    type: int
    default: 0
  auth_kind:
    description:
      - Kind of credentials, as for the modules of C(google.cloud). Environment variable E(GCP_AUTH_KIND).
    type: str
    choices: [accesstoken, application, machineaccount, serviceaccount]
    default: application
  service_account_file:
    description:
      - File with the key of a service account. Environment variable E(GCP_SERVICE_ACCOUNT_FILE).
    type: path
  service_account_contents:
    description:
      - The content of such a file. Environment variable E(GCP_SERVICE_ACCOUNT_CONTENTS).
    type: str
  service_account_email:
    description:
      - Service account of the machine. Environment variable E(GCP_SERVICE_ACCOUNT_EMAIL).
    type: str
  access_token:
    description:
      - A token. Environment variable E(GCP_ACCESS_TOKEN).
    type: str
"""

EXAMPLES = r"""
- name: Survey the deployment
  tf2x.serving.gcp_survey:
    project: my-project
    zone: europe-west1-b
    deployment: tf2x
    mark: Made by tf2x.serving for tf2x
    plan:
      - kind: networks
        name: tf2x
        want: {autoCreateSubnetworks: false}
      - kind: firewalls
        name: tf2x-ssh
        want:
          sourceRanges: [203.0.113.0/24]
          allowed: [{IPProtocol: tcp, ports: ["22"]}]
  register: survey
"""

RETURN = r"""
missing:
  description: Entries of the plan that are not there.
  returned: success
  type: list
  elements: dict
  sample: [{kind: firewalls, name: tf2x-ssh, want: {sourceRanges: [203.0.113.0/24]}}]
different:
  description:
    - Entries of the plan that are there and differ, with C(differences) in words, whether they are C(changeable) by the
      modules of C(google.cloud), and the present C(fingerprint) and C(priority).
  returned: success
  type: list
  elements: dict
foreign:
  description: Entries of the plan whose name something has that does not carry the mark.
  returned: success
  type: list
  elements: dict
there:
  description:
    - What carries the mark, C(planned) or not. What C(managed) is true of belongs to an instance group manager, which
      makes and removes it.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: Kind of the resource.
      type: str
    name:
      description: Name of the resource.
      type: str
    planned:
      description: Whether the plan names it, or the instance group manager that made it.
      type: bool
    managed:
      description: Whether an instance group manager makes and removes it.
      type: bool
    address:
      description: External address, of addresses and instances.
      type: str
"""

import time
import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib
from ansible_collections.tf2x.serving.plugins.module_utils._gcp_errors import explain

try:
    from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpSession
except ImportError:
    GcpSession = None

try:
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException
except ImportError:
    _LIBRARY_ERROR: str | None = traceback.format_exc()
else:
    _LIBRARY_ERROR = None

_LOOK_SECONDS = 2
_COMPUTE = "https://compute.googleapis.com/compute/v1/projects/{project}"
_IAM = "https://iam.googleapis.com/v1/projects/{project}/serviceAccounts"

# Where each kind is listed.
_KINDS = {
    "networks": f"{_COMPUTE}/global/networks",
    "subnetworks": f"{_COMPUTE}/regions/{{region}}/subnetworks",
    "firewalls": f"{_COMPUTE}/global/firewalls",
    "addresses": f"{_COMPUTE}/regions/{{region}}/addresses",
    "instances": f"{_COMPUTE}/zones/{{zone}}/instances",
    "instanceTemplates": f"{_COMPUTE}/global/instanceTemplates",
    "instanceGroupManagers": f"{_COMPUTE}/zones/{{zone}}/instanceGroupManagers",
    "instanceGroups": f"{_COMPUTE}/zones/{{zone}}/instanceGroups",
    "globalAddresses": f"{_COMPUTE}/global/addresses",
    "healthChecks": f"{_COMPUTE}/global/healthChecks",
    "backendServices": f"{_COMPUTE}/global/backendServices",
    "urlMaps": f"{_COMPUTE}/global/urlMaps",
    "sslCertificates": f"{_COMPUTE}/global/sslCertificates",
    "targetHttpProxies": f"{_COMPUTE}/global/targetHttpProxies",
    "targetHttpsProxies": f"{_COMPUTE}/global/targetHttpsProxies",
    "forwardingRules": f"{_COMPUTE}/global/forwardingRules",
    # Last: of a project that does not exist it is the other API that says so.
    "serviceAccounts": _IAM,
}

# What the modules of google.cloud change in place. They delete and make anew some of the others, or do nothing.
_CHANGEABLE = {
    "firewalls": {"allowed", "sourceRanges", "targetTags"},
    "instances": {"labels"},
    "instanceGroups": {"size"},
    "healthChecks": {"httpHealthCheck", "httpsHealthCheck"},
    "backendServices": {"backends", "healthChecks", "protocol", "timeoutSec"},
    "targetHttpsProxies": {"sslCertificates"},
}


class _Refused(Exception):
    """Google does not answer as it should; the text says why and what would be right."""


class _Google:
    def __init__(self, module: AnsibleModule) -> None:
        module.params["scopes"] = ["https://www.googleapis.com/auth/cloud-platform"]
        # One session, and with it one token and one connection for each host.
        try:
            self._session = GcpSession(module, "compute").session()
        except (GoogleAuthError, ValueError, OSError) as error:
            raise _Refused(f"The credentials cannot be used. {explain(f'{type(error).__name__}: {error}')}") from error

    def list(self, url: str) -> list[dict[str, Any]]:
        """Return all pages of a collection."""
        found: list[dict[str, Any]] = []
        query: dict[str, str] = {}
        while True:
            try:
                response = self._session.get(url, params=query, timeout=60)
            except (GoogleAuthError, RequestException) as error:
                raise _Refused(explain(f"{type(error).__name__}: {error}")) from error
            if not response.ok:
                raise _Refused(explain(_text(response)))
            try:
                page = response.json()
            except ValueError as error:
                raise _Refused(f"{url} answered something that is not JSON: {_text(response)}") from error
            found += page.get("items") or page.get("accounts") or []
            if not page.get("nextPageToken"):
                return found
            query = {"pageToken": page["nextPageToken"]}


def _text(response: Any) -> str:
    try:
        return f"{response.status_code}: {response.json()}"
    except ValueError:
        return f"{response.status_code}: {response.text[:500]}"


def _name(kind: str, found: dict[str, Any]) -> str:
    return str(found["email"].partition("@")[0] if kind == "serviceAccounts" else found["name"])


def _address(found: dict[str, Any]) -> str:
    for interface in found.get("networkInterfaces") or []:
        for config in interface.get("accessConfigs") or []:
            if config.get("natIP"):
                return str(config["natIP"])
    return str(found.get("address", ""))


def _pairs(metadata: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: item.get("value") for item in metadata.get("items") or []}


def _fits(want: Any, found: Any) -> bool:
    if isinstance(want, dict):
        return isinstance(found, dict) and not _differing(want, found)
    if isinstance(want, list):
        there = found if isinstance(found, list) else []
        return len(want) == len(there) and all(any(_fits(one, other) for other in there) for one in want)
    if isinstance(found, str) and found.startswith("https://"):
        return found.rsplit("/", 1)[-1] == str(want).rsplit("/", 1)[-1]
    if isinstance(want, bool) or isinstance(found, bool):
        return want == found
    return str(want) == str(found)


def _differing(want: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the names of the fields that are not as they must be."""
    there = {**found, "metadata": _pairs(found["metadata"])} if found.get("metadata") else found
    return [name for name, value in want.items() if not _fits(value, there.get(name))]


def _difference(name: str, want: Any, found: dict[str, Any]) -> str:
    there = _pairs(found[name]) if name == "metadata" and found.get(name) else found.get(name, "nothing")
    return f"{name} is {_short(there, want)}, the plan says {want}"


def _short(there: Any, want: Any) -> Any:
    """Leave out what the plan says nothing of, so that a reader sees the difference."""
    if isinstance(there, dict) and isinstance(want, dict):
        return {name: _short(there[name], value) for name, value in want.items() if name in there}
    if isinstance(there, list) and isinstance(want, list) and want:
        return [_short(one, want[0]) for one in there]
    if isinstance(there, str) and there.startswith("https://"):
        return there.rsplit("/", 1)[-1]
    return there


def _marked(kind: str, found: dict[str, Any], deployment: str, mark: str) -> bool:
    if kind == "instances":
        return bool((found.get("labels") or {}).get("tf2x_deployment") == deployment)
    return bool(found.get("displayName" if kind == "serviceAccounts" else "description") == mark)


def _manager(kind: str, found: dict[str, Any]) -> str:
    """Return the name of the instance group manager that made an instance, or nothing."""
    maker = str(_pairs(found.get("metadata") or {}).get("created-by", "")) if kind == "instances" else ""
    return maker.rpartition("/instanceGroupManagers/")[2] if "/instanceGroupManagers/" in maker else ""


def survey(google: _Google, params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what is missing, different, foreign and there; and managed groups that still make their machines."""
    deployment, mark = params["deployment"], params["mark"]
    places = {"project": params["project"], "zone": params["zone"], "region": params["zone"].rpartition("-")[0]}
    planned = {(entry["kind"], entry["name"]): entry for entry in params["plan"]}
    unsettled = []
    result: dict[str, Any] = {"missing": [], "different": [], "foreign": [], "there": []}
    everything: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, place in _KINDS.items():
        for found in google.list(place.format(**places)):
            name = _name(kind, found)
            if name == deployment or name.startswith(f"{deployment}-"):
                everything[kind, name] = found
    for (kind, name), found in everything.items():
        if not _marked(kind, found, deployment, mark):
            continue
        manager = _manager(kind, found)
        result["there"].append(
            {
                "kind": kind,
                "name": name,
                "planned": (kind, name) in planned or ("instanceGroupManagers", manager) in planned,
                "managed": bool(manager),
                "address": _address(found),
            }
        )
        if kind == "instanceGroupManagers" and not (found.get("status") or {}).get("isStable", True):
            unsettled.append(name)
    for (kind, name), entry in planned.items():
        found = everything.get((kind, name))
        if found is None:
            result["missing"].append(entry)
        elif not _marked(kind, found, deployment, mark):
            result["foreign"].append(entry)
        else:
            fields = _differing(entry["want"], found)
            if fields:
                result["different"].append(
                    {
                        **entry,
                        "differences": [_difference(field, entry["want"][field], found) for field in fields],
                        "changeable": set(fields) <= _CHANGEABLE.get(kind, set()),
                        "fingerprint": found.get("fingerprint", ""),
                        "priority": found.get("priority", 0),
                    }
                )
    return result, unsettled


def _settled(google: _Google, params: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + params["settle_seconds"]
    while True:
        found, unsettled = survey(google, params)
        if not unsettled or not params["settle_seconds"]:
            return found
        if time.monotonic() > deadline:
            errors = f"gcloud compute instance-groups managed list-errors {unsettled[0]} --zone {params['zone']}"
            raise _Refused(
                f"The managed groups {', '.join(unsettled)} have not made all their machines within "
                f"{params['settle_seconds']} s. `{errors}` says why: often a quota, or a zone that has none to give."
            )
        time.sleep(_LOOK_SECONDS)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "zone": {"type": "str", "required": True},
            "deployment": {"type": "str", "required": True},
            "mark": {"type": "str", "required": True},
            "plan": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "kind": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "want": {"type": "dict", "default": {}},
                },
            },
            "settle_seconds": {"type": "int", "default": 0},
            "auth_kind": {
                "type": "str",
                "choices": ["accesstoken", "application", "machineaccount", "serviceaccount"],
                "default": "application",
                "fallback": (env_fallback, ["GCP_AUTH_KIND"]),
            },
            "service_account_file": {"type": "path", "fallback": (env_fallback, ["GCP_SERVICE_ACCOUNT_FILE"])},
            "service_account_contents": {
                "type": "str",
                "no_log": True,
                "fallback": (env_fallback, ["GCP_SERVICE_ACCOUNT_CONTENTS"]),
            },
            "service_account_email": {"type": "str", "fallback": (env_fallback, ["GCP_SERVICE_ACCOUNT_EMAIL"])},
            "access_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["GCP_ACCESS_TOKEN"])},
        },
        supports_check_mode=True,
    )
    if _LIBRARY_ERROR:
        module.fail_json(msg=missing_required_lib("google-auth with requests"), exception=_LIBRARY_ERROR)
    if GcpSession is None:
        module.fail_json(
            msg="The collection google.cloud is not installed; "
            "`ansible-galaxy collection install -r requirements-gcp.yml` would be right."
        )
    unknown = sorted({entry["kind"] for entry in module.params["plan"]} - set(_KINDS))
    if unknown:
        module.fail_json(msg=f"plan has the kinds {', '.join(unknown)}; right are {', '.join(_KINDS)}")
    try:
        module.exit_json(changed=False, **_settled(_Google(module), module.params))
    except _Refused as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
