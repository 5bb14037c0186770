"""Command line of the TF Serving client."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tf2x_gateway import __version__, pixels
from tf2x_gateway.config import ConfigError, GatewayConfig, ModelDeclaration, load_config
from tf2x_gateway.contract import ModelContract, agree, describe_labels
from tf2x_gateway.errors import GatewayError
from tf2x_gateway.serving import (
    ModelMetadata,
    ModelSpec,
    PredictResponse,
    ServingClient,
    ServingError,
    dtype_name,
)
from tf2x_gateway.serving.model_config_text import ModelConfigError, parse_model_config

_ADDRESS = "127.0.0.1:9500"
_MODEL = "pets"
_SECONDS = 10.0


class _Failure(Exception):
    """The command ends with this message; `status` is its exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0; 1 when it failed, with the reason on stderr; 2 when it was called wrongly."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except _Failure as error:
        _complain(error)
        return error.status
    except ServingError as error:
        _complain(f"TF Serving at {error}")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tf2x-client", description="Ask TF Serving over gRPC, without TensorFlow.")
    parser.add_argument("--version", action="version", version=__version__)
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--address",
        action="append",
        metavar="HOST:PORT",
        help=f"where TF Serving is; repeated: addresses that stand in for the first one (default: {_ADDRESS})",
    )
    server.add_argument(
        "--timeout", type=_positive, metavar="SECONDS", help=f"time for each call (default: {_SECONDS:g})"
    )
    server.add_argument("--json", action="store_true", help="print JSON instead of a table")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", metavar="NAME", help=f"which model (default: {_MODEL})")
    version = model.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, dest="model_version", metavar="N", help="this version of the model")
    version.add_argument("--label", metavar="LABEL", help="the version of the model that has this label")
    model.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the gateway's configuration: addresses, deadline, default model, and what it declares about the model",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[server, *parents], help=text, description=text)
        added.set_defaults(command=command)
        return added

    predict = add("predict", _predict, "Classify image files.", model)
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG, WebP, GIF or BMP file")
    predict.add_argument("--signature-name", metavar="NAME", help="signature to call (default: serving_default)")
    predict.add_argument("--input-name", metavar="NAME", help="input that takes the image, if there are several")
    predict.add_argument("--output-name", metavar="NAME", help="output that holds the scores, if there are several")
    predict.add_argument(
        "--scale",
        type=_positive,
        metavar="FACTOR",
        help="what pixels are multiplied by for a float input (default: 1/255)",
    )
    add("status", _status, "List the versions of a model with their states.", model)
    add("metadata", _metadata, "List the signatures of a model with their inputs and outputs.", model)
    reload = add("reload", _reload, "Make a server serve the models of a file and no others; --timeout covers loading.")
    reload.add_argument("file", type=Path, metavar="FILE", help="model configuration, as --model_config_file takes it")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _run(options: argparse.Namespace) -> int:
    config = _config(getattr(options, "config", None))
    addresses = options.address or (config.upstream.grpc if config else [_ADDRESS])
    seconds = options.timeout or (config.upstream.deadline_seconds if config else _SECONDS)
    # Without patience: whoever waits at a terminal is to hear at once that nothing answers.
    with ServingClient(addresses, timeout_seconds=seconds, patience_seconds=0, connections=1) as client:
        return options.command(client, options, config)


def _config(path: Path | None) -> GatewayConfig | None:
    try:
        return load_config(path) if path else None
    except ConfigError as error:
        raise _Failure(str(error), 2) from error


