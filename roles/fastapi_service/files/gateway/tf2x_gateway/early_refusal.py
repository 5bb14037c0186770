"""Middleware that refuses predictions while there is no place for them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from tf2x_gateway.admission import Gate
from tf2x_gateway.errors import GatewayError, error_body


class EarlyRefusal:
    """Refuses the POST requests to `routes` that find `gate` full, before anything else is done for them.

    Under overload most requests end here, and whatever a refusal costs is missing for the answers to the others.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._gate = gate
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._gate.full and scope["type"] == "http" and scope["method"] == "POST" and self._routed(scope):
                self._gate.check()
        except GatewayError as error:
            scope["state"]["error"] = error.code
            answer = Response(error_body(error.code, error.message), error.status, error.headers, "application/json")
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _routed(self, scope: Scope) -> bool:
        """Whether one of the routes takes the request; it is noted in the scope, as the router would."""
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return True
        return False
