"""Pages, metrics, logs, workers and packaging: the gateway as a service."""

from __future__ import annotations

import ast
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tomllib
from gateway_process import GATEWAY_DIRECTORY, encode_image, noise
from stub_serving import wait_until

IMAGE = encode_image(noise())
LOCKS = Path(__file__).resolve().parents[3] / "roles" / "miniconda_prod_env" / "files"


def growth(gateway, act) -> dict[str, float]:
    before = gateway.samples()
    act()
    return {name: value - before.get(name, 0) for name, value in gateway.samples().items()}


def test_greeting_names_form_and_docs(gateway):
    answer = gateway.get("/")
    assert answer.status == 200
    assert answer.headers.get_content_type() == "text/plain"
    for path in ("/form", "/docs"):
        assert path in answer.body.decode()
        assert gateway.get(path).status == 200


def test_docs_page_lists_the_api_and_loads_nothing(gateway):
    page = gateway.get("/docs").body.decode()
    schema = gateway.get("/openapi.json").json
    for path in schema["paths"]:
        assert path in page
    assert "/model/predict/" in schema["paths"]
    assert "image_truncated" in page
    for address in re.findall(r"""(?:src|href)=["']([^"']*)""", page + gateway.get("/form").body.decode()):
        assert address.startswith(("/", "#", "data:"))


def test_requests_are_counted_by_model_route_and_code(gateway):
    def act() -> None:
        gateway.upload(IMAGE)
        gateway.upload(b"no image")
        gateway.upload(IMAGE, "/models/pets/predict")
        gateway.upload(IMAGE, "/models/birds/predict")
        gateway.get("/anything/at/all")

    grown = growth(gateway, act)
    total = "tf2x_gateway_requests_total"
    assert grown[f'{total}{{code="200",model="pets",route="/model/predict/"}}'] == 1
    assert grown[f'{total}{{code="415",model="pets",route="/model/predict/"}}'] == 1
    assert grown[f'{total}{{code="200",model="pets",route="/models/{{name}}/predict"}}'] == 1
    assert grown[f'{total}{{code="404",model="",route="/models/{{name}}/predict"}}'] == 1
    assert grown[f'{total}{{code="404",model="",route="other"}}'] == 1
    assert grown['tf2x_gateway_request_seconds_count{model="pets",route="/model/predict/"}'] == 2
    assert grown['tf2x_gateway_upstream_seconds_count{label="",model="pets",version="1"}'] == 2
    assert grown['tf2x_gateway_decode_seconds_count{model="pets"}'] == 3


def test_names_from_callers_make_no_series(gateway):
    grown = growth(gateway, lambda: [gateway.get(f"/models/m{n}/predict") for n in range(20)])
    assert not [name for name in grown if '"m1' in name]


def test_build_and_process_are_described(gateway):
    found = gateway.samples()
    assert [value for name, value in found.items() if name.startswith("tf2x_gateway_build_info{")] == [1]
    assert found["process_resident_memory_bytes"] > 0
    assert found["tf2x_gateway_in_flight"] == 0


def test_workers_share_their_counts(stub, new_gateway):
    gateway = new_gateway(stub.address, workers=2)
    for _unused in range(10):
        assert gateway.upload(IMAGE).status == 200
    name = 'tf2x_gateway_requests_total{code="200",model="pets",route="/model/predict/"}'
    wait_until(lambda: gateway.samples().get(name) == 10)
    for _unused in range(5):
        assert gateway.samples()[name] == 10


def test_request_under_way_is_answered_before_the_gateway_ends(stub, new_gateway):
    gateway = new_gateway(stub.address)
    assert gateway.upload(IMAGE).status == 200
    stub.delay = 1
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(gateway.upload, IMAGE)
        wait_until(lambda: len(stub.calls) == 2)
        gateway.process.send_signal(signal.SIGTERM)
        assert call.result().status == 200
    assert gateway.process.wait(5) in {0, -signal.SIGTERM}
    assert "Traceback" not in gateway.log


def normalized(requirement: str) -> str:
    """The name of a requirement as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def dependencies(extra: str | None = None) -> set[str]:
    project = tomllib.loads((GATEWAY_DIRECTORY / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {normalized(requirement) for requirement in requirements}


@pytest.mark.parametrize(("extra", "lock"), [(None, "requirements.txt"), ("otlp", "requirements-otlp.txt")])
def test_dependencies_are_locked(extra, lock):
    """What the gateway needs is in the environment that it is installed into, at one version."""
    lines = (LOCKS / lock).read_text().splitlines()
    assert dependencies(extra) <= {normalized(line) for line in lines if re.match(r"[A-Za-z0-9._-]+==", line)}


def test_imports_are_declared():
    imported = set()
    for path in GATEWAY_DIRECTORY.glob("tf2x_gateway/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    distributions = {"PIL": "pillow", "grpc": "grpcio", "opentelemetry": "opentelemetry-sdk"}
    third_party = imported - set(sys.stdlib_module_names) - {"tf2x_gateway"}
    declared = dependencies() | dependencies("otlp")
    assert {normalized(distributions.get(name, name)) for name in third_party} <= declared
