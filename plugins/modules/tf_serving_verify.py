#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tf_serving_verify
version_added: 0.1.0
short_description: Verify that TF Serving serves a model and predicts what is right
description:
  - Asks every endpoint for the state of a model, for its signature and, given a golden file, for its predictions.
  - The golden file holds inputs and the outputs that are right for them, so that a model which answers is told apart
    from a model that answers correctly.
  - Fails when a check fails, and names the endpoint, the model, what was found and what would be right. All checks are
    returned then, too.
author:
  - tf2x maintainers (@tf2x)
requirements:
  - Python package C(grpcio) on the target, if O(grpc_addresses) is given
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
options:
  endpoints:
    description:
      - Base URLs of TF Serving's REST interface, without C(/v1).
      - At least one of O(endpoints), O(grpc_addresses) and O(gateway_urls) is required.
    type: list
    elements: str
    default: []
  model:
    description:
      - Name of the model.
    type: str
    required: true
  version:
    description:
      - Version that must be available and answer.
      - With neither O(version) nor O(label), any available version will do.
      - Mutually exclusive with O(label).
    type: int
  label:
    description:
      - Label whose version must be available and answer.
      - The gateway decides itself which version it asks, so this does not apply to O(gateway_urls).
      - Mutually exclusive with O(version).
    type: str
  golden:
    description:
      - Golden file on the target. Images that it names are looked for beside it.
      - Required by O(grpc_addresses) and O(gateway_urls).
    type: path
  grpc_addresses:
    description:
      - Addresses (C(host:port)) of TF Serving's gRPC interface, or of a balancer in front of it. The golden cases are
        predicted there as well.
    type: list
    elements: str
    default: []
  gateway_urls:
    description:
      - Base URLs of gateways. The image of each golden case that has one is uploaded to
        C(<url>/models/<model>/predict), and the scores are compared by label.
      - The golden file must have labels and, in at least one case, an image and one score for each label.
    type: list
    elements: str
    default: []
  gateway_api_key:
    description:
      - API key for O(gateway_urls), where the gateways ask for one.
    type: str
  gateway_validate_certs:
    description:
      - Whether the certificates of O(gateway_urls) must be valid for the names in these URLs.
    type: bool
    default: true
  timeout:
    description:
      - Seconds that one call may take.
    type: float
    default: 10
  wait:
    description:
      - Seconds, from the start of the module, for which an endpoint may not be there or not have the model yet.
        Something that answers wrongly is not waited for.
    type: float
    default: 0
  tolerance:
    description:
      - Largest absolute difference between an output and the golden one. The golden file's own by default.
    type: float
notes:
  - Proxies of the environment are not used. The endpoints are asked directly.
"""

EXAMPLES = r"""
- name: Verify that every node serves version 2 of the model
  tf2x.serving.tf_serving_verify:
    endpoints:
      - http://127.0.0.1:9501
    model: pets
    version: 2
    golden: /opt/tf2x/models/pets/2/assets.extra/golden.json
    wait: 120

- name: Verify the whole way through the gateway, too
  tf2x.serving.tf_serving_verify:
    endpoints:
      - http://127.0.0.1:9501
    grpc_addresses:
      - 127.0.0.1:9500
    gateway_urls:
      - http://127.0.0.1:9000
    model: pets
    golden: /opt/tf2x/models/pets/1/assets.extra/golden.json
"""

RETURN = r"""
checks:
  description: Every check that was made, in order. An endpoint's later checks are left out once one has failed.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What was checked, and where.
      type: str
    ok:
      description: Whether it was right.
      type: bool
    detail:
      description: What was found and, if it was wrong, what would be right.
      type: str
    seconds:
      description: How long the check took, waiting included.
      type: float
  sample:
    - name: status http://127.0.0.1:9501
      ok: true
      detail: pets version 1 is AVAILABLE
      seconds: 0.004
    - name: golden cat-1 http://127.0.0.1:9501
      ok: true
      detail: largest difference 1.2e-07, tolerance 0.0001
      seconds: 0.412
versions:
  description: State of each version of the model, by endpoint.
  returned: always
  type: dict
  sample:
    http://127.0.0.1:9501:
      "1": AVAILABLE
signature:
  description: The signature that was checked, of the first endpoint that told it. V(null) when none did.
  returned: always
  type: dict
  sample:
    name: serving_default
    method_name: tensorflow/serving/predict
    inputs:
      image:
        dtype: DT_FLOAT
        shape: [-1, 380, 380, 3]
    outputs:
      scores:
        dtype: DT_FLOAT
        shape: [-1, 2]
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.tf2x.serving.plugins.module_utils import _golden, _tf_serving
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import max_abs_difference

_POLL_SECONDS = 0.5
_DEFAULT_SIGNATURE = "serving_default"


