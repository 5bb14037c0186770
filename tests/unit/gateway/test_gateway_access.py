"""Who may ask, over which connection, and what is written down about it."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import subprocess
from datetime import datetime, timezone

import pytest
from gateway_process import Gateway, encode_image, gateway_config, noise, received, refused_start
from stub_serving import wait_until

IMAGE = encode_image(noise())
ORIGIN = "https://app.example:8443"
KEYS = {"app": ["predict"], "prometheus": ["metrics"], "admin": ["predict", "metrics"]}
OPEN_PATHS = ["/", "/form", "/ui", "/docs", "/openapi.json", "/healthz", "/readyz"]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def key(name: str) -> str:
    return f"secret-of-{name}"


@pytest.fixture(scope="module")
def shared_guarded_gateway(shared_stub):
    keys = [
        {"name": name, "sha256": hashlib.sha256(key(name).encode()).hexdigest(), "scopes": scopes}
        for name, scopes in KEYS.items()
    ]
    gateway = Gateway(gateway_config(shared_stub.address, api_keys=keys, cors_origins=[ORIGIN]))
    yield gateway
    gateway.stop()


@pytest.fixture
def guarded_gateway(shared_guarded_gateway, stub):
    """It asks for one of KEYS, and lets pages of ORIGIN ask."""
    return shared_guarded_gateway


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Paths of a certificate for 127.0.0.1 and of its key."""
    directory = tmp_path_factory.mktemp("tls")
    paths = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    files = ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return paths


@pytest.fixture(scope="module")
def shared_tls_gateway(shared_stub, certificate):
    tls = {"certificate_file": str(certificate[0]), "key_file": str(certificate[1])}
    config = gateway_config(shared_stub.address, tls=tls, trusted_proxies=["127.0.0.1"], cors_origins=["*"])
    gateway = Gateway(config, tls=ssl.create_default_context(cafile=certificate[0]))
    yield gateway
    gateway.stop()


@pytest.fixture
def tls_gateway(shared_tls_gateway, stub):
    """With TLS, behind a proxy on 127.0.0.1, for pages of all origins."""
    return shared_tls_gateway


# ---- API keys


@pytest.mark.parametrize("name", ["app", "admin"])
def test_keys_open_predictions(guarded_gateway, name):
    for headers in ({"Authorization": f"Bearer {key(name)}"}, {"authorization": f"bearer {key(name)}"}):
        assert guarded_gateway.upload(IMAGE, **headers).status == 200
    assert guarded_gateway.upload(IMAGE, X_API_Key=key(name)).status == 200
    assert guarded_gateway.upload(IMAGE, Authorization="Basic dTpw", X_API_Key=key(name)).status == 200
    assert guarded_gateway.get("/models", X_API_Key=key(name)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"X_API_Key": ""}, id="empty"),
        pytest.param({"X_API_Key": "secret-of-nobody"}, id="unknown"),
        pytest.param({"X_API_Key": key("app") + "x"}, id="longer"),
        pytest.param({"X_API_Key": key("app")[:-1]}, id="shorter"),
        pytest.param({"X_API_Key": hashlib.sha256(key("app").encode()).hexdigest()}, id="digest"),
        pytest.param({"X_API_Key": "sécret"}, id="not ASCII"),
        pytest.param({"Authorization": key("app")}, id="no scheme"),
        pytest.param({"Authorization": f"Basic {key('app')}"}, id="other scheme"),
        pytest.param({"Authorization": "Bearer"}, id="scheme only"),
        pytest.param({"Authorization": "Bearer secret-of-nobody", "X_API_Key": key("app")}, id="unknown bearer"),
    ],
)
def test_requests_without_a_known_key(guarded_gateway, stub, headers):
    answers = [
        guarded_gateway.upload(IMAGE, **headers),
        guarded_gateway.upload(IMAGE, "/models/pets/predict", **headers),
        guarded_gateway.upload(IMAGE, "/model/predict/batch/", "files", **headers),
        guarded_gateway.upload(IMAGE, "/models/birds/predict", **headers),
        guarded_gateway.get("/models", **headers),
        guarded_gateway.get("/metrics", **headers),
    ]
    for answer in answers:
        assert answer.error == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert stub.calls == []


