"""Which versions are served: policies, polls, reloads, labels, broken versions and warm-up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from compat_models import (
    corrupt_last_byte_of_first_record,
    predict_log,
    truncate,
    write_warmup,
)
from compat_server import MONITORING_CONFIG, CompatServer, linear_request, run_to_end, wait_for
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

FAST_POLLS = ("--model_config_file_poll_wait_seconds=1", "--max_num_load_retries=0")


def model_config(base: Path, extra: str = "", name: str = "m") -> str:
    return f"config {{ name: '{name}' base_path: '{base}' model_platform: 'tensorflow' {extra} }}"


def config_text(base: Path, extra: str = "", name: str = "m", more: str = "") -> str:
    return f"model_config_list {{ {model_config(base, extra, name)} {more} }}"


def replace_file(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def reload(server: CompatServer, text: str) -> model_management_pb2.ReloadConfigResponse:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    request.metric_names.append("/tensorflow/cc/saved_model/load_attempt_count")
    return server.model.HandleReloadConfigRequest(request, timeout=60)


def factor(server: CompatServer, model: str = "m") -> float:
    return server.predict(linear_request(model, 1.0))["y"].tolist()[0] - 1.0


def load_errors(server: CompatServer, model: str = "m") -> dict[str, str]:
    statuses = server.get(f"/v1/models/{model}").json["model_version_status"]
    return {s["version"]: s["status"]["error_message"] for s in statuses if s["status"]["error_code"] != "OK"}


def test_a_new_version_replaces_the_old_one_without_a_gap(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2)
    server = start("--model_name=m", f"--model_base_path={base}")
    assert factor(server) == 2.0
    publish(base, 2, k=3)
    # Asked all the while: no call may find the model without a version.
    wait_for(lambda: factor(server) == 3.0, what="version 2")
    wait_for(lambda: server.states("m") == {2: "AVAILABLE", 1: "END"}, what="version 1 to be unloaded")
    request = linear_request("m", 1.0)
    request.model_spec.version.value = 1
    with pytest.raises(grpc.RpcError, match="Servable not found for request: Specific"):
        server.predict(request)


def test_only_names_of_digits_are_versions(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 3, k=2)
    for name in (".incoming-7", "tmp-8", "v9", "10-old"):
        shutil.copytree(base / "3", base / name)
    server = start("--model_name=m", f"--model_base_path={base}")
    time.sleep(1.5)
    assert server.states("m") == {3: "AVAILABLE"}


def test_a_half_copied_version_never_serves_and_is_retried(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2)
    server = start(
        "--model_name=m",
        f"--model_base_path={base}",
        "--max_num_load_retries=100",
        "--load_retry_interval_micros=200000",
    )
    half = tmp_path / "half"
    shutil.copytree(base / "1", half)
    truncate(half)
    shutil.copytree(half, base / "2")
    wait_for(lambda: server.states("m").get(2) == "LOADING", what="the load of version 2")
    time.sleep(0.5)
    assert server.states("m") == {2: "LOADING", 1: "AVAILABLE"}
    assert factor(server) == 2.0
    shutil.copytree(base / "1", base / "2", dirs_exist_ok=True)
    wait_for(lambda: server.states("m").get(2) == "AVAILABLE", what="the completed version 2")
    assert "failed: " in server.log()


def test_a_broken_version_leaves_the_good_one_serving(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2)
    server = start("--model_name=m", f"--model_base_path={base}", "--max_num_load_retries=0")
    publish(base, 2, k=3, change=lambda path: (path / "saved_model.pb").unlink())
    wait_for(lambda: server.states("m").get(2) == "END", what="version 2 to fail")
    time.sleep(1.5)
    assert server.states("m") == {2: "END", 1: "AVAILABLE"}
    assert factor(server) == 2.0
    assert "Could not find SavedModel" in load_errors(server)["2"]
    # The next good version takes over, and both others are gone.
    publish(base, 3, k=3)
    wait_for(lambda: server.states("m") == {3: "AVAILABLE", 2: "END", 1: "END"}, what="version 3")
    assert factor(server) == 3.0


def test_a_good_version_replaces_one_whose_retries_go_on(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2)
    server = start("--model_name=m", f"--model_base_path={base}")
    publish(base, 2, k=3, change=truncate)
    wait_for(lambda: "version: 2} failed" in server.log(), what="the first attempt at version 2")
    publish(base, 3, k=3)
    wait_for(lambda: server.states("m").get(3) == "AVAILABLE", what="version 3, long before version 2's next retry")


def test_without_any_version_the_ports_stay_closed_until_one_comes(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    base.mkdir()
    server = start("--model_name=m", f"--model_base_path={base}", wait=False)
    wait_for(lambda: "No versions of servable m found under base path" in server.log(), what="the warning")
    time.sleep(1.2)
    assert not server.is_open()
    assert server.log().count("No versions of servable m") == 1
    publish(base, 1, k=2)
    wait_for(server.is_open, what="the port")
    assert server.states("m") == {1: "AVAILABLE"}


def test_policies_and_the_poll_of_the_config_file(start, publish, tmp_path) -> None:
    base, config = tmp_path / "m", tmp_path / "models.config"
    for version, k in ((1, 2), (2, 3), (4, 2)):
        publish(base, version, k)
    replace_file(config, config_text(base, "model_version_policy { specific { versions: 1 versions: 9 } }"))
    server = start(f"--model_config_file={config}", *FAST_POLLS)
    assert server.states("m") == {1: "AVAILABLE"}
    assert "Version 9 of servable m" in server.log()

    replace_file(config, config_text(base, "model_version_policy { latest { num_versions: 2 } }"))
    wait_for(lambda: server.states("m") == {4: "AVAILABLE", 2: "AVAILABLE", 1: "END"}, what="the two latest")

    replace_file(config, "model_config_list { config { name: 'm' } nonsense }")
    wait_for(lambda: "Cannot parse" in server.log(), what="the complaint about the config file")
    assert factor(server) == 2.0

    replace_file(config, config_text(base, "model_version_policy { all {} }"))
    wait_for(lambda: set(server.states("m").values()) == {"AVAILABLE"}, what="all versions")
    assert sorted(server.states("m")) == [1, 2, 4]

    replace_file(config, config_text(base, name="other"))
    wait_for(lambda: server.states("other") == {4: "AVAILABLE"}, what="the other model")
    wait_for(lambda: set(server.states("m").values()) == {"END"}, what="the first model to be unloaded")


def test_reload_by_request_and_labels(start, publish, tmp_path) -> None:
    base, config = tmp_path / "m", tmp_path / "models.config"
    publish(base, 1, k=2)
    publish(base, 2, k=3)
    only_1 = "model_version_policy { specific { versions: 1 } }"
    both = "model_version_policy { specific { versions: 1 versions: 2 } }"
    replace_file(config, config_text(base, only_1))
    server = start(f"--model_config_file={config}", "--max_num_load_retries=0")

    # A label on a version that is not loaded stops the whole reload: version 2 is not even loaded.
    with pytest.raises(grpc.RpcError) as caught:
        reload(server, config_text(base, f"{both} version_labels {{ key: 'canary' value: 2 }}"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == (
        "Request to assign label to version 2 of model m, which is not currently available for inference"
    )
    time.sleep(1.3)
    assert server.states("m") == {1: "AVAILABLE"}

    # In two steps it works: first the version, then the label.
    response = reload(server, config_text(base, both))
    assert response.status.error_code == 0
    wait_for(lambda: server.states("m").get(2) == "AVAILABLE", what="version 2")
    labels = "version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"
    reload(server, config_text(base, f"{both} {labels}"))
    post = {"instances": [1.0]}
    assert server.post("/v1/models/m/labels/stable:predict", post).json == {"predictions": [3.0]}
    assert server.post("/v1/models/m/labels/canary:predict", post).json == {"predictions": [4.0]}

    # A new model is there when the call returns, and the metrics asked for tell of its load.
    publish(tmp_path / "second", 1, k=3)
    response = reload(server, config_text(base, both, more=model_config(tmp_path / "second", name="second")))
    assert server.states("second") == {1: "AVAILABLE"}
    assert response.metric[0].name == "/tensorflow/cc/saved_model/load_attempt_count"
    # That configuration has no labels any more.
    assert server.post("/v1/models/m/labels/stable:predict", post).status == 400


@pytest.mark.parametrize(
    "config, code, details",
    [
        ("", "INVALID_ARGUMENT", "Only ModelConfigList is currently supported"),
        (config_text(Path("relative")), "INVALID_ARGUMENT", "Expected model m to have an absolute path"),
        (
            config_text(Path("/a"), more=model_config(Path("/b"))),
            "INVALID_ARGUMENT",
            "Illegal to list model m multiple times",
        ),
        ("model_config_list { config { name: 'm' base_path: '/a' } }", "INVALID_ARGUMENT", "Illegal setting neither"),
        (
            "model_config_list { config { name: 'm' base_path: '/a' model_platform: 'torch' } }",
            "INVALID_ARGUMENT",
            "Model m requests unsupported platform torch",
        ),
        (
            config_text(Path("/a"), "logging_config { sampling_config { sampling_rate: 1 } }"),
            "INVALID_ARGUMENT",
            "No request-logger-creator provided.",
        ),
    ],
)
def test_a_bad_configuration_is_refused_and_changes_nothing(
    server: CompatServer, config: str, code: str, details: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        reload(server, config)
    assert caught.value.code().name == code
    assert details in caught.value.details()
    assert set(server.states("lin").values()) == {"AVAILABLE"}


def test_a_new_model_that_fails_fails_the_reload(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2)
    publish(tmp_path / "bad", 1, k=2, change=truncate)
    server = start(f"--model_config_file={_write(tmp_path, config_text(base))}", "--max_num_load_retries=0")
    with pytest.raises(grpc.RpcError) as caught:
        reload(server, config_text(base, more=model_config(tmp_path / "bad", name="bad")))
    assert "1 model(s) did not become available: {{{name: bad version: 1} due to error: " in caught.value.details()
    assert factor(server) == 2.0


def test_labels_at_start_need_the_flag(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2)
    config = _write(tmp_path, config_text(base, "version_labels { key: 'stable' value: 1 }"))
    status, output = run_to_end("--port=1", f"--model_config_file={config}")
    assert status == 255
    assert "Request to assign label to version 1 of model m, which is not currently available" in output
    server = start(f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models=true")
    assert server.post("/v1/models/m/labels/stable:predict", {"instances": [1]}).json == {"predictions": [3.0]}


def _write(directory: Path, text: str) -> Path:
    path = directory / "models.config"
    path.write_text(text)
    return path


def test_warmup_is_replayed_and_counted(start, publish, tmp_path) -> None:
    base, monitoring = tmp_path / "m", tmp_path / "monitoring.config"
    monitoring.write_text(MONITORING_CONFIG)
    records = [predict_log([1.0, 2.0]).SerializeToString(), predict_log([0.0], "divide").SerializeToString(), b""]
    path = publish(base, 1, k=2, change=lambda version: write_warmup(version, records))
    server = start("--model_name=m", f"--model_base_path={base}", f"--monitoring_config_file={monitoring}")
    labels = {"model_path": str(path), "status": "OK"}
    assert server.metric(":tensorflow:serving:model_warmup_records_read", **labels) == 3
    assert server.metric(":tensorflow:serving:model_warmup_latency_count", **labels) == 1
    assert "Number of warmup records read: 3" in server.log()


def bad_signature(version: Path) -> None:
    write_warmup(version, [predict_log([1.0], "gone").SerializeToString()])


def bad_input(version: Path) -> None:
    write_warmup(version, [predict_log([1.0], input_name="z").SerializeToString()])


def corrupt(version: Path) -> None:
    corrupt_last_byte_of_first_record(write_warmup(version, [predict_log([1.0]).SerializeToString()]))


def cut_off(version: Path) -> None:
    file = write_warmup(version, [predict_log([1.0]).SerializeToString()] * 2)
    file.write_bytes(file.read_bytes()[:-1])


def not_a_log(version: Path) -> None:
    write_warmup(version, [b"\xff\xff\xff"])


def too_many(version: Path) -> None:
    write_warmup(version, [b""] * 1001)


@pytest.mark.parametrize(
    "change, error",
    [
        (bad_signature, 'Serving signature key "gone" not found.'),
        (bad_input, "Sent extra: {z}. Missing but required: {x}."),
        (corrupt, "corrupted record at 0"),
        (cut_off, "Please verify your warmup data is in TFRecord format."),
        (not_a_log, "Failed to parse warmup record"),
        (too_many, "Number of warmup records exceeds the maximum (1000)"),
    ],
)
def test_a_version_that_fails_its_warmup_never_serves(
    warm_server: tuple[CompatServer, Path], publish, change: Callable[[Path], None], error: str
) -> None:
    server, base = warm_server
    version = max(server.states("m")) + 1
    publish(base, version, k=3, change=change)
    wait_for(lambda: server.states("m").get(version) == "END", what="the version to fail")
    assert error in load_errors(server)[str(version)]
    assert server.states("m")[1] == "AVAILABLE"
    assert factor(server) == 2.0


@pytest.fixture(scope="module")
def warm_server(exports, tmp_path_factory):
    root = tmp_path_factory.mktemp("warm")
    base = root / "m"
    shutil.copytree(exports[2], base / "1")
    flags = ["--model_name=m", f"--model_base_path={base}", "--max_num_load_retries=0"]
    with CompatServer(root / "log", *flags) as server:
        yield server, base


def test_warmup_can_be_switched_off(start, publish, tmp_path) -> None:
    base = tmp_path / "m"
    publish(base, 1, k=2, change=corrupt)
    status, output = run_to_end("--model_name=m", f"--model_base_path={base}", "--max_num_load_retries=0")
    assert status == 255
    assert "1 model(s) did not become available: {{{name: m version: 1} due to error: DATA_LOSS: " in output
    server = start("--model_name=m", f"--model_base_path={base}", "--enable_model_warmup=false")
    assert factor(server) == 2.0
