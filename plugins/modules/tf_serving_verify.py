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
  - Endpoints are asked side by side.
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
      - With O(label), the version that the label must stand for.
    type: int
  label:
    description:
      - Label whose version must be available and answer. Predictions are then asked for by label.
      - The gateway decides itself which version it asks, so this does not apply to O(gateway_urls).
    type: str
  golden:
    description:
      - Golden file on the target. Images that it names are looked for beside it.
      - Required by O(grpc_addresses) and O(gateway_urls).
    type: path
  golden_required:
    description:
      - Whether O(golden) must exist. With V(false) and no such file, only status and signature are checked.
    type: bool
    default: true
  golden_cases:
    description:
      - How many of the golden cases to predict at most, from the first one. All of them by default.
    type: int
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
        Something that answers wrongly is not waited for, nor is a version whose load has failed for good.
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

- name: Verify that requests for the stable version get version 2
  tf2x.serving.tf_serving_verify:
    endpoints:
      - http://127.0.0.1:9501
    model: pets
    version: 2
    label: stable
    wait: 30

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

import functools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.tf2x.serving.plugins.module_utils import _golden, _tf_serving
from ansible_collections.tf2x.serving.plugins.module_utils._tensor import max_abs_difference

_POLL_SECONDS = 0.2
# A replica looks at its configuration every few seconds, and until then tells of an earlier load that failed.
_OLD_ERROR_SECONDS = 10
_DEFAULT_SIGNATURE = "serving_default"


class _Wrong(Exception):
    """A check failed; the message says what was found and what would be right."""


@dataclass(frozen=True)
class _Question:
    """What every endpoint is asked. `deadline`: of `time.monotonic()`."""

    target: _tf_serving.Target
    golden: _golden.Golden | None
    golden_cases: int | None
    tolerance: float
    timeout: float
    deadline: float
    gateway_api_key: str | None
    gateway_validate_certs: bool

    def cases(self, *, with_image: bool = False) -> list[_golden.Case]:
        cases = self.golden.cases if self.golden else ()
        return [case for case in cases if case.image or not with_image][: self.golden_cases]


class _Requests:
    """Bodies of REST predictions, each made once for all endpoints and forgotten when they have gone on."""

    def __init__(self, golden: _golden.Golden) -> None:
        self._lock = threading.Lock()
        inputs = {case.name: case.inputs for case in golden.cases}
        self._make = functools.lru_cache(maxsize=2)(
            lambda name: _tf_serving.predict_request(golden.signature_name, inputs[name])
        )

    def of(self, case: _golden.Case) -> bytes:
        with self._lock:
            return self._make(case.name)


