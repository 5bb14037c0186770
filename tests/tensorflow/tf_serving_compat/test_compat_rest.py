"""The REST interface: paths, bodies, codes and texts."""

from __future__ import annotations

import base64
import gzip
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from compat_server import METRICS_PATH, CompatServer, Reply

PREDICT = "/v1/models/lin:predict"


def test_status(server: CompatServer) -> None:
    reply = server.get("/v1/models/lin/versions/1")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    both = server.get("/v1/models/lin").json["model_version_status"]
    assert [status["version"] for status in both] == ["2", "1"]
    # As official: the status call does not look at a label.
    assert server.get("/v1/models/lin/labels/whatever").json["model_version_status"] == both


def test_the_server_header_does_not_claim_to_be_the_official_server(server: CompatServer) -> None:
    for path in ("/v1/models/lin", "/nothing", METRICS_PATH):
        assert server.get(path).headers["Server"] == "tf2x-serving-compat"


def test_metadata(server: CompatServer) -> None:
    reply = server.get("/v1/models/lin/labels/stable/metadata").json
    assert reply["model_spec"] == {"name": "lin", "signature_name": "", "version": "1"}
    signatures = reply["metadata"]["signature_def"]["signature_def"]
    assert signatures["brightness"]["inputs"]["image"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": size, "name": ""} for size in ("-1", "380", "380", "3")],
            "unknown_rank": False,
        },
        "name": "brightness_image:0",
    }
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert "__saved_model_init_op" in signatures


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/lin:predict",
        "/V1/Models/lin:PREDICT",
        "/v1/models/lin/versions/2:predict",
        "/v1/models/l%69n:predict",
        "/v1/models/lin:predict?ignored=1",
    ],
)
def test_paths_of_predict(server: CompatServer, path: str) -> None:
    assert server.post(path, {"instances": [1.0, 2]}).json == {"predictions": [4.0, 7.0]}


@pytest.mark.parametrize("path", ["/v1/models/lin/versions/1:predict", "/v1/models/lin/labels/stable:predict"])
def test_versions_and_labels(server: CompatServer, path: str) -> None:
    assert server.post(path, {"instances": [1.0]}).json == {"predictions": [3.0]}


B64 = {"b64": base64.b64encode(b"\xff\x00").decode()}
TWICE_B64 = {"b64": base64.b64encode(b"\xff\x00\xff\x00").decode()}


