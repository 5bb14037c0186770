"""What is asked of SELinux's commands, which are stubs here: no host of the tests has SELinux."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["/opt/tf2x/models", "/opt/tf2x/stacks"]


def task(role: str, file: str, name: str) -> dict:
    tasks = yaml.safe_load((ROOT / "roles" / role / "tasks" / file).read_text())
    return next(one for one in tasks if one["name"] == name)


@pytest.fixture
def sh(tmp_path):
    """Runs shell text with its own /sys/fs/selinux, /etc/selinux and /opt."""
    for folder in ("stubs", "sys/fs/selinux/booleans", "etc/selinux/targeted/contexts/files", "opt"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("semanage", "restorecon", "setsebool"):
        stub = tmp_path / "stubs" / name
        stub.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/asked\n[ ! -e {tmp_path}/fails-{name}-$2 ]\n')
        stub.chmod(0o755)

    def run(text: str, *arguments: str) -> list[str]:
        text = re.sub(r"/(sys/fs|etc)/selinux", rf"{tmp_path}\g<0>", text)
        done = subprocess.run(
            ["sh", "-c", text, "sh", *arguments],
            env={"PATH": f"{tmp_path}/stubs:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    run.root = tmp_path
    run.asked = lambda: (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    return run


@pytest.fixture
def question():
    return yaml.safe_load((ROOT / "roles/docker_swarm/vars/RedHat.yml").read_text())["__docker_swarm_selinux_question"]


def test_a_host_without_selinux_is_asked_nothing(sh, question):
    assert sh(question, *FOLDERS) == []
    assert sh.asked() == []


def test_folders_without_a_rule_are_named(sh, question):
    (sh.root / "sys/fs/selinux/enforce").write_text("1")
    assert sh(question, *FOLDERS) == ["semanage", *(f"unlabelled {folder}" for folder in FOLDERS)]
    rules = sh.root / "etc/selinux/targeted/contexts/files/file_contexts.local"
    rules.write_text(
        "/opt/tf2x/models(/.*)?    system_u:object_r:container_file_t:s0\n"
        "/opt/tf2x/stacks(/.*)?    system_u:object_r:usr_t:s0\n"
    )
    assert sh(question, *FOLDERS) == ["semanage", "unlabelled /opt/tf2x/stacks"]


def test_folders_are_made_and_labelled(sh):
    folders = [f"{sh.root}{folder}" for folder in FOLDERS]
    labelling = task("docker_swarm", "configure.yml", "Label the folders that containers mount")
    sh(labelling["vars"]["__docker_swarm_labelling"], *folders)
    assert sh.asked() == [
        *(f"semanage fcontext --add --type container_file_t {folder}(/.*)?" for folder in folders),
        f"restorecon -R {' '.join(folders)}",
    ]
    assert [Path(folder).stat().st_mode & 0o777 for folder in folders] == [0o755, 0o755]


def test_another_rule_for_a_folder_is_replaced(sh):
    folder = f"{sh.root}/opt/tf2x/models"
    (sh.root / "fails-semanage---add").touch()
    sh(
        task("docker_swarm", "configure.yml", "Label the folders that containers mount")["vars"][
            "__docker_swarm_labelling"
        ],
        folder,
    )
    assert f"semanage fcontext --modify --type container_file_t {folder}(/.*)?" in sh.asked()


def test_teardown_takes_the_rules_away(sh):
    unlabelling = task("docker_swarm", "teardown.yml", "Label folders no more")["vars"]["__docker_swarm_unlabelling"]
    assert sh(unlabelling, *FOLDERS) == FOLDERS
    assert sh.asked() == [f"semanage fcontext --delete {folder}(/.*)?" for folder in FOLDERS]


def test_the_switch_for_the_engines_metrics_is_turned_on_once(sh):
    text = task("monitoring", "service.yml", "Let SELinux allow that the engine's metrics are led to")
    text = text["ansible.builtin.shell"]["cmd"]
    switch = sh.root / "sys/fs/selinux/booleans/systemd_socket_proxyd_connect_any"
    assert sh(text) == []
    switch.write_text("0 0")
    assert sh(text) == ["changed"]
    switch.write_text("1 1")
    assert sh(text) == []
    assert sh.asked() == ["setsebool -P systemd_socket_proxyd_connect_any on"]


def test_nothing_turns_selinux_off():
    forbidden = re.compile(r"setenforce|permissive|SELINUX=|ansible\.posix\.selinux\b|update-crypto-policies|fips-mode")
    for folder in ("roles", "playbooks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".yml", ".j2", ".sh"}:
                assert not forbidden.search(path.read_text()), path
