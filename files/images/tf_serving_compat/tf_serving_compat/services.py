"""What both interfaces offer: prediction, metadata and status, on official messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from grpc import StatusCode

from tf_serving_compat.core import ServerCore
from tf_serving_compat.errors import ServingError, invalid_argument
from tf_serving_compat.manager import VersionStatus
from tf_serving_compat.predict import Servable
from tf_serving_compat.protos import get_model_metadata_pb2, get_model_status_pb2, model_pb2

SIGNATURE_DEF = "signature_def"


@contextlib.contextmanager
def servable_of(core: ServerCore, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
    """The servable that a request means, loaded as long as the block runs; raises ServingError."""
    with core.manager.servable(*core.resolve(spec)) as servable:
        yield servable


def model_status(core: ServerCore, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of a model's versions, of one when the spec has a number; a label is not looked at (as official)."""
    statuses = core.manager.statuses(spec.name)
    if spec.HasField("version"):
        version = spec.version.value
        if version not in statuses:
            raise _not_found(f"Could not find version {version} of model {spec.name}")
        statuses = {version: statuses[version]}
    elif not statuses:
        raise _not_found(f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, status in statuses.items():
        _add_status(response, version, status)
    return response


def _not_found(message: str) -> ServingError:
    return ServingError(StatusCode.NOT_FOUND, message)


def _add_status(response: get_model_status_pb2.GetModelStatusResponse, version: int, status: VersionStatus) -> None:
    entry = response.model_version_status.add(version=version, state=status.state)
    entry.status.error_code = status.error.code.value[0] if status.error else 0
    entry.status.error_message = status.error.message if status.error else ""


def model_metadata(
    core: ServerCore, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a model version."""
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")
    with servable_of(core, request.model_spec) as servable:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response
