"""The gateway as a process, and an HTTP client for it."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from stub_serving import wait_until

GATEWAY_DIRECTORY = Path(__file__).resolve().parents[3] / "roles" / "fastapi_service" / "files" / "gateway"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(GATEWAY_DIRECTORY)}


def gateway_config(*upstreams: str, **changes: Any) -> dict[str, Any]:
    """A configuration for the stub's model; `changes` replace whole top-level keys, `model` updates the model's."""
    model = {"labels": ["red", "green"], **changes.pop("model", {})}
    return {
        "bind_address": "127.0.0.1",
        "port": free_port(),
        "upstream": {"grpc": list(upstreams), "deadline_seconds": changes.pop("deadline_seconds", 5)},
        "default_model": "pets",
        "models": {"pets": model},
        **changes,
    }


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of an error in the shape that every error has."""
        document = self.json
        assert document["success"] is False
        assert set(document["error"]) == {"code", "message"}
        return self.status, document["error"]["code"]

    @property
    def message(self) -> str:
        return self.json["error"]["message"]


def multipart(*fields: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form as a browser sends it."""
    boundary = "----boundary7d1f"
    body = b""
    for name, content in fields:
        head = f'Content-Disposition: form-data; name="{name}"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n'
        body += f"--{boundary}\r\n{head}\r\n".encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Gateway:
    """A gateway process, from its start to `stop`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.port = config["port"]
        self._directory = tempfile.TemporaryDirectory()
        path = Path(self._directory.name, "config.json")
        path.write_text(json.dumps(config))
        self._log = Path(self._directory.name, "log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tf2x_gateway", "--config", str(path)],
                stderr=log,
                env=command_environment(),
            )
        wait_until(self._lives, 20)

    def _lives(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.get("/healthz").status == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = 30,
    ) -> Answer:
        """An iterable body is sent in chunks, so without a length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def upload(self, image: bytes, path: str = "/model/predict/", field: str = "file") -> Answer:
        body, headers = multipart((field, image))
        return self.request("POST", path, body, headers)

    def send(self, image: bytes, content_type: str = "image/png", path: str = "/model/predict/") -> Answer:
        return self.request("POST", path, image, {"Content-Type": content_type})

    def stop(self) -> int:
        """End the process as systemd would and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._directory.cleanup()


def encode_image(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Image.Image:
    """An image in which no pixel is like its neighbours, the same every time."""
    bands = [
        Image.frombytes(
            "L", size, bytes((x * 37 + y * 101 + band * 67) % 256 for y in range(size[1]) for x in range(size[0]))
        )
        for band in range(len(Image.new(mode, (1, 1)).getbands()))
    ]
    return bands[0] if mode == "L" else Image.merge(mode, bands)
