#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tf_serving_canary_verdict
version_added: 0.1.0
short_description: Watch a canary and say whether it should be promoted
description:
  - Watches for a while what the gateways count about a model's canary and about its stable version, and compares their
    errors, their latencies and, for a canary that gets copies only, their answers.
  - Says in RV(verdict) what should be done, and does nothing about it. A canary that should be rolled back does not
    make the module fail.
  - Ends before its time when the canary's errors are clearly too many.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
options:
  prometheus_url:
    description:
      - Base URL of the Prometheus that scrapes the gateways.
    type: str
    required: true
  model:
    description:
      - Name of the model.
    type: str
    required: true
  mode:
    description:
      - V(split) for a canary that answers its share of the requests. V(shadow) for one that gets copies, whose answers
        the gateways compare with those of the stable version.
    type: str
    choices: [split, shadow]
    default: split
  duration:
    description:
      - Seconds to watch. Several times Prometheus' scrape interval would be right.
    type: float
    required: true
  interval:
    description:
      - Seconds between two looks.
    type: float
    default: 5
  min_requests:
    description:
      - How many requests the canary must have had. With fewer, the verdict is to roll back.
    type: int
    default: 50
  max_error_ratio_difference:
    description:
      - How much larger the canary's share of failed requests may be than that of the stable version.
    type: float
    default: 0.01
  max_latency_ratio:
    description:
      - How many times as long as the stable version the canary may take, at the 95th percentile.
      - A canary is too slow if it exceeds both this and O(max_latency_increase_ms).
    type: float
    default: 1.5
  max_latency_increase_ms:
    description:
      - How many milliseconds longer than the stable version the canary may take, at the 95th percentile.
    type: float
    default: 50
  min_same_label_ratio:
    description:
      - Share of the copies to which a canary in O(mode=shadow) must give the same best label as the stable version.
    type: float
    default: 0.9
  timeout:
    description:
      - Seconds that one query may take.
    type: float
    default: 10
  max_outage:
    description:
      - Seconds for which Prometheus may not answer. The module fails when it takes longer.
    type: float
    default: 30
notes:
  - The gateways count a failed attempt at the canary as its error, although the stable version answers the request.
  - What happens is seen once it is scraped. So the first look may miss, and the last one will miss, up to one scrape
    interval.
  - Proxies of the environment are not used.
  - In check mode it does not watch, and RV(verdict) is V(null).
"""

EXAMPLES = r"""
- name: Watch the canary for five minutes
  tf2x.serving.tf_serving_canary_verdict:
    prometheus_url: http://127.0.0.1:9002
    model: pets
    duration: 300
  register: canary

- name: Say how it went
  ansible.builtin.debug:
    msg: "{{ canary.verdict }}: {{ canary.reason }}"
"""

RETURN = r"""
verdict:
  description: What should be done, V(promote) or V(rollback). V(null) in check mode.
  returned: success
  type: str
  sample: rollback
reason:
  description: Why, in a sentence with figures.
  returned: success
  type: str
  sample: "errors: canary 12 of 60 failed (20 %), stable 0 of 540 (0 %), at most 1 % more would be right"
figures:
  description: What was counted while it watched.
  returned: success
  type: dict
  contains:
    canary:
      description:
        - C(requests) and how many of them were C(errors), and C(p95_ms), the 95th percentile of the time that TF
          Serving took, in milliseconds, V(null) without answers. In O(mode=shadow) the requests are copies, counted by
          image.
      type: dict
    stable:
      description: The same of the stable version.
      type: dict
    shadow:
      description:
        - Copies by how the canary's answer compares, C(same_label), C(other_label), C(error), and C(dropped) for those
          that there was no time for. V(null) unless O(mode=shadow).
      type: dict
  sample:
    canary: {requests: 60, errors: 12, p95_ms: 21.4}
    stable: {requests: 540, errors: 0, p95_ms: 20.9}
    shadow:
seconds:
  description: How long it watched.
  returned: success
  type: float
  sample: 35.1
