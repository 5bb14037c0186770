"""What the gateway answers when it does not answer with predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tf2x_gateway.serving import DeadlineExceeded, InvalidArgument, ServingError, Unavailable

RETRY_AFTER_SECONDS = 1
_RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_SECONDS)}


class GatewayError(Exception):
    """A request ends with HTTP status `status` and the error body of `code` and `message`."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


class RefusedByModel(GatewayError):
    """A model that decodes image files by itself cannot read this one: the file's fault, or the model's."""

    def __init__(self, message: str) -> None:
        super().__init__(422, "image_invalid", message)


def error_document(code: str, message: str) -> dict[str, Any]:
    """Return the JSON document that every error is answered with."""
    return {"success": False, "error": {"code": code, "message": message}}


def error_body(code: str, message: str) -> bytes:
    """Return the same, encoded."""
    return json.dumps(error_document(code, message), ensure_ascii=False).encode()


def bad_request(message: str) -> GatewayError:
    """The request is not HTTP as it should be."""
    return GatewayError(400, "bad_request", message)


def too_many_requests(message: str) -> GatewayError:
    """The client asks for more than its share."""
    return GatewayError(429, "too_many_requests", message, _RETRY_AFTER)


def overloaded(message: str) -> GatewayError:
    """The gateway has as much to do as it takes on."""
    return GatewayError(503, "overloaded", message, _RETRY_AFTER)


def model_contract(message: str) -> GatewayError:
    """The gateway's declaration of a model and the model that is served do not fit each other."""
    return GatewayError(500, "model_contract", message)


def upstream_error(message: str) -> GatewayError:
    """TF Serving answered, but with nothing that could be used."""
    return GatewayError(502, "upstream_error", message)


def upstream_unavailable(message: str) -> GatewayError:
    """TF Serving does not answer, or has no version of the model to answer with."""
    return GatewayError(503, "upstream_unavailable", message, _RETRY_AFTER)


def upstream_timeout(message: str) -> GatewayError:
    """The answer did not come in time."""
    return GatewayError(504, "upstream_timeout", message)


def from_serving(model: str, error: ServingError) -> GatewayError:
    """Return the answer to a request for `model` that TF Serving failed.

    A tensor that TF Serving refuses is the gateway's fault, never the caller's: so no 4xx.
    """
    message = f"model {model!r}: TF Serving at {error}"
    if isinstance(error, InvalidArgument):
        return model_contract(message)
    if isinstance(error, Unavailable):
        return upstream_unavailable(message)
    if isinstance(error, DeadlineExceeded):
        return upstream_timeout(message)
    return upstream_error(message)
