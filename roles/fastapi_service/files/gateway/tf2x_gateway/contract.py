"""What a served model wants and gives, agreed with what the configuration declares about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tf2x_gateway.config import ModelDeclaration
from tf2x_gateway.errors import model_contract
from tf2x_gateway.pixels import PixelFormat
from tf2x_gateway.serving import ModelMetadata, ModelSpec, PredictRequestFrame, TensorInfo, dtype_name
from tf2x_gateway.serving.tensors import DT_DOUBLE, DT_FLOAT, DT_HALF, DT_INT32, DT_INT64, DT_UINT8, numpy_dtype

_PIXEL_TYPES = (DT_FLOAT, DT_HALF, DT_DOUBLE, DT_UINT8, DT_INT32, DT_INT64)


@dataclass(frozen=True)
class ModelContract:
    """How to ask the version of a model whose signature was read. Equal contracts are asked in the same way."""

    input_name: str
    input_dtype: int
    pixel_format: PixelFormat
    output_name: str
    version: int | None = field(compare=False)
    frame: PredictRequestFrame = field(compare=False, repr=False)


def model_spec(name: str, declaration: ModelDeclaration) -> ModelSpec:
    """Return the spec with which a declared model is asked for predictions."""
    return ModelSpec(name, signature_name=declaration.signature_name, version_label=declaration.version_label)


def agree(name: str, declaration: ModelDeclaration, metadata: ModelMetadata) -> ModelContract:
    """Return the contract of a declared model. Raises GatewayError model_contract, naming both sides."""
    about = f"model {name!r} version {metadata.version}"
    signature = metadata.signatures.get(declaration.signature_name)
    if signature is None:
        raise model_contract(
            f"{about} has no signature {declaration.signature_name!r}; it has: {_listed(metadata.signatures)}"
        )
    about += f", signature {declaration.signature_name!r}"
    input_name = _choose(about, "input", declaration.input_name, signature.inputs)
    output_name = _choose(about, "output", declaration.output_name, signature.outputs)
    pixel_format = _pixel_format(f"{about}: input {input_name!r}", signature.inputs[input_name], declaration.scale)
    _check_labels(f"{about}: output {output_name!r}", signature.outputs[output_name], declaration.labels)
    dtype = signature.inputs[input_name].dtype
    shape = (1, pixel_format.height, pixel_format.width, 3)
    frame = PredictRequestFrame(model_spec(name, declaration), input_name, dtype, shape, (output_name,))
    return ModelContract(input_name, dtype, pixel_format, output_name, metadata.version, frame)


def describe_labels(labels: list[str]) -> str:
    """Return the declared labels for a message: how many, and the first of them."""
    return f"{len(labels)} labels are declared: {', '.join(labels[:10])}" + (", …" if len(labels) > 10 else "")


def _choose(about: str, side: str, declared: str | None, tensors: Mapping[str, TensorInfo]) -> str:
    if declared is not None:
        if declared not in tensors:
            raise model_contract(f"{about}: {side}_name is {declared!r}, the {side}s are: {_listed(tensors)}")
        return declared
    if len(tensors) != 1:
        raise model_contract(
            f"{about} has {len(tensors)} {side}s: {_listed(tensors)}; {side}_name must say which one is meant"
        )
    return next(iter(tensors))


def _pixel_format(about: str, tensor: TensorInfo, scale: float) -> PixelFormat:
    if tensor.dtype not in _PIXEL_TYPES:
        raise model_contract(
            f"{about} is of type {dtype_name(tensor.dtype)}; pixels can be sent as "
            f"{', '.join(map(dtype_name, _PIXEL_TYPES))}"
        )
    shape = tensor.shape
    if shape is None or len(shape) != 4 or shape[0] not in (-1, 1) or min(shape[1:3]) < 1 or shape[3] != 3:
        found = "an unknown rank" if shape is None else f"the shape {list(shape)}"
        raise model_contract(f"{about} has {found}; [-1, height, width, 3] with a fixed height and width is supported")
    return PixelFormat(height=shape[1], width=shape[2], scale=scale, dtype=numpy_dtype(tensor.dtype))


def _check_labels(about: str, tensor: TensorInfo, labels: list[str]) -> None:
    if tensor.shape and tensor.shape[-1] >= 0 and tensor.shape[-1] != len(labels):
        raise model_contract(
            f"{about} has the shape {list(tensor.shape)}, so {tensor.shape[-1]} scores; {describe_labels(labels)}"
        )


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
