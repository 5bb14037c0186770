"""`resumable_copy`: everything arrives whole and compared, however often the connection ends."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tf2x.serving.plugins.action.resumable_copy import pieces, write_pack

MODULE = "resumable_copy"
ROOT = Path(__file__).parents[4]
CONTENT = {"big": os.urandom(25_000), "folder/small": b"small", "empty": b""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "source"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


def described(**other: bytes) -> dict[str, Any]:
    return {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in {**CONTENT, **other}.items()
    }


def there(dest: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    found.pop(".compared.json", None)
    return found


def copy(source: Path, dest: Path, *, pack_bytes: int = 10_000, check: bool = False) -> dict[str, Any]:
    """Run the real thing: ansible, its action plugin and the module, on this machine."""
    arguments = json.dumps({"src": str(source), "dest": str(dest), "files": described(), "pack_bytes": pack_bytes})
    program = Path(sys.executable).parent / "ansible"
    done = subprocess.run(
        [
            program,
            "localhost",
            "-c",
            "local",
            "-m",
            f"tf2x.serving.{MODULE}",
            "-a",
            arguments,
            *(["--check"] if check else []),
        ],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout[done.stdout.index("{\n") :])
    (task,) = report["plays"][0]["tasks"]
    return task["hosts"]["localhost"] | {"said": done.stdout}


def test_brings_everything_in_packs_and_nothing_twice(source: Path, dest: Path) -> None:
    result = copy(source, dest)
    assert result["changed"], result
    assert result["sent_bytes"] == 25_005
    assert there(dest) == CONTENT
    again = copy(source, dest)
    assert not again["changed"], again
    assert again["sent_bytes"] == 0


def test_check_mode_changes_nothing(source: Path, dest: Path) -> None:
    result = copy(source, dest, check=True)
    assert result["changed"], result
    assert not dest.exists()
    assert {one["name"] for one in result["missing"]} == set(CONTENT)


def test_goes_on_where_the_connection_ended(run_module: Any, source: Path, dest: Path, tmp_path: Path) -> None:
    send(run_module, source, dest, tmp_path, [("big", 0, 10_000)])
    assert there(dest) == {"big.part": CONTENT["big"][:10_000]}
    result = copy(source, dest)
    assert result["sent_bytes"] == 15_005
    assert there(dest) == CONTENT


def send(run_module: Any, source: Path, dest: Path, tmp_path: Path, pack: list[tuple[str, int, int]]) -> dict[str, Any]:
    write_pack(source, pack, tmp_path / "pack")
    return run_module(MODULE, src=str(source), dest=str(dest), files=described(), pack=str(tmp_path / "pack"))


def test_what_came_otherwise_is_refused_by_name_and_removed(
    run_module: Any, source: Path, dest: Path, tmp_path: Path
) -> None:
    (source / "folder/small").write_bytes(b"smalL")
    result = send(run_module, source, dest, tmp_path, [("folder/small", 0, 5)])
    assert result["failed"]
    assert f"{dest / 'folder/small'} came with the SHA-256 {hashlib.sha256(b'smalL').hexdigest()}" in result["msg"]
    assert there(dest) == {}


def test_another_file_of_the_same_name_and_size_is_brought(source: Path, dest: Path, run_module: Any) -> None:
    copy(source, dest)
    result = run_module(MODULE, src=str(source), dest=str(dest), files=described(**{"folder/small": b"other"}))
    assert [one["name"] for one in result["missing"]] == ["folder/small"]


def test_an_empty_file_is_missed_when_it_is_gone(run_module: Any, source: Path, dest: Path, tmp_path: Path) -> None:
    result = send(run_module, source, dest, tmp_path, [("empty", 0, 0)])
    assert "empty" not in [one["name"] for one in result["missing"]]
    (dest / "empty").unlink()
    result = run_module(MODULE, src=str(source), dest=str(dest), files=described())
    assert "empty" in [one["name"] for one in result["missing"]]


def test_goes_on_when_it_was_cut_off_within_its_own_list(
    run_module: Any, source: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(run_module, source, dest, tmp_path, [("empty", 0, 0)])

    def cut_off(path: Path, text: str) -> None:
        with path.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", cut_off)
        assert "no space left" in send(run_module, source, dest, tmp_path, [("folder/small", 0, 5)])["msg"]
    result = send(run_module, source, dest, tmp_path, [("big", 0, 25_000)])
    assert [one["name"] for one in result["missing"]] == ["folder/small"]
    assert there(dest) == CONTENT


def test_a_pack_that_is_none_is_refused(run_module: Any, dest: Path, tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(b"x" * 600)
    result = run_module(MODULE, src="/src", dest=str(dest), files=described(), pack=str(tmp_path / "pack"))
    assert f"{dest}: cannot be read or written" in result["msg"]


def test_strangers_are_removed(source: Path, dest: Path) -> None:
    copy(source, dest)
    (dest / "folder/stranger").write_bytes(b"")
    result = copy(source, dest)
    assert result["changed"]
    assert there(dest) == CONTENT


def test_a_file_takes_the_place_of_a_folder_and_a_folder_that_of_a_file(
    run_module: Any, source: Path, dest: Path, tmp_path: Path
) -> None:
    (dest / "big/old").mkdir(parents=True)
    (dest / "big/old/file").write_bytes(b"old")
    (dest / "folder").write_bytes(b"old")
    (dest / "nothing").mkdir()
    result = send(run_module, source, dest, tmp_path, [("big", 0, 25_000), ("folder/small", 0, 5), ("empty", 0, 0)])
    assert result["missing"] == [], result
    assert there(dest) == CONTENT
    assert [path.name for path in dest.rglob("*") if path.is_dir()] == ["folder"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside"])
def test_nothing_is_written_outside(run_module: Any, source: Path, dest: Path, name: str) -> None:
    result = run_module(MODULE, src=str(source), dest=str(dest), files={name: {"size": 0, "sha256": ""}})
    assert name in result["msg"]
    assert "outside of dest" in result["msg"]


def test_a_file_without_a_digest_is_refused(run_module: Any, source: Path, dest: Path) -> None:
    result = run_module(MODULE, src=str(source), dest=str(dest), files={"empty": {"size": 0}, "big": 25_000})
    assert "files: empty, big: without size and sha256" in result["msg"]
    assert not dest.exists()


def test_a_file_that_is_not_there_is_named(source: Path, dest: Path) -> None:
    (source / "empty").unlink()
    assert str(source / "empty") in copy(source, dest)["msg"]


def test_packs_are_of_one_size_but_for_the_last() -> None:
    missing = [{"name": "a", "offset": 5}, {"name": "b", "offset": 0}, {"name": "c", "offset": 0}]
    packs = list(pieces(missing, {"a": 10, "b": 7, "c": 0}, 8))
    assert packs == [[("a", 5, 5), ("b", 0, 3)], [("b", 3, 4), ("c", 0, 0)]]
