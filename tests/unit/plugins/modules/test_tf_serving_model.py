"""`tf_serving_model`: what gets into the store, what does not, and what is left behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import model_builder
import pytest
from ansible_collections.tf2x.serving.plugins.module_utils import _warmup, _wire

MODULE = "tf_serving_model"
WARMUP = "assets.extra/tf_serving_warmup_requests"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def publish(run_module: Any, store: Path) -> Any:
    def run(source: Path, version: int | None = None, **options: Any) -> dict[str, Any]:
        return run_module(MODULE, source=str(source), root=str(store), name="pets", version=version, **options)

    return run


def test_publishes_a_whole_version(publish: Any, saved_model: Path, store: Path) -> None:
    result = publish(saved_model, 1)

    assert result["changed"] is True
    assert result["folder"] == str(store / "pets" / "1")
    published = tree(store / "pets" / "1")
    warmup = published.pop(WARMUP)
    assert published == tree(saved_model)
    assert (store / "pets" / "1" / "assets").is_dir()
    assert len(list(_warmup.records(warmup))) == 2
    assert [path.name for path in (store / "pets").iterdir()] == ["1"]


def test_publishing_again_changes_nothing(publish: Any, saved_model: Path, store: Path) -> None:
    first = publish(saved_model, 1)
    before = tree(store)
    second = publish(saved_model, 1)

    assert second["changed"] is False
    assert second["digest"] == first["digest"]
    assert second["versions"] == first["versions"]
    assert tree(store) == before


def test_other_content_under_a_version_is_refused(publish: Any, saved_model: Path, store: Path) -> None:
    first = publish(saved_model, 3)
    before = tree(store)
    (saved_model / "assets" / "words.txt").write_text("cat")
    other = publish(saved_model, 3)

    assert other["failed"]
    assert "never edited" in other["msg"]
    assert first["digest"] in other["msg"]
    assert "publish it as version 4" in other["msg"]
    assert tree(store) == before


def test_a_version_that_was_edited_in_the_store_is_noticed(publish: Any, saved_model: Path, store: Path) -> None:
    digest = publish(saved_model, 1)["digest"]
    (store / "pets" / "1" / "variables" / "variables.data-00000-of-00001").write_bytes(b"x" * 64)

    assert publish(saved_model, 1)["failed"]
    assert publish(saved_model, 1, digest=digest)["failed"]


def test_check_mode_predicts_and_leaves_alone(publish: Any, saved_model: Path, store: Path) -> None:
    predicted = publish(saved_model, 1, check=True, diff=True)
    assert not store.exists()
    done = publish(saved_model, 1, diff=True)

    assert predicted["changed"] is True
    assert predicted == done
    assert done["diff"]["before"] == {}
    assert done["diff"]["after"] == {"1": done["digest"]}
    assert publish(saved_model, 1, check=True)["changed"] is False


def test_digest_spares_the_copy_once_it_is_there(publish: Any, saved_model: Path, tmp_path: Path) -> None:
    digest = publish(saved_model, 1)["digest"]
    again = publish(tmp_path / "not-copied", 1, digest=digest)

    assert again["changed"] is False
    assert again["digest"] == digest


def test_digest_lets_check_mode_do_without_the_copy(publish: Any, tmp_path: Path, store: Path) -> None:
    predicted = publish(tmp_path / "not-copied", 1, digest="sha256:00", check=True)
    assert predicted["changed"] is True
    assert not store.exists()

    assert "is not a folder" in publish(tmp_path / "not-copied", 1, digest="sha256:00")["msg"]
    assert "is not a folder" in publish(tmp_path / "not-copied", 1, check=True)["msg"]


def test_digest_catches_a_copy_that_was_damaged_on_its_way(publish: Any, run_module: Any, saved_model: Path) -> None:
    digest = run_module(MODULE, state="inspected", source=str(saved_model))["digest"]
    data = saved_model / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    result = publish(saved_model, 1, digest=digest)

    assert digest in result["msg"]
    assert "is not what was inspected" in result["msg"]


@pytest.mark.parametrize("version", [None, 7])
def test_a_numbered_folder_gives_the_version(publish: Any, tmp_path: Path, store: Path, version: int | None) -> None:
    model_builder.build(tmp_path / "pets" / "4")
    result = publish(tmp_path / "pets", version)

    assert result["version"] == (version or 4)
    assert (store / "pets" / str(version or 4) / "saved_model.pb").is_file()


def test_several_numbered_folders_need_a_version(publish: Any, tmp_path: Path) -> None:
    model_builder.build(tmp_path / "pets" / "4")
    model_builder.build(tmp_path / "pets" / "10", shards=(32,))

    assert "holds versions 4, 10, but version is not set" in publish(tmp_path / "pets")["msg"]
    assert "holds versions 4, 10, but version is 5" in publish(tmp_path / "pets", 5)["msg"]
    assert publish(tmp_path / "pets", 10)["version"] == 10


def test_a_plain_folder_needs_a_version(publish: Any, saved_model: Path) -> None:
    assert "version is not set" in publish(saved_model)["msg"]


def test_own_warmup_requests_are_kept(publish: Any, saved_model: Path, store: Path, tmp_path: Path) -> None:
    publish(saved_model, 1)
    own = (store / "pets" / "1" / WARMUP).read_bytes()
    one_record = own[: len(own) // 2]
    (saved_model / WARMUP).write_bytes(one_record)
    publish(saved_model, 2)

    assert (store / "pets" / "2" / WARMUP).read_bytes() == one_record


def test_owner_and_mode_are_set_and_repaired(publish: Any, saved_model: Path, store: Path) -> None:
    (saved_model / "saved_model.pb").chmod(0o600)
    options = {"owner": str(os.getuid()), "group": str(os.getgid())}
    publish(saved_model, 1, **options)
    graph = store / "pets" / "1" / "saved_model.pb"
    assert graph.stat().st_mode & 0o777 == 0o644
    assert graph.parent.stat().st_mode & 0o777 == 0o755

    graph.chmod(0o600)
    assert publish(saved_model, 1, check=True, **options)["changed"] is True
    assert graph.stat().st_mode & 0o777 == 0o600
    assert publish(saved_model, 1, **options)["changed"] is True
    assert graph.stat().st_mode & 0o777 == 0o644
    assert publish(saved_model, 1, **options)["changed"] is False


def test_leftovers_of_a_broken_run_are_replaced(publish: Any, saved_model: Path, store: Path) -> None:
    (store / "pets" / ".incoming-1" / "variables").mkdir(parents=True)
    (store / "pets" / ".incoming-1" / "half").write_text("x")
    publish(saved_model, 1)

    assert [path.name for path in (store / "pets").iterdir()] == ["1"]
    assert not (store / "pets" / "1" / "half").exists()


def test_nothing_is_left_behind_when_publishing_fails(publish: Any, saved_model: Path, store: Path) -> None:
    result = publish(saved_model, 1, owner="no-such-user-here")

    assert result["failed"]
    assert list((store / "pets").iterdir()) == []


def test_too_little_space_is_noticed_before_anything_is_written(publish: Any, saved_model: Path, store: Path) -> None:
    stats = os.statvfs(saved_model)
    free = stats.f_bavail * stats.f_frsize
    # A sparse file: as long as all that is free, without taking any of it. In check mode, lest it be copied after all.
    os.truncate(saved_model / "variables" / "variables.data-00000-of-00001", free)
    result = publish(saved_model, 1, check=True)

    assert "bytes free" in result["msg"]
    assert str(saved_model.parent) in result["msg"]
    assert not store.exists()


def test_inspecting_tells_what_the_model_holds(run_module: Any, tmp_path: Path) -> None:
    folder = model_builder.build(tmp_path / "pets" / "4")
    before = tree(tmp_path)
    result = run_module(MODULE, state="inspected", source=str(tmp_path / "pets"))

    assert result["changed"] is False
    assert result["version"] == 4
    assert result["folder"] == str(folder)
    assert result["tags"] == ["serve"]
    assert result["tensorflow_version"] == "2.21.0"
    assert result["signatures"] == {
        "serving_default": {
            "name": "serving_default",
            "method_name": "tensorflow/serving/predict",
            "inputs": {"image": {"dtype": "DT_FLOAT", "shape": [-1, 2, 2, 3]}},
            "outputs": {"scores": {"dtype": "DT_FLOAT", "shape": [-1, 2]}},
        }
    }
    assert result["golden"]["cases"] == ["case-0", "case-1"]
    assert result["golden"]["images"] == ["case-0.png", "case-1.png"]
    assert result["golden"]["labels"] == model_builder.LABELS
    size = sum(len(content) for content in tree(folder).values())
    assert result["size_bytes"] == size
    assert result["versions"] == [{"version": 4, "digest": result["digest"], "size_bytes": size}]
    assert tree(tmp_path) == before


def test_the_demo_model_is_publishable(publish: Any, store: Path) -> None:
    """A model that TensorFlow has saved, as it lies in the collection."""
    result = publish(Path(__file__).resolve().parents[4] / "files" / "models" / "pets", 1)

    assert result["changed"] is True
    assert (store / "pets" / "1" / WARMUP).stat().st_size > 0


def test_the_digest_sees_names_and_bytes_but_not_the_warmup_requests(run_module: Any, saved_model: Path) -> None:
    def digest() -> str:
        return run_module(MODULE, state="inspected", source=str(saved_model))["digest"]

    first = digest()
    (saved_model / WARMUP).write_bytes(b"")
    assert digest() == first
    words = saved_model / "assets" / "words.txt"
    words.write_text("cat")
    second = digest()
    words.write_text("dog")
    third = digest()
    words.rename(words.with_name("names.txt"))
    assert len({first, second, third, digest()}) == 4


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "no graph": (lambda model: (model / "saved_model.pb").unlink(), "no saved_model.pb"),
    "empty graph": (lambda model: cut(model / "saved_model.pb", 0), "tagged none"),
    "cut graph": (lambda model: cut(model / "saved_model.pb", 60), "is damaged: it ends"),
    "not a graph": (lambda model: (model / "saved_model.pb").write_text("<html>no</html>"), "is damaged"),
    "no index": (lambda model: (model / "variables" / "variables.index").unlink(), "variables.index is missing"),
    "no variables": (lambda model: shutil.rmtree(model / "variables"), "variables.index is missing"),
    "cut index": (lambda model: cut(model / "variables" / "variables.index", 40), "does not end like"),
    "missing data": (
        lambda model: (model / "variables" / "variables.data-00001-of-00002").unlink(),
        "its index asks for variables.data-00000-of-00002, variables.data-00001-of-00002",
    ),
    "foreign data": (
        lambda model: (model / "variables" / "variables.data-00000-of-00001").write_text("x"),
        "holds variables.data-00000-of-00001",
    ),
    "cut data": (
        lambda model: cut(model / "variables" / "variables.data-00001-of-00002", 99),
        "is cut off: it has 99 bytes, its index asks for 100",
    ),
    "empty data": (
        lambda model: cut(model / "variables" / "variables.data-00000-of-00002", 0),
        "is cut off: it has 0 bytes",
    ),
    "cut warm-up": (lambda model: (model / WARMUP).write_bytes(b"\1" * 11), "broken record head"),
    "golden image": (lambda model: (model / "assets.extra" / "case-1.png").unlink(), "case-1.png does not exist"),
    "link": (lambda model: (model / "assets" / "link").symlink_to("/etc/passwd"), "neither a plain file nor a folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("state", ["present", "inspected"])
def test_a_damaged_model_is_refused(run_module: Any, tmp_path: Path, store: Path, damage: str, state: str) -> None:
    model = model_builder.build(tmp_path / "model", shards=(64, 100))
    harm, message = DAMAGES[damage]
    harm(model)
    result = run_module(MODULE, state=state, source=str(model), root=str(store), name="pets", version=1)

    assert result["failed"]
    assert message in result["msg"]
    assert not store.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": {"picture": model_builder.INPUTS["image"]}}, "signature serving_default takes ['picture']"),
        ({"outputs": {"logits": model_builder.OUTPUTS["scores"]}}, "signature serving_default gives ['logits']"),
        (
            {"inputs": {"image": (model_builder.INT64, (-1, 2, 2, 3))}},
            "input image as DT_FLOAT[1,2,2,3], the model has it as DT_INT64[?,2,2,3]",
        ),
        ({"outputs": {"scores": (model_builder.FLOAT, (-1, 3))}}, "the model has it as DT_FLOAT[?,3]"),
        ({"signature_name": "other"}, "asks for signature serving_default, the model has other"),
        ({"tags": ("train",)}, "tagged train; TF Serving loads the one that is tagged serve alone"),
        ({"tags": ("serve", "gpu")}, "tagged gpu, serve"),
        ({"signature_name": "__private"}, "no signature to call"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(publish: Any, tmp_path: Path, options: Any, message: str) -> None:
    result = publish(model_builder.build(tmp_path / "model", **options), 1)

    assert result["failed"]
    assert message in result["msg"]


def test_a_model_without_variables_or_golden_file_will_do(publish: Any, tmp_path: Path, store: Path) -> None:
    model = model_builder.build(tmp_path / "model", shards=(), golden=False)
    shutil.rmtree(model / "variables")

    assert publish(model, 1)["changed"] is True
    assert not (store / "pets" / "1" / WARMUP).exists()


def change(path: tuple[Any, ...], value: Any) -> Any:
    def apply(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return apply


IMAGE = ("cases", 0, "inputs", "image")
SCORES = ("cases", 0, "outputs", "scores")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change(("format",), 2), "format is 2, 1 would be right"),
        (change(("cases",), []), "it has no case"),
        (change(("labels",), ["cat", "dog", "cow"]), "has shape [1, 2], but there are 3 labels"),
        (change(("labels",), ["cat", "cat"]), "a list of different strings"),
        (change(("tolerance",), "small"), "tolerance is 'small'"),
        (change(("tolerance",), float("nan")), "a number from 0 up"),
        (change((*IMAGE, "zlib_base64"), "!"), "cannot be unpacked"),
        (change((*IMAGE, "shape"), [1, 2, 2, 4]), "48 bytes of data, but DT_FLOAT[1, 2, 2, 4] takes 64 bytes"),
        (change((*IMAGE, "shape"), [1, 2, 2, 2]), "33 bytes of data, but DT_FLOAT[1, 2, 2, 2] takes 32 bytes"),
        (change((*IMAGE, "dtype"), "DT_STRING"), "type DT_STRING is not one of DT_FLOAT"),
        (change((*SCORES, "values"), [1.0]), "1 values, but DT_FLOAT[1, 2] takes 2"),
        (change((*SCORES, "values"), ["a", "b"]), "values that are not DT_FLOAT"),
        (change(("cases", 1, "name"), "case-0"), "repeat"),
        (change(("cases", 0, "image"), "../case-0.png"), "beside the golden file"),
    ],
)
def test_a_wrong_golden_file_is_refused(publish: Any, saved_model: Path, harm: Any, message: str) -> None:
    content = model_builder.golden_content()
    harm(content)
    model_builder.write_golden(saved_model, content)
    result = publish(saved_model, 1)

    assert "golden.json" in result["msg"]
    assert message in result["msg"]


def test_a_golden_file_that_is_not_json_is_refused(publish: Any, saved_model: Path) -> None:
    (saved_model / "assets.extra" / "golden.json").write_text("{")
    assert "is not JSON" in publish(saved_model, 1)["msg"]


@pytest.fixture
def filled(publish: Any, tmp_path: Path) -> None:
    for version in (1, 2, 3, 10):
        publish(model_builder.build(tmp_path / f"model-{version}", shards=(64 + version,)), version)


@pytest.fixture
def manage(run_module: Any, store: Path) -> Any:
    return lambda state, **options: run_module(MODULE, state=state, root=str(store), name="pets", **options)


def numbers(result: dict[str, Any]) -> list[int]:
    return [entry["version"] for entry in result["versions"]]


@pytest.mark.usefixtures("filled")
def test_listing_sorts_by_number_and_sees_versions_only(manage: Any, store: Path) -> None:
    (store / "pets" / ".incoming-11").mkdir()
    (store / "pets" / "007").mkdir()
    (store / "pets" / "12").write_text("a file")
    result = manage("listed")

    assert numbers(result) == [1, 2, 3, 10]
    assert len({entry["digest"] for entry in result["versions"]}) == 4
    size = sum(path.stat().st_size for path in (store / "pets" / "10").rglob("*") if path.is_file())
    assert result["versions"][-1]["size_bytes"] == size


def test_listing_a_model_that_is_not_there(manage: Any) -> None:
    assert manage("listed")["versions"] == []


@pytest.mark.usefixtures("filled")
def test_removing_a_version(manage: Any, store: Path) -> None:
    predicted = manage("absent", version=2, check=True, diff=True)
    assert (store / "pets" / "2").is_dir()
    done = manage("absent", version=2, diff=True)

    assert predicted == done
    assert done["changed"] is True
    assert done["removed"] == [2]
    assert "2" in done["diff"]["before"]
    assert "2" not in done["diff"]["after"]
    assert sorted(path.name for path in (store / "pets").iterdir()) == ["1", "10", "3"]
    again = manage("absent", version=2)
    assert (again["changed"], again["removed"]) == (False, [])


@pytest.mark.usefixtures("filled")
def test_pruning_keeps_the_newest_and_the_protected(manage: Any, store: Path) -> None:
    options = {"keep": 2, "protected": [1]}
    predicted = manage("pruned", check=True, **options)
    assert (store / "pets" / "2").is_dir()
    done = manage("pruned", **options)

    assert predicted == done
    assert done["removed"] == [2]
    assert numbers(done) == [1, 3, 10]
    assert sorted(path.name for path in (store / "pets").iterdir()) == ["1", "10", "3"]
    assert manage("pruned", **options)["changed"] is False


@pytest.mark.usefixtures("filled")
def test_pruning_never_empties_the_store(manage: Any) -> None:
    assert "1 or more would be right" in manage("pruned", keep=0)["msg"]
    assert numbers(manage("pruned", keep=1)) == [10]


@pytest.mark.parametrize("name", ["../pets", "a/b", ".pets", "", "pets\n"])
def test_a_name_that_leaves_the_store_is_refused(run_module: Any, saved_model: Path, store: Path, name: str) -> None:
    result = run_module(MODULE, source=str(saved_model), root=str(store), name=name, version=1)
    assert "would be right" in result["msg"]


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_below_one_is_refused(publish: Any, saved_model: Path, version: int) -> None:
    assert "1 or more would be right" in publish(saved_model, version)["msg"]


def test_a_damaged_warmup_record_is_noticed(saved_model: Path, publish: Any, store: Path) -> None:
    publish(saved_model, 1)
    warmup = bytearray((store / "pets" / "1" / WARMUP).read_bytes())
    warmup[40] ^= 1
    with pytest.raises(_wire.WireError, match="broken record at byte 0"):
        list(_warmup.records(bytes(warmup)))
