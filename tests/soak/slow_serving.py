"""A stub of TF Serving that works on a few predictions at a time, and takes a fixed time for each.

    python slow_serving.py PORT SECONDS AT_ONCE

runs until it is terminated.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "gateway"))

import numpy as np
from stub_serving import StubServing, answer_pixels


def main() -> None:
    """Listen on 127.0.0.1."""
    port, seconds, at_once = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    places = threading.Semaphore(at_once)

    def answer(pixels: np.ndarray) -> bytes:
        with places:
            time.sleep(seconds)
        return answer_pixels(pixels)

    stub = StubServing(port)
    stub.model.answer = answer
    stub.start()
    print("listening", flush=True)
    while True:
        time.sleep(1)
        # It remembers every call, and nobody asks.
        stub.calls.clear()


if __name__ == "__main__":
    main()
