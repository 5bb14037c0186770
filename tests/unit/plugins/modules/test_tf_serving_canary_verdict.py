"""`tf_serving_canary_verdict` on the gateways' own metrics, with good canaries and bad ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_stub import Prometheus, serve
from serving_stub import closed_port

MODULE = "tf_serving_canary_verdict"


@pytest.fixture
def prometheus() -> Prometheus:
    return Prometheus()


@pytest.fixture
def url(prometheus: Prometheus) -> Iterator[str]:
    with serve(prometheus) as base:
        yield base


@pytest.fixture
def verdict(run_module: Any, url: str) -> Any:
    def run(**options: Any) -> dict[str, Any]:
        defaults = {"prometheus_url": url, "model": "pets", "duration": 1.5, "interval": 0.1}
        return run_module(MODULE, **{**defaults, **options})

    return run


def both(prometheus: Prometheus, *, stable: dict[str, Any], canary: dict[str, Any]) -> None:
    """Have each gateway count this between two scrapes."""

    def traffic() -> None:
        for gateway in prometheus.gateways:
            gateway.predictions("stable", 2, **stable)
            gateway.predictions("canary", 3, **canary)

    prometheus.traffic = traffic


def test_a_good_canary(verdict: Any, prometheus: Prometheus) -> None:
    both(prometheus, stable={"ok": 20, "seconds": 0.02}, canary={"ok": 5, "seconds": 0.03})
    started = time.monotonic()
    result = verdict()

    assert result["changed"] is False
    assert result["verdict"] == "promote"
    assert 1.4 < result["seconds"] <= time.monotonic() - started + 0.1
    figures = result["figures"]
    assert figures["canary"]["requests"] >= 50
    assert figures["stable"]["requests"] == pytest.approx(4 * figures["canary"]["requests"], rel=0.01)
    assert figures["canary"]["errors"] == figures["stable"]["errors"] == 0
    # 0.02 lies in the bucket from 0.01 to 0.025, 0.03 in the one up to 0.05.
    assert figures["stable"]["p95_ms"] == pytest.approx(24.2, abs=0.1)
    assert figures["canary"]["p95_ms"] == pytest.approx(48.8, abs=0.1)
    assert figures["shadow"] is None
    assert f"canary 0 of {figures['canary']['requests']} failed (0 %)" in result["reason"]
    assert "p95 of canary 48.8 ms and of stable 24.2 ms" in result["reason"]


def test_probes_are_no_requests(verdict: Any, prometheus: Prometheus) -> None:
    def traffic() -> None:
        for gateway in prometheus.gateways:
            gateway.predictions("stable", 2, ok=20, seconds=0.02)
            gateway.predictions("canary", 3, ok=20, seconds=0.02)
            gateway.predictions("probe", 2, ok=40, error=10, seconds=5)

    prometheus.traffic = traffic
    figures = verdict()["figures"]
    assert figures["stable"] == figures["canary"]
    assert figures["stable"]["errors"] == 0


def one_by_one(prometheus: Prometheus, *steps: Callable[[], None]) -> Callable[[], None]:
    """Return traffic that takes these steps, the first after the module's first look, each once the last was seen."""
    left = iter(steps)
    seen = 0

    def traffic() -> None:
        nonlocal seen
        # The first of three looks may be at what was there before the step.
        if len(prometheus.queries) >= seen + 3:
            seen = len(prometheus.queries)
            next(left, lambda: None)()

    return traffic


@pytest.mark.parametrize("outcome", ["error", "timeout"])
def test_a_canary_with_errors_is_noticed_early(verdict: Any, prometheus: Prometheus, outcome: str) -> None:
    both(prometheus, stable={"ok": 20}, canary={"ok": 2, outcome: 1})
    result = verdict(duration=20)

    assert result["verdict"] == "rollback"
    assert result["seconds"] < 18
    assert result["reason"].startswith("errors: canary ")
    assert "(33.3 %), stable 0 of " in result["reason"]
    assert "at most 1 % more would be right" in result["reason"]
    assert result["figures"]["canary"]["errors"] * 3 == result["figures"]["canary"]["requests"]


def test_errors_count_though_they_come_all_at_once(verdict: Any, prometheus: Prometheus) -> None:
    """PromQL's increase() sees nothing of a series that is there all at once."""
    gateway = prometheus.gateways[0]
    prometheus.traffic = one_by_one(prometheus, lambda: gateway.predictions("canary", 3, error=10))
    result = verdict(duration=20)
    assert result["verdict"] == "rollback"
    assert result["figures"]["canary"] == {"requests": 10, "errors": 10, "p95_ms": None}


