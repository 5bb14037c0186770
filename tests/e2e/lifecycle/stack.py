"""The running stack: its registry of models, their stores, and what the gateways count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hosts import Lab, LabError

MODEL = "colours"

_SERVING_SERVICE = "PROD-STACK_tf_serving"


@dataclass(frozen=True, kw_only=True)
class Stack(Lab):
    """How to reach it. `hosts` are the serving ones; `gateway_host` runs a gateway, `manager` holds the registry."""

    gateways: tuple[str, ...]
    hosts: tuple[str, ...]
    manager: str
    gateway_host: str
    root: str = "/opt/tf2x"

    @property
    def store(self) -> str:
        """The folder of the model's versions on a serving host."""
        return f"{self.root}/models/{MODEL}"

    async def model(self) -> dict[str, Any]:
        """Return the registry's entry of the model. Raises LabError when there is none."""
        path = f"{self.root}/registry.json"
        document = json.loads(await self.on(self.manager, "cat", path))
        try:
            return document["models"][MODEL]
        except LookupError:
            raise LabError(f"{path} on {self.manager} has no model {MODEL}: {document}") from None

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

    @contextlib.asynccontextmanager
    async def full_store(self, host: str, free_bytes: int) -> AsyncIterator[None]:
        """Leave `free_bytes` to the models on a host. Raises LabError unless their file system is a small one."""
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


def _metrics_page(gateway: str) -> str:
    try:
        with urllib.request.urlopen(f"{gateway}/metrics", timeout=10) as response:
            return response.read().decode()
    except OSError as error:
        raise LabError(f"the gateway {gateway} does not answer: {error}") from error
