"""Client of TF Serving's gRPC interface that needs neither TensorFlow nor protobuf."""

from tf2x_gateway.serving.client import ServingClient
from tf2x_gateway.serving.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MalformedResponse,
    NotFound,
    ServingError,
    Unavailable,
)
from tf2x_gateway.serving.messages import (
    ModelMetadata,
    ModelSpec,
    PredictRequestFrame,
    PredictResponse,
    Signature,
    TensorInfo,
    VersionStatus,
)
from tf2x_gateway.serving.tensors import dtype_name

__all__ = [
    "DeadlineExceeded",
    "FailedPrecondition",
    "InvalidArgument",
    "MalformedResponse",
    "ModelMetadata",
    "ModelSpec",
    "NotFound",
    "PredictRequestFrame",
    "PredictResponse",
    "ServingClient",
    "ServingError",
    "Signature",
    "TensorInfo",
    "Unavailable",
    "VersionStatus",
    "dtype_name",
]