def test_one_error_does_not_end_the_watch(verdict: Any, prometheus: Prometheus) -> None:
    gateway = prometheus.gateways[0]
    prometheus.traffic = one_by_one(
        prometheus,
        lambda: gateway.predictions("canary", 3, ok=49, error=1),
        lambda: gateway.predictions("canary", 3, ok=100),
    )
    result = verdict(duration=4)
    assert result["verdict"] == "promote"
    assert (result["figures"]["canary"]["requests"], result["figures"]["canary"]["errors"]) == (150, 1)


def test_errors_that_the_stable_version_has_too(verdict: Any, prometheus: Prometheus) -> None:
    both(prometheus, stable={"ok": 9, "error": 1}, canary={"ok": 9, "error": 1})
    result = verdict()
    assert result["verdict"] == "promote"
    assert result["figures"]["stable"]["errors"] > 10


@pytest.mark.parametrize(("options", "wanted"), [({}, "rollback"), ({"max_error_ratio_difference": 0.05}, "promote")])
def test_errors_at_the_end(verdict: Any, prometheus: Prometheus, options: dict[str, Any], wanted: str) -> None:
    gateway = prometheus.gateways[0]
    prometheus.traffic = one_by_one(prometheus, lambda: gateway.predictions("canary", 3, ok=49, error=1))
    result = verdict(duration=3, **options)
    assert result["verdict"] == wanted
    assert "canary 1 of 50 failed (2 %)" in result["reason"]
    assert result["seconds"] > 2.9


def test_a_slow_canary(verdict: Any, prometheus: Prometheus) -> None:
    both(prometheus, stable={"ok": 20, "seconds": 0.02}, canary={"ok": 5, "seconds": 0.2})
    result = verdict()

    assert result["verdict"] == "rollback"
    assert "latency: p95 of canary 242.5 ms, of stable 24.2 ms" in result["reason"]
    assert verdict(max_latency_ratio=20)["verdict"] == "promote"
    assert verdict(max_latency_increase_ms=300)["verdict"] == "promote"


def test_a_canary_that_nobody_asks(verdict: Any, prometheus: Prometheus) -> None:
    prometheus.gateways[0].predictions("canary", 3, ok=1000)
    prometheus.traffic = lambda: prometheus.gateways[0].predictions("stable", 2, ok=20)
    prometheus.scrape()
    result = verdict()

    assert result["verdict"] == "rollback"
    assert result["reason"] == "too few requests: canary had 0, 50 or more would be right"


def test_another_model_does_not_count(verdict: Any, prometheus: Prometheus) -> None:
    both(prometheus, stable={"ok": 20}, canary={"ok": 5})
    assert verdict(model="cars", duration=0.5)["figures"]["canary"]["requests"] == 0


def test_a_canary_that_gets_everything(verdict: Any, prometheus: Prometheus) -> None:
    both(prometheus, stable={}, canary={"ok": 5})
    result = verdict()
    assert result["verdict"] == "promote"
    assert "of stable unknown" in result["reason"]


def test_a_stable_version_without_a_label(verdict: Any, prometheus: Prometheus) -> None:
    def traffic() -> None:
        prometheus.gateways[0].predictions("", 2, ok=9, error=1)
        prometheus.gateways[0].predictions("canary", 3, ok=9, error=1)

    prometheus.traffic = traffic
    assert verdict()["verdict"] == "promote"


def test_a_gateway_that_restarts_counts_on(verdict: Any, prometheus: Prometheus) -> None:
    first, second = prometheus.gateways
    first.predictions("canary", 3, ok=100)
    second.predictions("canary", 3, ok=7000)
    prometheus.scrape()
    second.down = True
    prometheus.scrape()

    def leave() -> None:
        first.down = True

    def come_back() -> None:
        first.restart()
        first.predictions("canary", 3, ok=30)
        first.down = False

    def other_comes_back() -> None:
        # With what it had counted before the watch.
        second.down = False

    def answer() -> None:
        first.predictions("canary", 3, ok=50)

    prometheus.traffic = one_by_one(prometheus, answer, answer, leave, come_back, answer, other_comes_back, answer)
    result = verdict(duration=8, interval=0.05)
    assert result["figures"]["canary"]["requests"] == 50 + 50 + 30 + 50 + 50


