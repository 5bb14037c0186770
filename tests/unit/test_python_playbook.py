"""playbooks/python.yml on hosts that cannot be had here: its shell text between stubs of their commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "playbooks/files/python.sh"

RELEASES = {
    "centos7": 'ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"\nPRETTY_NAME="CentOS Linux 7 (Core)"\n',
    "rhel7": 'ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="7.9"\nPRETTY_NAME="Red Hat Enterprise Linux Server 7.9"\n',
    "rocky8": 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="8.10"\nPRETTY_NAME="Rocky Linux 8.10"\n',
    "rhel8": 'ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="8.10"\nPRETTY_NAME="Red Hat Enterprise Linux 8.10"\n',
    "rocky9": 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\nPRETTY_NAME="Rocky Linux 9.4"\n',
    "debian12": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
}
BASE_REPOSITORY = """[base]
name=CentOS-$releasever - Base
mirrorlist=http://mirrorlist.centos.org/?release=$releasever&arch=$basearch&repo=os
#baseurl=http://mirror.centos.org/centos/$releasever/os/$basearch/
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-7
"""
COLLECTIONS_REPOSITORY = """[centos-sclo-rh]
mirrorlist=http://mirrorlist.centos.org?arch=$basearch&release=7&repo=sclo-rh
#baseurl=http://mirror.centos.org/centos/7/sclo/$basearch/rh/
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-CentOS-SIG-SCLo
"""
OWN_REPOSITORY = "[own]\nbaseurl=http://mirror.example.com/centos/7/os/x86_64/\n"

# Each writes down how it was called. A Python that was not called as `python -m venv` runs nothing.
STUBS = {
    "uname": "echo x86_64",
    "rpm": """
        for package; do
          case $package in --*) ;; *) [ -e "$test_root/installed/$package" ] || exit 1 ;; esac
        done""",
    "yum": """
        echo "yum $*" >>"$test_root/asked"
        for package; do case $package in --*|install) ;; *) touch "$test_root/installed/$package" ;; esac; done
        case "$*" in
          *scl-rh) cp "$test_root/collections" "$test_root/etc/yum.repos.d/CentOS-SCLo-scl-rh.repo" ;;
          *rh-python38*) cp "$test_root/python" "$test_root/opt/rh/rh-python38/root/usr/bin/python3.8" ;;
        esac""",
    "dnf": """
        echo "dnf $*" >>"$test_root/asked"
        touch "$test_root/installed/python3.11"
        cp "$test_root/python" "$test_root/usr/bin/python3.11" """,
    "ldconfig": 'echo ldconfig >>"$test_root/asked"',
}
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c "*) case $0 in */python3.8) [ -e "$test_root/etc/ld.so.conf.d/rh-python38.conf" ] || exit 127 ;; esac ;;
  "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && echo "venv by ${0##*/}" >>"$test_root/asked" ;;
  "-m pip") cat >"$test_root/locked" && echo "pip $*" >>"$test_root/asked" ;;
esac
"""


class Host:
    def __init__(self, root: Path, release: str):
        self.root, self.folder = root, root / "opt/tf2x-ansible"
        for folder in (
            *("stubs", "installed", "usr/bin", "opt/rh/rh-python38/root/usr/bin"),
            *("etc/yum.repos.d", "etc/ld.so.conf.d"),
        ):
            (root / folder).mkdir(parents=True)
        (root / "etc/os-release").write_text(RELEASES[release])
        (root / "python").write_text(PYTHON)
        (root / "python").chmod(0o755)
        (root / "collections").write_text(COLLECTIONS_REPOSITORY)
        for name, text in STUBS.items():
            (root / "stubs" / name).write_text(f"#!/bin/sh\n{text}\n")
            (root / "stubs" / name).chmod(0o755)
        self.environment = {"test_root": str(root), "PATH": f"{root}/stubs:{os.environ['PATH']}"}

    def run(self, allow_eol: str = "false", **variables: str) -> subprocess.CompletedProcess:
        variables = {
            "allow_eol": allow_eol,
            "vault": "https://vault.example.com/7",
            "folder": str(self.folder),
            "lock_3_8": "lock for 3.8",
            "lock_3_11": "lock for 3.11",
            **variables,
        }
        return subprocess.run(
            ["sh", SCRIPT], env=self.environment | variables, capture_output=True, text=True, check=False
        )

    def asked(self) -> list[str]:
        asked = self.root / "asked"
        lines = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return lines

    def repository(self, name: str) -> Path:
        return self.root / "etc/yum.repos.d" / name


@pytest.fixture
def host(tmp_path, request):
    return Host(tmp_path, request.param)


