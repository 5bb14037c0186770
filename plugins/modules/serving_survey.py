#!/usr/bin/python
# Copyright (c) tf2x maintainers
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_survey
version_added: 0.1.0
short_description: Survey who serves models on a host, and who holds its ports, however that was set up
description:
  - Finds TF Serving in swarm services and in containers by its image, the models that are mounted into it, and whoever
    holds given ports, be it a swarm service, a container or a program.
  - Asks the command C(docker), since a host that was set up by hand need not have the Docker SDK for Python.
  - Needs root. To others, neither the engine nor the programs of other users are told, and they are missing in silence.
author:
  - tf2x maintainers (@tf2x)
extends_documentation_fragment:
  - tf2x.serving.attributes
  - tf2x.serving.attributes.read_only
requirements:
  - C(ss) of iproute2; C(docker) where there is an engine
options:
  ports:
    description:
      - TCP ports whose holders are asked for.
    type: list
    elements: int
    default: []
  stacks:
    description:
      - Stacks whose services are listed whether they hold any of the ports or not.
    type: list
    elements: str
    default: []
  image:
    description:
      - Regular expression, found in the images that serve models.
    type: str
    default: (^|/)(tensorflow/serving|tf2x/tf_serving_compat)([:@]|$)
"""

EXAMPLES = r"""
- name: Survey the server that was set up by hand
  tf2x.serving.serving_survey:
    ports: [9000, 9500]
  register: survey
"""

RETURN = r"""
holders:
  description: Who holds the ports that were asked for, or is in one of the stacks. Nobody comes twice.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: C(service) of a swarm, C(container) or C(program).
      type: str
    name:
      description: Name of the service or container, or of the program's file.
      type: str
    id:
      description: ID of the service or container, or the program's process ID.
      type: str
    ports:
      description: Those of the ports that it holds.
      type: list
      elements: int
    image:
      description: Image of the service or container, without its digest. V(null) for a program.
      type: str
    stack:
      description: Stack that the service is part of. V(null) for others.
      type: str
    command:
      description: Command line of the program. V(null) for others.
      type: str
    unit:
      description:
        - Systemd service whose main process holds one of the ports. V(null) for others, and for what a login, cron or
          another service started.
      type: str
  sample:
    - kind: service
      name: PROD-STACK_pets
      id: q0u3r2cq0ylnxmtsmlw8hkhkx
      ports: [9500, 9501]
      image: tensorflow/serving:2.3.0
      stack: PROD-STACK
      command: null
      unit: null
models:
  description: The models that are mounted into TF Serving, with the versions that are in their folders.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name that the model is served by.
      type: str
    path:
      description: The model's folder on the host.
      type: str
    versions:
      description: Numbers of the folders in it that hold a SavedModel.
      type: list
      elements: int
    holder:
      description: Name of the service or container.
      type: str
  sample:
    - {name: pets, path: /home/deploy/models/tf2x/tensorflow, versions: [1], holder: PROD-STACK_pets}
unclear:
  description: What serves models of which the name or the folder cannot be told, in words.
  returned: success
  type: list
  elements: str
