"""Client of TF Serving's gRPC interface that needs neither TensorFlow nor protobuf.

    with ServingClient("127.0.0.1:9500") as client:
        response = client.predict_arrays(ModelSpec("pets"), {"image": np.zeros((1, 380, 380, 3), np.float32)})
        print(response.version, response.outputs)

AsyncServingClient is the same with coroutines. Nothing in here needs the rest of the gateway.
"""

from tf2x_gateway.serving.client import AsyncServingClient, ServingClient
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
from tf2x_gateway.serving.model_config import AllVersions, LatestVersions, ModelConfig, SpecificVersions
from tf2x_gateway.serving.tensors import BFLOAT16, dtype_name, to_bfloat16

__all__ = [
    "BFLOAT16",
    "AllVersions",
    "AsyncServingClient",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InvalidArgument",
    "LatestVersions",
    "MalformedResponse",
    "ModelConfig",
    "ModelMetadata",
    "ModelSpec",
    "NotFound",
    "PredictRequestFrame",
    "PredictResponse",
    "ServingClient",
    "ServingError",
    "Signature",
    "SpecificVersions",
    "TensorInfo",
    "Unavailable",
    "VersionStatus",
    "dtype_name",
    "to_bfloat16",
]
