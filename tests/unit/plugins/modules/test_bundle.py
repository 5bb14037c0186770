"""`bundle`: what was sealed is verified, and anything else is refused with its name."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

MODULE = "bundle"
# One of each kind.
FILES = {
    "images/prometheus.tar": b"image",
    "wheels/numpy.whl": b"wheel",
    "packages/docker.deb": b"package",
    "collections/tf2x-serving.tar.gz": b"collection",
    "models/pets.tar.gz": b"model",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "bundle"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "bundle.key"


@pytest.fixture
def sealed(run_module: Any, folder: Path, key: Path) -> Path:
    result = run_module(MODULE, path=str(folder), state="sealed", private_key=str(key), about={"system": "Debian 12"})
    assert result["changed"]
    return folder


def verify(run_module: Any, folder: Path, key: Path) -> dict[str, Any]:
    return run_module(MODULE, path=str(folder), public_key=f"{key}.pub")


def test_what_was_sealed_is_verified(run_module: Any, sealed: Path, key: Path) -> None:
    result = verify(run_module, sealed, key)
    assert not result["changed"]
    assert set(result["manifest"]["files"]) == {*FILES, "sbom.cdx.json"}
    assert result["manifest"]["about"] == {"system": "Debian 12"}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_sealing_again_changes_nothing(run_module: Any, sealed: Path, key: Path) -> None:
    options = {"path": str(sealed), "state": "sealed", "private_key": str(key), "about": {"system": "Debian 12"}}
    assert not run_module(MODULE, **options)["changed"]
    (sealed / "models/pets.tar.gz").write_bytes(b"another model")
    assert run_module(MODULE, **options)["changed"]
    assert "failed" not in verify(run_module, sealed, key)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(run_module: Any, sealed: Path, key: Path, name: str) -> None:
    path = sealed / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    message = verify(run_module, sealed, key)["msg"]
    assert str(path) in message and "SHA-256" in message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_or_missing_is_named(run_module: Any, sealed: Path, key: Path, name: str) -> None:
    path = sealed / name
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} has {len(FILES[name]) - 1} bytes" in verify(run_module, sealed, key)["msg"]
    path.unlink()
    assert f"{path} is missing" in verify(run_module, sealed, key)["msg"]


def test_what_was_added_is_named(run_module: Any, sealed: Path, key: Path) -> None:
    (sealed / "images/more.tar").write_bytes(b"more")
    assert "images/more.tar is not in the manifest" in verify(run_module, sealed, key)["msg"]


def test_links_are_refused(run_module: Any, sealed: Path, key: Path) -> None:
    (sealed / "images/link.tar").symlink_to("/etc/passwd")
    assert "images/link.tar is a symbolic link" in verify(run_module, sealed, key)["msg"]


def test_a_changed_manifest_is_refused(run_module: Any, sealed: Path, key: Path) -> None:
    manifest = sealed / "manifest.json"
    manifest.write_text(manifest.read_text().replace("Debian 12", "Debian 13"))
    assert "was changed afterwards" in verify(run_module, sealed, key)["msg"]


def test_another_key_is_refused(run_module: Any, sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    shutil.copytree(sealed, tmp_path / "copy")
    run_module(MODULE, path=str(tmp_path / "copy"), state="sealed", private_key=str(other))
    assert f"private half of {other}.pub" in verify(run_module, sealed, other)["msg"]


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_what_was_not_sealed_is_no_bundle(run_module: Any, sealed: Path, key: Path, name: str) -> None:
    (sealed / name).unlink()
    assert f"has no {name}" in verify(run_module, sealed, key)["msg"]


def test_what_is_no_key_is_named(run_module: Any, sealed: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("no key")
    assert f"public_key: {wrong}" in run_module(MODULE, path=str(sealed), public_key=str(wrong))["msg"]
    result = run_module(MODULE, path=str(sealed), state="sealed", private_key=str(wrong))
    assert f"private_key: {wrong}" in result["msg"]


def test_check_mode_makes_nothing(run_module: Any, folder: Path, key: Path) -> None:
    result = run_module(MODULE, check=True, path=str(folder), state="sealed", private_key=str(key))
    assert result["changed"]
    assert not key.exists() and not (folder / "manifest.json").exists()