"""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

_STACK = "com.docker.stack.namespace"
_SERVICE = "com.docker.swarm.service.name"
# Whoever publishes a port of a container listens by these.
_OF_ENGINE = ("dockerd", "docker-proxy")
_LISTENER = re.compile(r"\S+ +\d+ +\d+ +\S*:(?P<port>\d+) +\S+ +users:\((?P<users>.*)\)")
_USER = re.compile(r'\("(?P<name>[^"]*)",pid=(?P<pid>\d+)')
_UNIT = re.compile(r"/system\.slice/(?:.*/)?([^/\n]+\.service)")
_CONTAINER = re.compile(r"/docker[-/]([0-9a-f]{64})")
# Where TF Serving looks for a model, unless it is told otherwise.
_BASE = "/models"


class _Holder(NamedTuple):
    kind: str
    name: str
    id: str
    ports: list[int]
    image: str
    stack: str | None
    arguments: list[str]
    environment: dict[str, str]
    mounts: dict[str, str]
    # IDs of the containers that it consists of.
    containers: list[str]


def _options(arguments: list[str]) -> dict[str, str]:
    """Return `--name=value` and `--name value` by name."""
    found = {}
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            found[name] = value if equals else "".join(arguments[index + 1 : index + 2])
    return found


def _environment(lines: list[str] | None) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines or [] if "=" in line)


def _of_service(document: dict[str, Any]) -> _Holder:
    spec = document["Spec"]
    container = spec["TaskTemplate"]["ContainerSpec"]
    published = (document.get("Endpoint") or {}).get("Ports") or spec.get("EndpointSpec", {}).get("Ports") or []
    return _Holder(
        "service",
        spec["Name"],
        document["ID"],
        sorted(
            {
                port["PublishedPort"]
                for port in published
                if port.get("PublishedPort") and port.get("Protocol", "tcp") == "tcp"
            }
        ),
        container["Image"].split("@")[0],
        (spec.get("Labels") or {}).get(_STACK),
        [*(container.get("Command") or []), *(container.get("Args") or [])],
        _environment(container.get("Env")),
        {mount["Target"]: mount["Source"] for mount in container.get("Mounts") or [] if mount.get("Type") == "bind"},
        [],
    )


def _of_container(document: dict[str, Any]) -> _Holder:
    config, host = document["Config"], document["HostConfig"]
    # Asked for may be a range, or any port; what is bound is told only while the container runs, not between starts.
    asked, bound = host.get("PortBindings") or {}, (document.get("NetworkSettings") or {}).get("Ports") or {}
    bindings = [
        binding
        for port, each in [*asked.items(), *bound.items()]
        if port.endswith("/tcp")
        for binding in each or []
        if binding.get("HostPort", "").isdigit()
    ]
    return _Holder(
        "container",
        document["Name"].lstrip("/"),
        document["Id"],
        sorted({int(binding["HostPort"]) for binding in bindings}),
        config["Image"].split("@")[0],
        None,
        [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])],
        _environment(config.get("Env")),
        {mount["Destination"]: mount["Source"] for mount in document.get("Mounts") or [] if mount["Type"] == "bind"},
        [document["Id"]],
    )


def _ask(module: AnsibleModule, docker: str, *words: str) -> str:
    status, output, error = module.run_command([docker, *words])
    if status:
        module.fail_json(msg=f"docker {' '.join(words[:2])} says: {error.strip()}")
    return output


def _inspected(module: AnsibleModule, docker: str, kind: str, ids: list[str]) -> list[dict[str, Any]]:
    return json.loads(_ask(module, docker, kind, "inspect", *ids)) if ids else []


def _of_engine(module: AnsibleModule) -> list[_Holder]:
    docker = module.get_bin_path("docker")
    if docker is None:
        return []
    status, _output, error = module.run_command([docker, "info"])
    if status and "Cannot connect to the Docker daemon" in error:
        return []
    if status:
        module.fail_json(msg=f"docker info says: {error.strip()}")
    found = []
    if _ask(module, docker, "info", "--format", "{{.Swarm.ControlAvailable}}").strip() == "true":
        ids = _ask(module, docker, "service", "ls", "--quiet").split()
        found = [_of_service(document) for document in _inspected(module, docker, "service", ids)]
    services = {holder.name: holder for holder in found}
    ids = _ask(module, docker, "container", "ls", "--quiet").split()
    for document in _inspected(module, docker, "container", ids):
        service = (document["Config"].get("Labels") or {}).get(_SERVICE)
        if service is None:
            found.append(_of_container(document))
        elif service in services:
            services[service].containers.append(document["Id"])
    return found


def _models(holder: _Holder) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the models that a TF Serving has, and what cannot be told about them."""
    options = _options(holder.arguments)
    if "model_config_file" in options:
        return [], [f"{holder.name} takes its models from {options['model_config_file']}"]
    # The image's start script knows the environment alone: --model_name changes the name, and not the folder.
    folder = holder.environment.get("MODEL_NAME") or "model"
    name = options.get("model_name") or folder
    root = holder.environment.get("MODEL_BASE_PATH") or _BASE
    target = (options.get("model_base_path") or f"{root}/{folder}").rstrip("/")
    # Of mounts within each other, the innermost is what the server sees.
    for mounted, source in sorted(holder.mounts.items(), key=lambda mount: -len(mount[0])):
        inside = os.path.relpath(target, mounted)
        if not inside.startswith(".."):
            path = Path(source, inside)
            versions = [
                int(one.name)
                for one in path.glob("[0-9]*")
                if one.name.isdigit() and (one / "saved_model.pb").is_file()
            ]
            return [
                {"name": name, "path": str(path), "versions": sorted(versions), "holder": holder.name},
            ], []
    return [], [f"{holder.name} serves {name} from {target}, which is no folder of the host"]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        # The process has ended.
        return ""


