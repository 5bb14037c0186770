"""`serving_survey` on a host whose engine and listeners are told by stand-ins for the commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = "serving_survey"

DOCKER = """#!{python}
import json, pathlib, sys
told = json.loads(pathlib.Path({told!r}).read_text())
words = sys.argv[1:]
if words[0] == "info":
    print("true" if told["services"] is not None else "false")
elif words[1] == "ls":
    print("\\n".join(one.get("ID") or one["Id"] for one in told[words[0] + "s"]))
else:
    print(json.dumps([one for one in told[words[0] + "s"] if (one.get("ID") or one["Id"]) in words[2:]]))
"""


def service(name: str, image: str, ports: dict[int, int], **container: Any) -> dict[str, Any]:
    published = [{"Protocol": "tcp", "TargetPort": inner, "PublishedPort": outer} for outer, inner in ports.items()]
    return {
        "ID": f"id-of-{name}",
        "Spec": {
            "Name": name,
            "Labels": {"com.docker.stack.namespace": name.split("_", maxsplit=1)[0]} if "_" in name else {},
            "TaskTemplate": {"ContainerSpec": {"Image": image, **container}},
        },
        "Endpoint": {"Ports": published} if published else {},
    }


def container(name: str, image: str, port: int | None = None, **config: Any) -> dict[str, Any]:
    mounts = config.pop("Mounts", [])
    return {
        "Id": f"id-of-{name}",
        "Name": f"/{name}",
        "Config": {"Image": image, **config},
        "HostConfig": {"PortBindings": {"8501/tcp": [{"HostIp": "", "HostPort": str(port)}]} if port else None},
        "Mounts": mounts,
    }


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model's folder with two versions, and one that is none."""
    folder = tmp_path / "models/tf2x/tensorflow"
    for version in ("1", "3"):
        (folder / version).mkdir(parents=True)
        (folder / version / "saved_model.pb").touch()
    (folder / "2").mkdir()
    return folder


