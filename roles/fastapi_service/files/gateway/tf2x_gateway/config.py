"""The gateway's configuration file."""

import ipaddress
import json
import re
import ssl
from pathlib import Path
from typing import Any, Literal, Optional, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

# Names the configuration file to the worker processes.
CONFIG_VARIABLE = "TF2X_GATEWAY_CONFIG"

_MODEL_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ORIGIN = re.compile(r"\*|https?://[^/\s*]+")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


Document = TypeVar("Document", bound="Section")


class ConfigError(Exception):
    """The configuration cannot be used; the message names every fault, one a line."""


class Section(BaseModel):
    """An object of a file that people or roles write: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Upstream(Section):
    """Where TF Serving is: the first address is preferred, the others stand in for it."""

    grpc: list[str] = Field(min_length=1)
    deadline_seconds: float = Field(default=10.0, gt=0)

    @field_validator("grpc")
    @classmethod
    def _addresses(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            match = _ADDRESS.fullmatch(address)
            if match is None or not 1 <= int(match[2]) <= 65535:
                raise ValueError(f"{address!r} is no address; HOST:PORT or [IPV6]:PORT would be one")
        if len(set(addresses)) < len(addresses):
            raise ValueError("an address stands there twice")
        return addresses


class Limits(Section):
    """What one worker takes before it refuses. Bytes as sent, pixels once decoded."""

    max_upload_bytes: int = Field(default=20 * 1024 * 1024, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    max_batch_images: int = Field(default=32, ge=1)
    max_batch_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    max_in_flight: int = Field(default=16, ge=1)
    max_queued: int = Field(default=128, ge=0)
    max_in_flight_per_client: Optional[int] = Field(default=None, ge=1)
    max_buffered_bytes: int = Field(default=128 * 1024 * 1024, ge=1)
    header_seconds: float = Field(default=10.0, gt=0)
    body_seconds: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _buffer_holds_a_body(self) -> "Limits":
        for key in ("max_upload_bytes", "max_batch_bytes"):
            if getattr(self, key) > self.max_buffered_bytes:
                raise ValueError(
                    f"limits.max_buffered_bytes is {self.max_buffered_bytes}, less than "
                    f"limits.{key}, {getattr(self, key)}: no such request could ever be read"
                )
        return self


class ApiKey(Section):
    """A key that requests may carry, known only by its SHA-256, and what it opens."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: list[Literal["predict", "metrics"]] = Field(min_length=1)


class Tls(Section):
    """PEM files of the certificate with its chain, and of its key."""

    certificate_file: str = Field(min_length=1)
    key_file: str = Field(min_length=1)


class ModelDeclaration(Section):
    """What the gateway cannot read from the model itself, and what is to be taken from it by name."""

    labels: list[str] = Field(min_length=1)
    signature_name: str = Field(default="serving_default", min_length=1)
    version_label: Optional[str] = Field(default=None, min_length=1)
    input_name: Optional[str] = Field(default=None, min_length=1)
    output_name: Optional[str] = Field(default=None, min_length=1)
    height: Optional[int] = Field(default=None, ge=1)
    width: Optional[int] = Field(default=None, ge=1)
    scale: Optional[float] = Field(default=None, gt=0)
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "nearest"
    exif: Literal["ignore", "apply"] = "ignore"
    decoding: Literal["exact", "fast"] = "exact"
    batch_size: int = Field(default=8, ge=1)

    @field_validator("labels")
    @classmethod
    def _unique(cls, labels: list[str]) -> list[str]:
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"every label must stand there once; twice or more: {', '.join(twice)}")
        return labels

    @model_validator(mode="after")
    def _whole_size(self) -> "ModelDeclaration":
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height is {self.height} and width is {self.width}; give both, or neither")
        return self


class GatewayConfig(Section):
    """The whole configuration."""

    bind_address: str = "0.0.0.0"
    port: int = Field(default=9000, ge=1, le=65535)
    workers: int = Field(default=1, ge=1)
    upstream: Upstream
    limits: Limits = Limits()
    api_keys: list[ApiKey] = []
    tls: Optional[Tls] = None
    cors_origins: list[str] = []
    trusted_proxies: list[str] = []
    access_log: bool = True
    otlp_endpoint: Optional[str] = Field(default=None, pattern="^https?://.+")
    default_model: str
    models: dict[str, ModelDeclaration] = Field(min_length=1)

    @field_validator("bind_address")
    @classmethod
    def _ip_address(cls, address: str) -> str:
        ipaddress.ip_address(address)
        return address

    @field_validator("models")
    @classmethod
    def _names(cls, models: dict[str, ModelDeclaration]) -> dict[str, ModelDeclaration]:
        for name in models:
            if not _MODEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no model name; letters, digits, '_', '.' and '-' make one")
        return models

    @field_validator("api_keys")
    @classmethod
    def _distinct_keys(cls, api_keys: list[ApiKey]) -> list[ApiKey]:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in api_keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return api_keys

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; http://HOST:PORT, https://HOST, or '*' alone, would be one")
        if "*" in origins and len(origins) > 1:
            raise ValueError("'*' stands for every origin; nothing can stand beside it")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @model_validator(mode="after")
    def _default_is_declared(self) -> "GatewayConfig":
        if self.default_model not in self.models:
            raise ValueError(f"default_model is {self.default_model!r}, which is not in models: {_listed(self.models)}")
        return self


def load_config(path: Path) -> GatewayConfig:
    """Read and validate a configuration file. Raises ConfigError."""
    return load_document(path, GatewayConfig)


def load_document(path: Path, kind: type[Document]) -> Document:
    """Read and validate a JSON file that holds a section of this kind. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        document = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no valid JSON: {error}") from error
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_fault(kind, item)}" for item in error.errors())) from error


def check_tls_files(tls: Tls) -> None:
    """Raise ConfigError unless the files can be read, and hold a certificate and its key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate_file, tls.key_file)
    except OSError as error:
        raise ConfigError(
            f"tls: certificate_file {tls.certificate_file} and key_file {tls.key_file} cannot be used: {error}"
        ) from error


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _unused in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} stands twice in one object")
    return dict(pairs)


def _fault(kind: type[Section], error: Any) -> str:
    """Return one validation error as `key: what was found; what would be right`."""
    location = error["loc"]
    key = _dotted(location) or "configuration"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; known here: {_listed(_section_at(kind, location[:-1]).model_fields)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = error["msg"].replace("Value error, ", "").replace("Input should be", "should be")
    if error["type"] == "value_error" and location == ():
        return message
    found = json.dumps(error["input"], ensure_ascii=False, default=str)
    return f"{key}: found {found if len(found) <= 80 else found[:77] + '...'}; {message}"


def _dotted(location: tuple[Any, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _section_at(kind: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    parts = iter(location)
    for part in parts:
        annotation = kind.model_fields[part].annotation
        if get_origin(annotation) in (dict, list):
            # The name or the index of one of them.
            next(parts, None)
        inside = get_args(annotation) or (annotation,)
        kind = next(found for found in inside if isinstance(found, type) and issubclass(found, Section))
    return kind


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
