"""What a case found, and the report of the cases."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from answers import Judgement
from hosts import Command
from traffic import LoadResult

_SHOWN_LINES = 3


class NotReady(Exception):
    """What the case builds on is not there."""


@dataclass
class Row:
    """The outcome of a case; the driver says of what `seconds` are."""

    case: str
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    ok: bool = False
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as it is written to the report."""
        return {**asdict(self), "seconds": round(self.seconds, 1)}


@dataclass(kw_only=True)
class Findings:
    """What a case collects: its playbooks, what is wrong, and figures."""

    commands: list[Command] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(self, holds: object, fault: str) -> None:
        """Note a fault unless it holds."""
        if not holds:
            self.faults.append(fault)

    def note(self, text: str) -> None:
        """Add to the row's detail."""
        self.notes.append(text)

    def expect_end(self, playbook: str, command: Command, fails: str | None) -> None:
        """Keep a playbook that ended; it must be well, or fail and print what `fails` finds, line breaks aside."""
        self.commands.append(command)
        if fails is not None:
            self.expect(command.status != 0, f"{playbook} did not fail")
            self.expect(re.search(fails, command.text), f"the output of {playbook} does not tell the reason: {fails}")
        else:
            self.expect(command.status == 0, f"{playbook} failed: {_failure(command.output)}")

    def complete(self, row: Row, result: LoadResult, judgement: Judgement, forgiven: int = 0) -> None:
        """Fill in the row from what became of the requests; `forgiven` of the failed ones are no fault."""
        lost = result.failed + judgement.wrong
        if result.unsent > 0:
            lost["unsent"] = result.unsent
        examples = {**judgement.examples, **result.examples}
        found = [f"{count} x {kind}: {examples.get(kind, '')}".rstrip(": ") for kind, count in lost.items()]
        row.requests = result.sent + max(0, result.unsent)
        row.failed = sum(lost.values()) - forgiven
        if row.failed > 0:
            self.faults += found
        else:
            self.notes += found
        self.expect(judgement.answers, "not a single answer could be read")
        if result.latencies_ms:
            p50, p99 = result.percentile(50), result.percentile(99)
            self.note(f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {max(result.latencies_ms):.0f} ms")
        row.ok = not self.faults
        row.detail = "; ".join([*(f"FAULT: {fault}" for fault in self.faults), *self.notes])

    def write_log(self, log: Path) -> None:
        """Write what the playbooks printed."""
        log.write_text("".join(f"$ {each.line}\n{each.output}\n" for each in self.commands))


HEAD = f"{'case':<26}{'requests':>9}{'failed':>8}{'seconds':>9}  {'ok':<4}detail"


def line(row: Row) -> str:
    """Return the row as text."""
    ok = "yes" if row.ok else "NO"
    return f"{row.case:<26}{row.requests:>9}{row.failed:>8}{row.seconds:>9.1f}  {ok:<4}{row.detail}"


def write_report(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as `path`.json and `path`.txt."""
    path.with_suffix(".json").write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    path.with_suffix(".txt").write_text("".join(f"{text}\n" for text in (HEAD, *map(line, rows))))


def _failure(output: str) -> str:
    lines = [text.strip() for text in output.splitlines() if re.search(r"fatal:|ERROR|msg:|FAILED", text)]
    return " | ".join(lines[:_SHOWN_LINES]) or "no reason in its output"