def test_keys_open_only_their_scopes(guarded_gateway, stub):
    answer = guarded_gateway.upload(IMAGE, X_API_Key=key("prometheus"))
    assert answer.error == (403, "forbidden")
    assert "'prometheus' opens metrics; this needs predict" in answer.message
    assert guarded_gateway.get("/models", X_API_Key=key("prometheus")).error == (403, "forbidden")
    assert guarded_gateway.get("/metrics", X_API_Key=key("app")).error == (403, "forbidden")
    assert stub.calls == []
    for name in ("prometheus", "admin"):
        assert guarded_gateway.get("/metrics", X_API_Key=key(name)).status == 200


def test_what_no_key_opens_is_open_to_everyone(stub, new_gateway):
    digest = hashlib.sha256(key("app").encode()).hexdigest()
    gateway = new_gateway(stub.address, api_keys=[{"name": "app", "sha256": digest, "scopes": ["predict"]}])
    assert gateway.get("/metrics").status == 200
    assert gateway.upload(IMAGE).error == (401, "unauthorized")


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_health_and_pages_need_no_key(guarded_gateway, path):
    assert guarded_gateway.get(path).status == 200


def test_bodies_of_strangers_are_not_waited_for(guarded_gateway):
    with guarded_gateway.raw_connection() as connection:
        connection.sendall(b"POST /model/predict/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert received(connection).error == (401, "unauthorized")


def test_keys_are_described(guarded_gateway, gateway):
    schema = guarded_gateway.get("/openapi.json").json
    schemes = schema["components"]["securitySchemes"].values()
    assert {(scheme["type"], scheme.get("scheme") or scheme.get("name")) for scheme in schemes} == {
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    }
    assert "securitySchemes" not in gateway.get("/openapi.json").json["components"]


def test_log_names_keys_and_never_holds_them(guarded_gateway):
    answers = [
        guarded_gateway.upload(IMAGE, X_API_Key=key("app")),
        guarded_gateway.upload(IMAGE, Authorization=f"Bearer {key('prometheus')}"),
        guarded_gateway.upload(IMAGE, Authorization="Bearer secret-of-nobody"),
    ]
    lines = [guarded_gateway.access_line(answer.headers["X-Request-Id"]) for answer in answers]
    assert [line.get("api_key") for line in lines] == ["app", "prometheus", None]
    assert [line.get("error") for line in lines] == [None, "forbidden", "unauthorized"]
    assert "secret-of" not in guarded_gateway.log
    for name in KEYS:
        assert hashlib.sha256(key(name).encode()).hexdigest() not in guarded_gateway.log


# ---- TLS


def test_tls_with_a_certificate(tls_gateway):
    answer = tls_gateway.upload(IMAGE)
    assert answer.status == 200
    assert tls_gateway.get("/readyz").status == 200
    with tls_gateway.raw_connection() as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")


def test_plain_http_gets_no_answer_where_tls_is_spoken(tls_gateway):
    with tls_gateway.raw_connection() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in connection.recv(65536)
    assert "Traceback" not in tls_gateway.log


@pytest.mark.parametrize(("fault", "workers"), [("missing", 1), ("no key", 1), ("no key", 2)])
def test_start_with_unusable_tls_files_is_refused(stub, certificate, tmp_path, fault, workers):
    path = tmp_path / "key.pem"
    if fault == "no key":
        path.write_text("no key")
    tls = {"certificate_file": str(certificate[0]), "key_file": str(path)}
    status, log = refused_start(gateway_config(stub.address, tls=tls, workers=workers))
    assert status == 2
    assert str(path) in log
    assert "Traceback" not in log


# ---- browsers


def preflight(gateway, origin: str):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    return gateway.request("OPTIONS", "/model/predict/", None, headers)


def test_pages_of_other_origins_may_not_ask_by_default(gateway):
    assert preflight(gateway, ORIGIN).status == 405
    for answer in (gateway.upload(IMAGE, Origin=ORIGIN), preflight(gateway, ORIGIN)):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_pages_of_listed_origins_may_ask(guarded_gateway):
    answer = preflight(guarded_gateway, ORIGIN)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "x-api-key" in answer.headers["Access-Control-Allow-Headers"].lower()
    for name, status in (("app", 200), ("prometheus", 403), ("nobody", 401)):
        answer = guarded_gateway.upload(IMAGE, Origin=ORIGIN, X_API_Key=key(name))
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"].lower()
        assert "Cross-Origin-Resource-Policy" not in answer.headers


@pytest.mark.parametrize("origin", ["https://app.example", "http://app.example:8443", ORIGIN + ".evil.example", "null"])
def test_pages_of_other_origins_than_listed_may_not_ask(guarded_gateway, origin):
    assert preflight(guarded_gateway, origin).status == 400
    answers = [preflight(guarded_gateway, origin), guarded_gateway.upload(IMAGE, Origin=origin, X_API_Key=key("app"))]
    for answer in answers:
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_pages_of_all_origins_may_ask(tls_gateway):
    assert preflight(tls_gateway, "https://any.example").headers["Access-Control-Allow-Origin"] == "*"
    answer = tls_gateway.upload(IMAGE, Origin="https://any.example")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_security_headers_are_on_every_answer(gateway, guarded_gateway):
    answers = [
        *(gateway.get(path) for path in (*OPEN_PATHS, "/models", "/metrics", "/nowhere", "/model/predict/")),
        gateway.upload(IMAGE),
        gateway.upload(b"no image"),
        gateway.upload(bytes(21 * 1024 * 1024)),
        gateway.upload(IMAGE, "/models/birds/predict"),
        guarded_gateway.upload(IMAGE),
        preflight(guarded_gateway, ORIGIN),
    ]
    assert {answer.status for answer in answers} == {200, 401, 404, 405, 413, 415}
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
        assert "Server" not in answer.headers


@pytest.mark.parametrize("path", ["/form", "/ui", "/docs"])
def test_pages_load_nothing_from_elsewhere(gateway, path):
    policy = gateway.get(path).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


# ---- request ids and traces


@pytest.mark.parametrize("own", ["abc-1.2_3", "x" * 128, "0"])
def test_request_ids_of_callers_are_kept(gateway, own):
    for answer in (gateway.upload(IMAGE, X_Request_Id=own), gateway.upload(b"no image", X_Request_Id=own)):
        assert answer.headers.get_all("X-Request-Id") == [own]
    wait_until(lambda: [line["request_id"] for line in gateway.access_lines].count(own) == 2)


@pytest.mark.parametrize("bad", ["", "two words", "x" * 129, "a/b", '"', "é", "$(id)"])
def test_request_ids_that_could_do_harm_are_replaced(gateway, bad):
    answers = [gateway.upload(IMAGE, X_Request_Id=bad), gateway.get("/nowhere", X_Request_Id=bad)]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 2
    for found in ids:
        assert re.fullmatch("[0-9a-f]{32}", found)
        assert gateway.access_line(found)["request_id"] == found


def test_traceparent_goes_on_to_tf_serving(gateway, stub):
    answer = gateway.upload(IMAGE, traceparent=TRACEPARENT)
    assert [call.metadata["traceparent"] for call in stub.calls] == [TRACEPARENT]
    assert gateway.access_line(answer.headers["X-Request-Id"])["traceparent"] == TRACEPARENT
    gateway.upload(IMAGE, "/model/predict/batch/", "files", traceparent=TRACEPARENT)
    assert stub.calls[-1].metadata["traceparent"] == TRACEPARENT


@pytest.mark.parametrize(
    "bad",
    [
        "",
        TRACEPARENT[:-1],
        TRACEPARENT + "-00",
        TRACEPARENT.upper(),
        TRACEPARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        TRACEPARENT.replace("b7ad6b7169203331", "0" * 16),
        "ff" + TRACEPARENT[2:],
        "nonsense",
    ],
)
def test_traceparents_that_are_none_are_dropped(gateway, stub, bad):
    answer = gateway.upload(IMAGE, traceparent=bad)
    assert answer.status == 200
    assert "traceparent" not in stub.calls[-1].metadata
    assert "traceparent" not in gateway.access_line(answer.headers["X-Request-Id"])


def test_without_a_traceparent_none_is_sent(gateway, stub):
    assert gateway.upload(IMAGE).status == 200
    assert "traceparent" not in stub.calls[-1].metadata


# ---- the access log


def test_every_prediction_has_a_line(gateway):
    answer = gateway.send(IMAGE)
    line = gateway.access_line(answer.headers["X-Request-Id"])
    written = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(timezone.utc) - written).total_seconds()) < 60
    assert 0 < line.pop("seconds") < 30
    assert line == {
        "request_id": answer.headers["X-Request-Id"],
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/model/predict/",
        "status": 200,
        "body_bytes": len(IMAGE),
        "model": "pets",
        "version": 1,
    }


