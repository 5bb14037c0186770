"""Command line of the gateway."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from tf2x_gateway import __version__
from tf2x_gateway.config import CONFIG_VARIABLE, ConfigError, GatewayConfig, load_config

# prometheus_client's own switch, read when it is imported: workers add their values up through files in there.
_METRICS_DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # Its warnings are about the bytes of single requests, which are answered with the same text.
    "loggers": {"python_multipart": {"level": "ERROR"}},
}
# Calls under way get their deadline and a little more to finish in before the process ends.
_GRACE_SECONDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, or check a configuration. Returns 0; 2 when the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="tf2x_gateway", description="HTTP gateway of TF Serving's image classifiers.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration file (JSON)")
    parser.add_argument("--check-config", action="store_true", help="only check the configuration file")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check_config:
        print(f"{options.config}: valid")
        return 0
    os.environ[CONFIG_VARIABLE] = str(options.config)
    if config.workers == 1:
        _serve(config)
    else:
        with tempfile.TemporaryDirectory(prefix="tf2x-gateway-metrics-") as directory:
            os.environ[_METRICS_DIRECTORY_VARIABLE] = directory
            _serve(config)
    return 0


def _serve(config: GatewayConfig) -> None:
    uvicorn.run(
        "tf2x_gateway.app:app_from_environment",
        factory=True,
        host=config.bind_address,
        port=config.port,
        workers=config.workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=_LOG_CONFIG,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(config.upstream.deadline_seconds) + _GRACE_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
