"""API keys: who a caller is, and what the key opens."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import Request

from tf2x_gateway.config import ApiKey
from tf2x_gateway.errors import GatewayError


class ApiKeys:
    """Lets requests with a right key through. What none of the keys opens is open to everyone."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = [(bytes.fromhex(key.sha256), key) for key in keys]

    def authorize(self, request: Request, scope: str) -> str:
        """Return who asks: the name of the key, or the address where no key is needed.

        Raises GatewayError unauthorized without a known key, forbidden if the key does not open `scope`.
        """
        if not any(scope in key.scopes for _unused, key in self._keys):
            return request.client.host if request.client else "unknown"
        digest = hashlib.sha256(_presented(request)).digest()
        # Every key is compared, in constant time: how long it takes says nothing about any.
        found = [key for stored, key in self._keys if hmac.compare_digest(stored, digest)]
        if not found:
            raise GatewayError(
                401,
                "unauthorized",
                "no key, or no known one, came as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
                {"WWW-Authenticate": "Bearer"},
            )
        key = found[0]
        request.state.api_key = key.name
        if scope not in key.scopes:
            raise GatewayError(
                403, "forbidden", f"the key {key.name!r} opens {', '.join(sorted(key.scopes))}; this needs {scope}"
            )
        return f"key:{key.name}"


def _presented(request: Request) -> bytes:
    scheme, _separator, credentials = request.headers.get("authorization", "").partition(" ")
    key = credentials.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    return key.encode("latin-1")