def changes(result: subprocess.CompletedProcess) -> list[str]:
    assert result.returncode == 0, result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith("changed: ")]


@pytest.mark.parametrize("host", ["centos7"], indirect=True)
def test_centos_7_is_refused_with_the_reason_and_left_as_it_is(host):
    host.repository("CentOS-Base.repo").write_text(BASE_REPOSITORY)
    result = host.run()
    assert result.returncode == 1
    assert "centos_base_allow_eol is false" in result.stderr
    assert "CentOS Linux 7 (Core)" in result.stderr
    assert "June 2024" in result.stderr
    assert host.asked() == []
    assert host.repository("CentOS-Base.repo").read_text() == BASE_REPOSITORY


@pytest.mark.parametrize("host", ["centos7"], indirect=True)
def test_centos_7_gets_the_vault_and_python_3_8(host):
    host.repository("CentOS-Base.repo").write_text(BASE_REPOSITORY)
    host.repository("CentOS-Own.repo").write_text(OWN_REPOSITORY)
    result = host.run("true")
    assert len(changes(result)) == 5
    assert result.stdout.splitlines()[-1] == f"ansible_python_interpreter: {host.folder}/bin/python"

    base = host.repository("CentOS-Base.repo").read_text()
    assert "\nbaseurl=https://vault.example.com/7/os/$basearch/\n" in base
    assert "\n#mirrorlist=" in base
    assert "gpgcheck=1" in base
    assert host.repository("CentOS-Base.repo.mirrors").read_text() == BASE_REPOSITORY
    collections = host.repository("CentOS-SCLo-scl-rh.repo").read_text()
    assert "\nbaseurl=https://vault.example.com/7/sclo/$basearch/rh/\n" in collections
    assert host.repository("CentOS-Own.repo").read_text() == OWN_REPOSITORY

    asked = host.asked()
    assert [line for line in asked if not line.startswith("pip")] == [
        "yum --quiet --assumeyes install centos-release-scl-rh",
        "yum --quiet --assumeyes install rh-python38-python rh-python38-python-pip",
        "ldconfig",
        "venv by python3.8",
    ]
    assert "--require-hashes" in asked[-1]
    assert (host.root / "locked").read_text() == "lock for 3.8\n"
    assert (
        (host.root / "etc/ld.so.conf.d/rh-python38.conf").read_text().endswith("/opt/rh/rh-python38/root/usr/lib64\n")
    )

    assert changes(host.run("true")) == []
    assert host.asked() == []


@pytest.mark.parametrize("host", ["rocky8", "rhel8"], indirect=True)
def test_version_8_gets_python_3_11_and_a_new_lock_makes_the_environment_anew(host):
    assert len(changes(host.run())) == 2
    asked = host.asked()
    assert asked[:2] == ["dnf --quiet --assumeyes install python3.11", "venv by python3.11"]
    assert (host.root / "locked").read_text() == "lock for 3.11\n"

    assert changes(host.run()) == []
    assert host.asked() == []

    assert changes(host.run(lock_3_11="newer")) == [f"changed: {host.folder} is made"]
    assert (host.root / "locked").read_text() == "newer\n"


@pytest.mark.parametrize("host", ["rocky8"], indirect=True)
def test_an_environment_that_was_not_finished_is_made_anew(host):
    host.run()
    (host.folder / ".lock").unlink()
    assert changes(host.run()) == [f"changed: {host.folder} is made"]


@pytest.mark.parametrize("host", ["rhel7"], indirect=True)
def test_what_the_vault_has_nothing_for_is_refused(host):
    result = host.run("true")
    assert result.returncode == 1
    assert "Red Hat Enterprise Linux Server 7.9" in result.stderr
    assert host.asked() == []


@pytest.mark.parametrize("host", ["rocky9", "debian12"], indirect=True)
def test_newer_hosts_are_left_as_they_are(host):
    assert changes(host.run()) == []
    assert host.asked() == []
    assert not host.folder.exists()


@pytest.mark.parametrize("host", ["rocky8"], indirect=True)
def test_the_playbook_says_what_changed_and_what_belongs_into_the_inventory(host):
    def play() -> str:
        return subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                *("--inventory", "localhost,", "--connection", "local"),
                *("--extra-vars", f"ansible_become=false python_folder={host.folder}", ROOT / "playbooks/python.yml"),
            ],
            env=os.environ | host.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first = play()
    assert "changed=1 " in first
    assert f"ansible_python_interpreter: {host.folder}/bin/python" in first
    assert "jsondiff==" in (host.root / "locked").read_text()
    assert "changed=0 " in play()
