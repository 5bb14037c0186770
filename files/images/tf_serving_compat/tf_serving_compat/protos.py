"""The official messages: from the installed packages, or declared here where no package carries them."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message

from tf_serving_compat.errors import invalid_argument

AnyMessage = TypeVar("AnyMessage", bound=Message)


def tensorflow_directory() -> Path:
    """The directory of the installed tensorflow package, found without importing it."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("package 'tensorflow' is not installed: install tensorflow-cpu")
    return Path(spec.submodule_search_locations[0])


if "tensorflow" not in sys.modules:
    # `import tensorflow` costs seconds and hundreds of megabytes; only the message classes below it are wanted.
    _package = types.ModuleType("tensorflow")
    _package.__path__ = [str(tensorflow_directory())]
    _package.__spec__ = importlib.util.find_spec("tensorflow")
    sys.modules["tensorflow"] = _package

from tensorflow.core.framework import tensor_pb2, types_pb2  # noqa: E402
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2  # noqa: E402

__all__ = [
    "BatchingParameters",
    "MonitoringConfig",
    "config_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "meta_graph_pb2",
    "model_management_pb2",
    "model_pb2",
    "model_server_config_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_log_pb2",
    "prediction_service_pb2_grpc",
    "read_text_proto",
    "tensor_pb2",
    "tensorflow_directory",
    "types_pb2",
]

_Field = descriptor_pb2.FieldDescriptorProto
_INT64_VALUE = ".google.protobuf.Int64Value"

# (message, [(field, number, scalar type or message name, repeated)]) of the two files that the stubs leave out.
_MISSING_MESSAGES = [
    ("PrometheusConfig", [("enable", 1, _Field.TYPE_BOOL, False), ("path", 2, _Field.TYPE_STRING, False)]),
    ("MonitoringConfig", [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig", False)]),
    (
        "BatchingParameters",
        [
            ("max_batch_size", 1, _INT64_VALUE, False),
            ("batch_timeout_micros", 2, _INT64_VALUE, False),
            ("max_enqueued_batches", 3, _INT64_VALUE, False),
            ("num_batch_threads", 4, _INT64_VALUE, False),
            ("thread_pool_name", 5, ".google.protobuf.StringValue", False),
            ("allowed_batch_sizes", 6, _Field.TYPE_INT64, True),
            ("pad_variable_length_inputs", 7, _Field.TYPE_BOOL, False),
            ("enable_large_batch_splitting", 8, ".google.protobuf.BoolValue", False),
            ("max_execution_batch_size", 9, _INT64_VALUE, False),
        ],
    ),
]


def _declare_missing_messages() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="tf_serving_compat/config.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message_name, fields in _MISSING_MESSAGES:
        message = file.message_type.add(name=message_name)
        for name, number, kind, repeated in fields:
            field = message.field.add(name=name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, kind
            else:
                field.type = kind
    pool = descriptor_pool.Default()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))
        for name, _fields in _MISSING_MESSAGES
    }


_declared = _declare_missing_messages()
MonitoringConfig = _declared["MonitoringConfig"]
BatchingParameters = _declared["BatchingParameters"]


def read_text_proto(path: str, message_class: type[AnyMessage]) -> AnyMessage:
    """A message from a text-format file.

    Raises ServingError INVALID_ARGUMENT that names the file when it cannot be read or parsed.
    """
    name = message_class.DESCRIPTOR.name
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid_argument(f"Cannot read {name} file {path}: {error}") from error
    try:
        return text_format.Parse(text, message_class())
    except text_format.ParseError as error:
        raise invalid_argument(f"Cannot parse {path} as a text-format {name}: {error}") from error
