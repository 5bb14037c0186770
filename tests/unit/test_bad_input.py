"""Bad input is refused by the roles' preflights, before anything changes, in words that name the variable."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PETS = ROOT / "files/models/pets/1"
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        cacheable: true
        os_family: "{{ family | default('Debian') }}"
        distribution: "{{ 'Debian' if family is undefined else family }}"
        distribution_major_version: "12"
        distribution_version: "12.0"
        service_mgr: systemd
        pkg_mgr: apt
        architecture: x86_64
        default_ipv4: {address: 127.0.0.1}
    - ansible.builtin.include_role:
        name: tf2x.serving.{{ role }}
        tasks_from: preflight
"""


@pytest.fixture
def preflight(tmp_path):
    """Run one role's preflight on this machine; (exit code, output)."""

    def run(role: str, variables: dict, managers: int = 1) -> tuple[int, str]:
        hosts = [f"host{number}" for number in range(managers)]
        inventory = {
            "all": {
                "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "role": role},
                "children": {
                    group: {"hosts": dict.fromkeys(hosts)}
                    for group in ("swarm", "swarm_managers", "serving", "gateway")
                }
                | {"monitoring": {"hosts": {hosts[0]: None}}},
            }
        }
        (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
        (tmp_path / "preflight.yml").write_text(PLAYBOOK)
        result = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                *("-i", tmp_path / "inventory.yml", tmp_path / "preflight.yml", "--extra-vars", json.dumps(variables)),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "1000"},
        )
        output = result.stdout + result.stderr
        if result.returncode:
            assert "changed=0" in output.replace(" ", ""), "something was changed before the refusal"
        return result.returncode, " ".join(output.split())

    return run


def stack(**variables) -> dict:
    return {"tf_serving_stack_models": [{"name": "pets", "source": str(PETS), "version": 1}], **variables}


def test_good_input_passes(preflight):
    code, output = preflight("tf_serving_stack", stack())
    assert code == 0, output


def test_missing_model(preflight, tmp_path):
    models = [{"name": "pets", "source": str(tmp_path / "nowhere"), "version": 1}]
    code, output = preflight("tf_serving_stack", stack(tf_serving_stack_models=models))
    assert code != 0
    assert f"source {tmp_path}/nowhere is not a folder" in output


def test_corrupt_model(preflight, tmp_path):
    shutil.copytree(PETS, tmp_path / "1")
    graph = tmp_path / "1/saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100])
    models = [{"name": "pets", "source": str(tmp_path / "1"), "version": 1}]
    code, output = preflight("tf_serving_stack", stack(tf_serving_stack_models=models))
    assert code != 0
    assert "saved_model.pb" in output


def test_model_that_does_not_fit_its_golden_file(preflight, tmp_path):
    shutil.copytree(PETS, tmp_path / "1")
    golden = tmp_path / "1/assets.extra/golden.json"
    content = json.loads(golden.read_text())
    content["cases"][0]["outputs"] = {"nonsense": next(iter(content["cases"][0]["outputs"].values()))}
    golden.write_text(json.dumps(content))
    models = [{"name": "pets", "source": str(tmp_path / "1"), "version": 1}]
    code, output = preflight("tf_serving_stack", stack(tf_serving_stack_models=models))
    assert code != 0
    assert "nonsense" in output and "probabilities" in output


def test_archive_with_a_wrong_sha256(preflight, tmp_path):
    archive = tmp_path / "tf.tar"
    archive.write_bytes(b"not what it should be")
    entry = {"path": str(archive), "ref": "tf2x/x:1", "sha256": "0" * 64}
    variables = stack(
        tf_serving_stack_image_source="archive",
        tf_serving_stack_image_archives={"tf_serving": entry, "balancer": entry},
    )
    code, output = preflight("tf_serving_stack", variables)
    assert code != 0
    assert f"has sha256 {hashlib.sha256(archive.read_bytes()).hexdigest()}; expected sha256 {'0' * 64}" in output