"""

import json
import math
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tf2x.serving.plugins.module_utils import _prometheus

_PREDICTIONS = "tf2x_gateway_predictions_total"
_BUCKETS = "tf2x_gateway_upstream_seconds_bucket"
_SHADOWS = "tf2x_gateway_shadow_total"
_SHADOW_RESULTS = ("same_label", "other_label", "error", "dropped")
_QUANTILE = 0.95
# As many errors are enough, however few requests there were.
_ENOUGH_ERRORS = 10
# Two-sided 95 % of the normal distribution.
_Z = 1.96


def _figures(samples: list[_prometheus.Sample], mode: str) -> dict[str, Any]:
    """Count what the gateways' counters have grown by."""
    # Probes ask the stable version only, at a rate of their own: few clients' errors and latencies would drown in them.
    clients = [sample for sample in samples if sample.labels.get("label") != "probe"]

    def of(canary: bool) -> dict[str, Any]:
        # The stable version may be asked for without a label.
        mine = [sample for sample in clients if (sample.labels.get("label") == "canary") == canary]
        attempts = [sample for sample in mine if sample.labels["__name__"] == _PREDICTIONS]
        p95 = _prometheus.quantile(_QUANTILE, (one for one in mine if one.labels["__name__"] == _BUCKETS))
        return {
            "requests": round(sum(sample.value for sample in attempts)),
            "errors": round(sum(sample.value for sample in attempts if sample.labels.get("outcome") != "ok")),
            "p95_ms": None if p95 is None else round(1000 * p95, 1),
        }

    figures: dict[str, Any] = {"canary": of(True), "stable": of(False), "shadow": None}
    if mode == "shadow":
        copies = [sample for sample in samples if sample.labels["__name__"] == _SHADOWS]
        shadow = {
            result: round(sum(sample.value for sample in copies if sample.labels.get("result") == result))
            for result in _SHADOW_RESULTS
        }
        asked = shadow["same_label"] + shadow["other_label"] + shadow["error"]
        figures["canary"].update(requests=asked, errors=shadow["error"])
        figures["shadow"] = shadow
    return figures


def _error_ratio(side: dict[str, Any]) -> float:
    return side["errors"] / side["requests"] if side["requests"] else 0.0


def _error_ratio_at_least(side: dict[str, Any]) -> float:
    """Return the lower end of the Wilson interval: the ratio that a few unlucky requests cannot explain."""
    requests, ratio = side["requests"], _error_ratio(side)
    if not requests:
        return 0.0
    spread = _Z * math.sqrt(ratio * (1 - ratio) / requests + (_Z / (2 * requests)) ** 2)
    return (ratio + _Z**2 / (2 * requests) - spread) / (1 + _Z**2 / requests)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.3g} %"


def _milliseconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g} ms"


def _errors_text(figures: dict[str, Any]) -> str:
    canary, stable = (
        f"{label} {figures[label]['errors']} of {figures[label]['requests']} failed"
        f" ({_percent(_error_ratio(figures[label]))})"
        for label in ("canary", "stable")
    )
    return f"{canary}, {stable}"


def _errors_objection(figures: dict[str, Any], params: dict[str, Any], *, clearly: bool) -> str | None:
    canary, allowed = figures["canary"], params["max_error_ratio_difference"]
    ratio = _error_ratio_at_least(canary) if clearly else _error_ratio(canary)
    enough = canary["requests"] >= params["min_requests"] or canary["errors"] >= _ENOUGH_ERRORS
    if not enough or ratio - _error_ratio(figures["stable"]) <= allowed:
        return None
    return f"errors: {_errors_text(figures)}, at most {_percent(allowed)} more would be right"


def _latency_objection(figures: dict[str, Any], params: dict[str, Any]) -> str | None:
    canary, stable = figures["canary"]["p95_ms"], figures["stable"]["p95_ms"]
    if canary is None or stable is None:
        return None
    ratio, increase = params["max_latency_ratio"], params["max_latency_increase_ms"]
    if canary <= ratio * stable or canary - stable <= increase:
        return None
    return (
        f"latency: p95 of canary {canary:g} ms, of stable {stable:g} ms, "
        f"at most {ratio:g} times as long or {increase:g} ms more would be right"
    )


def _answers_objection(figures: dict[str, Any], params: dict[str, Any]) -> str | None:
    if figures["shadow"] is None:
        return None
    same, other = figures["shadow"]["same_label"], figures["shadow"]["other_label"]
    if not same + other or same / (same + other) >= params["min_same_label_ratio"]:
        return None
    return (
        f"answers: canary gave the same label in {same} of {same + other} copies ({_percent(same / (same + other))}), "
        f"at least {_percent(params['min_same_label_ratio'])} would be right"
    )


