"""Serve the cluster page."""

from __future__ import annotations

import argparse
import logging
from urllib.parse import urlsplit

import uvicorn
from prometheus_client import REGISTRY

from cluster_page.app import create_app
from cluster_page.replicas import Replicas
from cluster_page.swarm import Swarm
from cluster_page.swarm_metrics import SwarmMetrics
from cluster_page.watch import Watch

# What is under way when the page is stopped are streams without an end.
STOP_SECONDS = 1


def docker_api(text: str) -> tuple[str, int]:
    """Return host and port of an address such as http://docker_proxy:2375."""
    found = urlsplit(text)
    if found.scheme != "http" or not found.hostname or found.path not in ("", "/"):
        raise ValueError(text)
    return found.hostname, found.port or 2375


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster_page", description=__doc__)
    parser.add_argument("--listen", default="0.0.0.0", metavar="ADDRESS", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--docker-api", type=docker_api, required=True, metavar="URL", help="where GET of the swarm's lists is answered"
    )
    parser.add_argument("--network", required=True, help="the network on which tasks are reached")
    parser.add_argument("--serving-port", type=int, default=8501, help="TF Serving's REST port (%(default)s)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    watch = Watch(Swarm(*options.docker_api, options.network), Replicas(options.serving_port))
    REGISTRY.register(SwarmMetrics(watch))
    uvicorn.run(
        create_app(watch),
        host=options.listen,
        port=options.port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


if __name__ == "__main__":
    main()
