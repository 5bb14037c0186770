"""A controller with a copy of inventory/gcp, whose Google is the fake."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fake_google import PROJECT, Google

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent


@dataclass
class Run:
    code: int
    output: str

    @property
    def words(self) -> str:
        """The output without line breaks and the quotes of YAML, so that sentences can be found in it."""
        return " ".join(self.output.replace("''", "'").split())

    @property
    def changed(self) -> int:
        return int(re.findall(r"changed=(\d+)", self.output)[-1])


class Controller:
    def __init__(self, google: Google, environment: dict[str, str], folder: Path) -> None:
        self.google = google
        self.folder = folder
        self.inventory = folder / "inventory/gcp"
        self.environment = (
            os.environ | environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        )
        shutil.copytree(ROOT / "inventory/gcp", self.inventory)
        source = self.inventory / "gcp_compute.yml"
        source.write_text(source.read_text().replace("my-project", PROJECT))
        (folder / "id.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIexample me@here\n")
        settings = self.inventory / "group_vars/all/gcp.yml"
        self.settings: dict[str, Any] = yaml.safe_load(settings.read_text())
        self.set(
            gcp_project=PROJECT,
            gcp_client_ranges=["192.0.2.0/24"],
            gcp_admin_ranges=["203.0.113.7/32"],
            gcp_ssh_public_key_file=str(folder / "id.pub"),
        )

    def set(self, **settings: Any) -> None:
        self.settings |= settings
        (self.inventory / "group_vars/all/gcp.yml").write_text(yaml.safe_dump(self.settings))

    def play(self, playbook: str, *options: str) -> Run:
        # No terminal: a question gets no answer.
        done = subprocess.run(
            [BIN / "ansible-playbook", "-i", self.inventory, ROOT / f"playbooks/{playbook}.yml", *options],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    def hosts(self) -> dict[str, Any]:
        listed = subprocess.run(
            [BIN / "ansible-inventory", "-i", self.inventory, "--list"],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(listed.stdout)
        return found
