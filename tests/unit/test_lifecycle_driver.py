"""The driver of tests/e2e/lifecycle judges rightly; gateway and playbooks do here what each test tells them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e/lifecycle"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e/load"))

import cases
import run
from hosts import LabError
from lifecycle import run_cases
from rows import Row
from scripted_gateway import LABELS, Gateway
from stack import Stack

ROOT = Path(__file__).resolve().parents[2]
SCORES = {1: (0.2, 0.5, 0.3), 2: (0.1, 0.2, 0.7), 3: (0.6, 0.3, 0.1)}
VARIANTS = {"swapped": SCORES[2], "swapped2": SCORES[3], "slow": (0.3, 0.3, 0.4), "padded": (0.25, 0.5, 0.25)}
BROKEN = ("wrong_shape", "missing_variables", "nan", "bad_warmup")

STABLE_1 = {
    "versions": {"1": {}},
    "loaded": [1],
    "labels": {"stable": 1},
    "previous": None,
    "canary": None,
    "history": [],
}
STABLE_2 = {**STABLE_1, "versions": {"1": {}, "2": {}}, "loaded": [1, 2], "labels": {"stable": 2}, "previous": 1}
CANDIDATE_2 = {**STABLE_1, "versions": {"1": {}, "2": {}}, "loaded": [1, 2]}


def canary_2(percent: float, mode: str = "split") -> dict[str, Any]:
    canary = {"mode": mode, "percent": percent, "sticky": False}
    return {**CANDIDATE_2, "labels": {"stable": 1, "canary": 2}, "canary": canary}


def golden(scores: tuple[float, ...]) -> dict[str, Any]:
    return {"labels": LABELS, "cases": [{"outputs": {"scores": {"values": scores}}}]}


# Does what play.json says for the playbook: files to write, folders to make, text to print, and the status to end with.
PLAYBOOK = """#!{python}
import json, os, pathlib, sys, time
told = json.loads(pathlib.Path({told!r}).read_text())[pathlib.Path(sys.argv[3]).stem]
time.sleep(told.get("seconds", 0.5))
for path, content in told.get("write", {{}}).items():
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    # The gateway may read it at any moment.
    pathlib.Path(path + ".new").write_text(json.dumps(content))
    os.replace(path + ".new", path)
print(" ".join(sys.argv[1:]))
print(told.get("output", ""))
print("host : ok=5    changed=%d    unreachable=0" % told.get("changed", 1))
sys.exit(told.get("status", 0))
"""

# The host is this machine.
DOCKER = """#!/bin/sh
shift
[ "$1" = --interactive ] && shift
shift
exec "$@"
"""


class World:
    """A stack of one host in a folder."""

    def __init__(self, folder: Path, gateway: str) -> None:
        self.folder = folder
        self.registry = folder / "opt/registry.json"
        self.store = folder / "opt/models/colours"
        self.behaviour = folder / "behaviour.json"
        self.variants = folder / "variants"
        for name, scores in VARIANTS.items():
            self._model(self.variants / name, scores)
        for name in BROKEN:
            self._model(self.variants / name, (0.0, 0.0, 1.0))
        picture = ROOT / "tests/models/colours/1/assets.extra/golden-stripes.png"
        shutil.copy(picture, self.variants / "swapped/assets.extra")
        scripts = {"ansible-playbook": PLAYBOOK.format(python=sys.executable, told=str(folder / "play.json"))}
        for name, script in {**scripts, "docker": DOCKER}.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        self.stack = Stack(
            gateways=(gateway,),
            inventory=folder / "hosts.yml",
            checkout=folder,
            hosts=("host",),
            manager="host",
            gateway_host="host",
            root=str(folder / "opt"),
            docker=(str(folder / "docker"),),
            ansible_playbook=str(folder / "ansible-playbook"),
        )

    @staticmethod
    def _model(folder: Path, scores: tuple[float, ...]) -> None:
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "assets.extra/golden.json").write_text(json.dumps(golden(scores)))

    def begin(self, model: dict[str, Any], **behaviour: Any) -> None:
        """Put the registry, the store and the gateway's answers in place."""
        for version in model["versions"]:
            self._model(self.store / version, SCORES[int(version)])
        self.registry.write_text(json.dumps(self.document(model)))
        self.behaviour.write_text(json.dumps(behaviour))

    @staticmethod
    def document(model: dict[str, Any]) -> dict[str, Any]:
        return {"format": 1, "revision": 1, "models": {"colours": model}}

    def playbook(
        self, name: str, model: dict[str, Any] | None = None, behaviour: dict[str, Any] | None = None, **told: Any
    ) -> None:
        """Say what a playbook does."""
        write = dict(told.pop("write", {}))
        if model is not None:
            write[str(self.registry)] = self.document(model)
        if behaviour is not None:
            write[str(self.behaviour)] = behaviour
        (self.folder / "play.json").write_text(json.dumps({name: {**told, "write": write}}))

    def run(self, name: str) -> Row:
        """Run one case as the command line does."""
        (row,) = uvloop.run(run_cases([name], self.stack, self.variants, self.folder))
        return row

    def log(self, name: str) -> Path:
        return self.folder / f"lifecycle-{name}.log"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(cases, "_NOTICE_SECONDS", 0)
    monkeypatch.setattr(cases, "_SHARE_SECONDS", 2)
    monkeypatch.setattr(cases, "_SHADOW_SECONDS", 1)
    monkeypatch.setattr(run, "LEAD_SECONDS", 0.4)
    monkeypatch.setattr(run, "TAIL_SECONDS", 1.0)
    with Gateway(tmp_path / "behaviour.json") as gateway:
        yield World(tmp_path, gateway.url)


