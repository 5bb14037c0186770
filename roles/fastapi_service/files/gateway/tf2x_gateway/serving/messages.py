"""The messages of TF Serving's PredictionService and ModelService that the gateway sends and reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tf2x_gateway.serving.tensors import Shape, decode_shape, decode_tensor, numpy_dtype, tensor_content_prefix
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
    """The version that answered and its output tensors, by name."""

    version: int | None
    outputs: Mapping[str, np.ndarray]


class PredictRequestFrame:
    """A PredictRequest of one input tensor with everything but the tensor's bytes encoded in advance."""

    def __init__(
        self, spec: ModelSpec, input_name: str, dtype: int, shape: Shape, output_names: tuple[str, ...]
    ) -> None:
        self.shape = shape
        self.dtype = numpy_dtype(dtype)
        tensor_prefix, content_length = tensor_content_prefix(dtype, shape)
        entry_prefix = bytes_field(1, input_name.encode())
        entry_prefix += bytes_field_header(2, len(tensor_prefix) + content_length) + tensor_prefix
        self._prefix = (
            bytes_field(1, spec.encode())
            + b"".join(bytes_field(3, name.encode()) for name in output_names)
            + bytes_field_header(2, len(entry_prefix) + content_length)
            + entry_prefix
        )

    def encode(self, tensor: np.ndarray) -> bytes:
        """Return the encoded PredictRequest with `tensor`, of the frame's shape and type, C order: one copy of it."""
        if tensor.shape != self.shape or tensor.dtype != self.dtype:
            raise ValueError(f"the frame is for {self.dtype}{self.shape}, the tensor is {tensor.dtype}{tensor.shape}")
        return b"".join((self._prefix, tensor.data))


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
