"""The least that a prediction can cost: one process without HTTP that decodes, resizes, frames and calls, in a loop.

Pixels and messages are the gateway's own; the call is gRPC's plain synchronous one.

    python benchmarks/floor.py 127.0.0.1:8500 float32 cat.jpg --seconds 2

prints {"calls", "p50_ms", "cpu_ms", "request_bytes"} as JSON: CPU time of the process for one call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Callable

import grpc
import numpy as np
from stub_tf_serving import SIDE, SIGNATURES
from tf2x_gateway.pixels import PixelFormat, check_header, decode
from tf2x_gateway.serving import ModelSpec, PredictRequestFrame
from tf2x_gateway.serving.messages import decode_predict_response
from tf2x_gateway.serving.tensors import DT_STRING, numpy_dtype

_WARM_UP_CALLS = 20


def encoder(model: str) -> Callable[[bytes], bytes]:
    """Return the function that makes an image file the request for one of the stub's models."""
    dtype = SIGNATURES[model]
    spec = ModelSpec(model, signature_name="serving_default")
    if dtype == DT_STRING:
        strings = PredictRequestFrame(spec, "image", dtype, (), ("scores",))

        def encode_file(image: bytes) -> bytes:
            check_header(image)
            return strings.encode_strings([image])

        return encode_file
    pixel_format = PixelFormat(height=SIDE, width=SIDE, scale=1 / 255, dtype=numpy_dtype(dtype))
    frame = PredictRequestFrame(spec, "image", dtype, (SIDE, SIDE, 3), ("scores",))
    return lambda image: frame.encode(decode(image, pixel_format)[np.newaxis])


def measure(serving: str, model: str, image: bytes, seconds: float) -> dict[str, float]:
    """Return median latency, CPU time per call and size of the request."""
    encode = encoder(model)
    with grpc.insecure_channel(serving, [("grpc.max_send_message_length", -1)]) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def ask() -> None:
            response = decode_predict_response(memoryview(predict(encode(image), timeout=10)))
            if len(response.outputs["scores"]) != 1:
                raise ValueError(f"one image was sent, the answer is {response}")

        for _unused in range(_WARM_UP_CALLS):
            ask()
        latencies = []
        cpu, end = time.process_time(), time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            ask()
            latencies.append((time.perf_counter() - start) * 1000)
        cpu_ms = (time.process_time() - cpu) * 1000 / len(latencies)
    return {
        "calls": len(latencies),
        "p50_ms": statistics.median(latencies),
        "cpu_ms": cpu_ms,
        "request_bytes": len(encode(image)),
    }


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("serving", help="HOST:PORT of gRPC")
    parser.add_argument("model", choices=sorted(SIGNATURES))
    parser.add_argument("image", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="default: %(default)s")
    options = parser.parse_args()
    print(json.dumps(measure(options.serving, options.model, options.image.read_bytes(), options.seconds)))


if __name__ == "__main__":
    main()
