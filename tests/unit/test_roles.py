"""What every role promises: typed options equal to defaults and README, and a dispatcher that only dispatches."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
STAGES = ["preflight", "install", "configure", "service", "verify"]


def load(role: str, path: str):
    return yaml.safe_load((ROOT / "roles" / role / path).read_text())


def spec(role: str) -> dict:
    return load(role, "meta/argument_specs.yml")["argument_specs"]


def test_six_roles():
    assert ROLES == [
        "centos_base",
        "docker_swarm",
        "fastapi_service",
        "miniconda_prod_env",
        "monitoring",
        "tf_serving_stack",
    ]


@pytest.mark.parametrize("role", ROLES)
def test_options_equal_defaults(role):
    documented = {name: option.get("default") for name, option in spec(role)["main"]["options"].items()}
    assert documented == load(role, "defaults/main.yml")


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_typed_described_and_named_after_the_role(role):
    def walk(options, path):
        for name, option in options.items():
            where = f"{path}{name}"
            assert option.get("type"), f"{where} has no type"
            assert option.get("description"), f"{where} has no description"
            assert option["type"] != "list" or option.get("elements"), f"{where} does not type its elements"
            walk(option.get("options", {}), f"{where}.")

    for entry in spec(role).values():
        assert entry["short_description"]
        for name in entry["options"]:
            assert name.startswith(f"{role}_"), f"{name} is not named after {role}"
        walk(entry["options"], "")


@pytest.mark.parametrize("role", ROLES)
def test_entry_points_exist(role):
    assert {"main", "preflight", "teardown"} <= set(spec(role))
    for entry in spec(role):
        assert (ROOT / "roles" / role / "tasks" / f"{entry}.yml").is_file()


@pytest.mark.parametrize("role", ROLES)
def test_main_only_dispatches(role):
    stages = []
    for task in load(role, "tasks/main.yml"):
        assert set(task) == {"name", "ansible.builtin.import_tasks", "tags"}
        stage = task["ansible.builtin.import_tasks"].removesuffix(".yml")
        assert {role, f"{role}_{stage}"} <= set(task["tags"]) <= {role, *(f"{role}_{name}" for name in STAGES)}
        stages.append(stage)
    assert stages == [stage for stage in STAGES if stage in stages]
    assert stages[0] == "preflight"


@pytest.mark.parametrize("role", ROLES)
def test_tags_stand_in_the_dispatcher_only(role):
    for path in (ROOT / "roles" / role).rglob("*.yml"):
        if path.parent.name in {"tasks", "handlers"} and path.name != "main.yml":
            for task in yaml.safe_load(path.read_text()):
                assert "tags" not in task, f"{path}: {task.get('name')}"


@pytest.mark.parametrize("role", ROLES)
def test_no_role_depends_on_another(role):
    assert load(role, "meta/main.yml")["dependencies"] == []


def test_readmes_are_up_to_date():
    check = subprocess.run(
        [sys.executable, ROOT / "tools/role_readmes.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout


def tasks_of(path):
    """Yield a file's tasks, those in blocks as well."""
    waiting = list(yaml.safe_load(path.read_text()) or [])
    while waiting:
        task = waiting.pop()
        for kind in ("block", "rescue", "always", "tasks", "pre_tasks"):
            waiting += task.get(kind, [])
        yield task


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *(ROOT / "roles").glob("*/tasks/*.yml"),
            *(ROOT / "playbooks").glob("*.yml"),
            *(ROOT / "playbooks/tasks").glob("*.yml"),
        ]
    ),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_shell_alone_expands_variables(path):
    """Ansible would put a variable's value into the script's text, where the shell reads it as a part of the script."""
    for task in tasks_of(path):
        command = task.get("ansible.builtin.command")
        if command and "environment" in task and "sh" in str(command.get("argv", ""))[:80]:
            assert command.get("expand_argument_vars") is False, task["name"]
