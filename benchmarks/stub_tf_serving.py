"""A stand-in for TF Serving that answers at once with constants, so that a benchmark measures what is in front of it.

It reads and drops what it is sent: gRPC's own Python server needs more CPU for a tensor of 1.7 MB than the gateway does
for the whole request. So it speaks only as much HTTP/2 as a gRPC client needs, announces the frame size of the
collection's balancer, and tells methods apart by their messages. REST gets one constant answer likewise.

    PYTHONPATH=roles/fastapi_service/files/gateway python benchmarks/stub_tf_serving.py

prints {"grpc": port, "rest": port} once it listens on 127.0.0.1, and runs until it is terminated.
"""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import dataclass

import uvloop
from tf2x_gateway.serving.tensors import DT_FLOAT, DT_STRING, DT_UINT8
from tf2x_gateway.serving.wire import bytes_field, varint_field

SIDE = 380
SCORES = (0.75, 0.25)
SIGNATURES = {"float32": DT_FLOAT, "uint8": DT_UINT8, "encoded": DT_STRING}
_IMAGE_BYTES = {"float32": SIDE * SIDE * 3 * 4, "uint8": SIDE * SIDE * 3}

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_PREFACE_LENGTH = 24
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65535
_MAX_FRAME_SIZE = 65536
_READ_BYTES = 1 << 20
# Room for a gRPC prefix and everything of a request but a tensor's bytes.
_HEAD_BYTES = 256


def _shape(*dims: int) -> bytes:
    return b"".join(bytes_field(2, varint_field(1, size)) for size in dims)


def _tensor_info(name: str, dtype: int, *dims: int) -> bytes:
    info = bytes_field(1, f"{name}:0".encode()) + varint_field(2, dtype) + bytes_field(3, _shape(*dims))
    return bytes_field(1, name.encode()) + bytes_field(2, info)


def _model_spec(name: str) -> bytes:
    return bytes_field(1, name.encode()) + bytes_field(2, varint_field(1, 1))


def metadata_response(name: str) -> bytes:
    """Return the encoded GetModelMetadataResponse of a model."""
    dtype = SIGNATURES[name]
    dims = (-1,) if dtype == DT_STRING else (-1, SIDE, SIDE, 3)
    signature = bytes_field(1, _tensor_info("image", dtype, *dims))
    signature += bytes_field(2, _tensor_info("scores", DT_FLOAT, -1, len(SCORES)))
    entry = bytes_field(1, b"serving_default") + bytes_field(2, signature)
    packed = bytes_field(1, b"type.googleapis.com/tensorflow.serving.SignatureDefMap")
    packed += bytes_field(2, bytes_field(1, entry))
    return bytes_field(1, _model_spec(name)) + bytes_field(2, bytes_field(1, b"signature_def") + bytes_field(2, packed))


def status_response() -> bytes:
    """Return the encoded GetModelStatusResponse: version 1 is AVAILABLE."""
    return bytes_field(1, varint_field(1, 1) + varint_field(2, 30))


def predict_response(name: str, images: int) -> bytes:
    """Return the encoded PredictResponse for a number of images."""
    values = struct.pack(f"<{len(SCORES) * images}f", *SCORES * images)
    tensor = varint_field(1, DT_FLOAT) + bytes_field(2, _shape(images, len(SCORES))) + bytes_field(5, values)
    return bytes_field(1, bytes_field(1, b"scores") + bytes_field(2, tensor)) + bytes_field(2, _model_spec(name))


