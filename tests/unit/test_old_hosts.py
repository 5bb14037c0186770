"""What the roles say to hosts that cannot be had here. Their facts are made up; the tasks are the roles' own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def facts(release: str, python: str = "3.11.9") -> dict:
    return {
        "distribution": "CentOS" if release == "7" else "Rocky",
        "distribution_version": {"7": "7.9", "8": "8.10", "9": "9.4"}[release],
        "distribution_major_version": release,
        "os_family": "RedHat",
        "pkg_mgr": "yum" if release == "7" else "dnf",
        "python_version": python,
        "service_mgr": "systemd",
        "default_ipv4": {"address": "192.0.2.1"},
    }


def run(tmp_path: Path, faked: dict, *tasks: dict, **variables) -> str:
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable} | variables,
        "tasks": [
            {
                "name": "Pretend",
                "ansible.builtin.set_fact": {f"ansible_{name}": value for name, value in faked.items()}
                | {"cacheable": True},
            },
            *tasks,
        ],
    }
    path = tmp_path / "play.yml"
    path.write_text(yaml.safe_dump([play], sort_keys=False))
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "--inventory", "localhost,", "--connection", "local", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"rc={done.returncode} {' '.join(done.stdout.split())}"


def role(name: str, tasks: str) -> dict:
    return {
        "name": name,
        "ansible.builtin.include_role": {"name": f"tf2x.serving.{name}", "tasks_from": tasks, "public": True},
    }


def test_centos_7_is_refused_with_the_reason(tmp_path):
    said = run(tmp_path, facts("7"), role("centos_base", "host"))
    assert "rc=2" in said
    assert "CentOS 7.9, which has had no security updates since June 2024" in said
    assert "centos_base_allow_eol: true" in said


def test_centos_7_is_taken_when_it_was_asked_for(tmp_path):
    said = run(tmp_path, facts("7"), role("centos_base", "host"), centos_base_allow_eol=True)
    assert "rc=0" in said


def test_the_firewall_of_centos_7_is_refused(tmp_path):
    said = run(tmp_path, facts("7"), role("centos_base", "checks"), centos_base_allow_eol=True)
    assert "rc=2" in said
    assert "Set centos_base_firewall: false" in said


@pytest.mark.parametrize("python", ["2.7.5", "3.6.8", "3.7.17"])
def test_an_old_python_is_refused_with_the_way_out(tmp_path, python):
    said = run(tmp_path, facts("8", python), role("centos_base", "host"))
    assert "rc=2" in said
    assert f"Python {python}" in said
    assert "playbooks/python.yml" in said


@pytest.mark.parametrize(("release", "packages"), [("7", 0), ("8", 0), ("9", 3)])
def test_packages_for_the_modules_come_from_the_distribution_where_its_python_is_used(tmp_path, release, packages):
    check = {
        "name": "Count",
        "ansible.builtin.assert": {"that": f"__docker_swarm_python_packages | length == {packages}"},
    }
    assert "rc=0" in run(tmp_path, facts(release), role("docker_swarm", "facts"), check)
