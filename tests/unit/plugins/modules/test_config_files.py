"""`config_files`: what differs is written, all of it or nothing."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

MODULE = "config_files"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "example"


def permissions(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def test_writes_files_into_new_folders(run_module: Any, folder: Path) -> None:
    main, client = folder / "main.conf", folder / "client"
    files = [
        {"path": str(main), "content": "main\n"},
        {"path": str(client), "content": "client\n", "mode": "0755"},
    ]

    result = run_module(MODULE, folders=[str(folder)], files=files)

    assert result["changed"] is True
    assert result["changed_files"] == [str(main), str(client)]
    assert (main.read_text(), permissions(main)) == ("main\n", "0644")
    assert (client.read_text(), permissions(client)) == ("client\n", "0755")
    assert permissions(folder) == "0755"


def test_a_second_run_changes_nothing(run_module: Any, folder: Path) -> None:
    options = {"folders": [str(folder)], "files": [{"path": str(folder / "main.conf"), "content": "main\n"}]}
    run_module(MODULE, **options)
    before = (folder / "main.conf").stat()

    result = run_module(MODULE, **options)

    assert result["changed"] is False
    assert result["changed_files"] == []
    assert (folder / "main.conf").stat().st_ino == before.st_ino


def test_names_only_what_has_changed(run_module: Any, tmp_path: Path) -> None:
    for name in ("kept", "content", "mode"):
        (tmp_path / name).write_text("old\n")
        (tmp_path / name).chmod(0o644)
    files = [
        {"path": str(tmp_path / "kept"), "content": "old\n"},
        {"path": str(tmp_path / "content"), "content": "new\n"},
        {"path": str(tmp_path / "mode"), "content": "old\n", "mode": "0600"},
    ]

    result = run_module(MODULE, files=files)

    assert result["changed_files"] == [str(tmp_path / "content"), str(tmp_path / "mode")]
    assert permissions(tmp_path / "mode") == "0600"


def test_a_refused_file_leaves_all_as_they_are(run_module: Any, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("old\n")
    files = [
        {"path": str(good), "content": "good\n"},
        {"path": str(bad), "content": "bad\n", "validate": ["sh", "-c", 'cat "$0" >&2; exit 3', "%s"]},
    ]

    result = run_module(MODULE, files=files)

    assert result["failed"] is True
    assert str(bad) in result["msg"]
    assert "ended with 3: bad" in result["msg"]
    assert not good.exists()
    assert bad.read_text() == "old\n"


def test_what_has_not_changed_is_not_validated(run_module: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("same\n")
    (tmp_path / "file").chmod(0o644)

    result = run_module(MODULE, files=[{"path": str(tmp_path / "file"), "content": "same\n", "validate": ["false"]}])

    assert result["changed"] is False


def test_validates_a_file_that_others_can_read(run_module: Any, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    validate = ["sh", "-c", f'stat -c "%a $(basename "$0")" "$0" > {seen}', "%s"]

    run_module(MODULE, files=[{"path": str(tmp_path / "main.conf"), "content": "x\n", "validate": validate}])

    assert seen.read_text() == "644 main.conf\n"


def test_validates_a_file_with_those_that_it_names(run_module: Any, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    validate = ["sh", "-c", 'grep -r "" "$0" >&2; grep -rq good "$0/rules"', "%d"]
    main = {"path": str(tmp_path / "main.conf"), "content": "main\n", "validate": validate}
    rule = {"path": str(tmp_path / "rules" / "a.conf"), "content": "good\n"}
    run_module(MODULE, files=[main, rule])

    # The file is the same: it is validated for what it names.
    result = run_module(MODULE, files=[main, {**rule, "content": "bad\n"}])

    assert result["failed"] is True
    assert "main.conf:main" in result["msg"] and "rules/a.conf:bad" in result["msg"]
    assert (tmp_path / "rules" / "a.conf").read_text() == "good\n"


def test_a_secret_stays_one(run_module: Any, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    validate = ["sh", "-c", f'stat -c "%a" "$0" > {seen}', "%s"]

    run_module(MODULE, files=[{"path": str(tmp_path / "key"), "content": "x", "mode": "0600", "validate": validate}])

    assert seen.read_text() == "600\n"
    assert permissions(tmp_path / "key") == "0600"


def test_check_mode_foresees_and_changes_nothing(run_module: Any, folder: Path) -> None:
    files = [{"path": str(folder / "main.conf"), "content": "main\n", "validate": ["/nowhere/validate", "%s"]}]

    result = run_module(MODULE, check=True, diff=True, folders=[str(folder)], files=files)

    assert result["changed_files"] == [str(folder / "main.conf")]
    assert [(one["before"], one["after"]) for one in result["diff"]] == [("", "main\n")]
    assert not folder.exists()


def test_a_structure_is_written_as_json(run_module: Any, tmp_path: Path) -> None:
    """Ansible before 2.19 makes one of a template whose result looks like JSON."""
    run_module(MODULE, files=[{"path": str(tmp_path / "a.json"), "content": {"b": [1], "a": None}}])

    assert (tmp_path / "a.json").read_text() == '{\n    "a": null,\n    "b": [\n        1\n    ]\n}\n'


@pytest.mark.parametrize("mode", ["u=rw", "420.", "888", "99999", ""])
def test_a_mode_that_is_none(run_module: Any, tmp_path: Path, mode: str) -> None:
    result = run_module(MODULE, files=[{"path": str(tmp_path / "file"), "content": "x", "mode": mode}])

    assert f"{tmp_path / 'file'}: mode is {mode}; right are octal digits" in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(run_module: Any, tmp_path: Path) -> None:
    result = run_module(MODULE, files=[{"path": str(tmp_path / "none" / "file"), "content": "x"}])

    assert result["failed"] is True
    assert str(tmp_path / "none") in result["msg"]
