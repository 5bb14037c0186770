"""Which models TF Serving serves, and the messages that tell it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from tf2x_gateway.serving.wire import (
    WireError,
    bytes_field,
    decode_fields,
    decode_text,
    encode_varint,
    expect_bytes,
    expect_int,
    varint_field,
)


@dataclass(frozen=True)
class LatestVersions:
    """Serve the `count` newest versions in the model's directory."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"the number of latest versions is {self.count}; at least 1 is needed")

    def encode(self) -> bytes:
        """Return the encoded ServableVersionPolicy."""
        return bytes_field(100, varint_field(1, self.count))


@dataclass(frozen=True)
class AllVersions:
    """Serve every version in the model's directory."""

    def encode(self) -> bytes:
        """Return the encoded ServableVersionPolicy."""
        return bytes_field(101, b"")


@dataclass(frozen=True)
class SpecificVersions:
    """Serve these versions. One that is not in the model's directory is passed over in silence."""

    versions: Sequence[int]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ValueError("no specific version was given; at least one is needed")

    def encode(self) -> bytes:
        """Return the encoded ServableVersionPolicy."""
        return bytes_field(102, bytes_field(1, b"".join(map(encode_varint, self.versions))))


VersionPolicy = Union[LatestVersions, AllVersions, SpecificVersions]


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve: `base_path` is its directory as the server sees it, `labels` are versions by label.

    A label may only point to a version that is AVAILABLE already, unless the server was started with
    --allow_version_labels_for_unavailable_models.
    """

    name: str
    base_path: str
    platform: str = "tensorflow"
    versions: VersionPolicy = LatestVersions()
    labels: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the encoded tensorflow.serving.ModelConfig."""
        return (
            bytes_field(1, self.name.encode())
            + bytes_field(2, self.base_path.encode())
            + bytes_field(4, self.platform.encode())
            + bytes_field(7, self.versions.encode())
            + b"".join(
                bytes_field(8, bytes_field(1, label.encode()) + varint_field(2, version))
                for label, version in self.labels.items()
            )
        )


def encode_reload_request(models: Sequence[ModelConfig]) -> bytes:
    """Return the encoded ReloadConfigRequest that makes `models` the only ones."""
    model_config_list = b"".join(bytes_field(1, model.encode()) for model in models)
    return bytes_field(1, bytes_field(1, model_config_list))


def decode_reload_response(message: memoryview) -> None:
    """Check a ReloadConfigResponse; WireError if it is none, or reports an error although the call went well."""
    for number, value in decode_fields(message):
        if number == 1:
            code, text = 0, ""
            for status_number, status_value in decode_fields(expect_bytes(number, value)):
                if status_number == 1:
                    code = expect_int(status_number, status_value)
                elif status_number == 2:
                    text = decode_text(status_number, status_value)
            if code:
                raise WireError(f"the call went well, but its answer has the error code {code}: {text}")
