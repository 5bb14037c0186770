"""The driver of tests/e2e/chaos judges rightly; swarm, gateways and playbooks do here what each test tells them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e/chaos"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e/load"))

import faults
import trial
from chaos import run_cases
from cluster import Cluster, hosts_of
from rows import Row
from scripted_gateway import LABELS, Gateway
from traffic import LoadResult

ROOT = Path(__file__).resolve().parents[2]
SCORES = (0.2, 0.5, 0.3)
MANAGERS, WORKERS = ("m1", "m2", "m3"), ("w1", "w2")
GATEWAYS = ("m1", "w1")

# A swarm in files: `state.json` says who is stopped or cut, which tasks there are and since when; `told.json` says
# what goes wrong. Whatever it is asked to do is in `calls.txt`.
DOCKER = """#!{python} -IS
import fcntl, json, pathlib, sys, time
folder = pathlib.Path({folder!r})
lock = (folder / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
state, told = (json.loads((folder / name).read_text()) for name in ("state.json", "told.json"))
arguments, now = sys.argv[1:], time.time()
with (folder / "calls.txt").open("a") as calls:
    print(" ".join(arguments).replace(chr(10), " "), file=calls)
hosts = state["managers"] + state["workers"]
def end(text="", status=0):
    # The driver ends questions that take too long, and the next one needs a whole state.
    (folder / "state.new").write_text(json.dumps(state))
    (folder / "state.new").replace(folder / "state.json")
    print(text, end=chr(10) if text else "", file=sys.stderr if status else sys.stdout)
    sys.exit(status)
def replace(task, host):
    state["number"] += 1
    again = {{"id": "t%d" % state["number"], "host": host, "service": task["service"]}}
    state["tasks"].append({{**again, "since": now + told.get("replica_seconds", 0.3)}})
def take(host):
    for task in [task for task in state["tasks"] if task["host"] == host and task["service"] == "replica"]:
        state["tasks"].remove(task)
        replace(task, next(other for other in hosts if other not in state["stopped"] + state["cut"]))
        state["strays"].append(task) if told.get("split") else None
    if host == state["leader"]:
        remaining = [other for other in state["managers"] if other not in state["stopped"]]
        state["leader"], state["leader_since"] = remaining[-1], now + told.get("election_seconds", 0.3)
def gateways(name):
    for path, behaviour in told.get(name, {{}}).items():
        # The gateway may read it at any moment.
        pathlib.Path(path + ".new").write_text(json.dumps(behaviour))
        pathlib.Path(path + ".new").replace(path)
if arguments[0] == "inspect":
    end("10.0.0.%d" % (hosts.index(arguments[-1]) + (9 if told.get("moves") and state.get("started") else 1)))
if arguments[0] == "stop":
    state["stopped"].append(arguments[-1])
    take(arguments[-1])
    gateways("while_stopped")
    end(told.get("stop_fails", ""), 1 if told.get("stop_fails") else 0)
if arguments[0] == "start":
    state["stopped"] = [host for host in state["stopped"] if host != arguments[-1]]
    state["started"] = True
    gateways("afterwards")
    end()
host, command = arguments[1], arguments[2:]
if host in state["stopped"]:
    end("container %s is not running" % host, 1)
if command[0] == "cat":
    end(pathlib.Path(command[1]).read_bytes().decode("latin-1") if command[1].endswith("png") else
        pathlib.Path(command[1]).read_text())
if command[0] == "systemctl":
    end("start-%s" % state["starts"].get(host, 0))
if command[0] == "dpkg-query":
    end(state["versions"].get(host, "20.10"))
if command[0] == "sed":
    state["versions"][host] = command[2].rpartition("Version: ")[2].strip("/")
    end()
if command[0] == "python3":
    end("", int(bool(state["cut"]) and not told.get("leaks")))
if command[:2] == ["sh", "-c"]:
    if "is-system-running" in command[2]:
        end("running")
    if "TF2X-CUT" in command[2] and len(command) > 3:
        state["cut"].append(host)
        take(host)
    elif "TF2X-CUT" in command[2]:
        # There may be none: the driver ended the cut before it was one.
        state["cut"] = [other for other in state["cut"] if other != host]
    elif "kill" in command[2]:
        (task,) = [task for task in state["tasks"] if task["id"] == command[-1]]
        state["tasks"].remove(task)
        replace(task, host)
        gateways("after_kill")
    end()
command = command[1:]
if command[0] == "info":
    end("active" if host in state["nodes"] else "inactive")
if command[0] == "inspect":
    end(command[-1])
service = "replica" if command[-1].endswith("tf_serving") or "tf_serving" in " ".join(command) else "balancer"
if command[0] == "ps":
    found = [task for task in state["tasks"] if task["since"] <= now] + state["strays"]
    end(chr(10).join("%s %s" % (task["id"], task["id"]) for task in found
        if task["host"] == host and task["service"] == service))
if 2 * len([manager for manager in state["managers"] if manager in state["stopped"]]) > len(state["managers"]):
    end("The swarm does not have a leader.", 1)
if command[0] == "node":
    rows = []
    for host in state["nodes"]:
        gone = host in state["stopped"] + state["cut"] and not told.get("never_down")
        role = "Leader" if host == state["leader"] and state["leader_since"] <= now else "Reachable"
        role = "Unreachable" if gone else role
        rows.append({{"Hostname": host, "Status": "Down" if gone else "Ready", "Availability": "Active",
                     "ManagerStatus": role if host in state["managers"] else ""}})
elif command[1] == "inspect":
    end(str(state["wanted"]))
else:
    rows = [{{"ID": task["id"], "Node": task["host"],
             "CurrentState": "Running 1 second ago" if task["since"] <= now else "Starting"}}
            for task in state["tasks"] if task["service"] == service]
end(chr(10).join(map(json.dumps, rows)))
"""

# Does what play.json has next for the playbook: what becomes of the state, text to print, the status to end with.
PLAYBOOK = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
name = next(pathlib.Path(argument).stem for argument in sys.argv if argument.startswith("playbooks/"))
plays = json.loads((folder / "play.json").read_text())
told = plays[name].pop(0)
(folder / "play.json").write_text(json.dumps(plays))
state = json.loads((folder / "state.json").read_text())
(folder / "state.json").write_text(json.dumps({{**state, **told.get("state", {{}})}}))
with (folder / "calls.txt").open("a") as calls:
    print(*sys.argv, file=calls)
    inventory = pathlib.Path(sys.argv[2])
    print(inventory.read_text(), *sorted(entry.name for entry in inventory.parent.iterdir()), file=calls)
print(told.get("output", ""))
sys.exit(told.get("status", 0))
"""


def task(number: int, host: str, service: str = "replica") -> dict[str, Any]:
    return {"id": f"t{number}", "host": host, "service": service, "since": 0}


REPLICAS = [task(number, host) for number, host in enumerate(("m1", "m2", "w1", "w2"))]
BALANCERS = [task(10 + number, host, "balancer") for number, host in enumerate((*MANAGERS, *WORKERS))]


class World:
    """Three managers and two workers in a folder, with a gateway on the first of each."""

    def __init__(self, folder: Path, gateways: list[Gateway]) -> None:
        self.folder = folder
        self.behaviours = [folder / f"behaviour-{host}.json" for host in GATEWAYS]
        self.good = {"stable": (1, "stable", SCORES)}
        for behaviour in self.behaviours:
            behaviour.write_text(json.dumps(self.good))
        root = folder / "opt"
        extra = root / "models/colours/1/assets.extra"
        extra.mkdir(parents=True)
        (root / "registry.json").write_text(json.dumps({"models": {"colours": {"labels": {"stable": 1}}}}))
        case = {"image": "golden.png", "outputs": {"scores": {"values": SCORES}}}
        (extra / "golden.json").write_text(json.dumps({"labels": LABELS, "cases": [case]}))
        (extra / "golden.png").write_bytes(b"a picture")
        for name, script in {"docker": DOCKER, "ansible-playbook": PLAYBOOK}.items():
            (folder / name).write_text(script.format(python=sys.executable, folder=str(folder)))
            (folder / name).chmod(0o755)
        self.state(
            managers=MANAGERS,
            workers=WORKERS,
            nodes=[*MANAGERS, *WORKERS],
            stopped=[],
            cut=[],
            strays=[],
            starts={},
            versions={},
            leader="m1",
            leader_since=0,
            wanted=len(REPLICAS),
            tasks=[*REPLICAS, *BALANCERS],
            number=100,
        )
        self.tell()
        self.cluster = Cluster(
            inventory=folder / "hosts.yml",
            checkout=folder,
            docker=(str(folder / "docker"),),
            ansible_playbook=str(folder / "ansible-playbook"),
            managers=MANAGERS,
            workers=WORKERS,
            serving=("m1", "m2", *WORKERS),
            monitoring=("m2",),
            gateways={host: gateway.url for host, gateway in zip(GATEWAYS, gateways, strict=True)},
            root=str(root),
            groups={
                "_meta": {},
                "swarm": {"children": ["swarm_managers", "swarm_workers"]},
                "swarm_managers": {"hosts": [*MANAGERS]},
                "swarm_workers": {"hosts": [*WORKERS]},
                "zone_b": {"hosts": ["w2"]},
            },
        )
        self.cluster.inventory.write_text("the inventory")
        (folder / "group_vars").mkdir()

    def state(self, **values: Any) -> None:
        path = self.folder / "state.json"
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))

    def tell(self, **told: Any) -> None:
        """Say what goes wrong."""
        (self.folder / "told.json").write_text(json.dumps(told))

    def plays(self, **plays: list[dict[str, Any]]) -> None:
        """Say what the playbooks do, run by run."""
        (self.folder / "play.json").write_text(json.dumps(plays))

    def run(self, name: str) -> Row:
        """Run one case as the command line does."""
        (row,) = uvloop.run(run_cases([name], self.cluster, "colours", 20, self.folder))
        return row

    @property
    def found(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    @property
    def calls(self) -> str:
        return (self.folder / "calls.txt").read_text()

    def failing(self, *numbers: int) -> dict[str, Any]:
        """Return what makes the gateways of these numbers fail."""
        return {str(self.behaviours[number]): {**self.good, "status": 503} for number in numbers}

    def well(self) -> dict[str, Any]:
        """Return what makes all gateways answer."""
        return {str(path): self.good for path in self.behaviours}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not become well is soon given up."""
    monkeypatch.setattr(trial, "SETTLE_SECONDS", 2)
    monkeypatch.setattr(trial, "REPLICAS_SECONDS", 2)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(trial, "LEAD_SECONDS", 0.3)
    monkeypatch.setattr(trial, "TAIL_SECONDS", 0.3)
    monkeypatch.setattr(faults, "CUT_SECONDS", 1)
    with Gateway(tmp_path / "behaviour-m1.json") as first, Gateway(tmp_path / "behaviour-w1.json") as second:
        yield World(tmp_path, [first, second])


def test_a_replica_that_is_killed(world: World) -> None:
    row = world.run("kill-replica")
    assert row.ok, row
    assert row.failed == 0
    assert row.requests > 20
    assert "4 replicas after" in row.detail
    assert "exec w2 sh -c kill -9" in world.calls
    (reported,) = json.loads((world.folder / "chaos.json").read_text())
    assert reported.keys() == {"case", "requests", "failed", "seconds", "ok", "detail"}
    assert "kill-replica" in (world.folder / "chaos.txt").read_text()


def test_requests_that_fail_when_a_replica_is_killed(world: World) -> None:
    world.tell(after_kill=world.failing(0, 1))
    row = world.run("kill-replica")
    assert not row.ok
    assert 5 < row.failed < row.requests
    assert "503" in row.detail


@pytest.mark.usefixtures("impatient")
def test_a_replica_that_does_not_come_back(world: World) -> None:
    world.tell(replica_seconds=600)
    row = world.run("kill-replica")
    assert not row.ok
    assert "after 2 s, 3 of 4 replicas run" in row.detail


@pytest.mark.usefixtures("impatient")
def test_a_swarm_that_is_not_well_to_begin_with(world: World) -> None:
    world.state(tasks=[*REPLICAS[1:], *BALANCERS])
    row = world.run("kill-replica")
    assert (row.ok, row.requests) == (False, 0)
    assert "3 of 4 replicas run" in row.detail
    assert "kill" not in world.calls


def test_a_balancer_that_is_killed(world: World) -> None:
    row = world.run("kill-balancer")
    assert row.ok, row
    assert "back after" in row.detail
    assert "exec m1 sh -c kill -9" in world.calls


def test_a_worker_that_stops(world: World) -> None:
    row = world.run("stop-worker")
    assert row.ok, row
    assert "stop --time 10 w2" in world.calls
    assert "start w2" in world.calls
    assert world.found["stopped"] == []


def test_requests_that_fail_while_a_worker_is_stopped(world: World) -> None:
    """Those that were in flight are forgiven, and only they."""
    world.tell(while_stopped=world.failing(0, 1), afterwards=world.well())
    row = world.run("stop-worker")
    assert not row.ok
    assert row.failed > 5
    assert world.found["stopped"] == []


@pytest.mark.parametrize(("lost", "forgiven"), [(3, 3), (50, 10)])
def test_requests_in_flight(world: World, lost: int, forgiven: int) -> None:
    class Lost:
        """Answers came for all but some, which were sent before the host was gone."""

        answers = ()

        def result_of(self, _gateways: object) -> LoadResult:
            result = LoadResult(sent=100, failed_sent=[1.0] * lost, latencies_ms=[1.0])
            result.failed["503"] = lost
            return result

    load = trial.Load("colours", 1, dict(zip(LABELS, SCORES)), b"", 20)
    run = trial.Trial(cluster=world.cluster, load=load, traffic=Lost())
    run.forgive_in_flight()
    row = Row("stop-worker")
    run.finish(row)
    assert row.failed == lost - forgiven
    assert f"{forgiven} requests were in flight" in row.detail


@pytest.mark.usefixtures("impatient")
def test_hosts_are_started_again_also_when_the_case_goes_wrong(world: World) -> None:
    world.tell(replica_seconds=600)
    row = world.run("stop-worker")
    assert not row.ok
    assert world.found["stopped"] == []
    world.tell(stop_fails="no such host")
    world.state(tasks=[*REPLICAS, *BALANCERS])
    assert "no such host" in world.run("stop-worker").detail
    assert world.found["stopped"] == []


def test_a_host_that_comes_back_with_another_address(world: World) -> None:
    world.tell(moves=True)
    assert "w2 came back as 10.0.0.13; the swarm knows it as 10.0.0.5" in world.run("stop-worker").detail


def test_a_leader_that_stops(world: World) -> None:
    world.tell(while_stopped=world.failing(0), afterwards=world.well())
    row = world.run("stop-leader")
    assert row.ok, row
    assert "m3 leads after" in row.detail
    assert "without the gateway of m1" in row.detail
    assert row.failed == 0
    assert "stop --time 10 m1" in world.calls


def test_a_leader_that_is_missed_for_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "LEADER_SECONDS", 1)
    world.tell(election_seconds=2)
    row = world.run("stop-leader")
    assert not row.ok
    assert "there was no leader for" in row.detail
    assert world.found["stopped"] == []


def test_a_network_that_is_cut_and_healed(world: World) -> None:
    row = world.run("cut-network")
    assert row.ok, row
    assert "4 replicas on the other side" in row.detail
    assert world.found["cut"] == []
    # Every other node's address, and no more.
    assert "sh 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4\n" in world.calls


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"leaks": True}, "m1 still reaches port 9501 of w2"),
        ({"never_down": True}, "node w2 is ['Ready'] at the end of the cut"),
        ({"split": True}, "w2 has replicas that the swarm does not want: t3"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_cut_that_is_none_or_leaves_something_behind(world: World, told: dict[str, Any], fault: str) -> None:
    world.tell(**told)
    row = world.run("cut-network")
    assert not row.ok
    assert fault in row.detail
    assert world.found["cut"] == []


def test_a_rolling_upgrade(world: World) -> None:
    world.plays(upgrade=[{"state": {"starts": dict.fromkeys((*MANAGERS, *WORKERS), 1)}}])
    row = world.run("rolling-upgrade")
    assert row.ok, row
    # The scripted playbook upgrades no package.
    assert "exec w1 sed -i /^Package: docker\\.io$/,/^$/ s/^Version: .*/Version: 0~aged/" in world.calls
    assert set(world.found["versions"].values()) == {"20.10"}


def test_an_upgrade_that_left_a_node_out(world: World) -> None:
    world.plays(upgrade=[{"state": {"starts": dict.fromkeys((*MANAGERS, "w1"), 1)}}])
    assert "the engines of w2 were not upgraded" in world.run("rolling-upgrade").detail


LOST = {
    "status": 2,
    "output": "fatal: The quorum is lost: 1 of 3 managers. Start them, or\n playbooks/restore_swarm.yml",
}


def test_two_managers_lost(world: World) -> None:
    world.plays(health_check=[LOST], site=[LOST])
    row = world.run("two-managers-lost")
    assert row.ok, row
    assert "quorum" in row.detail
    # The leader and the one without a gateway, started in the order of their addresses.
    assert "without the gateway of m1" in row.detail
    assert world.calls.index("start m1") < world.calls.index("start m2")
    assert world.found["stopped"] == []


@pytest.mark.parametrize(
    ("site", "fault"),
    [
        ({"status": 0}, "site did not fail"),
        ({"status": 4, "output": "m1: unreachable"}, "the output of site does not tell the reason"),
    ],
)
def test_a_lost_quorum_must_be_told(world: World, site: dict[str, Any], fault: str) -> None:
    world.plays(health_check=[LOST], site=[site])
    row = world.run("two-managers-lost")
    assert not row.ok
    assert fault in row.detail
    assert "$ " in (world.folder / "chaos-two-managers-lost.log").read_text()


def test_scaling(world: World) -> None:
    more = [*REPLICAS, task(20, "m1"), task(21, "m2"), *BALANCERS]
    world.plays(
        scale=[{"state": {"wanted": 6, "tasks": more}}, {"state": {"wanted": 4, "tasks": [*REPLICAS, *BALANCERS]}}]
    )
    row = world.run("scale")
    assert row.ok, row
    assert "-e replicas=6" in world.calls
    assert "-e replicas=4" in world.calls


def test_scaling_that_does_nothing(world: World) -> None:
    world.plays(scale=[{}, {}])
    assert "4 replicas are wanted and 4 run, not 6" in world.run("scale").detail


NODES = [*MANAGERS, *WORKERS]
LESS = {
    "nodes": NODES[:-1],
    "tasks": [*REPLICAS[:3], task(3, "m3"), *BALANCERS[:-1]],
}


def test_a_node_that_is_removed_and_added(world: World) -> None:
    world.plays(site=[{"state": LESS}, {"state": {"nodes": NODES, "tasks": [*LESS["tasks"], BALANCERS[-1]]}}])
    row = world.run("add-and-remove-node")
    assert row.ok, row
    removed = next(text for text in world.calls.splitlines() if text.startswith("{"))
    groups = json.loads(removed.rpartition("}")[0] + "}")
    assert groups["swarm_removed"] == {"hosts": {"w2": {}}}
    assert groups["swarm_workers"]["hosts"].keys() == {"w1"}
    assert groups["zone_b"]["hosts"].keys() == {"w2"}
    assert groups["swarm"]["children"].keys() == {"swarm_managers", "swarm_workers"}
    assert removed.rpartition("}")[2].split()[:2] == ["group_vars", "hosts.yml"]


@pytest.mark.usefixtures("impatient")
def test_a_node_that_stays(world: World) -> None:
    world.plays(site=[{}, {}])
    row = world.run("add-and-remove-node")
    assert "w2 is still a node of the swarm" in row.detail
    assert "w2 is active in a swarm, not inactive" in row.detail


def test_a_case_that_takes_too_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faults.CASES, "cut-network", trial.Case(faults.CASES["cut-network"].story, 0.5, False))
    assert "it was not over after 0.5 s" in world.run("cut-network").detail
    assert world.found["cut"] == []


def test_hosts_of_nested_groups() -> None:
    groups = {"serving": {"children": ["a", "b"]}, "a": {"hosts": ["x", "y"]}, "b": {"hosts": ["y", "z"]}}
    assert hosts_of(groups, "serving") == ("x", "y", "z")
    assert hosts_of(groups, "monitoring") == ()


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.e2e.chaos", *arguments]
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_line_says_what_it_lacks() -> None:
    short = ["kill-replica", "kill-balancer", "stop-worker", "stop-leader"]
    assert command_line("--list", "--short").stdout.split() == short
    assert command_line("--list").stdout.split()[: len(short) + 1] == [*short, "cut-network"]
    assert "no such case: kil; there are kill-replica" in command_line("kil").stderr
    nothing = command_line("--short")
    assert nothing.returncode == 2
    assert "the environment lacks TF2X_INVENTORY" in nothing.stderr
