"""From nothing to machines, to others, and back to nothing, against a fake of Google with the real google.cloud."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fake_google import PROJECT, Google
from gcp_controller import Controller

CONFIRMED = ("-e", "gcp_confirm=tf2x")
GROUND = {"networks": ["tf2x"], "subnetworks": ["tf2x"], "firewalls": ["tf2x-admin", "tf2x-gateway", "tf2x-swarm"]}
SINGLE = GROUND | {"addresses": ["tf2x-server-1"], "instances": ["tf2x-server-1"]}


def there(google: Google) -> dict[str, list[str]]:
    kinds = {path.split("/")[-2] for path in google.resources}
    return {kind: google.names(kind) for kind in kinds}


def certificate(folder: Path, name: str) -> dict[str, str]:
    key, pem = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*command, "-subj", f"/CN={name}", "-keyout", key, "-out", pem], check=True, capture_output=True)
    return {"gcp_load_balancer_certificate": str(pem), "gcp_load_balancer_key": str(key)}


# One test, since each step begins where the one before ended.
def test_from_nothing_to_nothing(controller: Controller) -> None:
    google = controller.google
    check_mode_makes_nothing(controller)
    refusals_come_out_in_words_and_a_further_run_goes_on(controller)
    what_was_made_is_what_was_asked_for(google)
    a_second_run_changes_nothing(controller)
    the_inventory_finds_the_machine(controller)
    another_layout_is_made_beside_the_first(controller)
    a_question_without_an_answer_removes_nothing(controller)
    what_is_beside_the_plan_goes_alone(controller)
    everything_goes_and_the_address_stays(controller)


def check_mode_makes_nothing(controller: Controller) -> None:
    run = controller.play("gcp_provision", "--check")
    assert run.code == 0, run.output
    assert run.changed == 1
    assert "To make: serviceAccounts tf2x-host, networks tf2x, subnetworks tf2x, firewalls tf2x-admin" in run.words
    assert "charges for 1 e2-standard-4 in europe-west1-b, each with 50 GB of disk and an external address" in run.words
    assert controller.google.changes() == []


def refusals_come_out_in_words_and_a_further_run_goes_on(controller: Controller) -> None:
    google = controller.google
    google.denied = {"compute.firewalls.create"}
    google.surprises = {f"projects/{PROJECT}/global/firewalls/tf2x-admin"}
    run = controller.play("gcp_provision")
    assert run.code != 0
    taken = f"projects/{PROJECT}/global/firewalls/tf2x-admin"
    assert f"Open the ports: tf2x-admin: {taken} is there already, made by somebody else while this ran." in run.words
    assert "tf2x-gateway: The permission compute.firewalls.create is missing. Grant roles/compute.admin" in run.words
    assert there(google) == {"networks": ["tf2x"], "subnetworks": ["tf2x"]}

    # With a key every request of a module trades one for a token first; that has been shown by now, and takes its time.
    del controller.environment["GCP_SERVICE_ACCOUNT_FILE"]
    controller.environment |= {"GCP_AUTH_KIND": "accesstoken", "GCP_ACCESS_TOKEN": "token-1"}
    google.denied, google.surprises, google.cpus = set(), set(), 2
    run = controller.play("gcp_provision")
    assert run.code != 0
    assert "Make the machines: tf2x-server-1: The project's quota CPUS is 2.0 (region europe-west1)" in run.words
    assert "A further run goes on from there" in run.words
    assert there(google) == GROUND | {"addresses": ["tf2x-server-1"]}

    google.cpus = 100
    google.asked.clear()
    run = controller.play("gcp_provision")
    assert run.code == 0, run.output
    assert google.changes() == [("POST", f"/compute/v1/projects/{PROJECT}/zones/europe-west1-b/instances")]


def what_was_made_is_what_was_asked_for(google: Google) -> None:
    assert there(google) == SINGLE
    assert list(google.accounts) == [f"tf2x-host@{PROJECT}.iam.gserviceaccount.com"]
    rules = {name: google.one("firewalls", name) for name in google.names("firewalls")}
    assert rules["tf2x-gateway"]["sourceRanges"] == ["192.0.2.0/24"]
    assert rules["tf2x-gateway"]["allowed"] == [{"IPProtocol": "tcp", "ports": ["9000"]}]
    assert rules["tf2x-admin"]["sourceRanges"] == ["203.0.113.7/32"]
    assert rules["tf2x-admin"]["allowed"] == [{"IPProtocol": "tcp", "ports": ["22", "9001-9003"]}]
    assert rules["tf2x-swarm"]["sourceRanges"] == [google.one("subnetworks", "tf2x")["ipCidrRange"]]
    machine = google.one("instances", "tf2x-server-1")
    assert machine["machineType"].endswith("/zones/europe-west1-b/machineTypes/e2-standard-4")
    assert machine["disks"][0]["diskSizeGb"] == "50"
    address = google.one("addresses", "tf2x-server-1")["address"]
    assert machine["networkInterfaces"][0]["accessConfigs"][0]["natIP"] == address
    assert {"key": "ssh-keys", "value": "tf2x-admin:ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIexample me@here"} in machine[
        "metadata"
    ]["items"]
    assert [account["email"] for account in machine["serviceAccounts"]] == list(google.accounts)


def a_second_run_changes_nothing(controller: Controller) -> None:
    controller.google.asked.clear()
    run = controller.play("gcp_provision")
    assert run.code == 0, run.output
    assert run.changed == 0
    assert "To make: nothing" in run.words
    assert controller.google.changes() == []


def the_inventory_finds_the_machine(controller: Controller) -> None:
    found = controller.hosts()
    for group in ("swarm_managers", "serving", "gateway", "monitoring"):
        assert found[group]["hosts"] == ["tf2x-server-1"]
    assert found["swarm"]["children"] == ["swarm_managers", "swarm_workers"]
    address = controller.google.one("addresses", "tf2x-server-1")["address"]
    assert str(address) in str(found["_meta"]["hostvars"]["tf2x-server-1"]["ansible_host"])


def another_layout_is_made_beside_the_first(controller: Controller) -> None:
    google = controller.google
    # Somebody lets the world in meanwhile.
    google.one("firewalls", "tf2x-admin")["sourceRanges"].append("0.0.0.0/0")
    controller.set(
        gcp_layout="ha",
        gcp_managed=True,
        gcp_ssh_access="os_login",
        gcp_load_balancer=True,
        gcp_allow_world=True,
        gcp_client_ranges=["192.0.2.0/24", "198.51.100.0/24"],
        **certificate(controller.folder, "front"),
    )
    run = controller.play("gcp_provision")
    assert run.code == 0, run.output
    assert "To change: firewalls tf2x-gateway: sourceRanges is ['192.0.2.0/24'], the plan says" in run.words
    assert "There beside the plan, and left as it is: addresses tf2x-server-1, instances tf2x-server-1" in run.words
    assert "PRIVATE KEY" not in run.output

    assert google.one("firewalls", "tf2x-admin")["sourceRanges"] == ["203.0.113.7/32"]
    assert google.one("firewalls", "tf2x-gateway")["sourceRanges"] == [
        *("192.0.2.0/24", "198.51.100.0/24", "130.211.0.0/22", "35.191.0.0/16")
    ]
    rule = google.one("forwardingRules", "tf2x-https")
    assert rule["IPAddress"] == google.one("addresses", "tf2x")["address"]
    assert rule["target"].endswith("/targetHttpsProxies/tf2x")
    backend = google.one("backendServices", "tf2x")
    assert [one["group"].rsplit("/", 1)[1] for one in backend["backends"]] == ["tf2x-manager"]

    template = google.one("instanceTemplates", "tf2x-worker")["properties"]
    assert template["metadata"]["items"] == [{"key": "enable-oslogin", "value": "TRUE"}]
    assert template["labels"]["tf2x_groups"] == "swarm_workers-serving"

    found = controller.hosts()
    # The first machine is there as well, until it is removed.
    first = {"tf2x-server-1"}
    members = {name: sorted(set(group["hosts"]) - first) for name, group in found.items() if "hosts" in group}
    managers = ["tf2x-manager-x0z0", "tf2x-manager-x1z1"]
    workers = ["tf2x-worker-x0z0", "tf2x-worker-x1z1"]
    assert members == {
        "swarm_managers": [*managers, "tf2x-watch-x0z0"],
        "swarm_workers": workers,
        "serving": [*managers, *workers],
        "gateway": managers,
        "monitoring": ["tf2x-watch-x0z0"],
    }


def a_question_without_an_answer_removes_nothing(controller: Controller) -> None:
    controller.google.asked.clear()
    run = controller.play("gcp_deprovision")
    assert run.code != 0
    assert f"To remove from {PROJECT}: networks tf2x, subnetworks tf2x, firewalls tf2x-admin" in run.words
    assert "nothing was removed. The deployment's name, tf2x, would be right" in run.words
    assert controller.google.changes() == []


def what_is_beside_the_plan_goes_alone(controller: Controller) -> None:
    run = controller.play("gcp_deprovision", "-e", "gcp_surplus=true", *CONFIRMED)
    assert run.code == 0, run.output
    assert run.changed == 1
    assert "tf2x-server-1" not in controller.google.names("instances")
    assert len(controller.google.names("instances")) == 5


def everything_goes_and_the_address_stays(controller: Controller) -> None:
    google = controller.google
    google.resources[f"projects/{PROJECT}/global/firewalls/tf2x-by-hand"] = {"name": "tf2x-by-hand", "description": ""}
    run = controller.play("gcp_deprovision", *CONFIRMED)
    assert run.code == 0, run.output
    assert there(google) == {"addresses": ["tf2x", "tf2x-server-1"], "firewalls": ["tf2x-by-hand"]}
    assert google.accounts == {}

    run = controller.play("gcp_deprovision", *CONFIRMED)
    assert run.code == 0, run.output
    assert run.changed == 0
    assert "To stay, and to cost: addresses tf2x-server-1 203.0.113." in run.words


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {
                "gcp_client_ranges": ["0.0.0.0/0", "192.0.2.1/24", "192.0.2.0"],
                "gcp_subnet_range": "10.0.0.0/33",
                "gcp_layout": "large",
                "gcp_ssh_user": "root",
                "gcp_ssh_public_key_file": "/nowhere/id.pub",
                "gcp_load_balancer": True,
                "gcp_load_balancer_key": "/nowhere/key.pem",
                "gcp_labels": {"Team": "a"},
            },
            [
                "0.0.0.0/0 lets the whole world in",
                "gcp_client_ranges: 192.0.2.1/24 is not the beginning of its network; right is 192.0.2.0/24",
                "gcp_client_ranges: 192.0.2.0 is no IPv4 network",
                "gcp_subnet_range: 10.0.0.0/33 is no IPv4 network",
                "gcp_layout is 'large'; right are single and ha",
                "gcp_ssh_user is 'root'",
                "/nowhere/id.pub is no file with a public key",
                "everyone may come to a load balancer",
                "gcp_load_balancer_certificate and gcp_load_balancer_key belong together",
                "/nowhere/key.pem: no such file",
                "gcp_labels is {'Team': 'a'}",
            ],
        ),
        (
            {
                "gcp_admin_ranges": [],
                "gcp_pools": [
                    {"name": "A", "count": 2, "groups": ["swarm_managers", "monitoring"]},
                    {"name": "b", "count": 1, "groups": ["servers"]},
                ],
            },
            [
                "gcp_admin_ranges is empty",
                "gcp_pools has the names A, b",
                "gcp_pools has the groups servers",
                "The pools come to 2 managers",
                "The pools come to 2 machines in the group monitoring",
            ],
        ),
        (
            {"gcp_project": "Mine", "gcp_zone": "europe-west1", "gcp_name": "tf2x_prod"},
            ["gcp_project is 'Mine'", "gcp_zone is 'europe-west1'", "gcp_name is 'tf2x_prod'"],
        ),
        ({"gcp_name": "other"}, ["Right are projects: [my-lab-project] and filters: [labels.tf2x_deployment = other]"]),
    ],
    ids=["settings", "pools", "names", "inventory"],
)
def test_wrong_settings_are_named_before_google_is_asked(controller, settings, said):
    controller.set(**settings)
    run = controller.play("gcp_provision")
    assert run.code != 0
    for words in said:
        assert words in run.words
    # The inventory plugin has looked; nothing else has.
    assert {path for _method, path in controller.google.asked} <= {
        "/token",
        f"/compute/v1/projects/{PROJECT}/aggregated/instances",
    }