def test_archive_that_is_not_there(preflight, tmp_path):
    entry = {"path": str(tmp_path / "none.tar"), "ref": "tf2x/x:1", "sha256": "0" * 64}
    variables = stack(
        tf_serving_stack_image_source="archive",
        tf_serving_stack_image_archives={"tf_serving": entry, "balancer": entry},
    )
    code, output = preflight("tf_serving_stack", variables)
    assert code != 0
    assert "none.tar does not exist" in output


def test_more_replicas_than_there_is_room_for(preflight):
    variables = stack(tf_serving_stack_replicas=4, tf_serving_stack_max_replicas_per_node=4)
    code, output = preflight("tf_serving_stack", variables)
    assert code != 0
    assert "tf_serving_stack_replicas comes to 4, but there is room for 3" in output
    assert "an update needs room for one more" in output


@pytest.mark.parametrize("role", ["tf_serving_stack", "monitoring"])
def test_unknown_image_source(preflight, role):
    code, output = preflight(role, stack(**{f"{role}_image_source": "ftp"}))
    assert code != 0
    assert f"value of {role}_image_source must be one of: registry, archive, build, got: ftp" in output


def test_even_number_of_managers(preflight):
    code, output = preflight("docker_swarm", {}, managers=2)
    assert code != 0
    assert "docker_swarm_manager_group is 'swarm_managers', a group of 2 hosts" in output
    assert "needs an odd number of managers" in output


@pytest.mark.parametrize(
    ("role", "variable"),
    [
        ("tf_serving_stack", "tf_serving_stack_grpc_port"),
        ("tf_serving_stack", "tf_serving_stack_rest_port"),
        ("monitoring", "monitoring_prometheus_port"),
        ("fastapi_service", "fastapi_service_port"),
    ],
)
def test_port_in_use(preflight, role, variable):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, output = preflight(role, stack(**{variable: port}))
    assert code != 0
    message = output[output.index(variable) :]
    assert f"{port}" in message and "taken" in message
    assert f"{os.getpid()}" in message, "the process that holds the port is not named"


@pytest.mark.parametrize(
    ("role", "variable", "wrong", "kind"),
    [
        ("centos_base", "centos_base_packages", {"a": 1}, "list"),
        ("docker_swarm", "docker_swarm_health_retries", "many", "int"),
        ("fastapi_service", "fastapi_service_port", "nine thousand", "int"),
        ("miniconda_prod_env", "miniconda_prod_env_tensorflow", "perhaps", "bool"),
        ("monitoring", "monitoring_scrape_configs", "none", "list"),
        ("tf_serving_stack", "tf_serving_stack_replicas", "four", "int"),
    ],
)
def test_variable_of_the_wrong_type(preflight, role, variable, wrong, kind):
    code, output = preflight(role, stack(**{variable: wrong}))
    assert code != 0
    assert variable in output
    assert kind in output


@pytest.mark.parametrize("role", ["centos_base", "docker_swarm", "miniconda_prod_env"])
def test_unsupported_operating_system(preflight, role):
    code, output = preflight(role, {"family": "Alpine"})
    assert code != 0
    assert "Alpine" in output
    assert "Debian" in output and "RedHat" in output


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"monitoring_front_users": [{"name": "a b", "password": "secret-word"}]},
            "monitoring_front_users has the names a b; right are letters, digits and ._@- only",
        ),
        (
            {"monitoring_front_users": [{"name": "ops", "password": word} for word in ("secret-word", "other")]},
            "monitoring_front_users names ops, ops; each must be there once",
        ),
        (
            {"monitoring_front_users": [{"name": "ops", "password": ""}]},
            "monitoring_front_users: the password of ops is empty",
        ),
        (
            {"monitoring_prometheus_port": 9003},
            "are 9001, 9003, 9003; each page needs one of its own, or 0 to be published nowhere",
        ),
        (
            {"monitoring_front_tls_certificate": "/nowhere/a.pem"},
            "monitoring_front_tls_key is ''; right is both, or neither for plain HTTP",
        ),
        (
            {"monitoring_front_tls_certificate": "/nowhere/a.pem", "monitoring_front_tls_key": "/dev/null"},
            "/nowhere/a.pem is not there on the host; monitoring_front_tls_from says where they are",
        ),
        (
            {
                "monitoring_front_tls_certificate": "/nowhere/a.pem",
                "monitoring_front_tls_key": str(Path(__file__)),
                "monitoring_front_tls_from": "controller",
            },
            "/nowhere/a.pem is not there on the controller",
        ),
    ],
)
def test_a_front_that_cannot_be(preflight, variables, said):
    code, output = preflight("monitoring", stack(**variables))
    assert code != 0
    assert said in output
    assert "secret-word" not in output