def by(version: int, label: str = "stable", scores: tuple[float, ...] | None = None) -> tuple[Any, ...]:
    return version, label, scores or SCORES[version]


def test_a_good_publish(world: World) -> None:
    world.begin(STABLE_1, stable=by(1))
    world.playbook("publish_model", STABLE_2, {"stable": by(2)})
    row = world.run("publish")
    assert row.ok, row
    assert row.failed == 0
    # About two seconds of 50 requests a second.
    assert row.requests > 80
    assert row.seconds >= 0.5
    assert "p99" in row.detail
    (reported,) = json.loads((world.folder / "lifecycle.json").read_text())
    assert reported.keys() == {"case", "requests", "failed", "seconds", "ok", "detail"}
    assert (reported["case"], reported["requests"], reported["ok"]) == ("publish", row.requests, True)
    assert "publish" in (world.folder / "lifecycle.txt").read_text()
    assert not world.log("publish").exists()


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        ({"stable": by(1)}, "version out of phase: 1 (stable) where 2 (stable) may answer"),
        ({"stable": by(2, "canary")}, "version out of phase: 2 (canary) where"),
        ({"stable": by(2, scores=SCORES[1])}, "wrong scores: version 2"),
        ({"stable": by(2, scores=(float("nan"), 0.2, 0.7))}, "invalid answer"),
        ({"stable": by(2), "status": 503}, "503"),
        ({"stable": ("?", "stable", SCORES[2])}, "unreadable"),
    ],
    ids=["old version", "other label", "scores of another", "nan", "503", "no version"],
)
def test_wrong_answers_after_a_publish(world: World, behaviour: dict[str, Any], fault: str) -> None:
    world.begin(STABLE_1, stable=by(1))
    world.playbook("publish_model", STABLE_2, behaviour)
    row = world.run("publish")
    assert not row.ok
    # Those of the second after the command, and none from before it.
    assert 30 < row.failed < row.requests
    assert fault in row.detail


def test_a_new_version_before_its_time(world: World) -> None:
    world.begin(STABLE_1, stable=by(2))
    world.playbook("publish_model", STABLE_2, {"stable": by(2)})
    row = world.run("publish")
    assert not row.ok
    assert "2 (stable) where 1 (stable) may answer" in row.detail
    assert 10 < row.failed < row.requests


