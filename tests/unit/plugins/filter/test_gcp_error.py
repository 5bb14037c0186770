"""`gcp_error`: what google.cloud's modules say when they fail, in words."""

from __future__ import annotations

import pytest
from ansible_collections.tf2x.serving.plugins.filter.gcp_error import gcp_error

IN_USE = "The network resource 'projects/p/a' is already being used by 'projects/p/b'"
NO_ACCOUNT = "Permission 'iam.serviceAccounts.create' denied on resource (or it may not exist)."
NO_MACHINE = "Required 'compute.instances.create' permission for 'projects/p/zones/z/instances/n'"
NOT_ENABLED = "Compute Engine API has not been used in project 1 before or it is disabled."
SSD = "Quota 'SSD_TOTAL_GB' exceeded.  Limit: 500.0 in region us-east1."


def answered(status: int, reason: str, message: str) -> str:
    """As the modules say it: Python's notation of Google's JSON."""
    error = {"code": status, "message": message, "errors": [{"message": message, "reason": reason}]}
    return f"GCP returned error: {{'error': {error}}}"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            f"{[{'code': 'QUOTA_EXCEEDED', 'message': SSD}]}",
            "The project's quota SSD_TOTAL_GB is 500.0 (region us-east1), and this would be more.",
        ),
        (
            answered(403, "quotaExceeded", "Quota 'NETWORKS' exceeded.  Limit: 5.0 globally."),
            "The project's quota NETWORKS is 5.0 (region not named), and this would be more.",
        ),
        (
            answered(403, "forbidden", NO_MACHINE),
            "The permission compute.instances.create is missing. Grant roles/compute.admin (Compute Admin)",
        ),
        (
            answered(403, "forbidden", NO_ACCOUNT),
            "The permission iam.serviceAccounts.create is missing. Grant roles/iam.serviceAccountAdmin",
        ),
        (
            answered(403, "forbidden", "Required 'iam.serviceAccounts.actAs' permission for 'projects/p'"),
            "Grant roles/iam.serviceAccountUser (Service Account User)",
        ),
        (
            answered(403, "accessNotConfigured", NOT_ENABLED),
            "The project 1 has not enabled the Compute Engine API.",
        ),
        (
            answered(403, "forbidden", "This API method requires billing to be enabled."),
            "The project has no billing account.",
        ),
        (answered(403, "forbidden", "No."), "These credentials may not do that."),
        (
            answered(409, "alreadyExists", "The resource 'projects/p/global/networks/n' already exists"),
            "projects/p/global/networks/n is there already, made by somebody else while this ran.",
        ),
        (
            answered(400, "resourceInUseByAnotherResource", IN_USE),
            "projects/p/a is in use by projects/p/b.",
        ),
        (
            "[{'code': 'ZONE_RESOURCE_POOL_EXHAUSTED', 'message': 'The zone does not have enough resources.'}]",
            "The zone has no such machine to give at the moment.",
        ),
        (
            "RefreshError: ('invalid_grant: Invalid JWT Signature.', {})",
            "Google does not accept the service account's key.",
        ),
        (
            "ConnectionError: HTTPSConnectionPool(host='compute.googleapis.com', port=443): Max retries exceeded",
            "compute.googleapis.com cannot be reached.",
        ),
        ("AttributeError: 'ConnectTimeout' object has no attribute 'message'", "Google cannot be reached."),
        ("something new", "Google refused. Google's answer: something new"),
    ],
)
def test_in_words(message: str, words: str) -> None:
    assert words in gcp_error({"failed": True, "msg": message})


def test_the_answer_follows_in_its_own_words() -> None:
    said = gcp_error({"msg": answered(409, "alreadyExists", "The resource 'projects/p/n' already exists")})
    assert said.endswith("Google's answer: The resource 'projects/p/n' already exists")


def test_names_the_items_that_failed() -> None:
    results = [
        {"item": {"name": "one"}, "changed": True},
        {"item": {"name": "two"}, "failed": True, "msg": "Quota 'CPUS' exceeded.  Limit: 8.0 in region r."},
    ]
    said = gcp_error({"failed": True, "msg": "One or more items failed", "results": results})
    assert said.startswith("two: The project's quota CPUS is 8.0")
    assert "one:" not in said


def test_shows_no_answer_that_holds_a_key() -> None:
    said = gcp_error({"failed": True, "results": [{"failed": True, "censored": "hidden due to no_log"}]})
    assert "holds a key and is not shown" in said