def _predict(client: ServingClient, options: argparse.Namespace, config: GatewayConfig | None) -> int:
    if config:
        pixels.set_process_limit(config.limits.max_image_pixels)
    spec = _spec(options, config)
    metadata = client.metadata(spec)
    declaration = _declaration(spec.name, metadata, options, config)
    try:
        contract = agree(spec.name, declaration, metadata)
    except GatewayError as error:
        raise _Failure(error.message) from error
    spec = replace(spec, signature_name=declaration.signature_name)
    labels = declaration.labels if config else None
    results = []
    for path in options.images:
        try:
            rows = _rows(path.read_bytes(), contract)
        except (OSError, GatewayError) as error:
            _complain(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
            continue
        response = client.predict_arrays(spec, {contract.input_name: rows}, (contract.output_name,))
        results.append((str(path), response.version, _scores(response, contract.output_name, labels)))
    _print_predictions(results, spec.name, "label" if config else "index", as_json=options.json)
    return 0 if len(results) == len(options.images) else 1


def _status(client: ServingClient, options: argparse.Namespace, config: GatewayConfig | None) -> int:
    spec = _spec(options, config)
    statuses = sorted(client.status(spec), key=lambda status: -status.version)
    if options.json:
        versions = [{"version": str(s.version), "state": s.state, "error": s.error} for s in statuses]
        _print_json({"model": spec.name, "versions": versions})
    else:
        _print_table(("VERSION", "STATE", "ERROR"), [(str(s.version), s.state, s.error) for s in statuses])
    return 0


def _metadata(client: ServingClient, options: argparse.Namespace, config: GatewayConfig | None) -> int:
    spec = _spec(options, config)
    metadata = client.metadata(spec)
    tensors = [
        (name, side, tensor, dtype_name(info.dtype), info.shape)
        for name, signature in sorted(metadata.signatures.items())
        for side, infos in (("inputs", signature.inputs), ("outputs", signature.outputs))
        for tensor, info in sorted(infos.items())
    ]
    if options.json:
        signatures: dict[str, Any] = {name: {"inputs": {}, "outputs": {}} for name in sorted(metadata.signatures)}
        for name, side, tensor, dtype, shape in tensors:
            signatures[name][side][tensor] = {"dtype": dtype, "shape": shape}
        _print_json({"model": _model(spec.name, metadata.version), "signatures": signatures})
    else:
        print(f"model {spec.name}, version {metadata.version}")
        rows = [
            (name, side[:-1], tensor, dtype, "unknown" if shape is None else str(list(shape)))
            for name, side, tensor, dtype, shape in tensors
        ]
        _print_table(("SIGNATURE", "SIDE", "NAME", "TYPE", "SHAPE"), rows)
    return 0


def _reload(client: ServingClient, options: argparse.Namespace, _config: GatewayConfig | None) -> int:
    try:
        models = parse_model_config(options.file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ModelConfigError) as error:
        raise _Failure(f"{options.file}: {error}", 2) from error
    client.reload(models)
    names = [model.name for model in models]
    if options.json:
        _print_json({"models": names})
    else:
        print(f"now served: {', '.join(names) or 'nothing'}")
    return 0


def _spec(options: argparse.Namespace, config: GatewayConfig | None) -> ModelSpec:
    name = options.model or (config.default_model if config else _MODEL)
    label = options.label
    if config and label is None and options.model_version is None and name in config.models:
        label = config.models[name].version_label
    return ModelSpec(name, version=options.model_version, version_label=label)


def _declaration(
    name: str, metadata: ModelMetadata, options: argparse.Namespace, config: GatewayConfig | None
) -> ModelDeclaration:
    """Return what the configuration declares about a model, or the default, changed by the options."""
    if config and name not in config.models:
        declared = ", ".join(sorted(config.models))
        raise _Failure(f"{options.config}: model {name!r} is not declared; declared are: {declared}", 2)
    declaration = config.models[name] if config else ModelDeclaration(labels=["0"])
    keys = ("signature_name", "input_name", "output_name", "scale")
    declaration = declaration.model_copy(
        update={key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    )
    signature = metadata.signatures.get(declaration.signature_name)
    if config or signature is None:
        return declaration
    # The labels of an undeclared model are as many as its scores, where its signature says how many.
    sizes = [
        info.shape[-1] if info.shape else -1
        for output, info in signature.outputs.items()
        if declaration.output_name in (None, output)
    ]
    return declaration.model_copy(update={"labels": [str(index) for index in range(max([1, *sizes]))]})


def _rows(image: bytes, contract: ModelContract) -> np.ndarray:
    if contract.pixel_format is None:
        pixels.check_header(image)
        return np.array(image, dtype=object).reshape((1,) if contract.frame.batched else ())
    return pixels.decode(image, contract.pixel_format)[np.newaxis]


def _scores(response: PredictResponse, output_name: str, labels: list[str] | None) -> list[tuple[str | int, float]]:
    """Return labels, or indices where there are none, with their scores, best first."""
    tensor = response.outputs.get(output_name)
    if tensor is None or tensor.dtype.kind not in "fiu":
        found = "is missing" if tensor is None else "holds no numbers"
        raise _Failure(f"version {response.version} answered, but output {output_name!r} {found}")
    scores = tensor.reshape(-1).tolist()
    if labels is not None and len(labels) != len(scores):
        raise _Failure(f"version {response.version} returned {len(scores)} scores; {describe_labels(labels)}")
    names: Sequence[str | int] = range(len(scores)) if labels is None else labels
    # NaN compares with nothing: it goes last.
    return sorted(zip(names, scores), key=lambda pair: (math.isnan(pair[1]), -pair[1]))


def _print_predictions(
    results: list[tuple[str, int | None, list[tuple[str | int, float]]]], model: str, key: str, *, as_json: bool
) -> None:
    if as_json:
        _print_json(
            [
                {
                    "image": image,
                    # JSON has no NaN and no infinity.
                    "predictions": [{key: n, "score": s if math.isfinite(s) else None} for n, s in scores],
                    "model": _model(model, version),
                }
                for image, version, scores in results
            ]
        )
        return
    rows = [
        (image, str(name), f"{score:.6g}", str(version)) for image, version, scores in results for name, score in scores
    ]
    _print_table(("IMAGE", key.upper(), "SCORE", "VERSION"), rows)


def _model(name: str, version: int | None) -> dict[str, str | None]:
    # As the gateway writes them.
    return {"name": name, "version": None if version is None else str(version)}


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _complain(message: object) -> None:
    print(f"tf2x-client: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
