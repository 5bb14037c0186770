"""`tf_serving_model`: what gets into the store, what does not, and what is left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_builder
import pytest
from ansible_collections.tf2x.serving.plugins.module_utils import _model_store, _warmup, _wire

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


@pytest.mark.usefixtures("filled")
def test_listing_all_models(run_module: Any, manage: Any, store: Path) -> None:
    (store / ".lock").mkdir()
    (store / "notes.txt").write_text("a file")
    (store / "empty").mkdir()
    result = run_module(MODULE, state="listed", root=str(store))

    assert result["models"] == {"empty": [], "pets": manage("listed")["versions"]}
    assert run_module(MODULE, state="listed", root=str(store / "nowhere"))["models"] == {}


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


@pytest.fixture
def inspect(run_module: Any, saved_model: Path) -> Any:
    return lambda **options: run_module(MODULE, state="inspected", **{"source": str(saved_model), **options})


@pytest.fixture
def packed(inspect: Any, tmp_path: Path) -> tuple[Path, str]:
    """The model as a tar, and its digest."""
    return tmp_path / "pets.tar", inspect(pack=str(tmp_path / "pets.tar"))["digest"]


def test_a_packed_model_is_published(
    publish: Any, packed: tuple[Path, str], saved_model: Path, store: Path, tmp_path: Path
) -> None:
    file, digest = packed
    predicted = publish(file, 2, digest=digest, check=True)
    assert not store.exists()
    result = publish(file, 2, digest=digest)
    directly = publish(saved_model, 3)

    assert (result["changed"], predicted["changed"]) == (True, True)
    assert predicted["folder"] == result["folder"] == str(store / "pets" / "2")
    assert tree(store / "pets" / "2") == tree(store / "pets" / "3")
    assert [entry["size_bytes"] for entry in directly["versions"]] == 2 * [result["versions"][0]["size_bytes"]]
    assert (store / "pets" / "2" / "assets").is_dir()
    assert sorted(path.name for path in (store / "pets").iterdir()) == ["2", "3"]
    file.unlink()
    assert publish(file, 2, digest=digest)["changed"] is False


def test_packing_does_not_depend_on_times_owners_and_modes(
    inspect: Any, packed: tuple[Path, str], saved_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(saved_model, tmp_path / "copy")
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
    again = tmp_path / "again.tar"
    result = inspect(source=str(copy), pack=str(again))

    assert again.read_bytes() == packed[0].read_bytes()
    assert result["packed_bytes"] == again.stat().st_size
    assert again.stat().st_mode & 0o077 == 0


def test_packing_tells_whether_it_changed_the_file(inspect: Any, saved_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "pack" / "pets.tar"
    file.parent.mkdir()
    predicted = inspect(pack=str(file), check=True)
    assert list(file.parent.iterdir()) == []
    first = inspect(pack=str(file))

    assert predicted == first
    assert first["changed"] is True
    assert inspect(pack=str(file))["changed"] is False
    (saved_model / "assets" / "words.txt").write_text("cat")
    before = file.read_bytes()
    assert inspect(pack=str(file), check=True)["changed"] is True
    assert file.read_bytes() == before
    assert inspect(pack=str(file))["changed"] is True
    assert list(file.parent.iterdir()) == [file]


def test_a_model_is_not_packed_into_itself(inspect: Any, saved_model: Path) -> None:
    assert "a file elsewhere would be right" in inspect(pack=str(saved_model / "assets" / "pets.tar"))["msg"]


def test_an_archive_needs_version_and_digest(publish: Any, packed: tuple[Path, str], inspect: Any) -> None:
    file, digest = packed
    assert "version and digest are needed" in publish(file, 1)["msg"]
    assert "version and digest are needed" in publish(file, digest=digest)["msg"]
    assert "tf_serving_model_source unpacks archives" in inspect(source=str(file))["msg"]


def test_an_archive_that_is_not_what_was_inspected_never_appears(
    publish: Any, packed: tuple[Path, str], store: Path
) -> None:
    file, digest = packed
    content = bytearray(file.read_bytes())
    content[content.index(b"cat")] ^= 1
    file.write_bytes(content)
    result = publish(file, 1, digest=digest)

    assert f"digest {digest} is expected, its copy has sha256:" in result["msg"]
    assert list((store / "pets").iterdir()) == []


def test_an_archive_with_a_link_is_refused(publish: Any, packed: tuple[Path, str], store: Path) -> None:
    file, digest = packed
    with tarfile.open(file, "a") as archive:
        link = tarfile.TarInfo("assets/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    result = publish(file, 1, digest=digest)

    assert "'assets/link' is a link to '/etc/passwd'" in result["msg"]
    assert not store.exists()


def test_a_damaged_model_in_an_archive_is_refused(
    publish: Any, inspect: Any, saved_model: Path, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pets.tar"
    (saved_model / "variables" / "variables.index").unlink()
    with tarfile.open(file, "w") as archive:
        archive.add(saved_model, ".")
    # The digest of what it holds, as if it had been inspected by somebody who did not look.
    digest = _model_store.digest(saved_model)
    result = publish(file, 1, digest=digest)

    assert "variables.index is missing" in result["msg"]
    assert list((store / "pets").iterdir()) == []


def test_a_node_is_asked_before_anything_is_copied(publish: Any, manage: Any, saved_model: Path, store: Path) -> None:
    first = publish(saved_model, 1)
    free = os.statvfs(store).f_bavail * os.statvfs(store).f_frsize

    def ask(version: int, size_bytes: int, digest: str = "sha256:00") -> dict[str, Any]:
        return manage("present", version=version, size_bytes=size_bytes, digest=digest, check=True)

    assert ask(2, 1000)["changed"] is True
    assert "bytes free, the model needs" in ask(2, free)["msg"]
    assert f"exists with digest {first['digest']}, the source has sha256:00" in ask(1, 1000)["msg"]
    assert ask(1, free, first["digest"])["changed"] is False


def test_labels_must_be_those_of_the_golden_file(inspect: Any) -> None:
    assert not inspect(labels=["cat", "dog"]).get("failed")
    result = inspect(labels=["dog", "cat"])
    assert "labels are declared as ['dog', 'cat']" in result["msg"]
    assert "golden.json has ['cat', 'dog']" in result["msg"]


@pytest.mark.parametrize(
    ("outputs", "fits"),
    [
        ({"scores": (model_builder.FLOAT, (-1, 2))}, True),
        ({"scores": (model_builder.FLOAT, (-1, -1))}, True),
        ({"scores": (model_builder.FLOAT, (-1, 3))}, False),
        ({"scores": (model_builder.FLOAT, (2,))}, True),
        ({"features": (model_builder.FLOAT, (-1, 1280)), "scores": (model_builder.FLOAT, (-1, 2))}, True),
        ({"features": (model_builder.FLOAT, (-1, 1280)), "scores": (model_builder.FLOAT, (-1, 3))}, False),
    ],
)
def test_labels_must_be_as_many_as_scores(inspect: Any, tmp_path: Path, outputs: Any, fits: bool) -> None:
    model = model_builder.build(tmp_path / "model", outputs=outputs, golden=False)
    result = inspect(source=str(model), labels=["cat", "dog"])

    assert result.get("failed", False) != fits
    if not fits:
        assert "2 labels are declared: ['cat', 'dog'], signature serving_default gives" in result["msg"]
        assert "scores as DT_FLOAT[?,3]" in result["msg"]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "image", "height": 2, "width": 2, "signature_name": "serving_default"}, None),
        ({"height": 2}, None),
        ({"name": "picture"}, "input picture is declared, signature serving_default takes image"),
        ({"height": 3, "width": 2}, "height 3 and width 2 is declared, signature serving_default takes input image as"),
        ({"width": 3}, "width 3 is declared, signature serving_default takes input image as DT_FLOAT[?,2,2,3]"),
        ({"signature_name": "other"}, "signature other is declared, the model has serving_default"),
    ],
)
def test_the_input_must_be_as_declared(inspect: Any, declared: dict[str, Any], message: str | None) -> None:
    result = inspect(input=declared)
    assert result.get("failed", False) == (message is not None)
    assert (message or "") in result.get("msg", "")


def test_an_input_of_open_size_takes_any(inspect: Any, tmp_path: Path) -> None:
    inputs = {"image": (model_builder.FLOAT, (-1, -1, -1, 3)), "mask": (model_builder.FLOAT, (-1, 1))}
    source = str(model_builder.build(tmp_path / "model", inputs=inputs, golden=False))

    assert not inspect(source=source, input={"name": "image", "height": 7, "width": 9}).get("failed")
    assert "takes image, mask" in inspect(source=source, input={"height": 7})["msg"]
    assert "takes input mask as" in inspect(source=source, input={"name": "mask", "height": 7})["msg"]


def test_a_golden_file_can_be_required(inspect: Any, tmp_path: Path) -> None:
    assert not inspect(golden_required=True).get("failed")
    source = str(model_builder.build(tmp_path / "model", golden=False))
    assert "has no golden file assets.extra/golden.json" in inspect(source=source, golden_required=True)["msg"]


@pytest.mark.usefixtures("filled")
def test_listing_can_leave_the_digests_out(manage: Any) -> None:
    listed, all_of_it = manage("listed", digests=False), manage("listed")

    assert [entry["digest"] for entry in listed["versions"]] == 4 * [None]
    assert [{**entry, "digest": None} for entry in all_of_it["versions"]] == listed["versions"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("packed_first", [False, True])
def test_a_disk_that_fills_up_is_named_and_left_clean(
    run_module: Any, saved_model: Path, small_disk: Path, tmp_path: Path, packed_first: bool
) -> None:
    # A byte each, which takes a block each: more than was foreseen.
    for number in range(400):
        (saved_model / "assets" / str(number)).write_bytes(b"x")
    file = tmp_path / "pets.tar"
    inspected = run_module(MODULE, state="inspected", source=str(saved_model), pack=str(file))
    result = run_module(
        MODULE,
        source=str(file if packed_first else saved_model),
        digest=inspected["digest"],
        root=str(small_disk / "models"),
        name="pets",
        version=1,
    )

    assert f"{small_disk}/models/pets is full (No space left on device)" in result["msg"]
    assert re.search(r"the model needs \d{4,} bytes there", result["msg"])
    assert list((small_disk / "models" / "pets").iterdir()) == []


def test_a_disk_that_a_package_does_not_fit_on_is_left_clean(inspect: Any, saved_model: Path, small_disk: Path) -> None:
    (saved_model / "assets" / "big").write_bytes(bytes(2 << 20))
    assert f"{small_disk} has " in inspect(pack=str(small_disk / "pets.tar"))["msg"]
    assert list(small_disk.iterdir()) == []
