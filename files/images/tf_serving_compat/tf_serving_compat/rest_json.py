"""JSON bodies of the REST interface: Predict requests to tensors, tensors to answers.

Large numeric bodies take orjson's and numpy's fast paths; a value that those cannot take exactly as TF Serving would
goes through a walk that gives TF Serving's own error texts.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
from grpc import StatusCode

from tf_serving_compat.errors import ServingError, invalid_argument
from tf_serving_compat.protos import meta_graph_pb2, types_pb2
from tf_serving_compat.tensors import STRING, Tensor, dtype_name, numpy_dtype, string_array

Inputs = Mapping[str, meta_graph_pb2.TensorInfo]

_FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
# Types with a JSON form, and the range that TF Serving accepts in it (None: any number).
_NUMBERS: dict[int, tuple[int, int] | None] = {
    types_pb2.DT_FLOAT: None,
    types_pb2.DT_DOUBLE: None,
    types_pb2.DT_INT8: (-(2**31), 2**31 - 1),
    types_pb2.DT_INT16: (-(2**31), 2**31 - 1),
    types_pb2.DT_INT32: (-(2**31), 2**31 - 1),
    types_pb2.DT_UINT8: (-(2**31), 2**31 - 1),
    types_pb2.DT_INT64: (-(2**63), 2**63 - 1),
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, 2**64 - 1),
}
_DEBUG_LIMIT = 256


class PredictCall(NamedTuple):
    """A Predict request: signature, inputs by alias, and whether the answer is in row format."""

    signature_name: str
    inputs: dict[str, Tensor]
    row_format: bool


def parse_predict(body: bytes, inputs_of: Callable[[str], Inputs]) -> PredictCall:
    """Tensors of a request body; `inputs_of(signature name or "")` gives the signature's inputs.

    Raises ServingError INVALID_ARGUMENT with TF Serving's text.
    """
    document = _parse(body)
    if not isinstance(document, dict):
        raise _format_error(document, "Is not object")
    signature_name = document.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid_argument(
            f"JSON Value: {_debug(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    infos = inputs_of(signature_name)
    if not infos:
        raise invalid_argument(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    # numpy turns booleans among numbers into numbers without a word.
    reader = _Reader(has_booleans=b"true" in body or b"false" in body)
    if "instances" in document and "inputs" in document:
        raise _format_error(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        return PredictCall(signature_name, _row_inputs(document, infos, reader), True)
    if "inputs" in document:
        return PredictCall(signature_name, _column_inputs(document["inputs"], infos, reader), False)
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _row_inputs(document: dict, infos: Inputs, reader: _Reader) -> dict[str, Tensor]:
    instances = document["instances"]
    if not isinstance(instances, list):
        raise _format_error(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise _format_error(document, "No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if not _is_named(instances[0]):
        (name, info) = next(iter(infos.items()))
        fast = reader.fast_array(instances, info.dtype)
        if fast is not None:
            return {name: fast}
    columns = _columns(instances, infos)
    return {
        name: reader.stack(values, infos[name].dtype, _element_context(instances, name))
        for name, values in columns.items()
    }


def _columns(instances: list, infos: Inputs) -> dict[str, list]:
    if not _is_named(instances[0]):
        for number, element in enumerate(instances):
            if _is_named(element):
                raise invalid_argument(f"Expecting value/list but got object at item {number} of input list")
        return {next(iter(infos)): instances}
    for number, element in enumerate(instances):
        if not _is_named(element):
            raise invalid_argument(f"Expecting object but got list at item {number} of input list")
        for name in element:
            if name not in infos:
                raise invalid_argument(
                    f"Failed to process element: {number} key: {name} of 'instances' list. Error: "
                    f"INVALID_ARGUMENT: JSON object: does not have named input: {name}"
                )
        if set(element) != set(infos):
            raise invalid_argument(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_debug(element)} keys must "
                f"be equal to: {','.join(sorted(infos))}"
            )
    return {name: [element[name] for element in instances] for name in infos}


def _element_context(instances: list, name: str) -> Callable[[int], str]:
    key = f" key: {name}" if _is_named(instances[0]) else ""
    return lambda number: f"Failed to process element: {number}{key} of 'instances' list. Error: INVALID_ARGUMENT: "


def _column_inputs(value: Any, infos: Inputs, reader: _Reader) -> dict[str, Tensor]:
    if not _is_named(value):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, info),) = infos.items()
        return {name: reader.tensor(value, info.dtype)}
    for name in infos:
        if name not in value:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: reader.tensor(value[name], info.dtype) for name, info in infos.items()}


class _Reader:
    """Turns parsed JSON values into tensors."""

    def __init__(self, has_booleans: bool) -> None:
        self._has_booleans = has_booleans

    def tensor(self, value: Any, dtype: int) -> Tensor:
        """One tensor out of a scalar or nested lists."""
        fast = self.fast_array(value, dtype)
        if fast is not None:
            return fast
        shape = _shape(value)
        leaves: list = []
        _walk(value, 0, shape, dtype, leaves)
        return Tensor(dtype, _array(leaves, tuple(shape), dtype))

    def stack(self, values: list, dtype: int, context: Callable[[int], str]) -> Tensor:
        """One tensor out of elements of the same shape; `context` begins the error of an element."""
        fast = self.fast_array(values, dtype)
        if fast is not None:
            return fast
        shape = _shape(values[0])
        leaves: list = []
        for number, value in enumerate(values):
            before = len(leaves)
            own_shape = _shape(value)
            try:
                _walk(value, 0, own_shape, dtype, leaves)
                if number and (len(leaves) - before) * number != before:
                    raise invalid_argument(f"Expecting tensor size: {before // number} but got: {len(leaves) - before}")
                if own_shape != shape:
                    raise invalid_argument(f"Expecting shape {_brackets(shape)} but got: {_brackets(own_shape)}")
            except ServingError as error:
                raise invalid_argument(context(number) + error.message) from error
        return Tensor(dtype, _array(leaves, (len(values), *shape), dtype))

    def fast_array(self, value: Any, dtype: int) -> Tensor | None:
        """The tensor where numpy alone gets it right, else None."""
        if dtype not in _NUMBERS or self._has_booleans:
            return None
        try:
            array = np.array(value)
        except (ValueError, OverflowError):
            return None
        limits = _NUMBERS[dtype]
        if limits is None:
            usable = array.dtype.kind in "fiu"
        else:
            usable = array.dtype.kind in "iu" and (
                array.size == 0 or (int(array.min()) >= limits[0] and int(array.max()) <= limits[1])
            )
        if not usable:
            return None
        with np.errstate(over="ignore"):
            return Tensor(dtype, array.astype(numpy_dtype(dtype)))


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _walk(value: Any, level: int, shape: list[int], dtype: int, leaves: list) -> None:
    rank = len(shape)
    if isinstance(value, list):
        if level >= rank:
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for element in value:
            _walk(element, level + 1, shape, dtype, leaves)
        return
    if level != rank:
        raise invalid_argument(
            f"JSON Value: {_debug(value)} found at incorrect level: {level + 1} in the JSON DOM. "
            f"Expected at level: {rank}"
        )
    leaves.append(_leaf(value, dtype))


def _leaf(value: Any, dtype: int) -> Any:
    if isinstance(value, dict) and dtype == STRING:
        return _decode_base64(value)
    if not isinstance(value, dict):
        if dtype == STRING:
            if isinstance(value, str):
                return value.encode("utf-8", "surrogatepass")
        elif dtype == types_pb2.DT_BOOL:
            if isinstance(value, bool):
                return value
        elif dtype in _NUMBERS:
            if _is_number(value, dtype):
                return value
        else:
            raise ServingError(
                StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {_debug(value)} to type: {dtype_name(dtype)}"
            )
    raise invalid_argument(
        f"JSON Value: {_debug(value)} Type: {_json_type(value)} is not of expected type: {dtype_name(dtype)}"
    )


def _is_number(value: Any, dtype: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    limits = _NUMBERS[dtype]
    return limits is None or (isinstance(value, int) and limits[0] <= value <= limits[1])


def _array(leaves: list, shape: tuple[int, ...], dtype: int) -> np.ndarray:
    if dtype == STRING:
        return string_array(leaves, shape)
    target = numpy_dtype(dtype)
    # 64-bit integers must not pass through floats; narrower ones wrap as TF Serving's fields do.
    if dtype in _FLOATS:
        source: type = np.float64
    elif dtype == types_pb2.DT_BOOL:
        source = np.bool_
    else:
        source = np.uint64 if dtype == types_pb2.DT_UINT64 else np.int64
    with np.errstate(over="ignore"):
        return np.array(leaves, dtype=source).astype(target).reshape(shape)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _decode_base64(value: dict) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {_debug(value)} not formatted correctly for base64 data")
    text = value["b64"].strip()
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def _brackets(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


# --- parsing ---------------------------------------------------------------------------------------------------------


def _parse(body: bytes) -> Any:
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    # NaN and Infinity, or text after the document: both are fine with TF Serving, not with orjson.
    text = body.decode("utf-8", "surrogateescape")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise invalid_argument(f"JSON Parse error: The document is empty. at offset: {start}")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {_parse_error(error)} at offset: {error.pos}") from None
    except RecursionError:
        raise invalid_argument("JSON Parse error: nested too deeply at offset: 0") from None


_PARSE_ERRORS = (
    ("Expecting value", "Invalid value."),
    ("Expecting property name", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
    ("Invalid \\uXXXX", "Incorrect hex digit after \\u escape in string."),
    ("Invalid control character", "Invalid encoding in string."),
)


def _parse_error(error: json.JSONDecodeError) -> str:
    """RapidJSON's words for what Python's parser found."""
    if error.msg.startswith("Expecting ','"):
        text = re.sub(r'"(?:[^"\\]|\\.)*"', "", error.doc[: error.pos])
        opened = []
        for character in text:
            if character in "[{":
                opened.append(character)
            elif character in "]}" and opened:
                opened.pop()
        if opened and opened[-1] == "[":
            return "Missing a comma or ] after an array element."
        return "Missing a comma or } after an object member."
    return next((words for start, words in _PARSE_ERRORS if error.msg.startswith(start)), error.msg)


def _format_error(value: Any, text: str) -> ServingError:
    return invalid_argument(f"JSON Value: {_debug(value)} {text}")


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


class _LimitReached(Exception):
    pass


def _debug(value: Any) -> str:
    """The value as indented JSON, cut off soon after 256 bytes."""
    parts: list[str] = []
    size = 0

    def put(text: str) -> None:
        nonlocal size
        if size >= _DEBUG_LIMIT:
            raise _LimitReached
        parts.append(text)
        size += len(text)

    def write(item: Any, indent: int) -> None:
        if isinstance(item, list):
            put("[")
            for number, element in enumerate(item):
                put(", " if number else "")
                write(element, indent)
            put("]")
        elif isinstance(item, dict) and item:
            put("{")
            for number, (key, element) in enumerate(item.items()):
                put(f"{',' if number else ''}\n{' ' * (indent + 4)}{json.dumps(key)}: ")
                write(element, indent + 4)
            put(f"\n{' ' * indent}}}")
        else:
            put(json.dumps(item, ensure_ascii=False))

    with contextlib.suppress(_LimitReached):
        write(value, 0)
    return "".join(parts)


# --- answers ---------------------------------------------------------------------------------------------------------


def predict_body(outputs: Mapping[str, Tensor], row_format: bool) -> bytes:
    """The answer to Predict in the format of the request; ServingError where outputs do not fit that format."""
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    return _row_body(outputs) if row_format else _column_body(outputs)


def _column_body(outputs: Mapping[str, Tensor]) -> bytes:
    if len(outputs) == 1:
        ((name, tensor),) = outputs.items()
        return b'{\n    "outputs": ' + _dump(name, tensor) + b"\n}"
    members = b",\n        ".join(orjson.dumps(name) + b": " + _dump(name, tensor) for name, tensor in outputs.items())
    return b'{\n    "outputs": {\n        ' + members + b"\n    }\n}"


def _row_body(outputs: Mapping[str, Tensor]) -> bytes:
    batch_size = None
    for name, tensor in outputs.items():
        if tensor.array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch_size is not None and len(tensor.array) != batch_size:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(tensor.array)} expecting: {batch_size}"
            )
        batch_size = len(tensor.array)
    if len(outputs) == 1:
        ((name, tensor),) = outputs.items()
        return b'{\n    "predictions": ' + _dump(name, tensor) + b"\n}"
    rows = (
        b",\n            ".join(
            orjson.dumps(name) + b": " + _dump(name, Tensor(tensor.dtype, tensor.array[number]))
            for name, tensor in outputs.items()
        )
        for number in range(batch_size or 0)
    )
    body = b",\n        ".join(b"{\n            " + row + b"\n        }" for row in rows)
    return b'{\n    "predictions": [\n        ' + body + b"\n    ]\n}"


def _dump(name: str, tensor: Tensor) -> bytes:
    array = tensor.array
    if tensor.dtype == STRING:
        as_bytes = name.endswith("_bytes")
        return orjson.dumps(_nested(array, lambda value: _string(value, as_bytes)))
    if tensor.dtype not in _NUMBERS and tensor.dtype != types_pb2.DT_BOOL:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(tensor.dtype)}")
    if isinstance(array, np.ndarray) and array.ndim and np.isfinite(array).all():
        return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson has no tokens for NaN and Infinity, and takes no array of rank 0.
    return _nested_text(np.asarray(array)).encode()


def _string(value: bytes, as_bytes: bool) -> Any:
    if as_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "replace")


def _nested(array: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(array, np.ndarray) and array.ndim:
        return [_nested(element, convert) for element in array]
    return convert(array.item() if isinstance(array, np.ndarray) else array)


def _nested_text(array: np.ndarray) -> str:
    if array.ndim:
        return f"[{', '.join(_nested_text(np.asarray(element)) for element in array)}]"
    if array.dtype.kind == "f":
        if np.isnan(array):
            return "NaN"
        if np.isinf(array):
            return "Infinity" if array > 0 else "-Infinity"
    return orjson.dumps(array[()], option=orjson.OPT_SERIALIZE_NUMPY).decode()
