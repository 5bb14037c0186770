"""One case: traffic that goes on while playbooks run, and what is wrong with the outcome."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from answers import Answer, Phase, Timeline, golden_scores, judge, phase, share
from hosts import Command, LabError
from rows import Findings, NotReady, Row
from stack import MODEL, Stack
from traffic import Traffic

# Requests a second, shared out among the gateways.
RATE = 50.0

# Of traffic before and after what a case does.
LEAD_SECONDS = 1.0
TAIL_SECONDS = 2.0


@dataclass(kw_only=True)
class Run(Findings):
    """What a case works with: `right` are the right scores by version, `variants` is the folder of the models by name.

    A case calls `play` for its commands, `expect` for what must hold, and `note` for figures.
    """

    stack: Stack
    right: dict[int, dict[str, float]]
    variants: Path
    traffic: Traffic
    model: dict[str, Any]
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        canary = self.model.get("canary")
        split = canary and canary["mode"] == "split" and canary["percent"] > 0
        self._phase = phase(self.stable, self.labels["canary"] if split else None)
        self._phase_since = 0.0

    @property
    def labels(self) -> dict[str, int]:
        """The registry's labels, as of the last `play`."""
        return self.model["labels"]

    @property
    def stable(self) -> int:
        """The version in service."""
        return self.labels["stable"]

    @property
    def newest(self) -> int:
        """The highest version in the registry."""
        return max(map(int, self.model["versions"]))

    @property
    def next_version(self) -> int:
        """The number that the next publish gets: no number is used again, not even one of a failed publish."""
        used = [event["version"] for event in self.model["history"] if event["version"] is not None]
        return max([*map(int, self.model["versions"]), *used]) + 1

    @property
    def candidate(self) -> int:
        """The newest version that is loaded without a label or a part in a rollback. Raises NotReady without one."""
        free = set(self.model["loaded"]) - set(self.labels.values()) - {self.model["previous"]}
        if not free:
            raise NotReady(f"no version is loaded for a canary: {self.model['loaded']}, labels {self.labels}")
        return max(free)

    @property
    def canary(self) -> int:
        """The version under trial. Raises NotReady without one."""
        if "canary" not in self.labels:
            raise NotReady("there is no canary")
        return self.labels["canary"]

    def source(self, variant: str) -> Path:
        """Return the folder of a variant."""
        return self.variants / variant

    def expect_labels(self, **labels: int) -> None:
        """The registry must have these labels and no others."""
        self.expect(self.labels == labels, f"labels are {self.labels} in the registry, {labels} would be right")

    async def play(
        self,
        playbook: str,
        *,
        after: Phase | None = None,
        also: Phase = frozenset(),
        fails: str | None = None,
        tags: str | None = None,
        **extra: Any,
    ) -> Command:
        """Run a playbook, or its tasks with `tags`, with `extra` variables; read the registry again.

        `after` may answer once it has ended, by default who may before; meanwhile both may, and `also`. A playbook that
        is to fail must print what the expression `fails` finds, line breaks aside.
        """
        after = self._phase if after is None else after
        command = await self.stack.play(playbook, extra, tags)
        self.timeline.allow(self._phase, self._phase_since, command.ended)
        self.timeline.allow(after | also, command.began, command.ended)
        # A failure that was not foreseen is one fault; the answers after it are not many more.
        unclear = command.status != 0 and fails is None
        self._phase = self._phase | after | also if unclear else after
        self._phase_since = command.ended
        self.expect_end(playbook, command, fails)
        self.model = await self.stack.model()
        return command

    async def publish(self, variant: str, **options: Any) -> int:
        """Publish a variant as the next version and return its number; options as for `play`."""
        version = self.next_version
        self.learn(version, variant)
        await self.play("publish_model", **{"model": "colours", "source": self.source(variant), **options})
        return version

    def learn(self, version: int, variant: str) -> None:
        """From now on this version's answers are right when they are the variant's."""
        self.right[version] = variant_scores(self.variants, variant)

    async def watch(self, seconds: float) -> list[Answer]:
        """Let traffic go on, and return what was asked and answered meanwhile and could be read."""
        since = time.monotonic()
        await asyncio.sleep(seconds)
        return [answer for answer in _readable(self.traffic) if answer.sent >= since]

    async def expect_share(self, version: int, seconds: float, low: float, high: float) -> None:
        """The version must give between `low` and `high` (0 to 1) of the answers."""
        answers = await self.watch(seconds)
        if not answers:
            self.faults.append("no answers to take a share of")
            return
        found = share(answers, version)
        self.note(f"version {version} gave {found:.1%} of {len(answers)} answers")
        self.expect(low <= found <= high, f"its share is {found:.1%}, {low:.0%} to {high:.0%} would be right")

    def last_answer_of(self, version: int, command: Command) -> str:
        """Return in words how long after the start of a command a version still answered."""
        times = [answer.received - command.began for answer in _readable(self.traffic) if answer.version == version]
        return f"last answer of version {version} {max(times, default=0.0):.1f} s after the start of the command"

    def finish(self, row: Row) -> None:
        """Judge the traffic, which has ended, and complete the row."""
        self.timeline.allow(self._phase, self._phase_since, math.inf)
        judgement = judge(self.traffic.answers, MODEL, self.right, self.timeline)
        row.seconds = sum(command.seconds for command in self.commands)
        self.complete(row, self.traffic.result, judgement)


Case = Callable[[Run], Awaitable[None]]


def variant_scores(variants: Path, variant: str) -> dict[str, float]:
    """Return the right scores of a variant for the golden picture."""
    return golden_scores(json.loads((variants / variant / "assets.extra" / "golden.json").read_text()))


def _readable(traffic: Traffic) -> list[Answer]:
    found = []
    for raw in traffic.answers:
        try:
            found.append(Answer.parse(raw, MODEL))
        except ValueError:
            continue
    return found


async def run_case(
    name: str,
    case: Case,
    *,
    stack: Stack,
    right: dict[int, dict[str, float]],
    variants: Path,
    picture: bytes,
    log: Path,
) -> Row:
    """Run a case under traffic and return its row; a log of its playbooks is written if anything failed."""
    row = Row(name)
    log.unlink(missing_ok=True)
    run: Run | None = None
    try:
        model = await stack.model()
        async with Traffic(stack.gateways, MODEL, picture, rate=RATE) as traffic:
            run = Run(stack=stack, right=right, variants=variants, traffic=traffic, model=model)
            await traffic.lead(LEAD_SECONDS)
            try:
                await case(run)
            except (LabError, NotReady) as error:
                run.faults.append(str(error))
            await asyncio.sleep(TAIL_SECONDS)
        run.finish(row)
    except (LabError, OSError) as error:
        row.detail = f"FAULT: {error}"
    if run is not None and (not row.ok or any(command.status for command in run.commands)):
        run.write_log(log)
    return row