class _Endpoint:
    """Makes the checks of one endpoint and keeps what they found."""

    def __init__(self, question: _Question, address: str) -> None:
        self._question = question
        self._target = question.target
        self.address = address
        # From when on a failed load counts, of `time.monotonic()`; 0 once something else was seen.
        self._errors_count_from: float | None = None
        self.checks: list[dict[str, Any]] = []
        self.states: dict[str, str] | None = None
        self.signature: dict[str, Any] | None = None

    def rest(self, requests: _Requests | None) -> None:
        client = _tf_serving.Rest(self.address, self._question.timeout)
        if not self._check("status", lambda: self._status(client)):
            return
        if not self._check("signature", lambda: self._signature(client)):
            return
        for case in self._question.cases():
            if not self._check(f"golden {case.name}", lambda: self._rest_golden(client, case, requests)):  # noqa: B023
                return

    def grpc(self) -> None:
        client = _tf_serving.Grpc(self.address, self._question.timeout)
        try:
            for case in self._question.cases():
                if not self._check(f"grpc golden {case.name}", lambda: self._grpc_golden(client, case)):  # noqa: B023
                    return
        finally:
            client.close()

    def gateway(self) -> None:
        client = _tf_serving.Gateway(
            self.address,
            self._question.timeout,
            api_key=self._question.gateway_api_key,
            validate_certs=self._question.gateway_validate_certs,
        )
        for case in self._question.cases(with_image=True):
            if not self._check(f"gateway golden {case.name}", lambda: self._gateway_golden(client, case)):  # noqa: B023
                return

    def _check(self, name: str, look: Callable[[], str]) -> bool:
        """Record what `look` says; while it is not ready and there is time, ask it again."""
        started = time.monotonic()
        while True:
            try:
                ok, detail = True, look()
            except _tf_serving.NotReady as error:
                if time.monotonic() + _POLL_SECONDS < self._question.deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                ok, detail = False, str(error)
            except (_tf_serving.ServingError, _Wrong) as error:
                ok, detail = False, str(error)
            seconds = round(time.monotonic() - started, 3)
            self.checks.append({"name": f"{name} {self.address}", "ok": ok, "detail": detail, "seconds": seconds})
            return ok

    def _status(self, client: _tf_serving.Rest) -> str:
        try:
            states = client.states(self._target)
        except _tf_serving.NotReady:
            self._errors_count_from = 0.0
            raise
        self.states = {str(version): state for version, state in sorted(states.items())}
        wanted, label = self._target.version, self._target.label
        if label is not None and wanted is None:
            # Only the metadata resolves a label.
            wanted, _unused = client.signatures(self._target)
        available = [version for version, state in states.items() if state == "AVAILABLE"]
        if not available or (wanted is not None and wanted not in available):
            found = ", ".join(f"version {version} {state}" for version, state in sorted(states.items())) or "no version"
            asked = f"version {wanted}" if wanted is not None else "a version"
            message = f"{self._target}: {asked} in state AVAILABLE would be right, found {found}"
            raise (_Wrong if self._has_failed(states.get(wanted, "")) else _tf_serving.NotReady)(message)
        if label is not None:
            meant, _unused = client.signatures(self._target)
            if meant != wanted:
                raise _tf_serving.NotReady(f"label {label} stands for version {meant}, version {wanted} would be right")
        return f"{self._target.model} version {max(available) if wanted is None else wanted} is AVAILABLE"

    def _has_failed(self, state: str) -> bool:
        """Whether a version ended with an error of its present load, so that waiting would not help."""
        now = time.monotonic()
        if not state.startswith("END ("):
            self._errors_count_from = 0.0
            return False
        if self._errors_count_from is None:
            self._errors_count_from = now + _OLD_ERROR_SECONDS
        return now >= self._errors_count_from

    def _signature(self, client: _tf_serving.Rest) -> str:
        golden = self._question.golden
        version, signatures = client.signatures(self._target)
        if self._target.version not in (None, version):
            raise _Wrong(f"version {version} of {self._target.model} answered, not version {self._target.version}")
        problems = _golden.misfits(golden, signatures) if golden else []
        if problems:
            raise _Wrong(f"{self._target} does not fit {golden.path}: {'; '.join(problems)}")
        if not signatures:
            raise _Wrong(f"{self._target} has no signature to call")
        preferred = golden.signature_name if golden else _DEFAULT_SIGNATURE
        signature = signatures.get(preferred) or signatures[min(signatures)]
        self.signature = signature.as_dict()
        ends = (signature.inputs, signature.outputs)
        inputs, outputs = (", ".join(f"{name} {spec}" for name, spec in sorted(end.items())) for end in ends)
        return f"{signature.name}: {inputs} -> {outputs}"

    def _rest_golden(self, client: _tf_serving.Rest, case: _golden.Case, requests: _Requests) -> str:
        return self._compare(case, client.predict(self._target, requests.of(case), sorted(case.outputs)))

    def _grpc_golden(self, client: _tf_serving.Grpc, case: _golden.Case) -> str:
        outputs = client.predict(self._target, self._question.golden.signature_name, case.inputs)
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
        labels = self._question.golden.labels
        if set(scores) != set(labels):
            raise _Wrong(f"scores for labels {sorted(scores)}, {sorted(labels)} would be right")
        wanted = next(iter(case.outputs.values())).values()
        return self._agreement(self._within("the scores", [scores[label] for label in labels], wanted))

    def _within(self, name: str, found: Any, wanted: Any) -> float:
        difference = max_abs_difference(found, wanted)
        if not difference <= self._question.tolerance:
            raise _Wrong(
                f"{self._target} gave {name} {_listed(found)}, {_listed(wanted)} would be right: "
                f"largest difference {difference:.3g}, tolerance {self._question.tolerance:g}"
            )
        return difference

    def _agreement(self, difference: float) -> str:
        return f"largest difference {difference:.2g}, tolerance {self._question.tolerance:g}"


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
    if not params["golden_required"] and not Path(params["golden"]).exists():
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


