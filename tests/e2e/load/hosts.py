"""The hosts (containers of the lab), and the playbooks that change them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PLAYBOOK_SECONDS = 1200
_HOST_SECONDS = 120


class LabError(Exception):
    """The hosts, or what runs on them, are not what the driver needs."""


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


@dataclass(frozen=True, kw_only=True)
class Lab:
    """How to reach the hosts: each is a container of that name."""

    inventory: Path
    checkout: Path
    docker: tuple[str, ...] = ("docker",)
    ansible_playbook: str = "ansible-playbook"

    async def engine(self, *arguments: str, stdin: bytes | None = None, seconds: float = _HOST_SECONDS) -> bytes:
        """Run a command of the engine that runs the hosts and return what it prints. Raises LabError when it fails."""
        process = await asyncio.create_subprocess_exec(
            *self.docker,
            *arguments,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        shown = f"docker {' '.join(arguments)[:_SHOWN_CHARACTERS]}"
        talking = asyncio.create_task(process.communicate(stdin))
        try:
            output, errors = await asyncio.wait_for(asyncio.shield(talking), seconds)
        except asyncio.TimeoutError:
            process.kill()
            await talking
            raise LabError(f"{shown} did not end within {seconds:g} s") from None
        except asyncio.CancelledError:
            # What is half done cannot be undone.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(talking, seconds)
            raise
        if process.returncode != 0:
            raise LabError(f"{shown} ended with {process.returncode}: {errors.decode().strip()}")
        return output

    async def on(self, host: str, *command: str, stdin: bytes | None = None, seconds: float = _HOST_SECONDS) -> str:
        """Run a command on a host and return what it prints. Raises LabError when it fails."""
        interactive = [] if stdin is None else ["--interactive"]
        return (await self.engine("exec", *interactive, host, *command, stdin=stdin, seconds=seconds)).decode()

    async def read(self, host: str, path: str) -> bytes:
        """Return the content of a host's file. Raises LabError when it cannot be read."""
        return await self.engine("exec", host, "cat", path)

    async def play(
        self,
        playbook: str,
        extra: Mapping[str, Any],
        tags: str | None = None,
        seconds: float = _PLAYBOOK_SECONDS,
        inventory: Path | None = None,
    ) -> Command:
        """Run a playbook, or its tasks with `tags`, with extra variables to its end, or end it after `seconds`.

        `inventory` takes the place of the lab's own.
        """
        variables = [f"{name}={value}" for name, value in extra.items() if not isinstance(value, (dict, list))]
        structured = {name: value for name, value in extra.items() if isinstance(value, (dict, list))}
        variables += [json.dumps(structured)] if structured else []
        arguments = [self.ansible_playbook, "-i", str(inventory or self.inventory), f"playbooks/{playbook}.yml"]
        arguments += [part for variable in variables for part in ("-e", variable)]
        arguments += ["--tags", tags] if tags else []
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=self.checkout,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(self.checkout / "ansible.cfg"),
                "ANSIBLE_FORCE_COLOR": "0",
                "TF2X_CHECKOUT": str(self.checkout),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_own_group_and_usual_priority,
        )
        reading = asyncio.create_task(process.communicate())
        try:
            output, _none = await asyncio.wait_for(asyncio.shield(reading), seconds)
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            os.killpg(process.pid, signal.SIGKILL)
            output, _none = await reading
            if isinstance(error, asyncio.CancelledError):
                raise
            output += f"\nended by the driver after {seconds:g} s\n".encode()
        ended = time.monotonic()
        return Command(" ".join(arguments), process.returncode, output.decode(errors="replace"), began, ended)


_SHOWN_CHARACTERS = 100


def _own_group_and_usual_priority() -> None:
    os.setpgid(0, 0)
    # The driver may have a higher one, for the sake of its clock.
    os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
