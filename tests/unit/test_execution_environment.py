"""The execution environment's definition, by ansible-builder's own schema and against the controller's requirements."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
ARCHIVE = f"tf2x-serving-{GALAXY['version']}.tar.gz"


def builder(*arguments: str | Path) -> subprocess.CompletedProcess:
    # As in `make setup`: beside the Python that runs the tests.
    command = shutil.which("ansible-builder", path=Path(sys.executable).parent) or "ansible-builder"
    return subprocess.run([command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def definition(tmp_path) -> Path:
    (tmp_path / "build/galaxy").mkdir(parents=True)
    (tmp_path / "build/galaxy" / ARCHIVE).write_text("archive")
    shutil.copy(ROOT / "execution-environment.yml", tmp_path)
    return tmp_path / "execution-environment.yml"


def create(definition: Path) -> subprocess.CompletedProcess:
    context = definition.parent / "context"
    return builder("create", "--file", definition, "--context", context, "--output-filename", "Containerfile")


def test_ansible_builder_makes_a_context_with_the_collection_in_it(definition):
    created = create(definition)
    assert created.returncode == 0, created.stdout + created.stderr
    files = definition.parent / "context/_build"
    (collection,) = yaml.safe_load((files / "requirements.yml").read_text())["collections"]
    # The context's _build is /build in the stage that installs collections.
    assert (files / Path(collection["name"]).relative_to("/build")).read_text() == "archive"
    assert "WORKDIR /build" in (definition.parent / "context/Containerfile").read_text()


def test_a_key_that_the_schema_does_not_know_is_refused(definition):
    definition.write_text(definition.read_text().replace("ansible_core:", "ansible_cor:"))
    created = create(definition)
    assert created.returncode != 0
    assert "'ansible_cor' was unexpected" in created.stdout + created.stderr


def test_the_collection_asks_for_what_the_controller_has():
    # build/collections leads to this checkout.
    found = builder("introspect", ROOT / "build/collections")
    assert found.returncode == 0, found.stderr
    needed = {line.split()[0] for line in yaml.safe_load(found.stdout)["python"]}
    asked = re.findall(r"(?m)^([a-z][\w-]*)", (ROOT / "requirements/controller.in").read_text())
    assert needed == set(asked) - {"ansible"}
    assert "openssh-clients [platform:rpm]" in found.stdout


def test_ansible_core_and_python_are_the_controller_s():
    lock = (ROOT / "requirements/controller.txt").read_text()
    core = DEFINITION["dependencies"]["ansible_core"]["package_pip"]
    assert f"\n{core} \\" in lock
    python = DEFINITION["dependencies"]["python_interpreter"]["package_system"]
    assert f"pip-compile with Python {python.removeprefix('python')}\n" in lock
