"""The messages with which models are asked for predictions, metadata and status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tf2x_gateway.serving.tensors import (
    DT_STRING,
    Shape,
    array_buffer,
    decode_shape,
    decode_tensor,
    dtype_name,
    encode_tensor_parts,
    numeric_tensor_prefix,
    numpy_dtype,
    string_tensor_parts,
)
from tf2x_gateway.serving.wire import (
    FieldValue,
    WireError,
    bytes_field,
    bytes_field_header,
    decode_fields,
    decode_map_entry,
    decode_text,
    expect_bytes,
    expect_int,
    signed,
    varint_field,
)

AVAILABLE = "AVAILABLE"
_STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: AVAILABLE, 40: "UNLOADING", 50: "END"}
# Bounds the memory of a frame that is given batches of every size.
_MOST_PREFIXES = 64


@dataclass(frozen=True)
class ModelSpec:
    """Which model a request is for; without a version and a label, the newest version that is loaded."""

    name: str
    signature_name: str = ""
    version: int | None = None
    version_label: str | None = None

    def encode(self) -> bytes:
        """Return the encoded tensorflow.serving.ModelSpec."""
        encoded = bytes_field(1, self.name.encode())
        if self.version is not None:
            encoded += bytes_field(2, varint_field(1, self.version))
        if self.signature_name:
            encoded += bytes_field(3, self.signature_name.encode())
        if self.version_label is not None:
            encoded += bytes_field(4, self.version_label.encode())
        return encoded


@dataclass(frozen=True)
class TensorInfo:
    """Type (a tensorflow.DataType number) and shape (-1: any size; None: any rank) of a signature's tensor."""

    dtype: int
    shape: Shape | None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one signature of a SavedModel, by name."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


@dataclass(frozen=True)
class ModelMetadata:
    """The version that answered and its signatures, by name."""

    version: int | None
    signatures: Mapping[str, Signature]


@dataclass(frozen=True)
class VersionStatus:
    """State of one version of a model; `error` is empty unless loading failed."""

    version: int
    state: str
    error: str


@dataclass(frozen=True)
class PredictResponse:
    """The version that answered and its output tensors, by name; the arrays may be read-only views of the answer."""

    version: int | None
    outputs: Mapping[str, np.ndarray]


class PredictRequestFrame:
    """A PredictRequest of one input tensor with everything but the tensor encoded in advance.

    `row_shape` is the input's shape without its batch dimension. An input that has none (`batched` is False) gets
    exactly one row. Threads may share a frame.
    """

    def __init__(
        self,
        spec: ModelSpec,
        input_name: str,
        dtype: int,
        row_shape: Shape,
        output_names: Sequence[str] = (),
        *,
        batched: bool = True,
    ) -> None:
        self.row_shape = tuple(row_shape)
        self.batched = batched
        self._dtype = dtype
        # None for strings, which have no fixed size.
        self.numpy_dtype = None if dtype == DT_STRING else numpy_dtype(dtype)
        self._head = _request_head(spec, output_names)
        self._name_field = bytes_field(1, input_name.encode())
        self._prefixes: dict[int, bytes] = {}

    def encode(self, rows: np.ndarray) -> bytes:
        """Return the encoded PredictRequest with `rows`, copied once.

        They are a C-ordered array of the frame's type and of shape (n, *row_shape), or row_shape if not `batched`.
        Raises ValueError for any other.
        """
        expected = ("n", *self.row_shape) if self.batched else self.row_shape
        found = ("n", *rows.shape[1:]) if self.batched and rows.ndim else rows.shape
        if self.numpy_dtype is None or found != expected or rows.dtype != self.numpy_dtype:
            raise ValueError(
                f"the frame is for {dtype_name(self._dtype)} of shape {_listed(expected)}, "
                f"the array is {rows.dtype} of shape {_listed(rows.shape)}"
            )
        if not rows.flags.c_contiguous:
            raise ValueError("the array is not C-ordered; numpy.ascontiguousarray makes it so")
        count = len(rows) if self.batched else 1
        prefix = self._prefixes.get(count)
        if prefix is None:
            if len(self._prefixes) >= _MOST_PREFIXES:
                self._prefixes.clear()
            tensor_prefix = numeric_tensor_prefix(self._dtype, rows.shape)
            prefix = self._prefixes[count] = self._prefix(tensor_prefix, rows.nbytes)
        return b"".join((prefix, array_buffer(rows)))

    def encode_strings(self, items: Sequence[bytes]) -> bytes:
        """Return the encoded PredictRequest with one string a row, copied once.

        Raises ValueError if the frame's rows are no single strings, or for other than one item if not `batched`.
        """
        if self.numpy_dtype is not None or self.row_shape:
            raise ValueError(
                f"the frame is for {dtype_name(self._dtype)} rows of shape {_listed(self.row_shape)}, "
                "not for single strings"
            )
        if not self.batched and len(items) != 1:
            raise ValueError(f"the frame is for one string, {len(items)} were given")
        prefix, values = string_tensor_parts((len(items),) if self.batched else (), items)
        length = sum(map(len, values))
        return b"".join((self._prefix(prefix, length), *values))

    def _prefix(self, tensor_prefix: bytes, values_length: int) -> bytes:
        tensor_header = bytes_field_header(2, len(tensor_prefix) + values_length)
        entry = self._name_field + tensor_header + tensor_prefix
        return self._head + bytes_field_header(2, len(entry) + values_length) + entry


