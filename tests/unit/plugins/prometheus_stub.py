"""A Prometheus in small that scrapes the metrics of gateways, whose traffic a test scripts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client.parser import text_string_to_metric_families
from tf2x_gateway.metrics import Metrics

_SCRAPE_SECONDS = 0.05
_QUERY = re.compile(
    r'(?P<range>last_over_time\()?\{__name__=~"(?P<names>[^"]+)",model="(?P<model>[^"]+)"\}(?(range)\[1h\]\))'
)
Series = dict[tuple[tuple[str, str], ...], float]


class Gateway:
    """A gateway's metrics. `down`: it is not there to be scraped."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.down = False

    def restart(self) -> None:
        self.metrics = Metrics()

    def predictions(
        self, label: str, version: int, *, ok: int = 0, error: int = 0, timeout: int = 0, seconds: float = 0.02
    ) -> None:
        """Count requests to one label of the model pets; those that succeed took `seconds`."""
        for outcome, count in {"ok": ok, "error": error, "timeout": timeout}.items():
            if count:
                self.metrics.predictions.labels("pets", label, str(version), outcome).inc(count)
        for _unused in range(ok):
            self.metrics.upstream_seconds.labels("pets", label, str(version)).observe(seconds)

    def shadows(self, version: int, **results: int) -> None:
        for result, count in results.items():
            self.metrics.shadow.labels("pets", str(version), result).inc(count)


@dataclass
class Prometheus:
    """`traffic` is called before each scrape. `broken`: status and body of every answer."""

    gateways: list[Gateway] = field(default_factory=lambda: [Gateway(), Gateway()])
    traffic: Callable[[], None] = lambda: None
    broken: tuple[int, bytes] | None = None
    queries: list[str] = field(default_factory=list)
    present: Series = field(default_factory=dict)
    ever: Series = field(default_factory=dict)

    def scrape(self) -> None:
        self.traffic()
        present: Series = {}
        for number, gateway in enumerate(self.gateways):
            if gateway.down:
                continue
            for family in text_string_to_metric_families(gateway.metrics.exposition().decode()):
                for sample in family.samples:
                    labels = {"__name__": sample.name, "instance": f"gateway-{number}", **sample.labels}
                    present[tuple(sorted(labels.items()))] = sample.value
        self.present = present
        self.ever = {**self.ever, **present}

    def answer(self, query: str) -> tuple[int, Any]:
        self.queries.append(query)
        match = _QUERY.fullmatch(query)
        if not match:
            return 400, {"status": "error", "errorType": "bad_data", "error": f"parse error: {query}"}
        series = self.ever if match["range"] else self.present
        result = [
            {"metric": dict(key), "value": [1.5e9, str(value)]}
            for key, value in series.items()
            if re.fullmatch(match["names"], dict(key)["__name__"]) and dict(key).get("model") == match["model"]
        ]
        return 200, {"status": "success", "data": {"resultType": "vector", "result": result}}


@contextmanager
def serve(prometheus: Prometheus) -> Iterator[str]:
    """Serve its API and scrape; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if prometheus.broken:
                status, data = prometheus.broken
            elif url.path != "/api/v1/query":
                status, data = 404, b"404 page not found"
            else:
                status, content = prometheus.answer(parse_qs(url.query)["query"][0])
                data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(_SCRAPE_SECONDS):
            prometheus.scrape()

    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)), threading.Thread(target=scrape)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()
