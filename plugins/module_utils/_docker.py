# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""The connection to the Docker engine."""

from __future__ import annotations

import traceback
from typing import Any

from ansible.module_utils.basic import missing_required_lib

try:
    import docker
    from requests.exceptions import RequestException

    _IMPORT_ERROR = None
except ImportError:
    _IMPORT_ERROR = traceback.format_exc()

_TIMEOUT_SECONDS = 30

STACK_LABEL = "com.docker.stack.namespace"
ARGUMENT_SPEC = {"docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"}}


class EngineError(Exception):
    """The engine cannot be asked, or refuses.

    `passing`: it may answer later; `missing`: what was asked for does not exist; `details`: a traceback for the user.
    """

    def __init__(
        self, message: str, *, passing: bool = False, missing: bool = False, details: str | None = None
    ) -> None:
        super().__init__(message)
        self.passing = passing
        self.missing = missing
        self.details = details


class Engine:
    """Calls of the Docker SDK's low-level client, with its errors as EngineError."""

    def __init__(self, docker_host: str) -> None:
        if _IMPORT_ERROR:
            raise EngineError(missing_required_lib("docker (Docker SDK for Python)"), details=_IMPORT_ERROR)
        self._host = docker_host
        try:
            self._client = docker.APIClient(base_url=docker_host, version="auto", timeout=_TIMEOUT_SECONDS)
        except (docker.errors.DockerException, RequestException) as error:
            raise EngineError(f"the Docker engine at {docker_host} does not answer: {error}") from error

    def ask(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the client's method `call` returns."""
        try:
            return getattr(self._client, call)(*args, **kwargs)
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 0
            reason = error.explanation or str(error)
            # 503 is "not a manager" or "not in a swarm"; other 5xx come and go with the swarm's leader.
            raise EngineError(
                f"the Docker engine at {self._host} refuses: {reason}",
                passing=status >= 500 and status != 503,
                missing=status == 404,
            ) from error
        except (docker.errors.DockerException, RequestException) as error:
            raise EngineError(f"the Docker engine at {self._host} does not answer: {error}", passing=True) from error

    def close(self) -> None:
        self._client.close()