def encode_predict_request(
    spec: ModelSpec, inputs: Mapping[str, np.ndarray], output_names: Sequence[str] = ()
) -> bytes:
    """Return the encoded PredictRequest for arrays by input name; ValueError for one of a type without a tensor."""
    parts = [_request_head(spec, output_names)]
    for name, array in inputs.items():
        try:
            tensor = encode_tensor_parts(np.asarray(array))
        except ValueError as error:
            raise ValueError(f"input {name!r}: {error}") from error
        length = sum(map(len, tensor))
        entry = bytes_field(1, name.encode()) + bytes_field_header(2, length)
        parts += (bytes_field_header(2, len(entry) + length), entry, *tensor)
    return b"".join(parts)


def _request_head(spec: ModelSpec, output_names: Sequence[str]) -> bytes:
    return bytes_field(1, spec.encode()) + b"".join(bytes_field(3, name.encode()) for name in output_names)


def _listed(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def encode_metadata_request(spec: ModelSpec) -> bytes:
    """Return the encoded GetModelMetadataRequest for a model's signatures."""
    return bytes_field(1, spec.encode()) + bytes_field(2, b"signature_def")


def encode_status_request(spec: ModelSpec) -> bytes:
    """Return the encoded GetModelStatusRequest."""
    return bytes_field(1, spec.encode())


def decode_predict_response(message: memoryview) -> PredictResponse:
    """Decode a PredictResponse; WireError if it is none."""
    version, outputs = None, {}
    for number, value in decode_fields(message):
        if number == 1:
            name, tensor = decode_map_entry(value)
            outputs[name] = decode_tensor(tensor)
        elif number == 2:
            version = _decode_spec_version(expect_bytes(number, value))
    return PredictResponse(version, outputs)


def decode_metadata_response(message: memoryview) -> ModelMetadata:
    """Decode a GetModelMetadataResponse; WireError if it is none, or holds no signatures."""
    version, signatures = None, None
    for number, value in decode_fields(message):
        if number == 1:
            version = _decode_spec_version(expect_bytes(number, value))
        elif number == 2:
            key, any_message = decode_map_entry(value)
            if key == "signature_def":
                signatures = _decode_signature_map(any_message)
    if signatures is None:
        raise WireError("the model's metadata holds no signature_def")
    return ModelMetadata(version, signatures)


def decode_status_response(message: memoryview) -> list[VersionStatus]:
    """Decode a GetModelStatusResponse; WireError if it is none."""
    return [
        _decode_version_status(expect_bytes(number, value)) for number, value in decode_fields(message) if number == 1
    ]


def _decode_spec_version(message: memoryview) -> int | None:
    for number, value in decode_fields(message):
        if number == 2:
            version = 0
            for inner_number, inner_value in decode_fields(expect_bytes(number, value)):
                if inner_number == 1:
                    version = signed(expect_int(inner_number, inner_value))
            return version
    return None


def _decode_signature_map(any_message: memoryview) -> dict[str, Signature]:
    signatures = {}
    for any_number, any_value in decode_fields(any_message):
        if any_number == 2:
            for number, value in decode_fields(expect_bytes(any_number, any_value)):
                if number == 1:
                    name, signature = decode_map_entry(value)
                    signatures[name] = _decode_signature(signature)
    return signatures


def _decode_signature(message: memoryview) -> Signature:
    sides: dict[int, dict[str, TensorInfo]] = {1: {}, 2: {}}
    for number, value in decode_fields(message):
        if number in sides:
            name, info = decode_map_entry(value)
            sides[number][name] = _decode_tensor_info(info)
    return Signature(inputs=sides[1], outputs=sides[2])


def _decode_tensor_info(message: memoryview) -> TensorInfo:
    dtype = 0
    shape: Shape | None = None
    for number, value in decode_fields(message):
        if number == 2:
            dtype = expect_int(number, value)
        elif number == 3:
            shape = decode_shape(expect_bytes(number, value))
    return TensorInfo(dtype, shape)


def _decode_version_status(message: memoryview) -> VersionStatus:
    version, state, error = 0, 0, ""
    for number, value in decode_fields(message):
        if number == 1:
            version = signed(expect_int(number, value))
        elif number == 2:
            state = expect_int(number, value)
        elif number == 3:
            error = _decode_status_message(number, value)
    return VersionStatus(version, _STATES.get(state, f"state {state}"), error)


def _decode_status_message(number: int, value: FieldValue) -> str:
    for inner_number, inner_value in decode_fields(expect_bytes(number, value)):
        if inner_number == 2:
            return decode_text(inner_number, inner_value)
    return ""