@pytest.mark.parametrize(
    ("path", "image", "expected"),
    [
        ("/model/predict/", b"no image", {"status": 415, "error": "unsupported_type", "model": "pets"}),
        ("/models/pets/predict", b"", {"status": 422, "error": "missing_file", "model": "pets"}),
        ("/models/birds/predict", IMAGE, {"status": 404, "error": "model_not_found"}),
        ("/nowhere\r\n{}", IMAGE, {"status": 404, "error": "not_found"}),
    ],
    ids=["text", "empty", "unknown model", "line break in the path"],
)
def test_every_error_has_a_line(gateway, path, image, expected):
    answer = gateway.upload(image, path.replace("\r\n", "%0D%0A"))
    line = gateway.access_line(answer.headers["X-Request-Id"])
    assert line["path"] == path
    assert {name: line[name] for name in expected} == expected
    assert ("model" in line) == ("model" in expected)
    assert "version" not in line


def test_checks_have_a_line_only_when_they_fail(gateway, stub):
    good = [gateway.get(path) for path in ("/healthz", "/readyz", "/metrics")]
    assert [answer.status for answer in good] == [200] * 3
    stub.model.state = "LOADING"
    wait_until(lambda: gateway.get("/readyz").status == 503)
    answer = gateway.get("/readyz")
    line = gateway.access_line(answer.headers["X-Request-Id"])
    assert (line["path"], line["status"], line["error"]) == ("/readyz", 503, "not_ready")
    written = {line["request_id"] for line in gateway.access_lines}
    assert written.isdisjoint(answer.headers["X-Request-Id"] for answer in good)