def _judge(figures: dict[str, Any], params: dict[str, Any]) -> tuple[str, str]:
    """Return the verdict and its reason once the watch is over."""
    objections = [
        _errors_objection(figures, params, clearly=False),
        _latency_objection(figures, params),
        _answers_objection(figures, params),
    ]
    if figures["canary"]["requests"] < params["min_requests"]:
        objections.append(
            f"too few requests: canary had {figures['canary']['requests']}, "
            f"{params['min_requests']} or more would be right"
        )
    found = [objection for objection in objections if objection]
    if found:
        return "rollback", "; ".join(found)
    latencies = " and ".join(f"of {label} {_milliseconds(figures[label]['p95_ms'])}" for label in ("canary", "stable"))
    reason = f"{_errors_text(figures)}; p95 {latencies}"
    if figures["shadow"] is not None:
        same, other = figures["shadow"]["same_label"], figures["shadow"]["other_label"]
        reason += f"; the same label in {same} of {same + other} copies"
    return "promote", reason


class _Source:
    """The counters of a model. Raises ServingError once Prometheus has not answered for `max_outage` seconds."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._prometheus = _prometheus.Prometheus(params["prometheus_url"], params["timeout"])
        names = "|".join((_PREDICTIONS, _BUCKETS, _SHADOWS))
        self._selector = f'{{__name__=~"{names}",model={json.dumps(params["model"])}}}'
        self._interval = params["interval"]
        self._max_outage = params["max_outage"]
        self._answered = time.monotonic()

    def first(self) -> list[_prometheus.Sample]:
        # A gateway that is away at this moment comes back with what it had counted.
        return self._ask(lambda: self._prometheus.vector(f"last_over_time({self._selector}[1h])"))

    def now(self) -> list[_prometheus.Sample]:
        return self._ask(lambda: self._prometheus.vector(self._selector))

    def _ask(self, query: Callable[[], list[_prometheus.Sample]]) -> list[_prometheus.Sample]:
        while True:
            try:
                samples = query()
            except _prometheus.ServingError:
                if time.monotonic() - self._answered + self._interval > self._max_outage:
                    raise
                time.sleep(self._interval)
                continue
            self._answered = time.monotonic()
            return samples


def _watch(params: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    source = _Source(params)
    increases = _prometheus.Increases(source.first())
    while True:
        left = started + params["duration"] - time.monotonic()
        time.sleep(max(0.0, min(params["interval"], left)))
        over = time.monotonic() >= started + params["duration"]
        increases.take(source.now())
        figures = _figures(increases.samples(), params["mode"])
        clear = _errors_objection(figures, params, clearly=True)
        if over or clear:
            verdict, reason = ("rollback", clear) if clear else _judge(figures, params)
            seconds = round(time.monotonic() - started, 1)
            return {"verdict": verdict, "reason": reason, "figures": figures, "seconds": seconds}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "prometheus_url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "mode": {"type": "str", "choices": ["split", "shadow"], "default": "split"},
            "duration": {"type": "float", "required": True},
            "interval": {"type": "float", "default": 5},
            "min_requests": {"type": "int", "default": 50},
            "max_error_ratio_difference": {"type": "float", "default": 0.01},
            "max_latency_ratio": {"type": "float", "default": 1.5},
            "max_latency_increase_ms": {"type": "float", "default": 50},
            "min_same_label_ratio": {"type": "float", "default": 0.9},
            "timeout": {"type": "float", "default": 10},
            "max_outage": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    params = module.params
    for name in ("duration", "interval", "timeout"):
        if not params[name] > 0:
            module.fail_json(msg=f"{name} is {params[name]:g}, seconds above 0 would be right")
    if module.check_mode:
        reason = (
            f"would watch the canary of {params['model']} for {params['duration']:g} s at {params['prometheus_url']}"
        )
        module.exit_json(changed=False, verdict=None, reason=reason, figures=_figures([], params["mode"]), seconds=0.0)
    try:
        result = _watch(params)
    except _prometheus.ServingError as error:
        module.fail_json(
            msg=f"Prometheus at {params['prometheus_url']} cannot be asked about {params['model']}: {error}"
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
