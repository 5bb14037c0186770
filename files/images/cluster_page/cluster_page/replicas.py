"""What TF Serving replicas say of the models that they serve."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from cluster_page.http_client import Unreachable, get
from cluster_page.swarm import Task

logger = logging.getLogger(__name__)

# The labels that releases give. There is a canary beside the stable version only.
STABLE, CANARY = "stable", "canary"
EVERY_SECONDS = 5.0
ANSWER_SECONDS = 3.0
# TF Serving counts a question for an absent label as a failed request: one replica is asked for all, and seldom.
ABSENT_LABEL_SECONDS = 15.0
# Together at most 16 replicas a second: a round of many takes longer than EVERY_SECONDS, and no more of a core.
TICK_SECONDS = 0.5
REPLICAS_A_TICK = 8


@dataclass
class _Replica:
    """One replica; `models`: what it said last, None before it was asked."""

    address: str
    names: tuple[str, ...]
    due: float = 0.0
    asking: bool = False
    models: list[dict[str, Any]] | None = None
    labels: set[tuple[str, str]] = field(default_factory=set)


class Replicas:
    """Asks the replicas that `follow` names while `ask` runs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._replicas: dict[str, _Replica] = {}
        # Of a label, by model, label and available versions: that some replica has it, or when to look for it again.
        self._present: set[tuple[str, str, tuple[int, ...]]] = set()
        self._again: dict[tuple[str, str, tuple[int, ...]], float] = {}

    def follow(self, tasks: Iterable[Task]) -> None:
        """Take running tasks with models from now on, and no others."""
        wanted = {task.id: task for task in tasks if task.models and task.address and task.state == "running"}
        self._replicas = {
            name: self._replicas.get(name) or _Replica(task.address, task.models) for name, task in wanted.items()
        }

    def forget(self) -> None:
        """Know nothing of any replica: what was said long ago is not shown as if it were so now."""
        self._replicas = {}
        self._present.clear()
        self._again.clear()

    def models(self, task_id: str) -> list[dict[str, Any]] | None:
        replica = self._replicas.get(task_id)
        return replica.models if replica else None

    async def ask(self, changed: Callable[[], None]) -> None:
        """Ask for ever; call `changed` when the answers did."""
        loop = asyncio.get_running_loop()
        asking: set[asyncio.Task[bool]] = set()
        try:
            while True:
                due = [one for one in self._replicas.values() if one.due <= loop.time() and not one.asking]
                for replica in sorted(due, key=lambda one: one.due)[:REPLICAS_A_TICK]:
                    replica.asking = True
                    asking.add(asyncio.create_task(self._ask(replica)))
                await asyncio.sleep(TICK_SECONDS)
                done = {one for one in asking if one.done()}
                asking -= done
                if any(one.result() for one in done):
                    changed()
        finally:
            for one in asking:
                one.cancel()

    async def _ask(self, replica: _Replica) -> bool:
        """Ask one replica about its models; tell whether it says something else than before."""
        before = replica.models
        try:
            replica.models = [await self._model(replica, name) for name in replica.names]
        except Exception:
            logger.exception("replica %s answered in an unforeseen way", replica.address)
        finally:
            replica.asking = False
            replica.due = asyncio.get_running_loop().time() + EVERY_SECONDS
        return replica.models != before

    async def _model(self, replica: _Replica, name: str) -> dict[str, Any]:
        path = f"/v1/models/{quote(name, safe='')}"
        try:
            status, text = await get(replica.address, self._port, path, ANSWER_SECONDS)
            body = json.loads(text)
            if status != 200:
                return {"name": name, "error": f"HTTP {status}: {body['error']}", "versions": []}
            found = [_version(entry) for entry in body["model_version_status"]]
        except Unreachable as error:
            return {"name": name, "error": str(error), "versions": []}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"name": name, "error": "the answer is not TF Serving's", "versions": []}
        # Versions that were unloaded stay in the list; the ones that ended for a reason are of interest.
        shown = (one for one in found if one["state"] != "END" or "error" in one)
        versions = sorted(shown, key=lambda one: one["version"])
        labels = await self._labels(replica, name, [one["version"] for one in versions if one["state"] == "AVAILABLE"])
        for one in versions:
            one["labels"] = [label for label, version in labels.items() if version == one["version"]]
        return {"name": name, "versions": versions}

    async def _labels(self, replica: _Replica, name: str, available: list[int]) -> dict[str, int]:
        """Return which of the available versions each label stands for on this replica."""
        now = asyncio.get_running_loop().time()
        labels: dict[str, int] = {}
        for label in (STABLE, CANARY) if len(available) > 1 else (STABLE,) if available else ():
            known, key = (name, label), (name, label, tuple(available))
            if known not in replica.labels and key not in self._present:
                if now < self._again.get(key, now):
                    continue
                if label == CANARY:
                    self._again[key] = now + ABSENT_LABEL_SECONDS
            version = await self._version_of(replica, name, label)
            if version is None:
                replica.labels.discard(known)
                self._present.discard(key)
                self._again[key] = now + ABSENT_LABEL_SECONDS
                continue
            if known not in replica.labels:
                replica.labels.add(known)
                self._present.add(key)
            labels[label] = version
        return labels

    async def _version_of(self, replica: _Replica, name: str, label: str) -> int | None:
        # The status of a label is that of all versions; only its metadata says which one it stands for.
        path = f"/v1/models/{quote(name, safe='')}/labels/{label}/metadata"
        try:
            status, text = await get(replica.address, self._port, path, ANSWER_SECONDS)
            return int(json.loads(text)["model_spec"]["version"]) if status == 200 else None
        except (Unreachable, ValueError, KeyError, TypeError):
            return None


def _version(entry: dict[str, Any]) -> dict[str, Any]:
    version: dict[str, Any] = {"version": int(entry["version"]), "state": entry["state"]}
    status = entry.get("status") or {}
    if status.get("error_code", "OK") != "OK":
        version["error"] = status.get("error_message") or status["error_code"]
    return version
