"""What a served model wants and gives, agreed with what the configuration declares about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tf2x_gateway.config import ModelDeclaration
from tf2x_gateway.errors import model_contract
from tf2x_gateway.pixels import PixelFormat
from tf2x_gateway.serving import ModelMetadata, ModelSpec, PredictRequestFrame, TensorInfo, dtype_name
from tf2x_gateway.serving.tensors import (
    DT_DOUBLE,
    DT_FLOAT,
    DT_HALF,
    DT_INT32,
    DT_INT64,
    DT_STRING,
    DT_UINT8,
    numpy_dtype,
)

_SCALED_TYPES = (DT_FLOAT, DT_HALF, DT_DOUBLE)
_PIXEL_TYPES = (*_SCALED_TYPES, DT_UINT8, DT_INT32, DT_INT64)
_DEFAULT_SCALE = 1 / 255


@dataclass(frozen=True)
class ModelContract:
    """How to ask the version of a model whose signature was read. Equal contracts are asked in the same way.

    `pixel_format` is None for a model that takes whole image files and decodes them by itself. At most `batch_size`
    images go into one request; its tensor has a dimension for them if `batched`.
    """

    input_name: str
    pixel_format: PixelFormat | None
    batched: bool
    batch_size: int
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
    tensor = signature.inputs[input_name]
    about_input = f"{about}: input {input_name!r}"
    if tensor.dtype == DT_STRING:
        pixel_format = None
        batched = _takes_files(about_input, tensor, declaration)
    else:
        pixel_format = _pixel_format(about_input, tensor, declaration)
        batched = True
    _check_labels(f"{about}: output {output_name!r}", signature.outputs[output_name], declaration.labels)
    one_by_one = not batched or (tensor.shape is not None and tensor.shape[0] == 1)
    frame = PredictRequestFrame(
        model_spec(name, declaration),
        input_name,
        tensor.dtype,
        pixel_format.shape if pixel_format else (),
        (output_name,),
        batched=batched,
    )
    return ModelContract(
        input_name,
        pixel_format,
        batched,
        1 if one_by_one else declaration.batch_size,
        output_name,
        metadata.version,
        frame,
    )


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


def _takes_files(about: str, tensor: TensorInfo, declaration: ModelDeclaration) -> bool:
    """Return whether a string input takes several image files at once."""
    shape = tensor.shape
    if shape is not None and (len(shape) > 1 or (shape and shape[0] not in (-1, 1))):
        raise model_contract(f"{about} has the shape {list(shape)}; image files are sent in the shape [-1] or []")
    for key in ("height", "scale"):
        if getattr(declaration, key) is not None:
            raise model_contract(
                f"{about} is of type DT_STRING, so it takes image files as they are; "
                f"{key} is declared as {getattr(declaration, key)}, which only pixels can have"
            )
    return shape != ()


def _pixel_format(about: str, tensor: TensorInfo, declaration: ModelDeclaration) -> PixelFormat:
    if tensor.dtype not in _PIXEL_TYPES:
        raise model_contract(
            f"{about} is of type {dtype_name(tensor.dtype)}; images can be sent as "
            f"{', '.join(map(dtype_name, (*_PIXEL_TYPES, DT_STRING)))}"
        )
    if declaration.scale is not None and tensor.dtype not in _SCALED_TYPES:
        raise model_contract(
            f"{about} is of type {dtype_name(tensor.dtype)}, which takes 0 to 255 as they are; "
            f"scale is declared as {declaration.scale}"
        )
    shape = (-1, -1, -1, -1) if tensor.shape is None else tensor.shape
    if len(shape) != 4 or shape[0] not in (-1, 1) or shape[3] not in (-1, 1, 3):
        raise model_contract(f"{about} has the shape {list(shape)}; [-1, height, width, 3 or 1] is supported")
    sides = []
    for key, size, declared in zip(("height", "width"), shape[1:3], (declaration.height, declaration.width)):
        if size < 1 and declared is None:
            raise model_contract(f"{about} has the shape {list(shape)}, which leaves the {key} open; declare {key}")
        if size >= 1 and declared not in (None, size):
            raise model_contract(f"{about} has the shape {list(shape)}; {key} is declared as {declared}")
        sides.append(size if size >= 1 else declared)
    return PixelFormat(
        height=sides[0],
        width=sides[1],
        scale=_DEFAULT_SCALE if declaration.scale is None else declaration.scale,
        dtype=numpy_dtype(tensor.dtype),
        channels=1 if shape[3] == 1 else 3,
        resize=declaration.resize,
        apply_exif=declaration.exif == "apply",
        fast=declaration.decoding == "fast",
    )


def _check_labels(about: str, tensor: TensorInfo, labels: list[str]) -> None:
    if tensor.shape and tensor.shape[-1] >= 0 and tensor.shape[-1] != len(labels):
        raise model_contract(
            f"{about} has the shape {list(tensor.shape)}, so {tensor.shape[-1]} scores; {describe_labels(labels)}"
        )


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"
