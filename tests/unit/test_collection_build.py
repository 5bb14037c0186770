"""The collection as users get it: built from a checkout in use, installed into an empty path, called by full names."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))

SHIPPED = (
    r"(CHANGELOG|README)\.md|bindep\.txt|requirements-gcp\.yml"
    r"|(LICENSES|changelogs|docs|meta|playbooks|plugins|roles|inventory/(example|gcp))/.*"
    r"|files/(?!images/(lab_host|el_mirror)).*|requirements/(controller|core-[\d.]+)\.(in|txt)"
)
# What lies about in a checkout that somebody works with.
OWN_FILES = (
    ".vault_password",
    ".venv/bin/python",
    "backups/swarm-2026-01-01.tar.gz",
    "build/images/haproxy.tar",
    "bundle.key",
    "core-2.16/bin/python",
    "inventory/.secrets/password",
    "inventory/e/hosts.yml",
    "inventory/europe/hosts.yml",
    "inventory/gcp-2/hosts.yml",
    "inventory/gcp/.secrets/password",
    "inventory/example-2/hosts.yml",
    "inventory/example/.secrets/grafana_admin_password",
    "inventory/example/.vault_password",
    "inventory/prod/group_vars/all.yml",
    "roles/monitoring/files/front.pem",
    "tf2x-serving-0.0.1.tar.gz",
)


def run(*command, cwd: Path, collections: Path, returns: int = 0, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_HOME": str(cwd / "home")}
    result = subprocess.run(
        [shutil.which(command[0], path=BIN) or command[0], *command[1:]],
        env=environment | variables,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == returns, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    for name in TRACKED:
        if (ROOT / name).exists():
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "checkout" / name)
    for name in OWN_FILES:
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "checkout" / name).write_text("mine")
    run("ansible-galaxy", "collection", "build", "checkout", cwd=folder, collections=folder)
    (found,) = folder.glob("*.tar.gz")
    return found


def install(archive: Path, into: Path) -> Path:
    into.mkdir()
    command = ("ansible-galaxy", "collection", "install", "--offline", "--no-deps", "-p", into, archive)
    run(*command, cwd=into, collections=into)
    return into / "ansible_collections/tf2x/serving"


@pytest.fixture(scope="module")
def installed(archive) -> Path:
    return install(archive, archive.parent / "empty")


def playbook(installed: Path, *arguments, returns: int = 0) -> str:
    collections = installed.parents[2]
    return run("ansible-playbook", *arguments, cwd=collections.parent, collections=collections, returns=returns)


def test_archive_holds_what_is_needed_and_nothing_of_whoever_builds_it(archive):
    with tarfile.open(archive) as tar:
        names = {member.name for member in tar if member.isfile()}
    assert names == {name for name in TRACKED if re.fullmatch(SHIPPED, name)} | {"FILES.json", "MANIFEST.json"}
    assert archive.stat().st_size < 4_000_000


def test_references_lead_somewhere_where_it_is_installed(installed):
    references = []
    for path in [*installed.glob("roles/**/*.yml"), *installed.glob("playbooks/**/*.*")]:
        text = path.read_text()
        # From a role's folder and from playbooks/templates, both of which are two below the collection's.
        references += [(path, installed / name) for name in re.findall(r"~ '/\.\./\.\./([^']+)'", text)]
        references += [(path, installed / name) for name in re.findall(r"bundle_collection ~ '/([^']+)'", text)]
    assert len(references) >= 3
    for path in installed.glob("**/*.md"):
        links = re.findall(r"\]\(([^)#\s]+)|<img src=\"([^\"]+)\"", path.read_text())
        references += [(path, path.parent / "".join(link)) for link in links if "://" not in "".join(link)]
    assert not [(str(path), str(place)) for path, place in references if not place.exists()]


def test_every_playbook_is_called_by_its_full_name(installed):
    names = [f"tf2x.serving.{name}" for name in PLAYBOOKS]
    output = playbook(installed, "--syntax-check", "-i", installed / "inventory/example", *names)
    found = [Path(line.removeprefix("playbook: ")) for line in output.splitlines() if line.startswith("playbook: ")]
    assert found == [installed / f"playbooks/{name}.yml" for name in PLAYBOOKS]


def test_every_module_has_its_documentation(installed):
    names = [f"tf2x.serving.{name}" for name in MODULES]
    output = run("ansible-doc", "-t", "module", "--json", *names, cwd=installed, collections=installed.parents[2])
    found = json.loads(output)
    assert sorted(found) == names
    assert all(Path(entry["doc"]["filename"]).is_relative_to(installed) for entry in found.values())


@pytest.fixture(scope="module")
def inventory(installed) -> Path:
    """This machine. Its model is an empty folder, so that no system at all gets past the checks."""
    folder = installed.parents[3] / "inventory"
    (folder / "empty").mkdir(parents=True)
    groups = ("swarm_managers", "serving", "gateway", "monitoring")
    here = {"hosts": {"here": {"ansible_connection": "local", "ansible_become": False}}}
    variables = {
        "ansible_python_interpreter": sys.executable,
        "fastapi_service_models": [{"name": "pets", "labels": ["cat", "dog"]}],
        "tf_serving_stack_image_source": "build",
        "tf_serving_stack_models": [{"name": "pets", "source": str(folder / "empty"), "version": 1}],
    }
    children = dict.fromkeys(groups, here) | {"swarm": {"children": {"swarm_managers": {}}}}
    hosts = {"all": {"vars": variables, "children": children}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    return folder / "hosts.yml"


def refusal(installed: Path, inventory: Path, *arguments) -> tuple[str, str]:
    """The task that site.yml ends in, and its message."""
    output = playbook(installed, "--check", "-i", inventory, "tf2x.serving.site", *arguments, returns=2)
    assert re.search(r"here +: ok=\d+ +changed=0 +unreachable=0 +failed=1", output)
    before, after = output.split("fatal: [here", 1)
    return before.rsplit("TASK [", 1)[1].split("]")[0], re.search(r'"msg": "([^\n]+)"', after)[1]


def test_site_refuses_by_a_role_s_own_message(installed, inventory):
    task, message = refusal(installed, inventory)
    # Which one it is depends on the machine; on a host that could be used it is the model's.
    assert re.match(r"tf2x\.serving\.\w+ : ", task)
    # Ansible's own message would say where it looked for a file in vain.
    assert str(installed) not in message


def test_site_refuses_a_bundle_that_is_not_there(installed, inventory):
    found = refusal(installed, inventory, "-e", "tf2x_bundle=/nowhere")
    assert found == ("Verify the bundle", "path: /nowhere is no folder")


def test_images_are_built_from_where_it_is_installed(installed):
    command = (sys.executable, installed / "files/images/build.py", "--dry-run", "none")
    output = run(*command, cwd=installed, collections=installed, returns=1)
    assert re.search(r"known images: .*haproxy.*tf_serving_compat", output)


def test_an_installed_collection_packs_itself_into_a_bundle(archive, installed, tmp_path):
    tasks = yaml.safe_load((installed / "playbooks/tasks/bundle_controller.yml").read_text())
    (script,) = (task["ansible.builtin.command"]["argv"][2] for task in tasks if task["name"] == "Pack this collection")
    # Built images and bytecode come to lie there.
    (installed / "build").mkdir()
    (installed / "build/haproxy.tar").write_text("large")
    folders = {"collection": str(installed), "folder": str(tmp_path / "old"), "new": str(tmp_path / "new")}
    run("bash", "-c", script, cwd=tmp_path, collections=tmp_path, **folders)
    (packed,) = (tmp_path / "new/collections").iterdir()
    assert packed.name == archive.name
    with tarfile.open(archive) as built, tarfile.open(packed) as again:
        files = [sorted(os.path.normpath(member.name) for member in tar if member.isfile()) for tar in (built, again)]
    assert files[0] == files[1]
    assert (install(packed, tmp_path / "empty") / "playbooks/site.yml").is_file()
