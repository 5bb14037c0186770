"""Refuses predictions while there is no place for them, before anything else is done for them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from tf2x_gateway.admission import Gate
from tf2x_gateway.errors import GatewayError
from tf2x_gateway.observer import RequestObserver


class EarlyRefusal:
    """Says whether a request is to be refused, and with which answer.

    Under overload most requests end here, and whatever a refusal costs is missing for the answers to the others: so
    not even a task is made for them.
    """

    def __init__(self, gate: Gate, routes: Sequence[BaseRoute], observer: RequestObserver) -> None:
        self._gate = gate
        self._routes = routes
        self._observer = observer

    def __call__(self, scope: Scope) -> bytes | None:
        """Return the whole HTTP/1.1 answer but for the headers of the connection, or None for what may pass."""
        if not self._gate.full or scope["method"] != "POST" or not self._routed(scope):
            return None
        try:
            self._gate.check()
        except GatewayError as error:
            return self._observer.answer(scope, error)
        return None

    def _routed(self, scope: Scope) -> bool:
        """Whether one of the routes takes the request; it is noted in the scope, as the router would."""
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return True
        return False