def _main_process(module: AnsibleModule, unit: str) -> str:
    return module.run_command(["systemctl", "show", "--property", "MainPID", "--value", unit])[1].strip()


def _programs(
    module: AnsibleModule, ports: list[int], containers: set[str]
) -> tuple[list[dict[str, Any]], dict[str, set[int]]]:
    """Return the programs, and the ports that those in these containers hold by themselves, by the container's ID."""
    status, output, error = module.run_command([module.get_bin_path("ss", True), "-Hltnp"])
    if status:
        module.fail_json(msg=f"ss says: {error.strip()}")
    held: dict[tuple[str, str], set[int]] = {}
    for line in filter(None, map(_LISTENER.match, output.splitlines())):
        if int(line["port"]) in ports:
            for user in _USER.finditer(line["users"]):
                if user["name"] not in _OF_ENGINE:
                    held.setdefault((user["pid"], user["name"]), set()).add(int(line["port"]))
    found = []
    of_containers: dict[str, set[int]] = {}
    for (pid, name), those in held.items():
        process = Path("/proc", pid)
        cgroup = _read(process / "cgroup")
        # Without a network of its own, a container publishes nothing.
        container = _CONTAINER.search(cgroup)
        if container and container[1] in containers:
            of_containers.setdefault(container[1], set()).update(those)
            continue
        unit = _UNIT.search(cgroup)
        found.append(
            {
                "kind": "program",
                "name": name,
                "id": pid,
                "ports": sorted(those),
                "image": None,
                "stack": None,
                "command": _read(process / "cmdline").replace("\0", " ").strip(),
                "unit": unit and unit[1],
            }
        )
    pids = {program["id"] for program in found}
    for program in found:
        # What cron or a login started is in the group of cron or of the login's server.
        if program["unit"] and _main_process(module, program["unit"]) not in pids:
            program["unit"] = None
    return found, of_containers


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "int", "default": []},
            "stacks": {"type": "list", "elements": "str", "default": []},
            "image": {"type": "str", "default": r"(^|/)(tensorflow/serving|tf2x/tf_serving_compat)([:@]|$)"},
        },
        supports_check_mode=True,
    )
    ports, image = module.params["ports"], re.compile(module.params["image"])
    holders, models, unclear = [], [], []
    engine = _of_engine(module)
    programs, of_containers = _programs(module, ports, {one for holder in engine for one in holder.containers})
    for holder in engine:
        if image.search(holder.image):
            found, doubts = _models(holder)
            models += found
            unclear += doubts
        held = set(holder.ports).union(*(of_containers.get(one, ()) for one in holder.containers))
        those = sorted(held.intersection(ports))
        if those or holder.stack in module.params["stacks"]:
            entry = {name: getattr(holder, name) for name in ("kind", "name", "id", "image", "stack")}
            holders.append({**entry, "ports": those, "command": None, "unit": None})
    holders += programs
    module.exit_json(changed=False, holders=holders, models=models, unclear=unclear)


if __name__ == "__main__":
    main()
