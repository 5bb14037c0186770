# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Calls of services that answer in JSON, safe to make from several threads."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

_CHUNK = 1 << 16


class ServingError(Exception):
    """An endpoint answered wrongly, or not at all."""


class NotReady(ServingError):
    """An endpoint does not answer as it should yet, but may later."""


def json_call(
    url: str, timeout: float, data: bytes | None, headers: dict[str, str], *, validate_certs: bool = True
) -> tuple[int, Any]:
    """Return HTTP status and JSON body; NaN and Infinity are taken, as TF Serving may answer them."""
    code, body = _call(url, timeout, data, headers, validate_certs)
    try:
        return code, json.loads(body)
    except ValueError:
        kind = NotReady if code in (404, 502, 503, 504) else ServingError
        raise kind(f"HTTP {code} with a body that is not JSON: {short(body.decode(errors='replace'))}") from None


def short(value: Any) -> str:
    """Return the beginning of a text, or of the JSON of a value, in one line."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return f"{text[:200]}…" if len(text) > 200 else text or "nothing"


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, *_unused: Any) -> None:
        return None


def _call(
    url: str, timeout: float, data: bytes | None, headers: dict[str, str], validate_certs: bool
) -> tuple[int, bytes]:
    # These are the service's own addresses; a proxy of the environment is for the world outside. Ansible's open_url
    # would put an opener in place for the whole process, which threads with other settings then use as well.
    handlers: list[Any] = [ProxyHandler({}), _NoRedirect]
    if url.lower().startswith("https:"):
        context = ssl.create_default_context()
        if not validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        handlers.append(HTTPSHandler(context=context))
    opener = build_opener(*handlers)
    deadline = time.monotonic() + timeout
    try:
        request = Request(url, data, headers, method="GET" if data is None else "POST")
        try:
            response = opener.open(request, timeout=timeout)
        except HTTPError as error:
            response = error
        with response:
            return response.code, _read(response, deadline)
    except (socket.timeout, TimeoutError):  # two classes before Python 3.10
        raise NotReady(f"no whole answer within {timeout:g} s") from None
    except URLError as error:
        if isinstance(error.reason, (socket.timeout, TimeoutError)):
            raise NotReady(f"no answer within {timeout:g} s") from None
        raise NotReady(f"no connection: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"the connection broke: {error or type(error).__name__}") from error
    except ValueError as error:
        raise ServingError(f"{url} is not a URL that can be asked: {error}") from error


def _read(response: Any, deadline: float) -> bytes:
    """Read a body, however slowly it drips, until `deadline`."""
    parts = []
    while True:
        part = response.read1(_CHUNK)
        if not part:
            return b"".join(parts)
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