def test_a_front_that_publishes_nothing(preflight):
    ports = ("cluster_page", "prometheus", "grafana")
    code, output = preflight("monitoring", stack(**{f"monitoring_{name}_port": 0 for name in ports}))
    assert code == 0, output


MD5, SHA256 = "#" + "0" * 32, "#" + "0" * 64
PYTHON, PIP = (f"https://conda.example.com/main/noarch/{name}-1-0.conda" for name in ("python", "pip"))


@pytest.mark.parametrize(
    ("lock", "variables", "said"),
    [
        (f"@EXPLICIT\n{PYTHON}{MD5}\n{PIP}\n", {}, f"without hashes are {PIP}. `conda list --explicit --md5`"),
        (f"@EXPLICIT\n{PYTHON}{MD5[:-1]}\n", {}, f"without hashes are {PYTHON}"),
        ("@EXPLICIT\n", {}, "it names no package"),
        (None, {"conda_lock": "/nowhere/lock.txt"}, "conda_lock is /nowhere/lock.txt; there is no such file"),
        (f"{PYTHON}{MD5}\n", {"conda_packages": ["toy=1"]}, "conda_packages must be empty beside it"),
        (None, {"conda_packages": ["toy>=1", "toy=1"]}, "conda_packages has toy>=1; right is name=version or name="),
        (None, {"conda_packages": ["--file=x"]}, "conda_packages has --file=x; right is name=version"),
        (None, {"conda_channels": []}, "conda_channels is empty; name at least one"),
        (None, {"conda_prefix": "/nowhere/my conda"}, "is '/nowhere/my conda' and miniconda_prod_env_root '/nowhere'"),
        (None, {"conda_prefix": "/nowhere/conda/"}, "right is an absolute path without blanks"),
        (None, {"conda_prefix": "/opt/c", "root": "/opt/c/envs"}, "neither environment nor conda inside the other"),
        (None, {"conda_prefix": str(ROOT)}, f"is '{ROOT}', which is there and was not made by this role"),
        (None, {"installer_url": "http://127.0.0.1/x.sh"}, "installer_sha256 is '' for the installer 'http://127"),
        (None, {"installer_sha256": "abc"}, "installer_sha256 is 'abc'"),
        (
            None,
            {"python_version": "3"},
            "python_version is '3'; with miniconda_prod_env_distribution 'miniforge' right",
        ),
    ],
)
def test_a_conda_environment_that_cannot_be(preflight, tmp_path, lock, variables, said):
    if lock is not None:
        (tmp_path / "lock.txt").write_text(lock)
        variables = {"conda_lock": str(tmp_path / "lock.txt"), **variables}
    variables = {"root": "/nowhere", "conda_prefix": "/nowhere/conda", **variables}
    code, output = preflight("miniconda_prod_env", {f"miniconda_prod_env_{key}": variables[key] for key in variables})
    assert code != 0
    assert said in output


def test_a_conda_lock_with_either_hash(preflight, tmp_path):
    (tmp_path / "lock.txt").write_text(f"# platform: linux-64\n@EXPLICIT\n{PYTHON}{MD5}\n{PIP}{SHA256}\n")
    variables = {"root": "/nowhere", "conda_prefix": "/nowhere/conda", "conda_lock": str(tmp_path / "lock.txt")}
    code, output = preflight("miniconda_prod_env", {f"miniconda_prod_env_{key}": variables[key] for key in variables})
    assert code == 0, output