def _ask(question: _Question, params: dict[str, Any]) -> list[_Endpoint]:
    """Ask all endpoints side by side: a node has several replicas, and a golden case takes its time."""
    requests = _Requests(question.golden) if question.golden else None
    asked: list[_Endpoint] = []
    work: list[Callable[[], None]] = []
    for url in params["endpoints"]:
        asked.append(_Endpoint(question, url))
        work.append(functools.partial(asked[-1].rest, requests))
    for address in params["grpc_addresses"]:
        asked.append(_Endpoint(question, address))
        work.append(asked[-1].grpc)
    for url in params["gateway_urls"]:
        asked.append(_Endpoint(question, url))
        work.append(asked[-1].gateway)
    with ThreadPoolExecutor(len(work)) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()
    return asked


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "endpoints": {"type": "list", "elements": "str", "default": []},
            "model": {"type": "str", "required": True},
            "version": {"type": "int"},
            "label": {"type": "str"},
            "golden": {"type": "path"},
            "golden_required": {"type": "bool", "default": True},
            "golden_cases": {"type": "int"},
            "grpc_addresses": {"type": "list", "elements": "str", "default": []},
            "gateway_urls": {"type": "list", "elements": "str", "default": []},
            "gateway_api_key": {"type": "str", "no_log": True},
            "gateway_validate_certs": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 10},
            "wait": {"type": "float", "default": 0},
            "tolerance": {"type": "float"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if not (params["endpoints"] or params["grpc_addresses"] or params["gateway_urls"]):
        module.fail_json(msg="one of endpoints, grpc_addresses and gateway_urls is required", checks=[])
    if params["grpc_addresses"] and _tf_serving.GRPC_ERROR:
        module.fail_json(msg=missing_required_lib("grpcio"), exception=_tf_serving.GRPC_ERROR, checks=[])

    if params["golden_cases"] is not None and params["golden_cases"] < 1:
        module.fail_json(msg=f"golden_cases is {params['golden_cases']}, 1 or more would be right", checks=[])

    started = time.monotonic()
    target = _tf_serving.Target(params["model"], params["version"], params["label"])
    golden = _golden_or_fail(module)
    tolerance = params["tolerance"]
    question = _Question(
        target=target,
        golden=golden,
        golden_cases=params["golden_cases"],
        tolerance=golden.tolerance if golden and tolerance is None else tolerance or 0.0,
        timeout=params["timeout"],
        deadline=started + params["wait"],
        gateway_api_key=params["gateway_api_key"],
        gateway_validate_certs=params["gateway_validate_certs"],
    )
    asked = _ask(question, params)
    checks = [check for endpoint in asked for check in endpoint.checks]
    result = {
        "changed": False,
        "checks": checks,
        "versions": {endpoint.address: endpoint.states for endpoint in asked if endpoint.states is not None},
        "signature": next((endpoint.signature for endpoint in asked if endpoint.signature is not None), None),
    }
    failed = [check for check in checks if not check["ok"]]
    if failed:
        reasons = "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
        share = f"{len(failed)} of {len(checks)} checks failed"
        module.fail_json(msg=f"{target} is not served as it should be, {share}: {reasons}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