def test_images_and_their_names_are_not_written_down(gateway):
    answer = gateway.upload(IMAGE)
    line = gateway.access_line(answer.headers["X-Request-Id"])
    assert "x.jpg" not in json.dumps(line)
    assert len(json.dumps(line)) < 400
    assert line["body_bytes"] > len(IMAGE)


def test_clients_that_hang_up_have_a_line(gateway):
    with gateway.raw_connection() as connection:
        head = b"POST /model/predict/ HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 999\r\n"
        connection.sendall(head + b"X-Request-Id: gone\r\n\r\n" + IMAGE[:20])
    line = gateway.access_line("gone")
    assert (line["status"], line["body_bytes"]) == (499, 20)


def test_access_log_can_be_switched_off(stub, new_gateway):
    gateway = new_gateway(stub.address, access_log=False)
    assert gateway.upload(IMAGE).status == 200
    assert gateway.upload(b"no image").status == 415
    assert gateway.access_lines == []


def test_addresses_are_believed_only_to_trusted_proxies(gateway, tls_gateway):
    for behind, client in ((gateway, "127.0.0.1"), (tls_gateway, "203.0.113.7")):
        answer = behind.upload(IMAGE, X_Forwarded_For="203.0.113.7", X_Forwarded_Proto="https")
        assert behind.access_line(answer.headers["X-Request-Id"])["client"] == client
