"""Send the gateway thousands of requests that are wrong, each in its own way, and see whether anything breaks.

    python tests/fuzz/fuzz.py                   # all of it: build/fuzz.json, build/fuzz.txt
    python tests/fuzz/fuzz.py --case 1234       # one request again: prints it and its answer

Every request follows from the seed and its number alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "gateway"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import httptools
from http_client import Connection, Reply, ask
from image_files import black_png, samples
from requests_to_send import SINGLE, Case, form, form_type, head, length, make_case
from watched_gateway import CONSTANT_MODEL, WatchedGateway, constant_serving, watched_gateway

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
BODIES = 6000
# As many as the gateway takes on at once by default: no more, or it refuses some.
CONNECTIONS = 24
# So that requests whose rest never comes do not take long.
LIMITS = {"header_seconds": 2, "body_seconds": 2}
_ANSWER_SECONDS = 20
_SHOWN = 20

# Answers that do not depend on what TF Serving says.
_STATUSES = {200, 400, 404, 405, 408, 413, 415, 422, 431}
_ITEM_CODES = {"image_invalid", "image_truncated", "image_too_large", "missing_file", "file_too_large"}
_ITEM_CODES.add("unsupported_type")
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)


@dataclass
class Findings:
    """What became of the requests. `closed`: the connection was closed without an answer, where that is an answer."""

    bodies: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    hung_up: int = 0
    closed: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def status_5xx(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)

    def add(self, number: int, case: Case, reply: Reply | None) -> None:
        """Count an answer, and note what is wrong with it."""
        if reply is None:
            self.closed += 1
            if case.reusable:
                self.faults.append(f"case {number} ({case.name}): no answer")
            return
        self.statuses[reply.status] += 1
        try:
            check_reply(reply)
        except (ValueError, LookupError, TypeError) as error:
            self.faults.append(f"case {number} ({case.name}): {reply.status} {reply.body[:200]!r}: {error}")


def check_reply(reply: Reply) -> None:
    """Raise ValueError, LookupError or TypeError unless an answer is one that the gateway may give."""
    if reply.status not in _STATUSES:
        raise ValueError(f"status {reply.status}")
    if reply.headers["content-type"].partition(";")[0] != "application/json":
        # The greeting and the pages.
        return
    document = reply.json
    if reply.status != 200:
        _check_error(document)
        return
    for result in document.get("results", [document]):
        if "error" in result:
            _check_error(result)
            if result["error"]["code"] not in _ITEM_CODES:
                raise ValueError(f"{result['error']['code']} of an image in a batch")
        elif sorted(item["label"] for item in result["predictions"]) != ["cat", "dog"]:
            raise ValueError("wrong labels")


def _check_error(document: Any) -> None:
    if document["success"] is not False or not document["error"]["code"] or not document["error"]["message"]:
        raise ValueError("no error as it should be")


async def send_all(port: int, cases: Iterable[tuple[int, Case]], connections: int = CONNECTIONS) -> Findings:
    """Send requests on several connections, and return what came back."""
    findings = Findings()
    queue = iter(cases)

    async def keep_sending() -> None:
        connection: Connection | None = None
        for number, case in queue:
            if connection is None or not connection.reusable:
                connection = await Connection.open(port)
            findings.bodies += 1
            if case.hangs_up:
                await connection.send(case.pieces)
                # A moment in which the gateway may begin.
                await asyncio.sleep(number % 5 / 1000)
                findings.hung_up += 1
                connection.close()
                continue
            try:
                findings.add(number, case, await connection.ask(case.pieces, _ANSWER_SECONDS))
            except (asyncio.TimeoutError, httptools.HttpParserError) as error:
                findings.faults.append(f"case {number} ({case.name}): {error!r}")
                connection.close()
            if not case.reusable:
                connection.close()
        if connection is not None:
            connection.close()

    await asyncio.gather(*(keep_sending() for _unused in range(connections)))
    return findings


async def warm_up(port: int) -> None:
    """Send every sample a few times, so that what is loaded or grown once is there."""
    bodies = [form(b"file", [file]) for file in samples().values()] * 5
    messages = [head(SINGLE, form_type(), length(body)) + body for body in bodies]
    findings = await send_all(port, ((-1, Case("sample", (message,))) for message in messages))
    if set(findings.statuses) != {200}:
        raise RuntimeError(f"the samples are not all answered: {findings}")


async def fuzz(gateway: WatchedGateway, numbers: Iterable[int], seed: int = SEED) -> Findings:
    """Send the requests of these numbers to a gateway that is watched meanwhile."""
    watcher = asyncio.create_task(gateway.watch())
    try:
        return await send_all(gateway.port, ((number, make_case(seed, number)) for number in numbers))
    finally:
        watcher.cancel()


def schemathesis(port: int, seed: int = SEED, max_examples: int = 60) -> tuple[dict[str, Any], str]:
    """Let schemathesis ask what the OpenAPI document says can be asked, and what it says cannot.

    Returns requests sent and checks failed, and its own words.
    """
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as directory:
        report = Path(directory, "report.ndjson")
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{port}/openapi.json"]
        command += [f"--checks={','.join(_CHECKS)}", "--mode=all", f"--max-examples={max_examples}", f"--seed={seed}"]
        command += ["--phases=examples,coverage,fuzzing", "--continue-on-failure", "--generation-database=none"]
        command += ["--suppress-health-check=all", "--warnings=off", "--no-color", "--no-shrink", "--workers=4"]
        command += ["--report=ndjson", f"--report-ndjson-path={report}", f"--request-timeout={_ANSWER_SECONDS}"]
        run = subprocess.run(
            command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        statuses: Counter[int] = Counter()
        if report.exists():
            statuses.update(int(status) for status in re.findall(r'"status_code":\s*(\d+)', report.read_text()))
    found = {"ok": run.returncode == 0, "requests": sum(statuses.values()), "statuses": dict(sorted(statuses.items()))}
    return found, run.stdout


@dataclass(frozen=True)
class Refusal:
    """What it costs to refuse an image for its size: the best of several requests, and memory beyond that at rest."""

    milliseconds: float
    memory_mb: float
    codes: set[str]

    @property
    def cheap(self) -> bool:
        """Whether it is within 20 ms and 5 MB."""
        return self.milliseconds <= 20 and self.memory_mb < 5


def refuse_bomb(gateway: WatchedGateway, side: int = 13_000) -> Refusal:
    """Upload a PNG of `side` x `side` pixels in a file of less than side² / 300 bytes, ten times."""
    body = form(b"file", [black_png(side, side)])
    message = head(SINGLE, form_type(), length(body)) + body
    gateway.forget_peak()
    before = gateway.peak_rss_bytes
    replies = [asyncio.run(ask(gateway.port, [message])) for _unused in range(10)]
    return Refusal(
        min(reply.seconds for reply in replies) * 1000,
        (gateway.peak_rss_bytes - before) / 1e6,
        {reply.json["error"]["code"] for reply in replies},
    )


def run(bodies: int, seed: int) -> tuple[dict[str, Any], str]:
    """Return figures and table of a whole run."""
    with constant_serving() as upstream, watched_gateway(upstream, limits=LIMITS, **CONSTANT_MODEL) as gateway:
        asyncio.run(warm_up(gateway.port))
        bomb = refuse_bomb(gateway)
        before = gateway.rss_bytes
        gateway.forget_peak()
        started = time.monotonic()
        findings = asyncio.run(fuzz(gateway, range(bodies), seed))
        seconds = time.monotonic() - started
        grown, peak = gateway.rss_bytes - before, gateway.peak_rss_bytes
        by_schema, words = schemathesis(gateway.port, seed)
        crashes, files = gateway.crashes, gateway.files_left
    schema_5xx = sum(count for status, count in by_schema["statuses"].items() if status >= 500)
    found = {
        "ok": not (findings.faults or crashes or files or schema_5xx) and by_schema["ok"] and bomb.cheap,
        "bodies": findings.bodies,
        "status_5xx": findings.status_5xx + schema_5xx,
        "crashes": len(crashes),
        "files_left": len(files),
        "rss_growth_mb": round(grown / 1e6, 1),
        "rss_peak_mb": round(peak / 1e6, 1),
        "seconds": round(seconds, 1),
        "seed": seed,
        "statuses": {str(status): count for status, count in sorted(findings.statuses.items())},
        "hung_up": findings.hung_up,
        "closed": findings.closed,
        "faults": findings.faults,
        "crash_lines": crashes,
        "files": files,
        "schemathesis": by_schema,
        "bomb_ms": round(bomb.milliseconds, 1),
        "bomb_memory_mb": round(bomb.memory_mb, 1),
    }
    return found, _table(found) + ("" if by_schema["ok"] else words)


def _table(found: dict[str, Any]) -> str:
    by_schema = found["schemathesis"]
    rows = [
        ("requests with mutated bodies", found["bodies"], f"in {found['seconds']} s, seed {found['seed']}"),
        ("  answered, by status", sum(found["statuses"].values()), _counts(found["statuses"])),
        ("  client hung up", found["hung_up"], ""),
        ("  closed without an answer", found["closed"], "only where the HTTP itself is broken"),
        ("requests by schemathesis", by_schema["requests"], _counts(by_schema["statuses"])),
        ("answers with 5xx", found["status_5xx"], "limit: 0"),
        ("crashes", found["crashes"], "limit: 0"),
        ("files left or opened", found["files_left"], "limit: 0"),
        ("other faults", len(found["faults"]), "limit: 0"),
        ("checks of schemathesis", "passed" if by_schema["ok"] else "FAILED", ""),
        ("refusal of 13000 x 13000 (ms)", found["bomb_ms"], "limit: 20"),
        ("  and its memory (MB)", found["bomb_memory_mb"], "limit: 5"),
        ("memory grown by (MB)", found["rss_growth_mb"], f"peak {found['rss_peak_mb']}"),
    ]
    lines = [f"{name:<32}{value!s:>8}  {note}".rstrip() for name, value, note in rows]
    lines += [*found["faults"][:_SHOWN], *found["crash_lines"][:_SHOWN], *found["files"][:_SHOWN]]
    return "\n".join(lines) + "\n"


def _counts(counts: dict[Any, int]) -> str:
    return "  ".join(f"{status}: {count}" for status, count in counts.items())


async def _show(port: int, case: Case) -> None:
    print(case)
    connection = await Connection.open(port)
    await connection.send(case.pieces)
    print(None if case.hangs_up else await connection.reply(_ANSWER_SECONDS))
    connection.close()


def main() -> int:
    """Run everything or one case. Returns 0 if nothing broke."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=BODIES, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="send only the request of this number, and show it")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory (default: %(default)s)")
    options = parser.parse_args()
    if options.case is not None:
        with constant_serving() as upstream, watched_gateway(upstream, limits=LIMITS, **CONSTANT_MODEL) as gateway:
            asyncio.run(_show(gateway.port, make_case(options.seed, options.case)))
            print(gateway.log)
        return 0
    found, text = run(options.bodies, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "fuzz.json").write_text(json.dumps(found, indent=2) + "\n")
    (options.output / "fuzz.txt").write_text(text)
    print(text, end="")
    return int(not found["ok"])


if __name__ == "__main__":
    sys.exit(main())
