"""One loaded model version, and Predict on it with TF Serving's checks and texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from grpc import StatusCode

from tf_serving_compat import metrics
from tf_serving_compat.errors import ServingError, invalid_argument
from tf_serving_compat.protos import meta_graph_pb2, predict_pb2, tensor_pb2
from tf_serving_compat.tensors import Tensor, from_proto

DEFAULT_SIGNATURE = "serving_default"
_METHOD_NAMES = ("predict", "classify", "regress")

Value = TypeVar("Value")


class Runner(Protocol):
    """What runs tensors through the model: a session, or one that batches."""

    def run(self, feeds: Mapping[str, Tensor], fetches: Sequence[str], timeout_ms: int = 0) -> list[Tensor]:
        """The fetched tensors."""

    def close(self) -> None:
        """Free the model."""


class Servable:
    """A model version that can answer."""

    def __init__(
        self,
        name: str,
        version: int,
        signatures: Mapping[str, meta_graph_pb2.SignatureDef],
        runner: Runner,
        check_method_name: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.signatures = signatures
        self._runner = runner
        self._check_method_name = check_method_name

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, Value],
        decode: Callable[[str, Value], Tensor],
        output_filter: Sequence[str] = (),
        timeout_ms: int = 0,
    ) -> dict[str, Tensor]:
        """Output tensors by alias. `decode` turns an input's alias and value into a tensor.

        Raises ServingError with TF Serving's code and text.
        """
        signature = self.signatures.get(signature_name)
        if signature is None:
            raise ServingError(StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.')
        self._check_method(signature)
        _check_input_names(signature, inputs)
        feeds = _feeds(signature, inputs, decode)
        aliases = _output_aliases(signature, output_filter)
        started = time.monotonic()
        outputs = self._runner.run(feeds, [signature.outputs[alias].name for alias in aliases], timeout_ms)
        metrics.RUNTIME_LATENCY.add((time.monotonic() - started) * 1e6, self.name, "Predict", "TF1")
        return dict(zip(aliases, outputs))

    def predict_request(self, request: predict_pb2.PredictRequest, timeout_ms: int = 0) -> dict[str, Tensor]:
        """Output tensors of an official request, by alias."""
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        return self.predict(signature_name, request.inputs, decode_proto, request.output_filter, timeout_ms)

    def close(self) -> None:
        """Free the model; no call may be under way."""
        self._runner.close()

    def _check_method(self, signature: meta_graph_pb2.SignatureDef) -> None:
        allowed = [f"tensorflow/serving/{name}" for name in _METHOD_NAMES]
        if self._check_method_name and signature.method_name not in allowed:
            raise ServingError(
                StatusCode.INTERNAL,
                f"Expected prediction signature method_name to be one of {{{', '.join(allowed)}}}. "
                f"Was: {signature.method_name}",
            )


def decode_proto(alias: str, proto: tensor_pb2.TensorProto) -> Tensor:
    """The tensor of a request's input; the error names the input."""
    try:
        return from_proto(proto)
    except ServingError as error:
        raise invalid_argument(f"tensor parsing error: {alias}: {error.message}") from error


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _check_input_names(signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, Value]) -> None:
    sent, known = set(inputs), set(signature.inputs)
    if len(sent) > len(known) or (len(sent) < len(known) and not signature.defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(known)} len({_braces(sent)}) != "
            f"len({_braces(known)}). Sent extra: {_braces(sent - known)}. "
            f"Missing but required: {_braces(known - sent)}."
        )


def _feeds(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, Value], decode: Callable[[str, Value], Tensor]
) -> dict[str, Tensor]:
    known = set(signature.inputs)
    extra = set(inputs) - known
    missing = known - set(inputs) - set(signature.defaults)
    if extra or missing:
        raise invalid_argument(
            f"input keys do not match signature. Sent extra: {_braces(extra)}. "
            f"Missing but required: {_braces(missing)}."
        )
    return {
        info.name: decode(alias, inputs[alias]) if alias in inputs else decode_proto(alias, signature.defaults[alias])
        for alias, info in sorted(signature.inputs.items())
    }


def _output_aliases(signature: meta_graph_pb2.SignatureDef, output_filter: Sequence[str]) -> list[str]:
    for position, alias in enumerate(output_filter):
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(signature.outputs)}."
            )
        if alias in output_filter[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
    return list(output_filter) or sorted(signature.outputs)