def test_a_publish_that_fails(world: World) -> None:
    world.begin(STABLE_1, stable=by(1))
    world.playbook("publish_model", status=2, output="fatal: [host]: no space")
    row = world.run("publish")
    assert not row.ok
    assert row.failed == 0
    assert "publish_model failed: fatal: [host]: no space" in row.detail
    assert "no space" in world.log("publish").read_text()


def test_the_registry_must_have_the_new_label(world: World) -> None:
    world.begin(STABLE_1, stable=by(1))
    world.playbook("publish_model", {**STABLE_2, "labels": {"stable": 1}}, {"stable": by(2)})
    row = world.run("publish")
    assert not row.ok
    assert "labels are {'stable': 1} in the registry, {'stable': 2} would be right" in row.detail


@pytest.mark.parametrize(("changed", "ok"), [(0, True), (1, False)])
def test_a_second_publish_changes_nothing(world: World, changed: int, ok: bool) -> None:
    world.begin(STABLE_2, stable=by(2))
    world.playbook("publish_model", changed=changed)
    row = world.run("publish-again")
    assert row.ok is ok
    assert ("1 tasks changed something" in row.detail) is not ok


@pytest.mark.parametrize(("every", "ok"), [(10, True), (2, False), (1000, False)])
def test_the_share_of_a_canary(world: World, every: int, ok: bool) -> None:
    world.begin(CANDIDATE_2, stable=by(1))
    world.playbook("canary", canary_2(10), {"stable": by(1), "canary": by(2, "canary"), "every": every})
    row = world.run("canary-10")
    assert row.ok is ok
    assert row.failed == 0
    assert "version 2 gave" in row.detail


def test_a_case_that_builds_on_another(world: World) -> None:
    world.begin(STABLE_1, stable=by(1))
    row = world.run("canary-50")
    assert not row.ok
    assert "there is no canary" in row.detail


def test_the_time_of_the_last_answer_before_a_rollback(world: World) -> None:
    world.begin(STABLE_2, stable=by(2))
    world.playbook("rollback", {**STABLE_1, "versions": STABLE_2["versions"]}, {"stable": by(1)}, seconds=3)
    row = world.run("rollback")
    assert row.ok, row
    found = row.detail.split("last answer of version 2 ")[1].split(" s")[0]
    assert 2 <= float(found) <= row.seconds + 1


@pytest.mark.parametrize(("shadow", "ok"), [(1, True), (0, False)])
def test_a_shadow_is_counted_and_not_seen(world: World, shadow: int, ok: bool) -> None:
    world.begin(CANDIDATE_2, stable=by(1))
    world.playbook("canary", canary_2(100, "shadow"), {"stable": by(1), "shadow": shadow})
    row = world.run("canary-shadow")
    assert row.ok is ok
    assert ("no answer of the shadow was compared" in row.detail) is not ok


def test_a_shadow_that_answers(world: World) -> None:
    world.begin(CANDIDATE_2, stable=by(1))
    world.playbook(
        "canary",
        canary_2(100, "shadow"),
        {"stable": by(1), "canary": by(2, "canary"), "every": 10, "shadow": 1},
    )
    row = world.run("canary-shadow")
    assert not row.ok
    assert "2 (canary) where 1 (stable) may answer" in row.detail


def test_clients_that_do_not_move_with_a_growing_share_are_noticed(world: World) -> None:
    world.begin(CANDIDATE_2, stable=by(1))
    clients = ["127.0.1.3", "127.0.1.9"]
    world.playbook("canary", canary_2(20), {"stable": by(1), "canary": by(2, "canary"), "clients": clients})
    row = world.run("canary-sticky")
    assert row.failed == 0
    assert "at 20 %, 2 of 40 clients in the canary; at 60 %, 2 of 40" in row.detail
    assert row.detail.startswith("FAULT: its share of the clients did not grow")
    assert "to and fro" not in row.detail


