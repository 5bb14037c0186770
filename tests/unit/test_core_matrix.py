"""The locks in requirements/core-*.txt are the list of supported ansible-core versions; what else names them agrees."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("core-*.txt"))
VERSIONS = sorted(tuple(map(int, lock.stem.removeprefix("core-").split("."))) for lock in LOCKS)
OLDEST, NEWEST = (".".join(map(str, version)) for version in (VERSIONS[0], VERSIONS[-1]))


def test_none_is_left_out():
    assert [(2, minor) for minor in range(VERSIONS[0][1], VERSIONS[-1][1] + 1)] == VERSIONS


def test_the_collection_asks_for_the_oldest():
    assert yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"] == f">={OLDEST}.0"


def test_readme_and_operations_name_oldest_and_newest():
    assert f"ansible-core {OLDEST} to {NEWEST}" in (ROOT / "README.md").read_text()
    assert f"| {OLDEST} to {NEWEST} |" in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_lock_is_of_its_version(lock):
    minor = lock.stem.removeprefix("core-")
    text = lock.read_text()
    assert re.findall(r"(?m)^ansible-core==(\d+\.\d+)\.\d+ ", text) == [minor]
    assert lock.with_suffix(".in").read_text() == f"ansible-core~={minor}.0\n"
    assert re.search(r"pip-compile with Python 3\.\d+$", text, re.MULTILINE)


@pytest.mark.parametrize("lock", [*LOCKS, *(ROOT / "playbooks/files").glob("*.txt")], ids=lambda lock: lock.stem)
def test_locks_have_hashes_and_no_addresses(lock):
    text = lock.read_text()
    assert "://" not in text
    entries = re.findall(r"(?m)^[a-z][^\n]*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)*", text)
    assert entries
    assert all("--hash" in entry for entry in entries)