def _answer(head: bytes, length: int) -> bytes:
    # Encoders write fields in the order of their numbers: the ModelSpec stands first, and in it the name.
    name = head[9 : 9 + head[8]].decode()
    if length > _HEAD_BYTES:
        return predict_response(name, length // _IMAGE_BYTES.get(name, length))
    return metadata_response(name) if b"signature_def" in head else status_response()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """HPACK: a literal header field, neither indexed nor Huffman-coded."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


_STATUS_200 = b"\x88"
_RESPONSE_HEADERS = _STATUS_200 + _literal(b"content-type", b"application/grpc")
_TRAILERS = _literal(b"grpc-status", b"0")


@dataclass
class _Request:
    head: bytes = b""
    length: int = 0


class GrpcConnection(asyncio.BufferedProtocol):
    """One HTTP/2 connection of a gRPC client."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._requests: dict[int, _Request] = {}
        self._skip = _PREFACE_LENGTH
        self._header = b""
        self._kind = self._flags = self._stream = self._left = 0
        self._control = b""
        self._unacknowledged = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        settings = struct.pack(">HIHI", 4, _LARGEST_WINDOW, 5, _MAX_FRAME_SIZE)
        transport.write(_frame(_SETTINGS, 0, 0, settings) + self._window(_LARGEST_WINDOW - _DEFAULT_WINDOW))

    def get_buffer(self, _size_hint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        at = min(self._skip, nbytes)
        self._skip -= at
        while at < nbytes:
            if len(self._header) < 9:
                start, at = at, min(at + 9 - len(self._header), nbytes)
                self._header += bytes(self._buffer[start:at])
                if len(self._header) < 9:
                    return
                high, low, self._kind, self._flags, self._stream = struct.unpack(">BHBBI", self._header)
                self._left = high << 16 | low
                self._control = b""
            start, at = at, min(at + self._left, nbytes)
            self._left -= at - start
            self._payload(start, at)
            if self._left == 0:
                self._header = b""
                self._frame_ends()

    def _payload(self, start: int, end: int) -> None:
        if self._kind == _DATA:
            request = self._requests.setdefault(self._stream, _Request())
            request.length += end - start
            if len(request.head) < _HEAD_BYTES:
                request.head += bytes(self._buffer[start : min(end, start + _HEAD_BYTES)])
            self._unacknowledged += end - start
        elif self._kind == _PING:
            self._control += bytes(self._buffer[start:end])

    def _frame_ends(self) -> None:
        if self._kind == _DATA:
            if self._unacknowledged > _LARGEST_WINDOW // 4:
                self._transport.write(self._window(self._unacknowledged))
                self._unacknowledged = 0
            if self._flags & _END_STREAM:
                self._respond(self._stream, self._requests.pop(self._stream))
        elif self._kind == _RST_STREAM:
            self._requests.pop(self._stream, None)
        elif self._kind in (_SETTINGS, _PING) and not self._flags & _ACK:
            self._transport.write(_frame(self._kind, _ACK, 0, self._control))

    def _respond(self, stream: int, request: _Request) -> None:
        message = _answer(request.head, request.length)
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, _RESPONSE_HEADERS)
            + _frame(_DATA, 0, stream, struct.pack(">BI", 0, len(message)) + message)
            + _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _TRAILERS)
        )

    def _window(self, increment: int) -> bytes:
        return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", increment))


class RestConnection(asyncio.BufferedProtocol):
    """One HTTP/1.1 connection; every request has a Content-Length and gets the same predictions."""

    _BODY = json.dumps({"predictions": [list(SCORES)]}).encode()
    _ANSWER = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)) + _BODY

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def get_buffer(self, _size_hint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._left == 0:
            self._head += bytes(self._buffer[:nbytes])
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self._left, self._head, nbytes = int(fields[b"content-length"]), b"", len(body)
        self._left -= nbytes
        if self._left == 0:
            self._transport.write(self._ANSWER)


async def serve() -> None:
    """Listen on two free ports, print them, and run until cancelled."""
    loop = asyncio.get_running_loop()
    servers = {
        "grpc": await loop.create_server(GrpcConnection, "127.0.0.1", 0),
        "rest": await loop.create_server(RestConnection, "127.0.0.1", 0),
    }
    print(json.dumps({name: server.sockets[0].getsockname()[1] for name, server in servers.items()}), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers.values()))


if __name__ == "__main__":
    uvloop.run(serve())
