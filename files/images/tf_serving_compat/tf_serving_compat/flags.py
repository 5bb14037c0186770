"""The command line of `tensorflow_model_server`: the official names, syntax (`--name=value`) and defaults.

A flag is honoured, or it is refused by name; none is read and ignored.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

_CPUS = len(os.sched_getaffinity(0))


class FlagError(ValueError):
    """A command line that the server does not take; the text names the flag."""


@dataclass(frozen=True)
class Flags:
    """What the server honours; an attribute is the flag of that name."""

    port: int = 8500
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = 4 * _CPUS
    rest_api_timeout_in_ms: int = 30000
    rest_api_enable_cors_support: bool = False
    enable_batching: bool = False
    batching_parameters_file: str = ""
    allow_version_labels_for_unavailable_models: bool = False
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    model_name: str = "default"
    model_base_path: str = ""
    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    file_system_poll_wait_seconds: int = 1
    tensorflow_session_parallelism: int = 0
    tensorflow_session_config_file: str = ""
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    saved_model_tags: str = "serve"
    grpc_channel_arguments: str = ""
    grpc_max_threads: int = 4 * _CPUS
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    monitoring_config_file: str = ""
    enable_signature_method_name_check: bool = False
    enable_grpc_healthcheck_service: bool = False
    enable_serialization_as_tensor_content: bool = False
    version: bool = False


# Official flags of which only one setting describes what this server does.
_FIXED: dict[str, bool | int | float | str] = {
    "enable_per_model_batching_parameters": False,
    "enable_profiler": False,
    "mixed_precision": "",
    "per_process_gpu_memory_fraction": 0.0,
    "platform_config_file": "",
    "prefer_tflite_model": False,
    "remove_unused_fields_from_bundle_metagraph": True,
    "skip_initialize_tpu": False,
    "ssl_config_file": "",
    "thread_pool_factory_config_file": "",
    "use_alts_credentials": False,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
}
# Official flags that change nothing where models are on a local file system and run by TensorFlow itself.
_WITHOUT_EFFECT: dict[str, bool | int] = {
    "flush_filesystem_caches": True,
    "num_tflite_pools": _CPUS,
    "num_tflite_interpreters_per_pool": 1,
}


def parse(arguments: Sequence[str]) -> Flags:
    """The flags of a command line; of a flag given twice the later one counts. Raises FlagError."""
    defaults = {field.name: field.default for field in fields(Flags)}
    values: dict[str, object] = {}
    for argument in arguments:
        name, separator, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise FlagError(f"unknown argument: {argument} (flags are written --name=value)")
        if name in defaults:
            values[name] = _convert(name, text if separator else None, defaults[name])
        elif name in _WITHOUT_EFFECT:
            _convert(name, text if separator else None, _WITHOUT_EFFECT[name])
        elif name in _FIXED:
            only = _FIXED[name]
            if _convert(name, text if separator else None, only) != only:
                raise FlagError(
                    f"flag --{name} is not implemented by this stand-in; "
                    f"the only setting it takes is --{name}={_as_text(only)}"
                )
        else:
            raise FlagError(f"unknown argument: {argument}: tensorflow_model_server has no flag --{name}")
    flags = Flags(**values)
    _check(flags)
    return flags


def _convert(name: str, text: str | None, example: object) -> object:
    if isinstance(example, bool):
        values = {None: True, "true": True, "1": True, "false": False, "0": False}
        if text not in values:
            raise FlagError(f"flag --{name} takes true or false, found {text!r}")
        return values[text]
    if text is None:
        raise FlagError(f"flag --{name} needs a value: --{name}=...")
    if isinstance(example, str):
        return text
    try:
        return type(example)(text)
    except ValueError:
        raise FlagError(f"flag --{name} takes a number, found {text!r}") from None


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(flags: Flags) -> None:
    if flags.version:
        return
    if flags.port == 0 and not flags.grpc_socket_path:
        raise FlagError("at least one of --port and --grpc_socket_path must be set")
    for name in ("port", "rest_api_port"):
        if not 0 <= getattr(flags, name) <= 65535:
            raise FlagError(f"flag --{name} takes a port number, found {getattr(flags, name)}")
    if flags.port == flags.rest_api_port:
        raise FlagError(f"--port and --rest_api_port must differ, both are {flags.port}")
    for name in ("rest_api_num_threads", "grpc_max_threads"):
        if getattr(flags, name) < 1:
            raise FlagError(f"flag --{name} must be at least 1, found {getattr(flags, name)}")
    if not flags.model_base_path and not flags.model_config_file:
        raise FlagError("one of --model_base_path and --model_config_file must be set")
    if flags.batching_parameters_file and not flags.enable_batching:
        raise FlagError("--batching_parameters_file is set without --enable_batching")
    if flags.tensorflow_session_parallelism and (
        flags.tensorflow_intra_op_parallelism or flags.tensorflow_inter_op_parallelism
    ):
        raise FlagError(
            "set either --tensorflow_session_parallelism or --tensorflow_intra_op_parallelism and "
            "--tensorflow_inter_op_parallelism, not both"
        )