class _Wrong(Exception):
    """A check failed; the message says what was found and what would be right."""


class _Verification:
    """Makes the checks and keeps what they found."""

    def __init__(self, target: _tf_serving.Target, golden: _golden.Golden | None, params: dict[str, Any]) -> None:
        self._target = target
        self._golden = golden
        self._timeout: float = params["timeout"]
        self._deadline = time.monotonic() + params["wait"]
        tolerance = params["tolerance"]
        self._gateway_api_key: str | None = params["gateway_api_key"]
        self._gateway_validate_certs: bool = params["gateway_validate_certs"]
        self._tolerance: float = golden.tolerance if golden and tolerance is None else tolerance or 0.0
        self.checks: list[dict[str, Any]] = []
        self.versions: dict[str, dict[str, str]] = {}
        self.signature: dict[str, Any] | None = None

    def rest(self, url: str) -> None:
        client = _tf_serving.Rest(url, self._timeout)
        if not self._check(f"status {url}", lambda: self._status(url, client)):
            return
        if not self._check(f"signature {url}", lambda: self._signature(client)):
            return
        for case in self._cases():
            if not self._check(f"golden {case.name} {url}", lambda: self._rest_golden(client, case)):  # noqa: B023
                return

    def grpc(self, address: str) -> None:
        client = _tf_serving.Grpc(address, self._timeout)
        try:
            for case in self._cases():
                if not self._check(f"grpc golden {case.name} {address}", lambda: self._grpc_golden(client, case)):  # noqa: B023
                    return
        finally:
            client.close()

    def gateway(self, url: str) -> None:
        client = _tf_serving.Gateway(
            url, self._timeout, api_key=self._gateway_api_key, validate_certs=self._gateway_validate_certs
        )
        for case in self._cases():
            if case.image is None:
                continue
            if not self._check(f"gateway golden {case.name} {url}", lambda: self._gateway_golden(client, case)):  # noqa: B023
                return

    def _cases(self) -> tuple[_golden.Case, ...]:
        return self._golden.cases if self._golden else ()

    def _check(self, name: str, look: Callable[[], str]) -> bool:
        """Record what `look` says; while it is not ready and there is time, ask it again."""
        started = time.monotonic()
        while True:
            try:
                ok, detail = True, look()
            except _tf_serving.NotReady as error:
                if time.monotonic() + _POLL_SECONDS < self._deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                ok, detail = False, str(error)
            except (_tf_serving.ServingError, _Wrong) as error:
                ok, detail = False, str(error)
            seconds = round(time.monotonic() - started, 3)
            self.checks.append({"name": name, "ok": ok, "detail": detail, "seconds": seconds})
            return ok

    def _status(self, url: str, client: _tf_serving.Rest) -> str:
        states = client.states(self._target)
        self.versions[url] = {str(version): state for version, state in sorted(states.items())}
        available = [version for version, state in states.items() if state == "AVAILABLE"]
        found = ", ".join(f"version {version} {state}" for version, state in sorted(states.items())) or "no version"
        wanted = self._target.version
        if self._target.label is not None:
            # Only the metadata resolves a label.
            wanted, _unused = client.signatures(self._target)
        if not available or (wanted is not None and wanted not in available):
            asked = f"version {wanted}" if wanted is not None else "a version"
            raise _tf_serving.NotReady(f"{self._target}: {asked} in state AVAILABLE would be right, found {found}")
        return f"{self._target.model} version {max(available) if wanted is None else wanted} is AVAILABLE"

    def _signature(self, client: _tf_serving.Rest) -> str:
        version, signatures = client.signatures(self._target)
        if self._target.version not in (None, version):
            raise _Wrong(f"version {version} of {self._target.model} answered, not version {self._target.version}")
        problems = _golden.misfits(self._golden, signatures) if self._golden else []
        if problems:
            raise _Wrong(f"{self._target} does not fit {self._golden.path}: {'; '.join(problems)}")
        if not signatures:
            raise _Wrong(f"{self._target} has no signature to call")
        preferred = self._golden.signature_name if self._golden else _DEFAULT_SIGNATURE
        signature = signatures.get(preferred) or signatures[min(signatures)]
        self.signature = self.signature or signature.as_dict()
        ends = (signature.inputs, signature.outputs)
        inputs, outputs = (", ".join(f"{name} {spec}" for name, spec in sorted(end.items())) for end in ends)
        return f"{signature.name}: {inputs} -> {outputs}"

    def _rest_golden(self, client: _tf_serving.Rest, case: _golden.Case) -> str:
        found = client.predict(self._target, self._golden.signature_name, case.inputs, sorted(case.outputs))
        return self._compare(case, found)

    def _grpc_golden(self, client: _tf_serving.Grpc, case: _golden.Case) -> str:
        outputs = client.predict(self._target, self._golden.signature_name, case.inputs)
        return self._compare(case, {name: (tensor.shape, tensor.values()) for name, tensor in outputs.items()})

    def _compare(self, case: _golden.Case, found: Mapping[str, Any]) -> str:
        largest = 0.0
        for name, wanted in sorted(case.outputs.items()):
            if name not in found:
                raise _Wrong(f"{self._target} gave outputs {sorted(found)}, {name} would be right")
            shape, values = found[name]
            if tuple(shape) != wanted.shape:
                raise _Wrong(f"{self._target} gave {name} in shape {list(shape)}, {list(wanted.shape)} would be right")
            largest = max(largest, self._within(name, values, wanted.values()))
        return self._agreement(largest)

    def _gateway_golden(self, client: _tf_serving.Gateway, case: _golden.Case) -> str:
        version, scores = client.predict(self._target.model, case.image)
        if self._target.version is not None and version not in ("", str(self._target.version)):
            raise _Wrong(f"version {version} of {self._target.model} answered, not version {self._target.version}")
        labels = self._golden.labels
        if set(scores) != set(labels):
            raise _Wrong(f"scores for labels {sorted(scores)}, {sorted(labels)} would be right")
        wanted = next(iter(case.outputs.values())).values()
        return self._agreement(self._within("the scores", [scores[label] for label in labels], wanted))

    def _within(self, name: str, found: Any, wanted: Any) -> float:
        difference = max_abs_difference(found, wanted)
        if not difference <= self._tolerance:
            raise _Wrong(
                f"{self._target} gave {name} {_listed(found)}, {_listed(wanted)} would be right: "
                f"largest difference {difference:.3g}, tolerance {self._tolerance:g}"
            )
        return difference

    def _agreement(self, difference: float) -> str:
        return f"largest difference {difference:.2g}, tolerance {self._tolerance:g}"