def test_a_shadow_that_agrees(verdict: Any, prometheus: Prometheus) -> None:
    def traffic() -> None:
        for gateway in prometheus.gateways:
            gateway.predictions("stable", 2, ok=10)
            gateway.predictions("canary", 3, ok=10)
            gateway.shadows(3, same_label=19, other_label=1, dropped=2)

    prometheus.traffic = traffic
    result = verdict(mode="shadow")
    shadow = result["figures"]["shadow"]
    assert result["verdict"] == "promote"
    assert result["figures"]["canary"]["requests"] == shadow["same_label"] + shadow["other_label"]
    assert shadow["same_label"] == 19 * shadow["other_label"]
    assert shadow["dropped"] == 2 * shadow["other_label"]
    assert f"the same label in {shadow['same_label']} of {20 * shadow['other_label']} copies" in result["reason"]
    assert verdict(mode="shadow", min_same_label_ratio=0.96)["verdict"] == "rollback"


def test_a_shadow_that_answers_otherwise(verdict: Any, prometheus: Prometheus) -> None:
    def traffic() -> None:
        prometheus.gateways[0].predictions("stable", 2, ok=10)
        prometheus.gateways[0].shadows(3, same_label=5, other_label=5)

    prometheus.traffic = traffic
    result = verdict(mode="shadow")
    assert result["verdict"] == "rollback"
    assert "answers: canary gave the same label in " in result["reason"]
    assert "(50 %), at least 90 % would be right" in result["reason"]


def test_a_shadow_that_fails(verdict: Any, prometheus: Prometheus) -> None:
    def traffic() -> None:
        prometheus.gateways[0].predictions("stable", 2, ok=10)
        prometheus.gateways[0].shadows(3, same_label=5, error=5)

    prometheus.traffic = traffic
    result = verdict(mode="shadow", duration=20)
    assert result["verdict"] == "rollback"
    assert "errors: canary " in result["reason"]
    assert result["seconds"] < 18


def test_a_prometheus_that_is_away_for_a_moment(verdict: Any, prometheus: Prometheus) -> None:
    both(prometheus, stable={"ok": 20}, canary={"ok": 5})
    looks = iter(range(1000))
    count = prometheus.traffic

    def traffic() -> None:
        prometheus.broken = (503, b"Service Unavailable") if 5 < next(looks) < 15 else None
        count()

    prometheus.traffic = traffic
    assert verdict(duration=6)["verdict"] == "promote"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((503, b'{"status": "error", "error": "starting"}'), "HTTP 503: starting"),
        ((200, b"<html>hello</html>"), "HTTP 200 with a body that is not JSON"),
        ((200, b'{"status": "success"}'), "an answer that is not Prometheus'"),
        ((400, b'{"status": "error", "error": "parse error"}'), "HTTP 400: parse error"),
    ],
)
def test_a_prometheus_that_cannot_be_asked(
    verdict: Any, prometheus: Prometheus, url: str, answer: tuple[int, bytes], message: str
) -> None:
    prometheus.broken = answer
    started = time.monotonic()
    result = verdict(max_outage=0.5, duration=20)

    assert result["failed"]
    assert message in result["msg"]
    assert f"Prometheus at {url} cannot be asked about pets" in result["msg"]
    assert 0.3 < time.monotonic() - started < 18


def test_a_prometheus_that_goes_away_for_good(verdict: Any, prometheus: Prometheus) -> None:
    looks = iter(range(1000))

    def traffic() -> None:
        if next(looks) == 10:
            prometheus.broken = (503, b"{}")

    prometheus.traffic = traffic
    assert "cannot be asked" in verdict(duration=20, max_outage=0.5)["msg"]


def test_no_prometheus(verdict: Any) -> None:
    result = verdict(prometheus_url=f"http://127.0.0.1:{closed_port()}", max_outage=0.2)
    assert "no connection" in result["msg"]


def test_check_mode_takes_no_time(verdict: Any, prometheus: Prometheus) -> None:
    result = verdict(check=True, duration=600)
    assert result["verdict"] is None
    assert result["reason"].startswith("would watch the canary of pets for 600 s")
    assert prometheus.queries == []


@pytest.mark.parametrize("options", [{"duration": 0}, {"interval": -1}, {"timeout": 0}])
def test_wrong_options(verdict: Any, options: dict[str, Any]) -> None:
    assert "seconds above 0 would be right" in verdict(**options)["msg"]
