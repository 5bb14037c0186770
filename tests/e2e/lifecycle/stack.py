"""The running stack: its hosts (containers), its registry of models, and the playbooks that change it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from answers import MODEL

_PLAYBOOK_SECONDS = 1200
_HOST_SECONDS = 120
_SERVING_SERVICE = "PROD-STACK_tf_serving"


class StackError(Exception):
    """The stack is not what the driver needs."""


@dataclass(frozen=True)
class Command:
    """A playbook that ended; times are those of `time.monotonic`."""

    line: str
    status: int
    output: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    @property
    def text(self) -> str:
        """The output without its line breaks: long messages are folded anywhere."""
        return " ".join(self.output.split())

    @property
    def changed(self) -> int | None:
        """How many tasks changed something, from the recap; None without a recap."""
        found = re.findall(r"^\S+\s*: ok=\d+\s+changed=(\d+)", self.output, re.MULTILINE)
        return sum(map(int, found)) if found else None


@dataclass(frozen=True)
class Stack:
    """How to reach it. `hosts` are the serving ones; `gateway_host` runs a gateway, `manager` holds the registry."""

    gateways: tuple[str, ...]
    inventory: Path
    checkout: Path
    hosts: tuple[str, ...]
    manager: str
    gateway_host: str
    root: str = "/opt/tf2x"
    docker: tuple[str, ...] = ("docker",)
    ansible_playbook: str = "ansible-playbook"

    @property
    def store(self) -> str:
        """The folder of the model's versions on a serving host."""
        return f"{self.root}/models/{MODEL}"

    async def on(self, host: str, *command: str, stdin: bytes | None = None) -> str:
        """Run a command on a host and return what it prints. Raises StackError when it fails."""
        interactive = [] if stdin is None else ["--interactive"]
        process = await asyncio.create_subprocess_exec(
            *self.docker,
            "exec",
            *interactive,
            host,
            *command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(stdin), _HOST_SECONDS)
        except asyncio.TimeoutError:
            process.kill()
            raise StackError(f"{host}: {command[:3]} did not end within {_HOST_SECONDS} s") from None
        if process.returncode != 0:
            raise StackError(f"{host}: {command[:3]} ended with {process.returncode}: {errors.decode().strip()}")
        return output.decode()

    async def model(self) -> dict[str, Any]:
        """Return the registry's entry of the model. Raises StackError when there is none."""
        path = f"{self.root}/registry.json"
        document = json.loads(await self.on(self.manager, "cat", path))
        try:
            return document["models"][MODEL]
        except LookupError:
            raise StackError(f"{path} on {self.manager} has no model {MODEL}: {document}") from None

    async def stored_golden(self, version: int) -> dict[str, Any]:
        """Return the golden file of a version, from the first host's store."""
        path = f"{self.store}/{version}/assets.extra/golden.json"
        return json.loads(await self.on(self.hosts[0], "cat", path))

    async def stored(self) -> dict[str, list[str]]:
        """Return what the model's folder holds, by host; half-published versions are part of it."""
        listings = await asyncio.gather(*(self.on(host, "ls", "-A", self.store) for host in self.hosts))
        return {host: sorted(listing.split()) for host, listing in zip(self.hosts, listings, strict=True)}

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels, over all gateways."""
        pages = await asyncio.gather(*(asyncio.to_thread(_metrics_page, gateway) for gateway in self.gateways))
        total = 0.0
        for line in "\n".join(pages).splitlines():
            sample = re.match(rf"{name}(?:{{(.*)}})? (\S+)$", line)
            if sample and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', sample[1] or "")).items():
                total += float(sample[2])
        return total

    async def image(self, service: str = _SERVING_SERVICE) -> str:
        """Return the image that a service is to run."""
        form = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
        return (await self.on(self.manager, "docker", "service", "inspect", "--format", form, service)).strip()

    async def play(
        self, playbook: str, extra: Mapping[str, Any], tags: str | None = None, seconds: float = _PLAYBOOK_SECONDS
    ) -> Command:
        """Run a playbook, or its tasks with `tags`, with extra variables to its end, or end it after `seconds`."""
        variables = [f"{name}={value}" for name, value in extra.items() if not isinstance(value, (dict, list))]
        structured = {name: value for name, value in extra.items() if isinstance(value, (dict, list))}
        variables += [json.dumps(structured)] if structured else []
        arguments = [self.ansible_playbook, "-i", str(self.inventory), f"playbooks/{playbook}.yml"]
        arguments += [part for variable in variables for part in ("-e", variable)]
        arguments += ["--tags", tags] if tags else []
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=self.checkout,
            env={**os.environ, "ANSIBLE_CONFIG": str(self.checkout / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_own_group_and_usual_priority,
        )
        reading = asyncio.create_task(process.communicate())
        try:
            output, _none = await asyncio.wait_for(asyncio.shield(reading), seconds)
        except asyncio.TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            output, _none = await reading
            output += f"\nended by the driver after {seconds:g} s\n".encode()
        ended = time.monotonic()
        return Command(" ".join(arguments), process.returncode, output.decode(errors="replace"), began, ended)

    @contextlib.asynccontextmanager
    async def full_store(self, host: str, free_bytes: int) -> AsyncIterator[None]:
        """Leave `free_bytes` to the models on a host. Raises StackError unless their file system is a small one."""
        filler = f"{self.root}/models/.filler"
        try:
            await self.on(host, "sh", "-c", _FILL, "sh", filler, str(free_bytes))
            yield
        finally:
            await self.on(host, "rm", "-f", filler)


# A host of the lab that has no file system of its own there would fill the disk of the whole machine.
_FILL = """set -eu
bytes() { df --output="$1" --block-size=1 "$2" | tail -n 1; }
folder=$(dirname "$1")
[ "$(bytes size "$folder")" -le 1073741824 ] || {
  echo "the file system of $folder has $(bytes size "$folder") bytes; one of 1 GiB at most is filled" >&2
  exit 1
}
fallocate --length "$(($(bytes avail "$folder") - $2))" "$1"
"""


def _own_group_and_usual_priority() -> None:
    os.setpgid(0, 0)
    # The driver may have a higher one, for the sake of its clock.
    os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))


def _metrics_page(gateway: str) -> str:
    try:
        with urllib.request.urlopen(f"{gateway}/metrics", timeout=10) as response:
            return response.read().decode()
    except OSError as error:
        raise StackError(f"the gateway {gateway} does not answer: {error}") from error
