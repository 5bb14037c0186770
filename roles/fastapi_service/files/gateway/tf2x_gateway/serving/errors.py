"""Typed errors of calls to TF Serving."""

from __future__ import annotations

import grpc


class ServingError(Exception):
    """A call to TF Serving failed.

    `code` is the gRPC status name, `details` the server's own text, `address` the upstream that was asked.
    """

    def __init__(self, code: str, details: str, address: str) -> None:
        super().__init__(f"{address}: {code}: {details}")
        self.code = code
        self.details = details
        self.address = address


class Unavailable(ServingError):
    """No upstream could take the call, or finish it: nothing listens, it stops, or its queue is full."""


class DeadlineExceeded(ServingError):
    """The deadline passed before the answer came."""


class InvalidArgument(ServingError):
    """TF Serving refused the tensors or the model spec of the request."""


class NotFound(ServingError):
    """TF Serving does not have the model or the version."""


class FailedPrecondition(ServingError):
    """TF Serving has the model, but not the signature that was asked for."""


class MalformedResponse(ServingError):
    """The answer is not the message it should be."""

    def __init__(self, details: str, address: str) -> None:
        super().__init__("MALFORMED_RESPONSE", details, address)


_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # What a server that stops says of calls under way. A call cancelled on this side ends in no RPC error.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
}


# gRPC's own words for an answer that ended before its status: a balancer lost the replica that was giving it.
_CUT_SHORT = "Stream removed"


def from_rpc_error(error: grpc.RpcError, address: str) -> ServingError:
    """Return the typed error of an RPC that failed on a blocking or an asynchronous channel."""
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.UNKNOWN and details.startswith(_CUT_SHORT):
        return Unavailable(code.name, details, address)
    return _BY_CODE.get(code, ServingError)(code.name, details, address)
