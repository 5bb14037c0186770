"""Soak the gateway: overload, slow clients, then everything at once for a long time with restarts of TF Serving.

python tests/soak/soak.py                      # build/soak.json and a table; TF2X_SOAK_SECONDS, or ten minutes
python tests/soak/soak.py --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT
from mixed_load import MixedLoad, mixed_load
from overload import STATE_PATHS, Overload, best, cpu_bound_gateway, gateway_before_slow_upstream, overload
from slow_clients import SlowClients, patient_gateway, slow_clients

_OVERLOAD_SECONDS = 15
_SLOW_CLIENTS_SECONDS = 4
_RESTART_EVERY_SECONDS = 25

Result = Any
Row = tuple[str, str, str]


def run(seconds: float) -> dict[str, Result]:
    """Return the results by name; the last part takes `seconds`."""
    results: dict[str, Result] = {}
    for name, start in (("CPU-bound", cpu_bound_gateway), ("slow upstream", gateway_before_slow_upstream)):
        with start() as gateway:
            results[name] = best(lambda gateway=gateway: asyncio.run(overload(gateway, _OVERLOAD_SECONDS)))
    with patient_gateway(_SLOW_CLIENTS_SECONDS) as gateway:
        results["slow clients"] = best(lambda: asyncio.run(slow_clients(gateway, _SLOW_CLIENTS_SECONDS)))
    results["mixed"] = mixed_load(seconds, _RESTART_EVERY_SECONDS)
    return results


def table(results: dict[str, Result]) -> str:
    """Return the results as text."""
    lines = []
    for name, result in results.items():
        lines += [name, *(f"  {text:<34}{value:>22}  {limit}".rstrip() for text, value, limit in _rows(result))]
        lines += [f"  FAULT: {fault}" for fault in result.faults]
    return "\n".join(lines) + "\n"


def _rows(result: Result) -> Iterable[Row]:
    if isinstance(result, Overload):
        return _overload_rows(result)
    return _slow_client_rows(result) if isinstance(result, SlowClients) else _mixed_rows(result)


def _overload_rows(result: Overload) -> Iterator[Row]:
    yield "peak, answers/s", f"{result.peak:.0f}", ""
    yield "offered, requests/s", f"{result.offered:.0f}", "3 x the peak"
    yield "goodput, answers/s", f"{result.goodput:.0f} ({result.goodput / result.peak:.0%})", ">= 90 % of the peak"
    yield "p50 of good answers", f"{result.good_p50_ms:.0f} ms", ""
    yield (
        "refusals",
        f"{result.refusals}",
        f"{result.without_retry_after} of {result.refusals_timed} without Retry-After",
    )
    yield "p95 of refusals", f"{result.refusal_ms:.0f} ms", "<= 50 ms"
    for path in STATE_PATHS:
        yield f"p95 of {path}", f"{result.state_ms[path]:.0f} ms", "<= 100 ms"
    yield "memory", f"{result.rss_before_mb:.0f} to {result.rss_peak_mb:.0f} MB", ""


def _slow_client_rows(result: SlowClients) -> Iterator[Row]:
    yield "answers/s without them", f"{result.alone:.0f}", ""
    ratio = f"{result.goodput:.0f} ({result.goodput / result.alone:.0%})"
    yield f"answers/s beside {result.stalled} of them", ratio, ">= 90 % of those"
    yield "they are answered with", _counts(result.endings), "408"


def _mixed_rows(result: MixedLoad) -> Iterator[Row]:
    yield "seconds", f"{result.seconds:g}", f"{result.restarts} restarts of TF Serving"
    yield "answers while it was there", f"{sum(result.present.values())}", _counts(result.present)
    yield "answers while it was away", f"{sum(result.away.values())}", _counts(result.away)
    yield "clients that hung up", f"{result.hung_up}", ""
    yield "memory, last third - second", f"{result.rss_growth_mb:+.1f} MB", f"peak {max(result.rss_mb):.0f} MB"


def _counts(counts: dict[Any, int]) -> str:
    return "  ".join(f"{key}: {count}" for key, count in sorted(counts.items()))


def main() -> int:
    """Run everything, print the table and write the results. Returns 0 if there is no fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    seconds = float(os.environ.get("TF2X_SOAK_SECONDS", "600"))
    parser.add_argument("--seconds", type=float, default=seconds, help="of the mixed load (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory (default: %(default)s)")
    options = parser.parse_args()
    results = run(options.seconds)
    figures = {name.replace(" ", "_").replace("-", "_").lower(): result.figures() for name, result in results.items()}
    found = {"ok": not any(result.faults for result in results.values()), **figures}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "soak.json").write_text(json.dumps(found, indent=2) + "\n")
    print(table(results), end="")
    return int(not found["ok"])


if __name__ == "__main__":
    sys.exit(main())
