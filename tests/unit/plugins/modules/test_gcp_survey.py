"""`gcp_survey` against a fake of Google: what is there, what is missing, what differs, and answers that are none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_google import LINKS, PROJECT, Google, fake_google

MODULE = "gcp_survey"
MARK = "Made by tf2x.serving for lab"
RULE = {"sourceRanges": ["192.0.2.0/24"], "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "network": "lab"}


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    with fake_google(tmp_path) as (google, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield google


@pytest.fixture
def survey(run_module: Any) -> Any:
    def run(*plan: tuple[str, str, dict[str, Any]], **options: Any) -> dict[str, Any]:
        entries = [{"kind": kind, "name": name, "want": want} for kind, name, want in plan]
        options = {"project": PROJECT, "zone": "europe-west1-b", "deployment": "lab", "mark": MARK, **options}
        return run_module(MODULE, plan=entries, **options)

    return run


def put(google: Google, kind: str, name: str, place: str = "global", **fields: Any) -> None:
    thing = {"name": name, "description": MARK, "selfLink": f"{LINKS}projects/{PROJECT}/{place}/{kind}/{name}"}
    google.resources[f"projects/{PROJECT}/{place}/{kind}/{name}"] = {**thing, **fields}


def put_machine(google: Google, name: str, *items: dict[str, str], **fields: Any) -> None:
    place = "zones/europe-west1-b"
    fields = {
        "labels": {"tf2x_deployment": "lab", "team": "vision"},
        "metadata": {"fingerprint": "x", "items": list(items)},
        "machineType": f"{LINKS}projects/{PROJECT}/{place}/machineTypes/e2-standard-4",
        "networkInterfaces": [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "198.51.100.7"}]}],
        "disks": [{"boot": True, "diskSizeGb": "50"}],
    } | fields
    put(google, "instances", name, place, **fields)


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [f"{entry['kind']} {entry['name']}" for entry in entries]


@pytest.mark.usefixtures("google")
def test_nothing_is_there(survey: Any) -> None:
    found = survey(("networks", "lab", {}), ("serviceAccounts", "lab-host", {}))
    assert names(found["missing"]) == ["networks lab", "serviceAccounts lab-host"]
    assert (found["changed"], found["there"], found["different"], found["foreign"]) == (False, [], [], [])


def test_what_is_as_planned_is_neither_missing_nor_different(survey: Any, google: Google) -> None:
    link = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/global/networks/lab"
    put(google, "firewalls", "lab-ssh", **RULE | {"network": link, "priority": 1000})
    put_machine(google, "lab-server-1", {"key": "enable-oslogin", "value": "TRUE"})
    want = {
        "machineType": "e2-standard-4",
        "labels": {"tf2x_deployment": "lab"},
        "metadata": {"enable-oslogin": "TRUE"},
        "disks": [{"diskSizeGb": 50}],
    }
    found = survey(("firewalls", "lab-ssh", RULE), ("instances", "lab-server-1", want))
    assert (found["missing"], found["different"], found["foreign"]) == ([], [], [])
    assert found["there"][1] == {
        "kind": "instances",
        "name": "lab-server-1",
        "planned": True,
        "managed": False,
        "address": "198.51.100.7",
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sourceRanges": ["192.0.2.0/24", "0.0.0.0/0"]}, "sourceRanges is ['192.0.2.0/24', '0.0.0.0/0'], the plan"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["22", "23"]}]}, "allowed is [{'IPProtocol': 'tcp', 'ports'"),
        (
            {"allowed": [*RULE["allowed"], {"IPProtocol": "udp"}]},
            "allowed is [{'IPProtocol': 'tcp', 'ports': ['22']}, {",
        ),
    ],
)
def test_a_rule_that_lets_more_in_differs(survey: Any, google: Google, fields: Any, words: str) -> None:
    put(google, "firewalls", "lab-ssh", **RULE | fields)
    different = survey(("firewalls", "lab-ssh", RULE))["different"]
    assert names(different) == ["firewalls lab-ssh"]
    assert words in different[0]["differences"][0]
    assert different[0]["changeable"] is True


def test_says_what_cannot_be_changed(survey: Any, google: Google) -> None:
    put_machine(google, "lab-server-1")
    found = survey(("instances", "lab-server-1", {"machineType": "e2-standard-8", "labels": {"team": "other"}}))
    assert found["different"][0]["changeable"] is False
    assert found["different"][0]["differences"] == [
        "machineType is e2-standard-4, the plan says e2-standard-8",
        "labels is {'team': 'vision'}, the plan says {'team': 'other'}",
    ]
    found = survey(("instances", "lab-server-1", {"labels": {"team": "other"}}))
    assert found["different"][0]["changeable"] is True


def test_what_lacks_the_mark_is_foreign_and_not_ours(survey: Any, google: Google) -> None:
    put(google, "networks", "lab", description="by hand")
    put_machine(google, "lab-server-1", labels={"tf2x_deployment": "other"})
    google.accounts["lab-host@x"] = {"email": "lab-host@x", "displayName": "by hand"}
    found = survey(("networks", "lab", {}), ("instances", "lab-server-1", {}), ("serviceAccounts", "lab-host", {}))
    assert names(found["foreign"]) == ["networks lab", "instances lab-server-1", "serviceAccounts lab-host"]
    assert found["there"] == []


def test_what_the_plan_does_not_name(survey: Any, google: Google) -> None:
    put_machine(google, "lab-server-1")
    put_machine(google, "lab-server-2")
    # Of other deployments, whose names begin alike.
    put(google, "networks", "label")
    put(google, "networks", "lab-2", description="Made by tf2x.serving for lab-2")
    found = survey(("instances", "lab-server-1", {}))
    assert [(entry["name"], entry["planned"]) for entry in found["there"]] == [
        ("lab-server-1", True),
        ("lab-server-2", False),
    ]


def test_machines_of_a_planned_managed_group_are_planned(survey: Any, google: Google) -> None:
    created_by = {"key": "created-by", "value": "projects/1/zones/europe-west1-b/instanceGroupManagers/lab-worker"}
    put_machine(google, "lab-worker-x1z2", created_by)
    [machine] = survey(("instanceGroupManagers", "lab-worker", {}))["there"]
    assert (machine["planned"], machine["managed"]) == (True, True)
    [machine] = survey()["there"]
    assert (machine["planned"], machine["managed"]) == (False, True)


def test_waits_for_managed_groups_and_says_so_when_it_takes_too_long(
    survey: Any, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"ansible_collections.tf2x.serving.plugins.modules.{MODULE}._LOOK_SECONDS", 0.1)
    monkeypatch.setattr(google, "_settle", lambda: None)
    put(google, "instanceGroupManagers", "lab-worker", "zones/europe-west1-b", status={"isStable": False})
    assert "failed" not in survey()
    message = survey(settle_seconds=1)["msg"]
    assert "lab-worker have not made all their machines within 1 s" in message
    assert "list-errors lab-worker --zone europe-west1-b" in message


def test_one_token_for_all_lists(survey: Any, google: Google) -> None:
    survey()
    assert [path for _method, path in google.asked].count("/token") == 1
    assert google.changes() == []


def test_says_which_permission_is_missing(survey: Any, google: Google) -> None:
    google.denied = {"compute.networks.list"}
    message = survey()["msg"]
    assert "The permission compute.networks.list is missing. Grant roles/compute.admin (Compute Admin)" in message
    google.denied = {"iam.serviceAccounts.list"}
    assert "Grant roles/iam.serviceAccountAdmin" in survey()["msg"]


@pytest.mark.usefixtures("google")
def test_a_project_that_does_not_exist(survey: Any) -> None:
    assert (
        "projects/some-other does not exist, or these credentials do not see it" in survey(project="some-other")["msg"]
    )


def test_a_key_that_google_does_not_accept(survey: Any, google: Google) -> None:
    google.revoked = True
    message = survey()["msg"]
    assert "Google does not accept the service account's key" in message
    assert "Invalid JWT Signature" in message


@pytest.mark.usefixtures("google")
def test_a_token_that_has_expired(survey: Any) -> None:
    message = survey(auth_kind="accesstoken", access_token="token-0", service_account_file=None)["msg"]
    assert "Google does not accept the credentials" in message
    assert "token-0" not in message


def test_a_key_file_that_is_none(survey: Any, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("{}")
    options = {"auth_kind": "serviceaccount", "service_account_file": str(tmp_path / "key.json")}
    assert "The credentials cannot be used" in survey(**options)["msg"]


@pytest.mark.usefixtures("google")
def test_a_network_that_is_down(survey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed}")
    assert "oauth2.googleapis.com cannot be reached" in survey()["msg"]


@pytest.mark.usefixtures("google")
def test_a_certificate_that_is_not_googles(survey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert "The certificate of the answering host cannot be verified" in survey()["msg"]


def test_a_page_that_is_none_of_googles(survey: Any, google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google, "_compute", lambda *_: b"<title>Sign in to the network</title>")
    message = survey()["msg"]
    assert "/global/networks answered something that is not JSON: 200: <title>Sign in" in message


def test_a_kind_that_there_is_not(survey: Any) -> None:
    assert "plan has the kinds vehicles; right are networks, subnetworks" in survey(("vehicles", "lab", {}))["msg"]
