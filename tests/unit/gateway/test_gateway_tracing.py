"""Traces: sent over OTLP to a collector that listens on loopback."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gateway_process import command_environment, encode_image, gateway_config, noise
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
IMAGE = encode_image(noise())


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_spans_continue_the_callers_trace_and_are_continued(stub, new_gateway, collector):
    gateway = new_gateway(stub.address, otlp_endpoint=f"http://127.0.0.1:{collector.server_port}/v1/traces")
    headers = {"Content-Type": "image/png", "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-Id": "r-1"}
    assert gateway.request("POST", "/model/predict/", IMAGE, headers).status == 200
    gateway.get("/healthz")
    stub.model.state = "END"
    assert gateway.send(IMAGE).status >= 500
    # What has not been sent yet is sent at the end.
    gateway.stop()

    first, failed = collector.spans
    assert first.name == "POST /model/predict/"
    assert first.kind == Span.SPAN_KIND_SERVER
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    attributes = {item.key: item.value.int_value or item.value.string_value for item in first.attributes}
    assert attributes["http.response.status_code"] == 200
    assert (attributes["tf2x.model"], attributes["tf2x.request_id"]) == ("pets", "r-1")
    assert dict(stub.calls[0].metadata)["traceparent"] == f"00-{TRACE_ID}-{first.span_id.hex()}-01"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.trace_id.hex() != TRACE_ID


def test_missing_sdk_is_named(stub, tmp_path: Path):
    """Without the SDK, which a site without traces does not install, the configuration is refused."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(gateway_config(stub.address, otlp_endpoint="http://127.0.0.1:1/v1/traces")))
    hide = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from tf2x_gateway.__main__ import main; sys.exit(main())"
    )
    found = subprocess.run(
        [sys.executable, "-c", hide, "--check-config", "--config", str(config)],
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert "opentelemetry-sdk" in found.stderr
