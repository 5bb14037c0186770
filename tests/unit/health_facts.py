"""What the health check has registered of a site, so that its report can be written without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("one", "two")
DIGEST = "sha256:" + "ab" * 32
REGISTRY = {
    "format": 1,
    "revision": 3,
    "models": {
        "pets": {
            "versions": {
                number: {"digest": DIGEST, "size_bytes": 1, "published_at": "2026-01-01T00:00:00Z"} for number in "12"
            },
            "loaded": [1, 2],
            "labels": {"stable": 2},
            "previous": 1,
            "canary": None,
            "history": [],
        }
    },
}


def facts() -> dict[str, dict[str, Any]]:
    """Return the variables of two hosts where all is well: a manager that gateways and monitors, and a worker."""
    stored = {"pets": [{"version": int(number), "digest": DIGEST} for number in "12"]}
    state = {"stored": stored, "config_differs": False, "replicas": [], "replicas_error": "", "answers": []}
    host = {
        "__health_check_host": {
            "rc": 0,
            "stdout_lines": [" 41%", "system Debian GNU/Linux 12 (bookworm), kernel 6.18.0"],
        },
        "__tf_serving_stack_registry": REGISTRY,
        "tf_serving_stack_state": state,
    }
    nodes = [
        {
            "Hostname": name,
            "Status": "Ready",
            "Availability": "Active",
            "ManagerStatus": "Leader" if name == "one" else "",
            "EngineVersion": "20.10.24",
        }
        for name in HOSTS
    ]
    service = {"name": "PROD-STACK_tf_serving", "wanted": 4, "running": 4, "image": "tensorflow/serving:2.20.0"}
    stack = {"services": [{**service, "update_state": None, "errors": []}], "__health_check_stack": "PROD-STACK"}
    check = {"name": "golden cat-1 http://127.0.0.1:9501", "ok": True, "detail": "largest difference 1.3e-08"}
    manager = {
        **host,
        "__health_check_nodes": {"rc": 0, "stdout_lines": [json.dumps(node) for node in nodes]},
        "__health_check_stacks": {"results": [stack]},
        "__health_check_round_trips": {"results": [{"checks": [check]}]},
        "monitoring_prometheus_url": "http://172.18.0.5:9090",
        "monitoring_state": {
            "pages": [{"name": "prometheus", "port": 9002, "ok": True, "detail": "asks for a password"}],
            "not_deployed": [{"name": "Grafana", "reason": "its image comes from a registry or an archive"}],
            "warnings": ["the front on one takes passwords unencrypted."],
        },
        "__health_check_targets": {
            "status": 200,
            "json": {"data": {"activeTargets": [{"labels": {"job": "tf_serving"}, "health": "up"}]}},
        },
        "__health_check_builds": answer(
            [build("prometheus_build_info", "2.42.0"), build("haproxy_process_build_info", "2.6.12")]
        ),
        "__health_check_recorded": answer(recorded()),
    }
    return {"one": manager, "two": host}


def answer(result: list[dict[str, Any]]) -> dict[str, Any]:
    return {"status": 200, "json": {"data": {"result": result}}}


def build(name: str, version: str) -> dict[str, Any]:
    return {"metric": {"__name__": name, "version": version, "instance": "one"}}


def recorded() -> list[dict[str, Any]]:
    """Return an hour of what the page's charts show."""
    end = int(time.time())

    def series(chart: str, value: float, **labels: str) -> dict[str, Any]:
        values = [[end - 3600 + 30 * number, str(value + number % 7)] for number in range(121)]
        return {"metric": {"chart": chart, **labels}, "values": values}

    return [
        series("requests", 40, model="pets"),
        series("errors", 0, model="pets"),
        series("p95", 20, model="pets", version="1"),
        series("p95", 25, model="pets", version="2"),
        series("replicas", 4),
    ]


def write_report(folder: Path, hosts: dict[str, dict[str, Any]]) -> tuple[int, str]:
    """Run the reporting play of the health check into `folder`/health.*; return its exit code and output."""
    everyone: dict[str, Any] = {"hosts": dict.fromkeys(hosts)}
    first: dict[str, Any] = {"hosts": {"one": None}}
    swarm = {"children": {"swarm_managers": first, "swarm_workers": {"hosts": {"two": None}}}}
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {
        "all": {
            "hosts": {"localhost": here, **hosts},
            "children": {"swarm": swarm, "serving": everyone, "gateway": first, "monitoring": first},
        }
    }
    (folder / "inventory.json").write_text(json.dumps(inventory))
    program = Path(sys.executable).parent / "ansible-playbook"
    playbook = ROOT / "playbooks" / "health_check.yml"
    report = f"health_check_report={folder / 'health.json'}"
    result = subprocess.run(
        [program, "-i", folder / "inventory.json", "--limit", "localhost", playbook, "-e", report],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "1000"},
    )
    return result.returncode, result.stdout + result.stderr
