"""Command line of the gateway."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tf2x_gateway import __version__
from tf2x_gateway.config import CONFIG_VARIABLE, ConfigError, GatewayConfig, check_tls_files, load_config
from tf2x_gateway.contract import agree, model_spec
from tf2x_gateway.errors import GatewayError
from tf2x_gateway.server import serve
from tf2x_gateway.serving import ServingClient, ServingError
from tf2x_gateway.tracing import check_installed

# For each model: the first answer of a TF Serving that has just started may take a while.
_CHECK_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, or check a configuration. Returns 0; 2 when the configuration cannot be used, 3 when the start failed."""
    parser = argparse.ArgumentParser(prog="tf2x_gateway", description="HTTP gateway of TF Serving's image classifiers.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration file (JSON)")
    parser.add_argument(
        "--check-config", action="store_true", help="only check the configuration, by itself and against TF Serving"
    )
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        if config.otlp_endpoint is not None:
            check_installed()
        # Where only the service may read them, they cannot be checked by anyone else.
        if config.tls is not None and not options.check_config:
            check_tls_files(config.tls)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check_config:
        return _check(options.config, config)
    os.environ[CONFIG_VARIABLE] = str(options.config)
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


if __name__ == "__main__":
    sys.exit(main())
