# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""Clients of TF Serving (REST and gRPC) and of the gateway.

Every call raises ServingError with what was found and what would be right; NotReady when that may pass by itself.
"""

from __future__ import annotations

import json
import mimetypes
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.tf2x.serving.plugins.module_utils import _http, _predict, _signature, _tensor, _wire
from ansible_collections.tf2x.serving.plugins.module_utils._http import NotReady, ServingError

try:
    import grpc

    GRPC_ERROR = None
except ImportError:
    grpc = None
    GRPC_ERROR = traceback.format_exc()


@dataclass(frozen=True)
class Target:
    """Which model is asked: by label, or by version, or the version that TF Serving picks.

    With both, `version` is the one that the label must stand for.
    """

    model: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.label is not None:
            return f"{self.model} label {self.label}"
        return f"{self.model} version {self.version}" if self.version is not None else self.model

    @property
    def path(self) -> str:
        path = f"/v1/models/{quote(self.model, safe='')}"
        if self.label is not None:
            return f"{path}/labels/{quote(self.label, safe='')}"
        return f"{path}/versions/{self.version}" if self.version is not None else path


class Rest:
    """TF Serving's REST interface. `url`: its base, without `/v1`; `timeout`: seconds a call may take."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout

    def states(self, target: Target) -> dict[int, str]:
        """Return the state of each version, `AVAILABLE` or another word with the reason. Raises NotReady if none."""
        # The status of a label is that of all versions.
        code, body = self._call(Target(target.model, target.version).path)
        if code != 200:
            raise NotReady(f"HTTP {code}: {_error(body)}")
        try:
            return {int(entry["version"]): _state(entry) for entry in body["model_version_status"]}
        except (KeyError, TypeError, ValueError):
            raise ServingError(f"status that is not TF Serving's: {_http.short(body)}") from None

    def signatures(self, target: Target) -> tuple[int, dict[str, _signature.Signature]]:
        """Return the version that `target` stands for and its signatures."""
        code, body = self._call(f"{target.path}/metadata")
        if code != 200:
            raise NotReady(f"HTTP {code}: {_error(body)}")
        try:
            return _signature.signatures_from_metadata(body)
        except ValueError as error:
            raise ServingError(str(error)) from error

    def predict(
        self, target: Target, request: bytes, outputs: list[str]
    ) -> dict[str, tuple[tuple[int, ...], list[float]]]:
        """Return shape and values of the signature's `outputs` by name. `request`: what `predict_request` returns."""
        code, body = self._call(f"{target.path}:predict", request, "application/json")
        if code != 200:
            raise ServingError(f"HTTP {code}: {_error(body)}")
        found = body.get("outputs") if isinstance(body, dict) else None
        if found is None:
            raise ServingError(f"a prediction without outputs: {_http.short(body)}")
        # A single output comes bare.
        columns = found if isinstance(found, dict) else dict.fromkeys(outputs if len(outputs) == 1 else [], found)
        missing = [name for name in outputs if name not in columns]
        if missing:
            raise ServingError(f"a prediction without output {', '.join(missing)}: {_http.short(body)}")
        try:
            return {name: _tensor.flatten(columns[name]) for name in outputs}
        except _tensor.TensorError as error:
            raise ServingError(f"a prediction with {error}: {_http.short(body)}") from error

    def _call(self, path: str, data: bytes | None = None, content_type: str = "") -> tuple[int, Any]:
        return _http.json_call(
            f"{self._url}{path}", self._timeout, data, {"Content-Type": content_type} if data else {}
        )


def predict_request(signature_name: str, inputs: Mapping[str, _tensor.Tensor]) -> bytes:
    """Return the body of a REST prediction in column form. It is the same for every endpoint, and may be large."""
    columns = {name: tensor.nested() for name, tensor in inputs.items()}
    return json.dumps({"signature_name": signature_name, "inputs": columns}).encode()


class Gateway:
    """The gateway's HTTP interface. `url`: its base; `timeout`: seconds a call may take; `api_key`: if it wants one."""

    def __init__(self, url: str, timeout: float, *, api_key: str | None = None, validate_certs: bool = True) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        # Gateways leave what says so out of their request rates.
        self._headers = {"X-Tf2x-Probe": "1"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._validate_certs = validate_certs

    def predict(self, model: str, image: Path) -> tuple[str, dict[str, float]]:
        """Upload an image; return the version that answered (empty when it is not told) and the scores by label."""
        content_type, data = _upload(image)
        url = f"{self._url}/models/{quote(model, safe='')}/predict"
        headers = {**self._headers, "Content-Type": content_type}
        code, body = _http.json_call(url, self._timeout, data, headers, validate_certs=self._validate_certs)
        if code in (502, 503, 504):
            raise NotReady(f"HTTP {code}: {_gateway_error(body)}")
        if code != 200:
            raise ServingError(f"HTTP {code}: {_gateway_error(body)}")
        try:
            scores = {entry["label"]: float(entry["score"]) for entry in body["predictions"]}
            version = (body.get("model") or {}).get("version")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ServingError(f"a prediction that is not the gateway's: {_http.short(body)}") from None
        return "" if version is None else str(version), scores


class Grpc:
    """TF Serving's PredictionService. `address`: host:port, without TLS; `timeout`: seconds a call may take."""

    def __init__(self, address: str, timeout: float) -> None:
        self._timeout = timeout
        # A proxy of the environment is for the world outside, and 4 MiB, gRPC's limit, is one image or two.
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        )
        self._predict = self._channel.unary_unary(_predict.PREDICT_METHOD)

    def predict(
        self, target: Target, signature_name: str, inputs: Mapping[str, _tensor.Tensor]
    ) -> dict[str, _tensor.Tensor]:
        """Return the outputs by name."""
        version = target.version if target.label is None else None
        request = _predict.encode_request(target.model, signature_name, inputs, version, target.label)
        try:
            return _predict.decode_response(self._predict(request, timeout=self._timeout))
        except grpc.RpcError as error:
            kind = (
                NotReady if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND) else ServingError
            )
            raise kind(f"{error.code().name}: {error.details()}") from error
        except (_tensor.TensorError, _wire.WireError) as error:
            raise ServingError(f"a response that cannot be read: it has {error}") from error

    def close(self) -> None:
        self._channel.close()


def _upload(file: Path) -> tuple[str, bytes]:
    """Return content type and body of a form with one file; Ansible's own form encodes files as base64."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
    content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    body = (
        f"{head}Content-Type: {content_type}\r\n\r\n".encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    )
    return f"multipart/form-data; boundary={boundary}", body


def _state(entry: Mapping[str, Any]) -> str:
    state, reason = entry["state"], (entry.get("status") or {}).get("error_message", "")
    return f"{state} ({reason})" if reason and state != "AVAILABLE" else state


def _error(body: Any) -> str:
    return str(body["error"]).strip() if isinstance(body, dict) and "error" in body else _http.short(body)


def _gateway_error(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return f"{error.get('code')}: {error.get('message')}" if isinstance(error, dict) else _http.short(body)
