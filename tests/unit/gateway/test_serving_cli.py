"""The command line tf2x-client, against the stub."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from gateway_process import command_environment, encode_image, free_port, gateway_config
from PIL import Image
from stub_protobuf import float_tensor, parse
from stub_serving import Failure
from tf2x_gateway import client_cli
from tf2x_gateway.serving.model_config_text import ModelConfigError, parse_model_config

DT_FLOAT, DT_UINT8, DT_STRING = 1, 4, 7
PIXELS = (255, 51, 102)

Result = tuple[int, str, str]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """One colour of which 1/255 is (1, 0.2, 0.4)."""
    path = tmp_path / "colour.png"
    path.write_bytes(encode_image(Image.new("RGB", (8, 6), PIXELS)))
    return path


@pytest.fixture
def run(stub, capsys) -> Callable[..., Result]:
    """Runs a command for the stub; returns exit status, output and errors."""

    def command(name: str, *arguments: object, address: str = stub.address) -> Result:
        try:
            status = client_cli.main([name, "--address", address, *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return command


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def config(tmp_path: Path, stub) -> Callable[..., Path]:
    """Writes a configuration of the gateway."""

    def write(*upstreams: str, **changes: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(gateway_config(*(upstreams or [stub.address]), **changes)))
        return path

    return write


def test_predict_shows_scores_by_index_best_first(run, stub, image):
    stub.model.outputs = {"scores": (DT_FLOAT, (-1, 3))}
    stub.model.answer = lambda pixels: float_tensor((1, 3), pixels[0, 0, 0].tolist())
    status, out, err = run("predict", image)
    assert (status, err) == (0, "")
    assert table(out) == [
        ["IMAGE", "INDEX", "SCORE", "VERSION"],
        [str(image), "0", "1", "1"],
        [str(image), "2", "0.4", "1"],
        [str(image), "1", "0.2", "1"],
    ]


@pytest.mark.parametrize("shape", [(-1, 2), (-1, -1), None])
def test_predict_whatever_the_signature_says_of_the_output(run, stub, image, shape):
    stub.model.outputs = {"scores": (DT_FLOAT, shape or ())}
    assert len(table(run("predict", image)[1])) == 3


def test_predict_with_the_gateways_configuration(run, stub, image, config):
    stub.model.version, stub.model.signature_name = 12, "s"
    path = config(model={"labels": ["rojo", "verde"], "scale": 0.5, "signature_name": "s", "version_label": "stable"})
    status, out, _err = run("predict", image, "--config", path, "--json")
    assert status == 0
    assert json.loads(out) == [
        {
            "image": str(image),
            "predictions": [{"label": "rojo", "score": 127.5}, {"label": "verde", "score": 25.5}],
            "model": {"name": "pets", "version": "12"},
        }
    ]
    assert (stub.calls[0].signature_name, stub.calls[0].version_label) == ("s", "stable")


def test_options_go_before_the_configuration(run, stub, image, config):
    path = config(f"127.0.0.1:{free_port()}", model={"version_label": "stable", "scale": 0.5})
    status, out, _err = run("predict", image, "--config", path, "--label", "canary", "--scale", "2", "--json")
    assert status == 0
    assert json.loads(out)[0]["predictions"][0] == {"label": "red", "score": 510}
    assert stub.calls[0].version_label == "canary"


def test_addresses_of_the_configuration_stand_in_for_each_other(stub, image, config, capsys):
    path = config(f"127.0.0.1:{free_port()}", stub.address)
    assert client_cli.main(["predict", str(image), "--config", str(path)]) == 0
    assert "green" in capsys.readouterr().out


def test_predict_for_models_of_other_inputs(run, stub, image):
    stub.model.inputs = {"image": (DT_UINT8, (-1, 6, 8, 3))}
    assert table(run("predict", image)[1])[1][2] == "255"
    for shape in ((-1,), ()):
        stub.model.inputs = {"file": (DT_STRING, shape)}
        stub.model.answer = lambda files: float_tensor((1, 1), [len(files.item())])
        assert float(table(run("predict", image)[1])[1][2]) == image.stat().st_size
        assert stub.calls[-1].strings == [image.read_bytes()]


def test_predict_goes_on_after_a_file_that_is_no_image(run, tmp_path, image):
    text, missing = tmp_path / "text.png", tmp_path / "missing.png"
    text.write_text("no image")
    status, out, err = run("predict", text, image, missing, "--json")
    assert status == 1
    assert [result["image"] for result in json.loads(out)] == [str(image)]
    first, second = err.splitlines()
    assert first.startswith(f"tf2x-client: {text}: the file starts with ")
    assert second == f"tf2x-client: {missing}: No such file or directory"


def test_scores_that_are_no_numbers(run, stub, image):
    stub.model.answer = lambda _pixels: float_tensor((1, 3), [float("nan"), float("inf"), 1.0])
    assert [row[1:3] for row in table(run("predict", image)[1])[1:]] == [["1", "inf"], ["2", "1"], ["0", "nan"]]
    scores = [prediction["score"] for prediction in json.loads(run("predict", image, "--json")[1])[0]["predictions"]]
    assert scores == [None, 1.0, None]


def test_status(run, stub):
    stub.model.version, stub.model.state, stub.model.load_error = 3, "END", "warm-up failed: no memory"
    status, out, err = run("status")
    assert (status, err) == (0, "")
    assert out == "VERSION  STATE  ERROR\n3        END    warm-up failed: no memory\n"
    assert json.loads(run("status", "--json")[1]) == {
        "model": "pets",
        "versions": [{"version": "3", "state": "END", "error": "warm-up failed: no memory"}],
    }


def test_metadata(run):
    assert run("metadata") == (
        0,
        "model pets, version 1\n"
        "SIGNATURE        SIDE    NAME    TYPE      SHAPE\n"
        "serving_default  input   image   DT_FLOAT  [-1, 6, 8, 3]\n"
        "serving_default  output  scores  DT_FLOAT  [-1, 2]\n",
        "",
    )
    assert json.loads(run("metadata", "--json")[1]) == {
        "model": {"name": "pets", "version": "1"},
        "signatures": {
            "serving_default": {
                "inputs": {"image": {"dtype": "DT_FLOAT", "shape": [-1, 6, 8, 3]}},
                "outputs": {"scores": {"dtype": "DT_FLOAT", "shape": [-1, 2]}},
            }
        },
    }


MODELS = "model_config_list { config { name: 'pets' base_path: '/models/pets' } }"


def test_reload(run, stub, tmp_path):
    file = tmp_path / "models.config"
    file.write_text(MODELS)
    assert run("reload", file) == (0, "now served: pets\n", "")
    config = parse(parse(parse(parse(stub.reloads[0])[1][0])[1][0])[1][0])
    assert (config[1], config[2]) == ([b"pets"], [b"/models/pets"])
    stub.failures = [Failure(grpc.StatusCode.FAILED_PRECONDITION, "label stable")]
    status, out, err = run("reload", file)
    assert (status, out) == (1, "")
    assert "FAILED_PRECONDITION: label stable" in err


@pytest.mark.parametrize("command", ["predict", "status", "metadata"])
def test_errors_of_the_server_are_its_own_words(run, stub, image, command):
    stub.model.name = "birds"
    status, out, err = run(command, *([image] if command == "predict" else []))
    assert (status, out) == (1, "")
    assert err.startswith(f"tf2x-client: TF Serving at {stub.address}: NOT_FOUND: ")
    assert run(command, *([image] if command == "predict" else []), "--model=birds")[0] == 0


def test_a_server_that_is_away_is_reported_at_once(run):
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    status, _out, err = run("status", "--timeout=60", address=address)
    assert time.monotonic() - started < 8
    assert status == 1
    assert err.startswith(f"tf2x-client: TF Serving at {address}: UNAVAILABLE: ")


def test_the_timeout(run, stub, image):
    stub.delay = 30
    started = time.monotonic()
    status, _out, err = run("predict", image, "--timeout=0.3")
    assert time.monotonic() - started < 15
    assert (status, "DEADLINE_EXCEEDED" in err) == (1, True)


def test_models_that_cannot_be_asked_about_images(run, stub, image):
    stub.model.inputs = {"image": (DT_FLOAT, (-1, 4))}
    status, out, err = run("predict", image)
    assert (status, out) == (1, "")
    assert "input 'image' has the shape [-1, 4]" in err
    status, _out, err = run("predict", image, "--signature-name=nope")
    assert (status, "has no signature 'nope'; it has: 'serving_default'" in err) == (1, True)


def test_labels_that_do_not_fit(run, stub, image, config):
    stub.model.outputs = {"scores": (DT_FLOAT, (-1, -1))}
    status, _out, err = run("predict", image, "--config", config(model={"labels": ["a", "b", "c"]}))
    assert (status, "returned 2 scores; 3 labels are declared" in err) == (1, True)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "COMMAND"),
        (["predict"], "IMAGE"),
        (["status", "--label=a", "--version=1"], "not allowed with"),
        (["status", "--timeout=0"], "not above 0"),
        (["status", "--config=missing.json"], "missing.json: cannot be read"),
        (["reload", "missing.config"], "missing.config: "),
    ],
)
def test_usage(arguments, text, capsys):
    try:
        status = client_cli.main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert text in capsys.readouterr().err


def test_a_model_that_the_configuration_does_not_declare(run, stub, image, config):
    stub.model.name = "birds"
    status, _out, err = run("predict", image, "--model=birds", "--config", config())
    assert (status, "model 'birds' is not declared; declared are: pets" in err) == (2, True)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("model_config_list {\n config {", "line 2: found the end of the file; '}' belongs there"),
        ("}", "line 1: found '}'; the name of a field belongs there"),
        ("models {}", "line 1: the file: unknown field 'models'; known here: model_config_list"),
        ("model_config_list { config {\nbase_path: 'a' } }", "line 1: config: name is missing"),
        ("model_config_list { config {\nname: 3 } }", "line 2: name: found 3; a string in quotes belongs there"),
        ("model_config_list { config {\nname: pets } }", "line 2: found 'pets'; a number or a string"),
        ("model_config_list { config { name: 'a' name: 'b' } }", "line 1: config: name stands there 2 times"),
        ("model_config_list { config { name: 'a\\n' } }", "the escape '\\\\n' is not supported"),
        ("model_config_list { config 'a' }", "line 1: found \"'a'\"; ':' or '{' belongs there"),
        ("model_config_list ~", "line 1: '~' is no part of the text format"),
        (MODELS.replace("} }", "model_version_policy { latest { num_versions: 0 } } } }"), "at least 1 is needed"),
        (MODELS.replace("} }", "model_version_policy { specific {} } } }"), "at least one is needed"),
        (MODELS.replace("} }", "model_version_policy { all {} latest {} } } }"), "one of latest, all, specific"),
        (
            MODELS.replace("} }", "model_version_policy { all { n: 1 } } } }"),
            "unknown field 'n'; it has no fields",
        ),
    ],
)
def test_model_configuration_that_is_none(text, fault):
    with pytest.raises(ModelConfigError) as caught:
        parse_model_config(text)
    assert fault in str(caught.value)


def test_as_a_process(stub):
    def client(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tf2x_gateway.client_cli", *arguments]
        return subprocess.run(
            command, env=command_environment(), capture_output=True, text=True, timeout=60, check=False
        )

    found = client("status", "--address", stub.address)
    assert (found.returncode, found.stdout, found.stderr) == (0, "VERSION  STATE      ERROR\n1        AVAILABLE\n", "")
    failed = client("status", "--address", stub.address, "--model=birds")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "Could not find any versions" in failed.stderr
