"""The image files of a request: in memory, never on disk, never more than their limit."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Callable, Union

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from tf2x_gateway.config import Limits
from tf2x_gateway.errors import GatewayError, bad_request

IMAGE_FIELD = "file"
BATCH_FIELD = "files"
# Boundaries, part headers and small other fields of a form come on top of the files.
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_OTHER_PARTS = 20

# Is told of bytes as they arrive, and may refuse them.
Hold = Callable[[int], None]
File = Union[bytes, GatewayError]


async def read_image(request: Request, limits: Limits, hold: Hold) -> bytes:
    """Return the file in the multipart field `file`, or an image/* body as it is.

    Raises GatewayError bad_request, file_too_large, unsupported_type or missing_file, what `hold` raises, and
    ClientDisconnect.
    """
    media_type, boundary = _content_type(request)
    max_bytes = limits.max_upload_bytes
    if media_type.startswith(b"image/"):
        body = b"".join([chunk async for chunk in _body(request, max_bytes, max_bytes, hold)])
        if not body:
            raise GatewayError(422, "missing_file", "the body is empty")
        return body
    if boundary is None:
        raise _unsupported(request, f"multipart/form-data with the field {IMAGE_FIELD!r}, or image/*, is supported")
    form = _FileForm(IMAGE_FIELD, 1, max_bytes)
    await form.read(_body(request, max_bytes + _FORM_OVERHEAD_BYTES, max_bytes, hold), boundary)
    (file,) = form.files()
    if isinstance(file, GatewayError):
        raise file
    return file


async def read_batch(request: Request, limits: Limits, hold: Hold) -> list[File]:
    """Return the files in the multipart field `files`, in the order sent; a GatewayError for an empty or too large one.

    Raises as `read_image` does, for what concerns the request as a whole.
    """
    _media_type, boundary = _content_type(request)
    if boundary is None:
        raise _unsupported(request, f"multipart/form-data with the field {BATCH_FIELD!r} is supported")
    form = _FileForm(BATCH_FIELD, limits.max_batch_images, limits.max_upload_bytes)
    max_bytes = limits.max_batch_bytes
    await form.read(_body(request, max_bytes + _FORM_OVERHEAD_BYTES, max_bytes, hold), boundary)
    return form.files()


def _content_type(request: Request) -> tuple[bytes, bytes | None]:
    """Return the media type of the body, and the boundary if it is a form."""
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != b"multipart/form-data":
        return media_type, None
    boundary = options.get(b"boundary")
    if not boundary:
        raise bad_request("the Content-Type multipart/form-data has no boundary")
    return media_type, boundary


async def _body(request: Request, limit: int, max_bytes: int, hold: Hold) -> AsyncIterator[bytes]:
    """Yield the body's chunks; refuse it beyond `limit` bytes, saying that `max_bytes` are allowed."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large("the body", max_bytes)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large("the body", max_bytes)
        hold(len(chunk))
        request.state.body_bytes = size
        yield chunk


class _FileForm:
    """Keeps the files in one field of a form while it is parsed, and the names of the other fields."""

    def __init__(self, field: str, max_files: int, max_bytes: int) -> None:
        self._field = field
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._files: list[io.BytesIO | GatewayError] = []
        self._other_fields: list[str] = []
        self._in_file = False
        self._complete = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = ""

    async def read(self, chunks: AsyncIterator[bytes], boundary: bytes) -> None:
        """Parse a body to its end."""
        callbacks = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_data,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }
        try:
            parser = MultipartParser(boundary, callbacks)
            async for chunk in chunks:
                parser.write(chunk)
        except FormParserError as error:
            raise bad_request(f"the multipart body cannot be read: {error}") from error
        if not self._complete:
            raise bad_request("the multipart body ends before its closing boundary")

    def files(self) -> list[File]:
        """Return the files of a form that was parsed to its end; at least one."""
        if not self._files:
            found = ", ".join(map(repr, self._other_fields)) or "none"
            raise GatewayError(422, "missing_file", f"the form has no field {self._field!r}; its fields: {found}")
        return [
            file if isinstance(file, GatewayError) else file.getvalue() or self._empty_file() for file in self._files
        ]

    def _empty_file(self) -> GatewayError:
        return GatewayError(422, "missing_file", f"the field {self._field!r} is empty")

    def _part_begin(self) -> None:
        self._in_file = False
        self._header_name = self._header_value = b""
        self._disposition = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("latin-1")
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode("utf-8", "replace")
        if name == self._field:
            if len(self._files) == self._max_files:
                raise bad_request(
                    f"the form has more than {self._max_files} {self._field!r}; no more are taken at once"
                )
            self._files.append(io.BytesIO())
            self._in_file = True
        else:
            self._other_fields.append(name)
            if len(self._other_fields) > _MAX_OTHER_PARTS:
                raise bad_request(f"the form has more than {_MAX_OTHER_PARTS} fields beside {self._field!r}")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            return
        file = self._files[-1]
        if isinstance(file, GatewayError):
            return
        if file.tell() + end - start > self._max_bytes:
            self._files[-1] = _too_large("the file", self._max_bytes)
        else:
            file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._complete = True


def _unsupported(request: Request, supported: str) -> GatewayError:
    return GatewayError(
        415, "unsupported_type", f"the Content-Type is {request.headers.get('content-type', '')!r}; {supported}"
    )


def _too_large(what: str, max_bytes: int) -> GatewayError:
    return GatewayError(413, "file_too_large", f"{what} is larger than the {max_bytes} bytes allowed")
