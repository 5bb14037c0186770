"""Each variant of `colours` is what it says: to TensorFlow, and to a server that serves another version meanwhile."""

from __future__ import annotations

import base64
import json
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import variants
from compat_server import CompatServer, request_for, wait_for

GOOD = ("swapped", "swapped2", "swapped3", "padded", "slow", "bad_warmup")
BROKEN = ("wrong_shape", "missing_variables", "nan")
FIRST = Path(variants.__file__).parent / "1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants by name, and the version that is in the repository as `first`."""
    root = tmp_path_factory.mktemp("variants")
    for name in (*GOOD, *BROKEN):
        variants.write(name, root / name)
    shutil.copytree(FIRST, root / "first")
    return root


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompatServer]:
    """A server that has `first` as version 1 of each model, and the variant of the model's name as version 2."""
    root = tmp_path_factory.mktemp("store")
    names = [*GOOD, *BROKEN]
    for name in names:
        shutil.copytree(FIRST, root / name / "1")
    configs = (
        f"config {{ name: '{name}' base_path: '{root / name}' model_platform: 'tensorflow' "
        "model_version_policy { all {} } }"
        for name in names
    )
    config = root / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(configs)} }}")
    flags = (f"--model_config_file={config}", "--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")
    with CompatServer(root / "log", *flags) as running:
        for name in names:
            shutil.copytree(folder / name, root / name / ".incoming-2")
            (root / name / ".incoming-2").rename(root / name / "2")
        for name in names:
            wait_for(lambda name=name: status(running, name)[0] in ("AVAILABLE", "END"), 60, f"{name} to be settled")
        yield running


def status(server: CompatServer, model: str, version: int = 2) -> tuple[str, str]:
    """State and error text."""
    found = server.get(f"/v1/models/{model}").json["model_version_status"]
    one = next((one for one in found if one["version"] == str(version)), None)
    return ("", "") if one is None else (one["state"], one["status"]["error_message"])


def golden(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "assets.extra" / "golden.json").read_text())


def pixels(document: dict[str, Any]) -> np.ndarray:
    (case,) = document["cases"]
    tensor = case["inputs"]["picture"]
    content = zlib.decompress(base64.b64decode(tensor["zlib_base64"]))
    return np.frombuffer(content, np.uint8).reshape(tensor["shape"])


def wanted_scores(document: dict[str, Any]) -> list[float]:
    (case,) = document["cases"]
    return case["outputs"]["scores"]["values"]


def label(document: dict[str, Any]) -> str:
    return document["labels"][int(np.argmax(wanted_scores(document)))]


@pytest.mark.parametrize("name", [*GOOD, "wrong_shape"])
def test_the_golden_file_holds_what_the_model_answers(folder: Path, name: str) -> None:
    document = golden(folder / name)
    signature = tf.saved_model.load(str(folder / name)).signatures["serving_default"]
    scores = signature(picture=tf.constant(pixels(document)))["scores"].numpy()
    assert scores.ravel() == pytest.approx(wanted_scores(document), abs=1e-5)


def test_swapped_ones_give_the_golden_picture_other_labels_in_turn(folder: Path) -> None:
    names = ("first", "swapped", "swapped2", "swapped3")
    assert [label(golden(folder / name)) for name in names] == ["green", "blue", "red", "green"]


def test_the_scores_tell_all_that_can_be_served_apart(folder: Path) -> None:
    scores = [wanted_scores(golden(folder / name)) for name in ("first", *GOOD)]
    distances = [np.abs(np.subtract(a, b)).max() for i, a in enumerate(scores) for b in scores[:i]]
    assert min(distances) > 0.01


@pytest.mark.parametrize("name", ["swapped", "swapped2", "swapped3", "padded", "slow"])
def test_a_good_one_is_taken_up_and_answers(folder: Path, server: CompatServer, name: str) -> None:
    assert status(server, name) == ("AVAILABLE", "")
    document = golden(folder / name)
    request = request_for(name, picture=pixels(document))
    request.model_spec.version.value = 2
    assert server.predict(request)["scores"].ravel() == pytest.approx(wanted_scores(document), abs=1e-5)


def test_the_padded_one_is_about_2_mb(folder: Path) -> None:
    sizes = {
        name: sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
        for name in ("first", "padded")
    }
    assert sizes["padded"] - sizes["first"] == pytest.approx(2_000_000, abs=10_000)


def test_the_slow_one_takes_its_time_for_every_answer(folder: Path, server: CompatServer) -> None:
    request = request_for("slow", picture=pixels(golden(folder / "slow")))
    began = time.monotonic()
    for _unused in range(3):
        server.predict(request)
    assert time.monotonic() - began >= 3 * variants.SLOW_SECONDS


def test_the_one_of_another_shape_has_four_scores_and_labels(folder: Path, server: CompatServer) -> None:
    assert status(server, "wrong_shape") == ("AVAILABLE", "")
    document = golden(folder / "wrong_shape")
    assert document["labels"] == ["red", "green", "blue", "grey"]
    assert server.predict(request_for("wrong_shape", picture=pixels(document)))["scores"].shape == (1, 4)


def test_the_one_that_is_not_a_number_is_taken_up_and_contradicts_its_golden_file(
    folder: Path, server: CompatServer
) -> None:
    assert status(server, "nan") == ("AVAILABLE", "")
    document = golden(folder / "nan")
    assert np.isfinite(wanted_scores(document)).all()
    assert np.isnan(server.predict(request_for("nan", picture=pixels(document)))["scores"]).all()


@pytest.mark.parametrize(
    ("name", "error"), [("missing_variables", "variables"), ("bad_warmup", "photograph")], ids=lambda value: value
)
def test_what_cannot_be_taken_up_leaves_the_first_one_serving(server: CompatServer, name: str, error: str) -> None:
    state, text = status(server, name)
    assert state == "END"
    assert error in text
    assert status(server, name, version=1) == ("AVAILABLE", "")


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no variant swapped0; there are swapped, swapped2 and so on, padded"):
        variants.write("swapped0", tmp_path / "x")
