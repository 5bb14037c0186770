"""Measure the playbooks on hosts that are as they should be: site.yml, which has nothing to do, and the health check.

    python benchmarks/deploy.py one=inventory/demo five=inventory/ha

Each runs three times on each inventory; figures are medians. Writes build/bench-deploy.json, with noop_<name>_s and
health_<name>_s, and build/bench-deploy.txt, which has tasks and seconds by role as well. What is not measured now is
kept from the run before. A figure that misses its limit is marked MISSED; the exit status stays 0 then, since a busy
machine is no fault of the playbooks'. It is 1 when site.yml changes something or a playbook fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
_PLAYBOOK_SECONDS = 900
_PLAYBOOKS = {"noop": "site", "health": "health_check"}
_OTHER = "(outside of roles)"

NOOP_ONE_SECONDS = 25
NOOP_FIVE_TO_ONE = 2
HEALTH_FIVE_SECONDS = 15


class PlaybookError(Exception):
    """A playbook failed, or changed what it should leave alone."""


@dataclass(frozen=True)
class Role:
    """How many tasks a playbook ran of a role, also those that were skipped on every host, and how long they took."""

    tasks: int
    seconds: float


def play(playbook: str, inventory: str) -> tuple[float, dict[str, Role]]:
    """Run a playbook that has nothing to change; return its seconds and its roles. Raises PlaybookError otherwise."""
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, f"playbooks/{playbook}.yml"]
    profile = {
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all",
        "PROFILE_TASKS_SUMMARY_ONLY": "true",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "0",
    }
    began = time.monotonic()
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **profile},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_PLAYBOOK_SECONDS,
    )
    seconds = time.monotonic() - began
    recap = re.findall(r"^(\S+)\s*: ok=\d+\s+changed=(\d+)", result.stdout, re.MULTILINE)
    changed = [host for host, count in recap if int(count)]
    if result.returncode != 0 or not recap or changed:
        log = ROOT / "build" / f"bench-deploy-{playbook}.log"
        log.write_text(result.stdout)
        what = f"changed something on {', '.join(changed)}" if changed else f"ended with {result.returncode}"
        raise PlaybookError(f"playbooks/{playbook}.yml with {inventory} {what}; its output is in {log}")
    return seconds, roles_of(result.stdout)


def roles_of(output: str) -> dict[str, Role]:
    """Return the roles of a playbook from what the callback profile_tasks printed."""
    tasks: dict[str, list[float]] = {}
    for name, seconds in re.findall(r"^(\S.*?) -+ (\d+\.\d+)s$", output.partition("TASKS RECAP")[2], re.MULTILINE):
        role, found, _task = name.partition(" : ")
        tasks.setdefault(role.rpartition(".")[2] if found else _OTHER, []).append(float(seconds))
    return {role: Role(len(each), sum(each)) for role, each in tasks.items()}


def measure(name: str, inventory: str) -> dict[str, Any]:
    """Return the figures of an inventory, and by playbook the roles with the medians of their seconds."""
    figures: dict[str, Any] = {"roles": {}}
    for kind, playbook in _PLAYBOOKS.items():
        runs = []
        for number in range(1, ROUNDS + 1):
            runs.append(play(playbook, inventory))
            print(f"{name}: {playbook}.yml {number}/{ROUNDS}: {runs[-1][0]:.1f} s", flush=True)
        figures[f"{kind}_{name}_s"] = round(statistics.median(seconds for seconds, _roles in runs), 1)
        figures["roles"][f"{playbook}_{name}"] = {
            role: {
                "tasks": first.tasks,
                "seconds": round(
                    statistics.median(roles[role].seconds for _seconds, roles in runs if role in roles), 1
                ),
            }
            for role, first in sorted(runs[0][1].items())
        }
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures against their limits, and the roles, as text."""
    one = figures.get("noop_one_s")
    limits = (
        ("noop_one_s", "site.yml without changes, one host", NOOP_ONE_SECONDS),
        ("noop_five_s", "site.yml without changes, five hosts", None if one is None else one * NOOP_FIVE_TO_ONE),
        ("health_one_s", "health_check.yml, one host", None),
        ("health_five_s", "health_check.yml, five hosts", HEALTH_FIVE_SECONDS),
    )
    lines = [f"{'':<40}{'seconds':>9}{'at most':>9}"]
    for key, text, limit in limits:
        if (value := figures.get(key)) is not None:
            missed = "  MISSED" if limit is not None and value > limit else ""
            lines.append(f"{text:<40}{value:>9.1f}{'' if limit is None else format(limit, '.1f'):>9}{missed}")
    for title, roles in sorted(figures.get("roles", {}).items()):
        lines += ["", f"{title:<40}{'tasks':>9}{'seconds':>9}"]
        lines += [f"  {role:<38}{each['tasks']:>9}{each['seconds']:>9.1f}" for role, each in roles.items()]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured now, with what was measured before and not now."""
    return {**old, **new, "roles": {**old.get("roles", {}), **new["roles"]}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the inventories that the command line names. Returns 0 if all playbooks had nothing to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventories", nargs="+", metavar="NAME=INVENTORY", help="NAME is `one` or `five`")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench-deploy", help="without suffix")
    options = parser.parse_args(arguments)
    document = options.output.with_suffix(".json")
    document.parent.mkdir(parents=True, exist_ok=True)
    for pair in options.inventories:
        name, _equals, inventory = pair.partition("=")
        if name not in ("one", "five") or not inventory:
            parser.error(f"found {pair}; one=INVENTORY or five=INVENTORY would be right")
        old = json.loads(document.read_text()) if document.exists() else {}
        try:
            figures = merged(old, measure(name, inventory))
        except (PlaybookError, subprocess.TimeoutExpired) as error:
            print(f"bench-deploy: {error}", file=sys.stderr)
            return 1
        document.write_text(json.dumps(figures, indent=2) + "\n")
        options.output.with_suffix(".txt").write_text(table(figures))
    print(table(figures), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