@pytest.fixture
def survey(run_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Survey a host with these services, containers and lines of `ss`."""

    def run(
        services: list[dict[str, Any]] | None = None,
        containers: list[dict[str, Any]] | None = None,
        listeners: str = "",
        **options: Any,
    ) -> dict[str, Any]:
        told = tmp_path / "told.json"
        told.write_text(json.dumps({"services": services, "containers": containers or []}))
        scripts = tmp_path / "bin"
        scripts.mkdir(exist_ok=True)
        texts = {
            "docker": DOCKER.format(python=sys.executable, told=str(told)),
            "ss": f"#!/bin/sh\ncat <<'END'\n{listeners}\nEND\n",
        }
        for name, text in texts.items():
            (scripts / name).write_text(text)
            (scripts / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")
        return run_module(MODULE, **options)

    return run


def listener(port: int, name: str, pid: int) -> str:
    return f'LISTEN 0      2048         0.0.0.0:{port}      0.0.0.0:*    users:(("{name}",pid={pid},fd=7))'


def test_the_guides_server(survey: Any, models: Path) -> None:
    pets = service(
        "PROD-STACK_pets",
        "tensorflow/serving:latest@sha256:00",
        {9500: 8500, 9501: 8501},
        Args=["--enable_batching=true"],
        Env=["MODEL_NAME=pets"],
        Mounts=[{"Type": "bind", "Source": str(models), "Target": "/models/pets"}],
    )
    grafana = service("PROD-STACK_grafana", "grafana/grafana:latest", {9003: 3000})
    other = service("shop_web", "nginx:1", {80: 80})
    listeners = "\n".join([listener(9500, "docker-proxy", 1), listener(9000, "uvicorn", os.getpid())])
    result = survey([pets, grafana, other], listeners=listeners, ports=[9000, 9003, 9500, 9501])
    assert result["models"] == [{"name": "pets", "path": str(models), "versions": [1, 3], "holder": "PROD-STACK_pets"}]
    assert result["unclear"] == []
    assert [(one["kind"], one["name"], one["ports"], one["stack"]) for one in result["holders"]] == [
        ("service", "PROD-STACK_pets", [9500, 9501], "PROD-STACK"),
        ("service", "PROD-STACK_grafana", [9003], "PROD-STACK"),
        ("program", "uvicorn", [9000], None),
    ]
    program = result["holders"][-1]
    assert program["id"] == str(os.getpid())
    assert program["command"].split()[0] == Path("/proc/self/cmdline").read_text().split("\0")[0]
    assert result["holders"][0]["image"] == "tensorflow/serving:latest"


def test_containers_without_a_swarm(survey: Any, models: Path) -> None:
    serving = container(
        "serving",
        "registry.example.org/tensorflow/serving:2.3.0",
        8501,
        Cmd=["--model_name", "pets", "--model_base_path=/data/pets"],
        Env=["MODEL_NAME=model"],
        Mounts=[{"Type": "bind", "Source": str(models.parent), "Destination": "/data"}],
    )
    models.rename(models.parent / "pets")
    result = survey(None, [serving], ports=[8501])
    assert [(one["kind"], one["id"], one["ports"]) for one in result["holders"]] == [
        ("container", "id-of-serving", [8501])
    ]
    assert result["models"][0]["name"] == "pets"
    assert result["models"][0]["versions"] == [1, 3]


def test_ports_of_a_range_and_of_other_protocols(survey: Any) -> None:
    """`docker run -p 9000-9010:80` asks for any of them, and gets one."""
    ranged = container("ranged", "nginx:1")
    ranged["HostConfig"]["PortBindings"] = {"80/tcp": [{"HostIp": "", "HostPort": "9000-9010"}]}
    ranged["NetworkSettings"] = {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "9003"}], "443/tcp": None}}
    dns = container("dns", "dns:1")
    dns["HostConfig"]["PortBindings"] = {"53/udp": [{"HostIp": "", "HostPort": "9001"}]}
    logs = service("logs", "syslog:1", {9002: 514})
    logs["Endpoint"]["Ports"][0]["Protocol"] = "udp"
    holders = survey([logs], [ranged, dns], ports=[9000, 9001, 9002, 9003])["holders"]
    assert [(one["name"], one["ports"]) for one in holders] == [("ranged", [9003])]


def test_the_name_that_an_option_gives_is_not_the_folders(survey: Any, models: Path) -> None:
    renamed = container(
        "serving",
        "tensorflow/serving",
        Cmd=["--model_name=pets"],
        Env=["MODEL_NAME=model"],
        Mounts=[{"Type": "bind", "Source": str(models), "Destination": "/models/model"}],
    )
    (found,) = survey(None, [renamed])["models"]
    assert (found["name"], found["path"], found["versions"]) == ("pets", str(models), [1, 3])


def test_the_innermost_mount_counts(survey: Any, models: Path, tmp_path: Path) -> None:
    nested = service(
        "serving",
        "tensorflow/serving",
        {},
        Env=["MODEL_NAME=pets"],
        Mounts=[
            {"Type": "bind", "Source": str(tmp_path / "other"), "Target": "/models"},
            {"Type": "bind", "Source": str(models), "Target": "/models/pets"},
        ],
    )
    (found,) = survey([nested])["models"]
    assert found["path"] == str(models)


def test_tasks_of_services_come_once(survey: Any) -> None:
    task = container("web.1", "nginx:1", Labels={"com.docker.swarm.service.name": "web"})
    result = survey([service("web", "nginx:1", {9001: 80})], [task], ports=[9001])
    assert [one["kind"] for one in result["holders"]] == ["service"]


@pytest.mark.parametrize("of_service", [False, True])
@pytest.mark.parametrize("cgroup", ["0::/system.slice/docker-{}.scope\n", "1:name=systemd:/docker/{}\n0::/docker/{}\n"])
def test_a_container_in_the_hosts_network_holds_what_its_programs_do(
    survey: Any, monkeypatch: pytest.MonkeyPatch, of_service: bool, cgroup: str
) -> None:
    """It publishes no port, and its server is a process of the host like any other."""
    identity = "0123456789abcdef" * 4
    labels = {"com.docker.swarm.service.name": "serving"} if of_service else {}
    serving = container("serving", "tensorflow/serving", Labels=labels) | {"Id": identity}
    told = {"cgroup": cgroup.replace("{}", identity), "cmdline": "tensorflow_model_server\0"}
    module = f"ansible_collections.tf2x.serving.plugins.modules.{MODULE}"
    monkeypatch.setattr(f"{module}._read", lambda path: told[path.name])
    services = [service("serving", "tensorflow/serving", {})] if of_service else None
    result = survey(services, [serving], listener(9500, "tensorflow_mode", 4711), ports=[9500, 9501])
    assert [(one["kind"], one["name"], one["ports"]) for one in result["holders"]] == [
        ("service" if of_service else "container", "serving", [9500])
    ]


def test_a_stack_is_listed_whole(survey: Any) -> None:
    quiet = service("PROD-STACK_exporter", "prom/node-exporter", {})
    assert survey([quiet], ports=[9000])["holders"] == []
    (holder,) = survey([quiet], ports=[9000], stacks=["PROD-STACK"])["holders"]
    assert holder["ports"] == []


@pytest.mark.parametrize(
    ("container_of_it", "words"),
    [
        ({"Args": ["--model_config_file=/config/models.config"]}, "takes its models from /config/models.config"),
        ({"Env": ["MODEL_NAME=pets"]}, "serves pets from /models/pets, which is no folder of the host"),
        (
            {"Mounts": [{"Type": "volume", "Source": "models", "Target": "/models"}]},
            "serves model from /models/model, which is no folder of the host",
        ),
    ],
)
def test_what_cannot_be_told_is_said(survey: Any, container_of_it: dict[str, Any], words: str) -> None:
    result = survey([service("pets", "tensorflow/serving", {}, **container_of_it)])
    assert result["models"] == []
    assert result["unclear"] == [f"pets {words}"]


def test_a_host_without_an_engine(run_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ss = tmp_path / "ss"
    ss.write_text(f"#!/bin/sh\necho '{listener(9000, 'python3', os.getpid())}'\n")
    ss.chmod(0o755)
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = run_module(MODULE, ports=[9000])
    assert [one["name"] for one in result["holders"]] == ["python3"]
    assert result["models"] == []


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("echo true; exit 0", "docker service ls says: there is no leader"),
        ("echo permission denied >&2; exit 1", "docker info says: permission denied"),
    ],
)
def test_an_engine_that_refuses_is_told(
    run_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: str, message: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" = info ] && {{ {info}; }}\necho "there is no leader" >&2; exit 1\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert run_module(MODULE)["msg"] == message


@pytest.mark.parametrize(("main", "unit"), [(os.getpid(), "web.service"), (1, None)], ids=["its own", "cron's"])
def test_a_unit_is_told_only_where_it_is_the_programs_own(
    survey: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, main: int, unit: str | None
) -> None:
    """Whoever stops the unit of what cron has started stops cron."""
    monkeypatch.setattr(
        "ansible_collections.tf2x.serving.plugins.modules.serving_survey._read",
        lambda path: "0::/system.slice/web.service\n" if path.name == "cgroup" else "uvicorn",
    )
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {main}\n")
    systemctl.chmod(0o755)
    (program,) = survey([], listeners=listener(9000, "uvicorn", os.getpid()), ports=[9000])["holders"]
    assert program["unit"] == unit