@pytest.mark.parametrize(
    "body, expected",
    [
        ({"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [4.0, 7.0]}),
        ({"inputs": [1.0]}, {"outputs": [4.0]}),
        ({"inputs": {"x": [1.0]}}, {"outputs": [4.0]}),
        ({"signature_name": "serving_default", "inputs": []}, {"outputs": []}),
        (
            {"signature_name": "two", "instances": [{"a": 1, "b": 2}, {"a": 0.5, "b": 3}]},
            {"predictions": [{"sum": 3.0, "b": 2}, {"sum": 3.5, "b": 3}]},
        ),
        ({"signature_name": "two", "inputs": {"a": [1], "b": [2]}}, {"outputs": {"sum": [3.0], "b": [2]}}),
        (
            {"signature_name": "strings", "instances": ["ñ", {"b64": "YQ=="}]},
            {
                "predictions": [
                    {"twice": "ññ", "twice_bytes": {"b64": "w7HDsQ=="}},
                    {"twice": "aa", "twice_bytes": {"b64": "YWE="}},
                ]
            },
        ),
        ({"signature_name": "integers", "instances": [[1, 2], [3, 4]]}, {"predictions": [[1, 2], [3, 4]]}),
        ({"signature_name": "negate", "instances": [True, False]}, {"predictions": [False, True]}),
        ({"signature_name": "negate", "inputs": {"flag": [True]}}, {"outputs": [False]}),
    ],
)
def test_row_and_column_format(server: CompatServer, body: dict, expected: dict) -> None:
    reply = server.post(PREDICT, body)
    assert reply.status == 200, reply.text
    assert reply.json == expected


def test_large_integers_are_exact(server: CompatServer) -> None:
    large = 2**53 + 1
    reply = server.post(PREDICT, {"signature_name": "two", "inputs": {"a": [0], "b": [large]}})
    assert reply.json["outputs"]["b"] == [large]


def test_bytes_that_are_no_text(server: CompatServer) -> None:
    body = {"signature_name": "strings", "inputs": {"data": [B64]}}
    assert server.post(PREDICT, body).json["outputs"]["twice_bytes"] == [TWICE_B64]


def test_floats_are_written_short_and_with_a_point(server: CompatServer) -> None:
    assert server.post(PREDICT, {"instances": [0.1, 1]}).text.split("[")[1].startswith("1.3,4.0")


def test_not_a_number_and_infinity_come_and_go_as_tokens(server: CompatServer) -> None:
    reply = server.post(PREDICT, {"signature_name": "divide", "instances": [0.0, 1.0, -1.0]})
    numbers = reply.json["predictions"]
    assert math.isnan(numbers[0])
    assert numbers[1:] == [math.inf, -math.inf]
    assert "NaN" in reply.text
    assert "-Infinity" in reply.text
    assert server.post(PREDICT, '{"instances": [Infinity]}').json == {"predictions": [math.inf]}


def test_text_after_the_document_and_compressed_bodies_are_fine(server: CompatServer) -> None:
    assert server.post(PREDICT, '{"instances": [1.0]} trailing').json == {"predictions": [4.0]}
    body = gzip.compress(b'{"instances": [1.0]}')
    reply = server.http("POST", PREDICT, body, **{"Content-Encoding": "gzip"})
    assert reply.json == {"predictions": [4.0]}


TEXT_ERRORS = [
    ("", 400, "JSON Parse error: The document is empty"),
    (" ", 400, "JSON Parse error: The document is empty. at offset: 1"),
    ("{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    ('{"instances": [1.0', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 18"),
    ('{"a": 1 "b"', 400, "JSON Parse error: Missing a comma or } after an object member. at offset: 8"),
    ('{"instances": x}', 400, "JSON Parse error: Invalid value. at offset: 14"),
    ("[1, 2]", 400, "JSON Value: [1, 2] Is not object"),
    ("{}", 400, "Missing 'inputs' or 'instances' key"),
    (
        '{"instances": [1], "inputs": [1]}',
        400,
        'JSON Value: {\n    "instances": [1],\n    "inputs": [1]\n} Not formatted correctly expecting only one of '
        "'inputs' or 'instances' keys to exist ",
    ),
    ('{"instances": 1}', 400, "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array"),
    ('{"instances": []}', 400, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    (
        '{"signature_name": 1, "instances": [1]}',
        400,
        'JSON Value: {\n    "signature_name": 1,\n    "instances": [1]\n} not formatted correctly. '
        "'signature_name' key must be a string value.",
    ),
    (
        '{"signature_name": "x", "instances": [1]}',
        400,
        'Serving signature name: "x" not found in signature def',
    ),
    (
        '{"inputs": ["a"]}',
        400,
        'JSON Value: "a" Type: String is not of expected type: float',
    ),
    ('{"inputs": [true]}', 400, "JSON Value: true Type: True is not of expected type: float"),
    ('{"inputs": [1.5, true]}', 400, "JSON Value: true Type: True is not of expected type: float"),
    ('{"inputs": [null]}', 400, "JSON Value: null Type: Null is not of expected type: float"),
    (
        '{"instances": [1.0, null]}',
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: null Type: Null is "
        "not of expected type: float",
    ),
    (
        '{"signature_name": "integers", "inputs": [[1.5, 2]]}',
        400,
        "JSON Value: 1.5 Type: Number is not of expected type: int32",
    ),
    (
        '{"signature_name": "integers", "inputs": [[1, 2147483648]]}',
        400,
        "JSON Value: 2147483648 Type: Number is not of expected type: int32",
    ),
    (
        '{"inputs": [[1, 2], [3]]}',
        400,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    ('{"inputs": [1, [2]]}', 400, "Encountered list at unexpected level: 1 expected < 1"),
    (
        '{"inputs": [[1], 2]}',
        400,
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    (
        '{"instances": [[1, 2], [3]]}',
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: "
        "1",
    ),
    ('{"instances": [1, {"x": 1}]}', 400, "Expecting value/list but got object at item 1 of input list"),
    ('{"instances": [{"x": 1}, 1]}', 400, "Expecting object but got list at item 1 of input list"),
    (
        '{"instances": [{"z": 1}]}',
        400,
        "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
        "named input: z",
    ),
    (
        '{"signature_name": "two", "instances": [{"a": 1}]}',
        400,
        "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b",
    ),
    (
        '{"signature_name": "two", "instances": [1]}',
        400,
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    (
        '{"signature_name": "two", "inputs": [1]}',
        400,
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    ('{"signature_name": "two", "inputs": {"a": [1]}}', 400, "Missing named input: b in 'inputs' object."),
    ('{"signature_name": "strings", "inputs": [{"b64": "*"}]}', 400, "Unable to base64 decode"),
    (
        '{"signature_name": "strings", "inputs": [1]}',
        400,
        "JSON Value: 1 Type: Number is not of expected type: string",
    ),
]


@pytest.mark.parametrize("body, status, error", TEXT_ERRORS)
def test_errors_in_the_body(server: CompatServer, body: str, status: int, error: str) -> None:
    reply = server.post(PREDICT, body)
    assert (reply.status, reply.error) == (status, error)


def test_a_large_value_in_an_error_is_cut(server: CompatServer) -> None:
    reply = server.post(PREDICT, list(range(10000)))
    assert reply.error.endswith(" Is not object")
    assert len(reply.error) < 350


@pytest.mark.parametrize(
    "method, path, status, error",
    [
        ("POST", "/v1/models/no:predict", 404, "Servable not found for request: Latest(no)"),
        ("POST", "/v1/models/lin/versions/7:predict", 404, "Servable not found for request: Specific(lin, 7)"),
        ("POST", "/v1/models/lin/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/lin", 400, "Malformed request: POST /v1/models/lin"),
        ("POST", "/v1/models/lin:other", 400, "Malformed request: POST /v1/models/lin:other"),
        ("GET", "/v1/models/lin:predict", 400, "Malformed request: GET /v1/models/lin:predict"),
        ("GET", "/v1/models/lin/versions/x", 400, "Malformed request: GET /v1/models/lin/versions/x"),
        ("DELETE", "/v1/models/lin", 400, "Malformed request: DELETE /v1/models/lin"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
        ("GET", "/v1/models/lin/versions/7", 404, "Could not find version 7 of model lin"),
        ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
        ("GET", "/v1/models/lin/versions/7/metadata", 404, "Servable not found for request: Specific(lin, 7)"),
        ("GET", f"/v1/models/lin/versions/{2**64}", 400, f"Failed to convert version: {2**64} to numeric."),
        ("OPTIONS", "/v1/models/lin", 400, "Origin header is missing in CORS preflight"),
    ],
)
def test_errors_of_the_path(server: CompatServer, method: str, path: str, status: int, error: str) -> None:
    reply = server.http(method, path, '{"instances": [1.0]}' if method == "POST" else None)
    assert (reply.status, reply.error) == (status, error)


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_classify_and_regress_are_not_implemented(server: CompatServer, method: str) -> None:
    reply = server.post(f"/v1/models/lin:{method}", {"examples": [{}]})
    assert reply.status == 501
    assert method in reply.error


@pytest.mark.parametrize("path", ["/", "/v2/models/lin:predict", "/v1", "/monitoring", "/favicon.ico"])
def test_any_other_path_is_an_html_404(server: CompatServer, path: str) -> None:
    reply = server.get(path)
    assert reply.status == 404
    assert reply.headers["Content-Type"].startswith("text/html")
    assert "<H1>Not Found</H1>" in reply.text


def test_an_error_of_tensorflow_comes_with_its_code(server: CompatServer) -> None:
    reply = server.post(PREDICT, {"signature_name": "brightness", "instances": [[[1.0]]]})
    assert reply.status in (400, 500)
    assert reply.error


def test_a_large_image_takes_well_under_a_second(server: CompatServer) -> None:
    image = np.random.default_rng(7).random((380, 380, 3))
    body = json.dumps({"signature_name": "brightness", "instances": [image.tolist()]})
    assert len(body) > 8_000_000

    def seconds() -> float:
        started = time.monotonic()
        reply = server.post(PREDICT, body)
        taken = time.monotonic() - started
        assert reply.json["predictions"] == pytest.approx([image.mean()], rel=1e-4)
        return taken

    # The machine may be busy with something else.
    assert any(seconds() < 0.7 for _unused in range(10))


def test_status_answers_while_all_rest_threads_are_busy(start, publish, tmp_path) -> None:
    publish(tmp_path / "m", 1, k=2)
    server = start(
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        "--rest_api_num_threads=1",
        "--rest_api_timeout_in_ms=6000",
        "--rest_api_enable_cors_support",
    )
    endless = {"signature_name": "count", "instances": [1e15]}
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(server.post, "/v1/models/m:predict", endless) for _unused in range(2)]
        time.sleep(0.3)
        assert server.get("/v1/models/m").status == 200
        assert not any(reply.done() for reply in replies)
        for reply in [future.result() for future in replies]:
            assert reply.status == 504
            assert reply.error
    preflight: Reply = server.http("OPTIONS", "/v1/models/m:predict", Origin="https://example.com")
    assert preflight.status == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert server.get(METRICS_PATH).status == 404
