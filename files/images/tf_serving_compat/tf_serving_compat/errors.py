"""The one error type that crosses module borders, and its meaning on each of the two interfaces."""

from __future__ import annotations

from grpc import StatusCode

_BY_NUMBER = {code.value[0]: code for code in StatusCode}

HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.INTERNAL: 500,
    StatusCode.UNKNOWN: 500,
    StatusCode.DATA_LOSS: 500,
}


class ServingError(Exception):
    """A failed operation: a gRPC status code and the text that the client gets."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def status_code(number: int) -> StatusCode:
    """The status code of TensorFlow's error number; TensorFlow and gRPC share the numbers."""
    return _BY_NUMBER.get(number, StatusCode.UNKNOWN)


def invalid_argument(message: str) -> ServingError:
    """An INVALID_ARGUMENT error, by far the most frequent one."""
    return ServingError(StatusCode.INVALID_ARGUMENT, message)


def as_serving_error(error: BaseException) -> ServingError:
    """Any exception as a ServingError, for the places where an interface must answer whatever happened."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, MemoryError):
        return ServingError(StatusCode.RESOURCE_EXHAUSTED, f"Out of memory: {error}")
    return ServingError(StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
