"""Model versions found on the file system."""

from __future__ import annotations

import re
from pathlib import Path

from tf_serving_compat.errors import invalid_argument
from tf_serving_compat.protos import model_server_config_pb2

_MAX_VERSION = 2**63 - 1


def aspired_versions(config: model_server_config_pb2.ModelConfig) -> tuple[dict[int, str], str]:
    """The versions (number -> directory) that a model's policy asks for and that exist, and a warning or "".

    A version is any entry of the base path whose name is all digits. Raises ServingError INVALID_ARGUMENT when the
    base path does not exist.
    """
    warning = ""
    found = _versions_in(config)
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice") or "latest"
    if kind == "latest":
        wanted = sorted(found, reverse=True)[: max(1, policy.latest.num_versions)]
    elif kind == "all":
        wanted = list(found)
    else:
        wanted = [number for number in policy.specific.versions if number in found]
        missing = sorted(set(policy.specific.versions) - set(found))
        if missing:
            warning = (
                f"Version {', '.join(map(str, missing))} of servable {config.name}, which was requested to be served "
                "as a 'specific' version in the servable's version policy, was not found in the file system"
            )
    if not wanted:
        warning = (
            f"No versions of servable {config.name} found under base path {config.base_path}. Did you forget to name "
            "your leaf directory as a number (eg. '/1/')?"
        )
    return {number: found[number] for number in wanted}, warning


def _versions_in(config: model_server_config_pb2.ModelConfig) -> dict[int, str]:
    base = Path(config.base_path)
    try:
        entries = sorted(base.iterdir())
    except OSError as error:
        raise invalid_argument(
            f"Could not find base path {config.base_path} for servable {config.name} with error {error}"
        ) from error
    numbered = [entry for entry in entries if re.fullmatch(r"[0-9]+", entry.name)]
    return {int(entry.name): str(entry) for entry in numbered if int(entry.name) <= _MAX_VERSION}
