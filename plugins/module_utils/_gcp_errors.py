# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""What Google Cloud's refusals mean, and what would be right instead."""

from __future__ import annotations

import re

# The first that fits counts. `{0}` and so on are the groups of the expression.
_MEANINGS = [
    (
        r"Quota '?([\w-]+)'? exceeded\.?\s+Limit: ([\d.]+)(?: in region ([\w-]+))?",
        "The project's quota {0} is {1} (region {2}), and this would be more. Ask for more of it on the console's page "
        "'Quotas', or take fewer or smaller machines, or another region.",
    ),
    (
        r"(?i)quota_?exceeded",
        "A quota of the project is used up. Ask for more of it on the console's page 'Quotas', or take fewer or "
        "smaller machines, or another region.",
    ),
    (
        r"ZONE_RESOURCE_POOL_EXHAUSTED|does not have enough resources available",
        "The zone has no such machine to give at the moment. Try again later, or take another gcp_zone or "
        "gcp_machine_type.",
    ),
    (
        r"message': '([\w ]+ API) has not been used in project (\S+) before or it is disabled",
        "The project {1} has not enabled the {0}. Enable it on the console's page 'APIs & Services'; that takes some "
        "minutes to have effect.",
    ),
    (
        r"(?i)billing (?:account|must be enabled|is disabled|to be enabled)",
        "The project has no billing account. Link one on the console's page 'Billing'.",
    ),
    (
        r"The \S+ resource '([^']+)' is already being used by '([^']+)'",
        "{0} is in use by {1}. If that is not this deployment's, whoever made it has to remove it first.",
    ),
    (
        r"The resource '([^']+)' already exists",
        "{0} is there already, made by somebody else while this ran. Remove or rename it, or take another gcp_name.",
    ),
    (
        r"(?i)alreadyExists|already exists",
        "Something of that name is there already, made by somebody else while this ran. Remove or rename it, or take "
        "another gcp_name.",
    ),
    (
        r"invalid_grant: ([^'\",}]+)|(Invalid JWT Signature)",
        "Google does not accept the service account's key. It was deleted or disabled, or this machine's clock is "
        "wrong. Make a new key, and name its file in GCP_SERVICE_ACCOUNT_FILE.",
    ),
    (
        r"(?i)not automatically determine credentials|default credentials were not found|Reauthentication is needed",
        "There are no credentials, or they have expired. Log in with 'gcloud auth application-default login', or set "
        "GCP_AUTH_KIND=serviceaccount and GCP_SERVICE_ACCOUNT_FILE.",
    ),
    (
        r"\b(?:401|UNAUTHENTICATED|Invalid Credentials|RefreshError)\b",
        "Google does not accept the credentials. Log in again, or use a key that is in force.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "The certificate of the answering host cannot be verified. Behind a proxy that breaks TLS open, name its CA in "
        "REQUESTS_CA_BUNDLE.",
    ),
    (
        r"host='([\w.-]+)'.*(?:Max retries|timed out|refused|resolve|ProxyError|ConnectionError)",
        "{0} cannot be reached. Look at this machine's network and at HTTPS_PROXY.",
    ),
    (
        r"(?:ProxyError|ConnectionError|NewConnectionError|ConnectTimeout|ReadTimeout|TransportError)",
        "Google cannot be reached. Look at this machine's network and at HTTPS_PROXY.",
    ),
    (
        r"The resource '(projects/[^'/]+)' was not found",
        "{0} does not exist, or these credentials do not see it. Look at gcp_project.",
    ),
    (
        r"The resource '([^']+)'(?: of type '\w+')? was not found",
        "{0} does not exist, or not yet: what was made a moment ago may not be known everywhere. Run this again.",
    ),
]
_PERMISSION = re.compile(r"(?:Required|Permission) '?([a-z]+\.\w+\.\w+)'? (?:permission|denied)")
_FORBIDDEN = re.compile(r"\b403\b|PERMISSION_DENIED|'forbidden'")
# The first whose beginning fits.
_ROLES = [
    ("iam.serviceAccounts.actAs", "roles/iam.serviceAccountUser (Service Account User)"),
    ("iam.serviceAccounts.", "roles/iam.serviceAccountAdmin (Service Account Admin)"),
    ("compute.", "roles/compute.admin (Compute Admin)"),
]
_MESSAGE = re.compile(r"""['"]message['"]: (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")


def explain(text: str) -> str:
    """Return what an answer of Google's, or a traceback on the way to it, means, and the answer after it."""
    # What google.cloud's modules return is Python's notation of a structure, with the quotes of the message escaped.
    plain = " ".join(text.replace("\\'", "'").replace('\\"', '"').split())
    return f"{_meaning(plain)} Google's answer: {_said(text)}"


def _meaning(text: str) -> str:
    permission = _PERMISSION.search(text)
    if permission:
        role = next((role for start, role in _ROLES if permission[1].startswith(start)), "a role that has it")
        return f"The permission {permission[1]} is missing. Grant {role} to the account of these credentials."
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, text)
        if found:
            return meaning.format(*(group or "not named" for group in found.groups()))
    if _FORBIDDEN.search(text):
        return "These credentials may not do that. docs/google-cloud.md lists the roles that are needed."
    return "Google refused."


def _said(text: str) -> str:
    message = _MESSAGE.search(text)
    if message:
        said = message[1] or message[2] or ""
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = lines[-1] if lines else "nothing"
    said = " ".join(said.replace("\\'", "'").replace('\\"', '"').split())
    return f"{said[:600]}…" if len(said) > 600 else said