def test_clients_that_are_sent_to_and_fro_are_noticed(world: World) -> None:
    world.begin(CANDIDATE_2, stable=by(1))
    world.playbook("canary", canary_2(20), {"stable": by(1), "canary": by(2, "canary"), "every": 7})
    assert "clients were sent to and fro: ['127.0.1." in world.run("canary-sticky").detail


FAILED = {"at": "2026-11-22T10:00:00Z", "action": "publish", "version": 2, "outcome": "failed", "detail": "labels"}


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"model": {**STABLE_1, "history": [FAILED]}}, None),
        ({"status": 0}, "publish_model did not fail"),
        ({"output": "something"}, "does not tell the reason"),
        ({"model": STABLE_2}, "the registry's labels became {'stable': 2}, from {'stable': 1}"),
        ({"model": {**STABLE_1, "history": [{**FAILED, "outcome": "ok"}]}}, "the registry's history got"),
        ({"left": True}, "the stores have {'host': ['.incoming-2', '1']}, and had {'host': ['1']}"),
    ],
    ids=["good", "no failure", "no reason", "labels moved", "history", "left over"],
)
def test_a_broken_model(world: World, told: dict[str, Any], fault: str | None) -> None:
    world.begin(STABLE_1, stable=by(1))
    told = {"status": 2, "output": "labels are declared as red, green,\n  blue, and the golden file has grey", **told}
    write = {str(world.store / ".incoming-2/x"): 1} if told.pop("left", False) else {}
    world.playbook("publish_model", told.pop("model", None), write=write, **told)
    row = world.run("broken-wrong-shape")
    assert row.ok is (fault is None), row
    assert fault is None or fault in row.detail
    assert row.failed == 0
    assert told["output"] in world.log("broken-wrong-shape").read_text()


def test_a_disk_of_the_whole_machine_is_not_filled(world: World) -> None:
    world.begin(STABLE_1, stable=by(1))
    folder = world.store.parent
    free = shutil.disk_usage(folder).free
    if shutil.disk_usage(folder).total <= 1 << 30:
        pytest.skip("the file system here is a small one")
    row = world.run("disk-full")
    assert not row.ok
    assert f"the file system of {folder} has" in row.detail
    assert "one of 1 GiB at most is filled" in row.detail
    assert not (folder / ".filler").exists()
    assert shutil.disk_usage(folder).free > free - (1 << 30)


@pytest.mark.parametrize(("limit", "ok"), [(None, True), ("600", True), ("0.1", False)])
def test_the_time_of_a_publish_may_have_a_limit(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str | None, ok: bool
) -> None:
    monkeypatch.delenv(cases.PUBLISH_LIMIT, raising=False)
    if limit is not None:
        monkeypatch.setenv(cases.PUBLISH_LIMIT, limit)
    world.begin(STABLE_1, stable=by(1))
    padded = by(2, scores=VARIANTS["padded"])
    world.playbook("publish_model", STABLE_2, {"stable": padded})
    row = world.run("publish-padded")
    assert row.ok is ok, row
    assert "a model of 2 MB was in service after" in row.detail


def test_a_gateway_that_is_not_there(world: World) -> None:
    world.begin(STABLE_1, stable=by(1))
    world.playbook("models", changed=0, output="colours stable 1")
    world.stack = Stack(**{**vars(world.stack), "gateways": (*world.stack.gateways, "http://127.0.0.1:1")})
    with pytest.raises(LabError, match=r"http://127\.0\.0\.1:1 does not answer"):
        world.run("models")


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.e2e.lifecycle", *arguments]
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_line_says_what_it_lacks() -> None:
    assert command_line("--list").stdout.split()[:2] == ["publish", "publish-again"]
    unknown = command_line("publish", "publsh")
    assert unknown.returncode == 2
    assert "no such case: publsh; there are publish, publish-again" in unknown.stderr
    nothing = command_line("publish")
    assert nothing.returncode == 2
    assert "the environment lacks TF2X_GATEWAY_URLS, TF2X_INVENTORY, TF2X_SERVING_HOSTS" in nothing.stderr
