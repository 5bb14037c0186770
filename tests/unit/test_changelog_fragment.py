"""tools/changelog_fragment.sh in a repository of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "tools/changelog_fragment.sh"


class Repository:
    def __init__(self, folder: Path):
        self.folder = folder
        own = ("GIT_", "CHANGELOG_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        for part in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{part}_NAME": "tester", f"GIT_{part}_EMAIL": "tester@example.com"}
        self.environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        (folder / "tools").mkdir(parents=True)
        shutil.copy(ROOT / SCRIPT, folder / SCRIPT)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("README.md")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.folder, env=self.environment, check=True)

    def write(self, *names: str) -> None:
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("a") as file:
                file.write("text\n")

    def commit(self, *names: str) -> None:
        self.write(*names)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")

    def check(self, **environment: str) -> subprocess.CompletedProcess:
        command = ["bash", self.folder / SCRIPT]
        return subprocess.run(command, env=self.environment | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def branch(repository) -> Repository:
    """What CI has of a pull request: a branch, while main went on."""
    repository.git("checkout", "--quiet", "-b", "topic")
    repository.git("checkout", "--quiet", "main")
    repository.commit("roles/monitoring/tasks/main.yml")
    repository.git("checkout", "--quiet", "topic")
    return repository


@pytest.mark.parametrize("name", ["roles/a/tasks/main.yml", "plugins/modules/a.py", "playbooks/site.yml"])
def test_a_change_without_a_fragment_is_refused_by_name(branch, name):
    branch.commit(name)
    result = branch.check(CHANGELOG_BASE="main")
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == [name]


def test_a_change_with_a_fragment_passes(branch):
    branch.commit("roles/a/tasks/main.yml", "changelogs/fragments/1-a.yml")
    assert branch.check(CHANGELOG_BASE="main").returncode == 0


@pytest.mark.parametrize("name", ["docs/operations.md", "roles/a/README.md", "tests/unit/test_a.py"])
def test_what_users_do_not_run_needs_none(branch, name):
    branch.commit(name)
    assert branch.check(CHANGELOG_BASE="main").returncode == 0


def test_a_fragment_that_was_there_before_does_not_count(repository):
    repository.commit("changelogs/fragments/1-a.yml")
    repository.git("tag", "1.0.0")
    repository.commit("roles/a/tasks/main.yml")
    assert repository.check().returncode == 1


def test_what_is_not_committed_counts(repository):
    repository.git("tag", "1.0.0")
    repository.commit("roles/a/tasks/main.yml")
    repository.write("changelogs/fragments/1-a.yml")
    assert repository.check().returncode == 0
    repository.git("clean", "--quiet", "--force", "-d")
    repository.write("roles/a/tasks/main.yml")
    assert repository.check().returncode == 1


def test_origin_comes_before_a_tag(repository):
    repository.git("tag", "1.0.0")
    repository.commit("roles/a/tasks/main.yml")
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD")
    assert repository.check().returncode == 0
    repository.commit("roles/a/tasks/main.yml")
    assert repository.check().returncode == 1


def test_without_anything_to_compare_with_it_says_so_and_passes(repository):
    repository.commit("roles/a/tasks/main.yml")
    result = repository.check()
    assert result.returncode == 0
    assert "nothing to compare with" in result.stdout


def test_a_base_that_is_named_must_be_there(repository):
    result = repository.check(CHANGELOG_BASE="origin/main")
    assert result.returncode == 1
    assert "CHANGELOG_BASE is origin/main" in result.stderr


def test_a_shallow_clone_says_what_it_lacks(branch, tmp_path):
    branch.commit("roles/a/tasks/main.yml")
    clone = tmp_path / "clone"
    branch.git("clone", "--quiet", "--depth=1", "--no-single-branch", f"file://{branch.folder}", str(clone))
    command = ["bash", clone / SCRIPT]
    environment = branch.environment | {"CHANGELOG_BASE": "origin/main"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "with their history" in result.stderr
