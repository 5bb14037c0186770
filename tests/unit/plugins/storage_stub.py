"""Servers that models are downloaded from: HTTPS, and Google Cloud Storage with its token endpoint."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ansible_collections.tf2x.serving.plugins.module_utils._warmup import crc32c
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

ACCOUNT = "reader@example.iam.gserviceaccount.com"
# Whom a service account's request for a token is meant for, wherever it is sent to.
AUDIENCE = "https://oauth2.googleapis.com/token"


@dataclass
class WebServer:
    """`files` by path, `moved` are redirects. `breaks`: after how many bytes each of the next answers breaks off.

    `stalls`: they do not break off, but nothing more comes until `released` is set.
    """

    url: str = ""
    certificate: Path = Path()
    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    stalls: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    ranges: bool = True
    lengths: bool = True
    seen: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append((handler.path, handler.headers.get("Range")))
        path = urlsplit(handler.path).path
        if self.failures:
            send(handler, self.failures.pop(0), b"not now")
        elif path in self.moved:
            send(handler, 302, b"", {"Location": self.moved[path]})
        elif path not in self.files:
            send(handler, 404, b"no such file")
        else:
            cut = self.breaks.pop(0) if self.breaks else None
            send_file(handler, self.files[path], cut=cut, ranges=self.ranges, lengths=self.lengths)
            if cut is not None and self.stalls:
                self.released.wait(60)


@dataclass
class CloudStorage:
    """Objects by name in the bucket `models`, given to who has a token that the key of ACCOUNT was traded for."""

    key: rsa.RSAPrivateKey
    certificate: bytes
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    composite: set[str] = field(default_factory=set)
    encoded: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    denied: bool = False
    failures: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    downloads: list[tuple[str, str | None]] = field(default_factory=list)
    page_size: int = 2
    token: str = "token-1"

    def write_key(self, file: Path) -> Path:
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key_id": "1",
            "private_key": private.decode(),
            "token_uri": f"{self.url}/token",
        }
        file.write_text(json.dumps(content))
        return file

    def trade(self, handler: BaseHTTPRequestHandler) -> None:
        form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        try:
            claims = jwt.decode(form["assertion"][0], certs=self.certificate, audience=AUDIENCE)
            right = claims["iss"] == ACCOUNT and claims["scope"].endswith("/devstorage.read_only")
        except ValueError:
            right = False
        body = {"access_token": self.token, "expires_in": 3600} if right else {"error": "invalid_grant"}
        send(handler, 200 if right else 400, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        _empty, bucket, name = parts.path.partition("/storage/v1/b/models/o")
        name = unquote(name.lstrip("/"))
        if handler.headers.get("Authorization") != f"Bearer {self.token}":
            self._refuse(handler, 401, "Invalid Credentials")
        elif self.denied:
            self._refuse(handler, 403, f"{ACCOUNT} does not have storage.objects.list access")
        elif self.failures:
            self._refuse(handler, self.failures.pop(0), "backend error")
        elif not bucket:
            self._refuse(handler, 404, "The specified bucket does not exist.")
        elif not name:
            self._send_json(handler, self._page(query))
        elif name not in self.objects:
            self._refuse(handler, 404, f"No such object: models/{name}")
        elif query.get("alt") == "media":
            assert query["generation"] == self._described(name)["generation"]
            self.downloads.append((name, handler.headers.get("Range")))
            content = self.objects[name]
            if name in self.damaged:
                content = bytes([content[0] ^ 1]) + content[1:]
            send_file(handler, content, cut=self.breaks.pop(0) if self.breaks else None)
        else:
            self._send_json(handler, self._described(name))

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        names = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))
        start = int(query.get("pageToken", "0"))
        page: dict[str, Any] = {"items": [self._described(name) for name in names[start : start + self.page_size]]}
        if start + self.page_size < len(names):
            page["nextPageToken"] = str(start + self.page_size)
        return page

    def _described(self, name: str) -> dict[str, Any]:
        content = self.objects[name]
        found = {
            "name": name,
            "size": str(len(content)),
            "generation": str(sum(content) + 1),
            "crc32c": base64.b64encode(crc32c(content).to_bytes(4, "big")).decode(),
        }
        if name not in self.composite:
            found["md5Hash"] = base64.b64encode(hashlib.md5(content).digest()).decode()
        if name in self.encoded:
            found["contentEncoding"] = "gzip"
        return found

    def _send_json(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        send(handler, 200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, message: str) -> None:
        body = {"error": {"code": status, "message": message}}
        send(handler, status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def send_file(
    handler: BaseHTTPRequestHandler, content: bytes, *, cut: int | None, ranges: bool = True, lengths: bool = True
) -> None:
    wanted = handler.headers.get("Range") if ranges else None
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
    handler.send_response(206 if wanted else 200)
    if wanted:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if lengths:
        handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.write(content[start:] if cut is None else content[start : start + cut])
    handler.close_connection = True


def key_and_certificate() -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stub")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM)


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    key, certificate = key_and_certificate()
    server = WebServer(certificate=folder / "certificate.pem")
    server.certificate.write_bytes(certificate)
    key_file = folder / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, key_file)
    with _served(server.answer, None, context) as port:
        server.url = f"https://127.0.0.1:{port}"
        try:
            yield server
        finally:
            server.released.set()


@contextmanager
def cloud_storage() -> Iterator[CloudStorage]:
    storage = CloudStorage(*key_and_certificate())
    with _served(storage.answer, storage.trade, None) as port:
        storage.url = f"http://127.0.0.1:{port}"
        yield storage


@contextmanager
def _served(get: Any, post: Any, context: ssl.SSLContext | None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            get(self)

        def do_POST(self) -> None:
            post(self)

        def log_message(self, *_arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_arguments: Any) -> None:
            """A client that does not trust the certificate is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
