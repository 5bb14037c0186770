"""The gateway as a process, and an HTTP client for it."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from stub_serving import wait_until

sys.path.append(str(Path(__file__).resolve().parents[1]))

from ports import free_port

GATEWAY_DIRECTORY = Path(__file__).resolve().parents[3] / "roles" / "fastapi_service" / "files" / "gateway"


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


# As systemd does: the socket is file descriptor 3, and the variables are for this process id only.
_ACTIVATE = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 </dev/null'


class Gateway:
    """A gateway process, from its start to `stop`.

    It is handed `listener` as systemd hands over a socket. Clients use `tls`, or plain HTTP without it. `traffic` is
    what its traffic file says at the start; None: there is no such file. `options` are more of the command line.
    """

    def __init__(
        self,
        config: dict[str, Any],
        listener: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        traffic: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.port = config["port"] if listener is None else listener.getsockname()[1]
        self._tls = tls
        self._directory = tempfile.TemporaryDirectory()
        path = Path(self._directory.name, "config.json")
        path.write_text(json.dumps(config))
        self.config_path = path
        self.write_traffic(traffic)
        self._log = Path(self._directory.name, "log")
        command = [sys.executable, "-m", "tf2x_gateway", "--config", str(path), *options]
        if listener is not None:
            command = ["sh", "-c", _ACTIVATE, "sh", *command]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=listener, stderr=log, env=command_environment())
        try:
            wait_until(self._lives, 60)
        except BaseException:
            self.stop()
            raise

    def _lives(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.get("/healthz").status == 200
        except OSError:
            return False

    def write_traffic(self, text: str | None) -> None:
        """Replace the traffic file beside the configuration, at once as a whole; None: remove it."""
        path = self.config_path.with_name("traffic.json")
        if text is None:
            path.unlink(missing_ok=True)
            return
        new = path.with_name("traffic.new")
        new.write_text(text)
        new.replace(path)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def access_lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if re.match(r"\{.*\n", line)]

    def access_line(self, request_id: str | None) -> dict[str, Any]:
        """The one line about a request, which is written once its answer is out."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.access_lines if line["request_id"] == request_id]

        wait_until(lambda: bool(found()))
        (line,) = found()
        return line

    @property
    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def connection(self, seconds: float = 30) -> http.client.HTTPConnection:
        """A connection that is kept open from one request to the next."""
        if self._tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=seconds, context=self._tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)

    def raw_connection(self, seconds: float = 10) -> socket.socket:
        """A connection for what no HTTP client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = 30,
    ) -> Answer:
        """An iterable body is sent in chunks, so without a length."""
        connection = self.connection(seconds)
        try:
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Underscores in the headers' names stand for dashes."""
        return self.request("GET", path, None, _dashed(headers))

    def upload(self, image: bytes, path: str = "/model/predict/", field: str = "file", **headers: str) -> Answer:
        body, form_headers = multipart((field, image))
        return self.request("POST", path, body, {**form_headers, **_dashed(headers)})

    def upload_batch(self, images: Iterable[bytes], path: str = "/model/predict/batch/") -> Answer:
        body, headers = multipart(*(("files", image) for image in images))
        return self.request("POST", path, body, headers)

    def samples(self) -> dict[str, float]:
        """The metrics now, by name and labels."""
        answer = self.get("/metrics")
        assert answer.status == 200
        assert answer.headers.get_content_type() == "text/plain"
        lines = (line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def send(self, image: bytes, content_type: str = "image/png", path: str = "/model/predict/") -> Answer:
        return self.request("POST", path, image, {"Content-Type": content_type})

    def stop(self) -> int:
        """End the process as systemd would and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._directory.cleanup()


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def refused_start(config: dict[str, Any]) -> tuple[int, str]:
    """Start a gateway that ends by itself; return its exit status and its log."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.json")
        path.write_text(json.dumps(config))
        result = subprocess.run(
            [sys.executable, "-m", "tf2x_gateway", "--config", str(path)],
            stderr=subprocess.PIPE,
            text=True,
            env=command_environment(),
            check=False,
            timeout=120,
        )
    return result.returncode, result.stderr


def received(connection: socket.socket) -> Answer:
    """Return the next answer on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def until_closed(connection: socket.socket) -> bytes:
    """Return all that comes until the gateway closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def encode_image(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def plain(red: int, green: int) -> bytes:
    """An image file of the stub's size in one colour: the scores tell which it was."""
    return encode_image(Image.new("RGB", (8, 6), (red, green, 0)))


def scores(result: dict[str, Any]) -> dict[str, float]:
    """The scores of an answer, or of a batch's result, by label."""
    assert result["success"] is True, result
    return {entry["label"]: entry["score"] for entry in result["predictions"]}


def noise(mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Image.Image:
    """An image in which no pixel is like its neighbours, the same every time."""
    bands = [
        Image.frombytes(
            "L", size, bytes((x * 37 + y * 101 + band * 67) % 256 for y in range(size[1]) for x in range(size[0]))
        )
        for band in range(len(Image.new(mode, (1, 1)).getbands()))
    ]
    return bands[0] if mode == "L" else Image.merge(mode, bands)
