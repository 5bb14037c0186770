"""The image file of a request: in memory, never on disk, never more than its limit."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from tf2x_gateway.errors import GatewayError, bad_request

FIELD = "file"
# Boundaries, part headers and small other fields of a form come on top of the file.
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_PARTS = 20


async def read_image(request: Request, max_bytes: int) -> bytes:
    """Return the file in the multipart field `file`, or an image/* body as it is.

    Raises GatewayError bad_request, file_too_large, unsupported_type or missing_file, ClientDisconnect.
    """
    header = request.headers.get("content-type", "")
    media_type, options = parse_options_header(header)
    if media_type == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise bad_request("the Content-Type multipart/form-data has no boundary")
        _check_declared_length(request, max_bytes + _FORM_OVERHEAD_BYTES, max_bytes)
        return await _read_form(request.stream(), boundary, max_bytes)
    if media_type.startswith(b"image/"):
        _check_declared_length(request, max_bytes, max_bytes)
        return await _read_raw(request.stream(), max_bytes)
    raise GatewayError(
        415,
        "unsupported_type",
        f"the Content-Type is {header!r}; multipart/form-data with the field {FIELD!r}, or image/*, is supported",
    )


def _check_declared_length(request: Request, limit: int, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(max_bytes)


async def _read_raw(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    received, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        received.append(chunk)
    if not size:
        raise GatewayError(422, "missing_file", "the body is empty")
    return b"".join(received)


async def _read_form(chunks: AsyncIterator[bytes], boundary: bytes, max_bytes: int) -> bytes:
    form = _FileForm(max_bytes)
    size = 0
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes + _FORM_OVERHEAD_BYTES:
                raise _too_large(max_bytes)
            if chunk:
                parser.write(chunk)
    except FormParserError as error:
        raise bad_request(f"the multipart body cannot be read: {error}") from error
    return form.file()


class _FileForm:
    """Keeps the field `file` of a form while it is parsed, and the names of the other fields."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._file: io.BytesIO | None = None
        self._other_fields: list[str] = []
        self._parts = 0
        self._in_file = False
        self._complete = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = ""

    def callbacks(self) -> dict:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_data,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def file(self) -> bytes:
        """Return the file of a form that was parsed to its end."""
        if not self._complete:
            raise bad_request("the multipart body ends before its closing boundary")
        if self._file is None:
            found = ", ".join(map(repr, self._other_fields)) or "none"
            raise GatewayError(422, "missing_file", f"the form has no field {FIELD!r}; its fields: {found}")
        content = self._file.getvalue()
        if not content:
            raise GatewayError(422, "missing_file", f"the field {FIELD!r} is empty")
        return content

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise bad_request(f"the form has more than {_MAX_PARTS} fields")
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
        if name != FIELD:
            self._other_fields.append(name)
        elif self._file is not None:
            raise bad_request(f"the form has the field {FIELD!r} twice; one image a request is taken")
        else:
            self._file = io.BytesIO()
            self._in_file = True

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            assert self._file is not None
            self._file.write(memoryview(data)[start:end])
            if self._file.tell() > self._max_bytes:
                raise _too_large(self._max_bytes)

    def _end(self) -> None:
        self._complete = True


def _too_large(max_bytes: int) -> GatewayError:
    return GatewayError(413, "file_too_large", f"the file is larger than the {max_bytes} bytes allowed")
