"""Entry point: `python -m tf_serving_compat --port=8500 ...`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from tf_serving_compat import flags as flag_parser

logger = logging.getLogger(__name__)

_EXIT_FAILURE = 255  # what a shell sees of the official server's -1

_NOTICE = (
    "tf2x-serving-compat: a stand-in for TensorFlow Serving, NOT the official tensorflow_model_server. "
    "It runs SavedModels with TensorFlow's own runtime behind TF Serving's published interface."
)


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit status is 0 then, 255 when the server cannot start."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(module)s: %(message)s"
    )
    logger.info(_NOTICE)
    try:
        flags = flag_parser.parse(arguments)
    except flag_parser.FlagError as error:
        logger.error("Failed to start server. Error: %s", error)
        return _EXIT_FAILURE
    # Only now: what a wrong command line does not need takes a second to import.
    if flags.version:
        from tf_serving_compat import tensorflow_c  # noqa: PLC0415

        print(f"{_NOTICE}\nTensorFlow Library: {tensorflow_c.version()}")
        return 0
    from tf_serving_compat.server import serve  # noqa: PLC0415

    return 0 if serve(flags) else _EXIT_FAILURE


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    # Threads of TensorFlow and loads under way must not hold up the end of the process.
    os._exit(status)
