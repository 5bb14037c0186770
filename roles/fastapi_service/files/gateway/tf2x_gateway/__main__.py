"""Command line of the gateway."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf2x_gateway import __version__
from tf2x_gateway.config import CONFIG_VARIABLE, ConfigError, GatewayConfig, check_tls_files, load_config
from tf2x_gateway.contract import agree, model_spec
from tf2x_gateway.errors import GatewayError
from tf2x_gateway.server import serve
from tf2x_gateway.serving import ModelSpec, ServingClient, ServingError
from tf2x_gateway.tracing import check_installed
from tf2x_gateway.traffic import TRAFFIC_VARIABLE

# For each model: the first answer of a TF Serving that has just started may take a while.
_CHECK_SECONDS = 5.0


class _VersionAction(argparse.Action):
    """`--version` alone prints the gateway's own version; with a number it is that of the model to check."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        if values is None:
            print(__version__)
            parser.exit()
        setattr(namespace, self.dest, values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, or check a configuration or a model.

    Returns 0; 1 when the model does not fit or cannot be asked, 2 when the configuration cannot be used, 3 when the
    start failed.
    """
    parser = argparse.ArgumentParser(prog="tf2x_gateway", description="HTTP gateway of TF Serving's image classifiers.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration file (JSON)")
    parser.add_argument(
        "--traffic",
        type=Path,
        metavar="FILE",
        help="what goes to canaries (JSON), changes included (default: traffic.json beside the configuration file)",
    )
    checks = parser.add_mutually_exclusive_group()
    checks.add_argument(
        "--check-config", action="store_true", help="only check the configuration, by itself and against TF Serving"
    )
    checks.add_argument(
        "--check-model", metavar="NAME", help="only compare a model's declaration with the version of --version"
    )
    parser.add_argument(
        "--version",
        action=_VersionAction,
        nargs="?",
        type=int,
        metavar="N",
        help="version of the model to check; alone: print the version of the gateway",
    )
    options = parser.parse_args(arguments)
    if (options.check_model is None) != (options.version is None):
        parser.error("--check-model NAME and --version N belong together")
    try:
        config = load_config(options.config)
        if options.check_model is not None and options.check_model not in config.models:
            declared = ", ".join(sorted(config.models))
            raise ConfigError(f"{options.config}: there is no model {options.check_model!r}; declared are: {declared}")
        if config.otlp_endpoint is not None:
            check_installed()
        # Where only the service may read them, they cannot be checked by anyone else.
        if config.tls is not None and not options.check_config and options.check_model is None:
            check_tls_files(config.tls)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check_config:
        return _check(options.config, config)
    if options.check_model is not None:
        return _check_model(config, options.check_model, options.version)
    os.environ[CONFIG_VARIABLE] = str(options.config)
    os.environ[TRAFFIC_VARIABLE] = str(options.traffic or options.config.with_name("traffic.json"))
    return serve(config)


def _check(path: Path, config: GatewayConfig) -> int:
    """Compare what is declared of models with what TF Serving says of them, where it answers now."""
    status = 0
    with ServingClient(config.upstream.grpc, timeout_seconds=_CHECK_SECONDS, patience_seconds=0) as client:
        for name, declaration in config.models.items():
            try:
                agree(name, declaration, client.metadata(model_spec(name, declaration)))
            except ServingError as error:
                print(f"{path}: model {name!r} is not compared with TF Serving: {error}")
            except GatewayError as contradiction:
                print(f"{path}: {contradiction.message}", file=sys.stderr)
                status = 2
    if status == 0:
        print(f"{path}: valid")
    return status


def _check_model(config: GatewayConfig, name: str, version: int) -> int:
    """Compare what is declared of a model with one version of it, whatever its labels."""
    declaration = config.models[name]
    with ServingClient(config.upstream.grpc, timeout_seconds=_CHECK_SECONDS, patience_seconds=0) as client:
        try:
            contract = agree(name, declaration, client.metadata(ModelSpec(name, version=version)))
        except ServingError as error:
            print(f"model {name!r} version {version} cannot be asked: TF Serving at {error}", file=sys.stderr)
            return 1
        except GatewayError as contradiction:
            print(contradiction.message, file=sys.stderr)
            return 1
    print(
        f"model {name!r} version {version} fits its declaration: input {contract.input_name!r}, "
        f"output {contract.output_name!r}, {len(declaration.labels)} labels"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
