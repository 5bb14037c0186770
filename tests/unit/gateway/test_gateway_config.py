"""What `--check-config` says about a configuration file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from gateway_process import command_environment
from tf2x_gateway.__main__ import main


def document() -> dict[str, Any]:
    return {
        "bind_address": "0.0.0.0",
        "port": 9000,
        "workers": 1,
        "upstream": {"grpc": ["127.0.0.1:9500"], "deadline_seconds": 10},
        "limits": {"max_upload_bytes": 20971520, "max_image_pixels": 50000000},
        "default_model": "pets",
        "models": {
            "pets": {
                "labels": ["cat", "dog"],
                "signature_name": "serving_default",
                "version_label": None,
                "input_name": None,
                "output_name": None,
                "scale": 0.00392156862745098,
                "resize": "nearest",
            }
        },
    }


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def check(tmp_path, capsys) -> Callable[[str], Result]:
    """Runs `--check-config` on a file of the given text."""

    def run(text: str) -> Result:
        path = tmp_path / "config.json"
        path.write_text(text)
        returncode = main(["--config", str(path), "--check-config"])
        return Result(returncode, *capsys.readouterr())

    return run


def test_documented_configuration_is_valid(check):
    result = check(json.dumps(document()))
    assert (result.returncode, result.stderr) == (0, "")
    assert "valid" in result.stdout


def test_short_configuration_is_valid(check):
    short = {
        "upstream": {"grpc": ["[::1]:9500", "node-2.example:9500"]},
        "default_model": "pets",
        "models": {"pets": {"labels": ["cat"]}},
    }
    assert check(json.dumps(short)).returncode == 0


REMOVED = object()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("port", "9000", ['port: found "9000"', "valid integer"]),
        ("port", 0, ["port: found 0", "greater than or equal to 1"]),
        ("port", 65536, ["port: found 65536", "less than or equal to 65535"]),
        ("port", True, ["port: found true", "valid integer"]),
        ("bind_address", "everywhere", ['bind_address: found "everywhere"', "IPv4 or IPv6"]),
        ("workers", 0, ["workers: found 0"]),
        ("worker", 2, ["worker: unknown key", "workers"]),
        ("upstream", REMOVED, ["upstream: missing"]),
        ("upstream.grpc", [], ["upstream.grpc: found []", "at least 1"]),
        ("upstream.grpc", "127.0.0.1:9500", ['upstream.grpc: found "127.0.0.1:9500"', "valid list"]),
        ("upstream.grpc", ["127.0.0.1"], ["upstream.grpc", "'127.0.0.1' is no address", "HOST:PORT"]),
        ("upstream.grpc", ["http://a:9500"], ["'http://a:9500' is no address"]),
        ("upstream.grpc", ["a:99999"], ["'a:99999' is no address"]),
        ("upstream.grpc", ["a:1", "a:1"], ["twice"]),
        ("upstream.rest", "x", ["upstream.rest: unknown key", "deadline_seconds, grpc"]),
        ("upstream.deadline_seconds", 0, ["upstream.deadline_seconds: found 0", "greater than 0"]),
        ("limits.max_upload_bytes", 1.5, ["limits.max_upload_bytes: found 1.5"]),
        ("limits.max_image_pixels", -1, ["limits.max_image_pixels: found -1"]),
        ("default_model", "birds", ["default_model is 'birds'", "models: pets"]),
        ("models", {}, ["models: found {}", "at least 1"]),
        ("models.pets.labels", [], ["models.pets.labels: found []"]),
        ("models.pets.labels", ["cat", 2], ["models.pets.labels[1]: found 2", "valid string"]),
        ("models.pets.labels", ["cat", "dog", "cat"], ["models.pets.labels", "cat"]),
        ("models.pets.label", ["cat"], ["models.pets.label: unknown key", "labels"]),
        ("models.pets.scale", 0, ["models.pets.scale: found 0", "greater than 0"]),
        ("models.pets.resize", "cubic", ['models.pets.resize: found "cubic"', "'nearest'"]),
        ("models.a/b", {"labels": ["x"]}, ["'a/b' is no model name"]),
    ],
)
def test_faults_are_named(check, tmp_path, key, value, words):
    config = document()
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    if value is REMOVED:
        del section[last]
    else:
        section[last] = value
    result = check(json.dumps(config))
    assert result.returncode == 2
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "config.json") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_every_fault_is_named_at_once(check):
    result = check(json.dumps({**document(), "port": -1, "workers": -1, "colour": "red"}))
    assert [line.split(": ")[1] for line in sorted(result.stderr.splitlines())] == ["colour", "port", "workers"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"port": 9000,\n}', "line 2"),
        ("", "no valid JSON"),
        ("[]", "configuration: found []"),
        ('{"port": 1, "port": 2}', "'port' stands twice"),
    ],
)
def test_files_that_are_no_configuration(check, text, words):
    result = check(text)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_file_that_is_not_there(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.json"), "--check-config"]) == 2
    assert "none.json: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--check-config",)])
def test_exit_status_of_the_command(tmp_path, options):
    """A bad configuration is not served either."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**document(), "port": -1}))
    result = subprocess.run(
        [sys.executable, "-m", "tf2x_gateway", "--config", str(path), *options],
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert "port: found -1" in result.stderr
    assert "Traceback" not in result.stderr