def _listed(values: Any) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:8])
    return f"[{shown}{', …' if len(values) > 8 else ''}]"


def _is_scores(case: _golden.Case, labels: tuple[str, ...]) -> bool:
    return [len(output.values()) for output in case.outputs.values()] == [len(labels)]


def _golden_or_fail(module: AnsibleModule) -> _golden.Golden | None:
    params = module.params
    if not params["golden"]:
        if params["grpc_addresses"] or params["gateway_urls"]:
            module.fail_json(msg="grpc_addresses and gateway_urls need a golden file: golden is not set", checks=[])
        return None
    try:
        golden = _golden.load(Path(params["golden"]))
    except _golden.GoldenError as error:
        module.fail_json(msg=str(error), checks=[])
    if params["gateway_urls"]:
        images = [case for case in golden.cases if case.image]
        if not golden.labels or not images or any(not _is_scores(case, golden.labels) for case in images):
            module.fail_json(
                msg=f"gateway_urls need labels, and a case with an image and one score a label, in {golden.path}",
                checks=[],
            )
    return golden


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoints": {"type": "list", "elements": "str", "default": []},
            "model": {"type": "str", "required": True},
            "version": {"type": "int"},
            "label": {"type": "str"},
            "golden": {"type": "path"},
            "grpc_addresses": {"type": "list", "elements": "str", "default": []},
            "gateway_urls": {"type": "list", "elements": "str", "default": []},
            "gateway_api_key": {"type": "str", "no_log": True},
            "gateway_validate_certs": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 10},
            "wait": {"type": "float", "default": 0},
            "tolerance": {"type": "float"},
        },
        mutually_exclusive=[("version", "label")],
        supports_check_mode=True,
    )
    params = module.params
    if not (params["endpoints"] or params["grpc_addresses"] or params["gateway_urls"]):
        module.fail_json(msg="one of endpoints, grpc_addresses and gateway_urls is required", checks=[])
    if params["grpc_addresses"] and _tf_serving.GRPC_ERROR:
        module.fail_json(msg=missing_required_lib("grpcio"), exception=_tf_serving.GRPC_ERROR, checks=[])

    target = _tf_serving.Target(params["model"], params["version"], params["label"])
    verification = _Verification(target, _golden_or_fail(module), params)
    for url in params["endpoints"]:
        verification.rest(url)
    for address in params["grpc_addresses"]:
        verification.grpc(address)
    for url in params["gateway_urls"]:
        verification.gateway(url)

    result = {
        "changed": False,
        "checks": verification.checks,
        "versions": verification.versions,
        "signature": verification.signature,
    }
    failed = [check for check in verification.checks if not check["ok"]]
    if failed:
        reasons = "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
        share = f"{len(failed)} of {len(verification.checks)} checks failed"
        module.fail_json(msg=f"{target} is not served as it should be, {share}: {reasons}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
