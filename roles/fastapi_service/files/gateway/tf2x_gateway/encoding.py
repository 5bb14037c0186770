"""Image files to the requests that ask TF Serving about them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Callable

import numpy as np

from tf2x_gateway import pixels
from tf2x_gateway.contract import ModelContract
from tf2x_gateway.errors import GatewayError
from tf2x_gateway.metrics import Metrics


@dataclass(frozen=True)
class EncodedImages:
    """An encoded PredictRequest for all images that can be read, None if none can; and the others' faults by index."""

    request: bytes | None
    faults: dict[int, GatewayError]


class RequestEncoder:
    """Encodes requests for one model in the threads of `decoders`, since decoding would hold the event loop up."""

    def __init__(self, model: str, decoders: Executor, metrics: Metrics) -> None:
        self._decoders = decoders
        self._decode_seconds = metrics.decode_seconds.labels(model)

    async def encode(self, contract: ModelContract, images: Sequence[bytes]) -> EncodedImages:
        """Return the request for image files: their pixels, or the files themselves if the model decodes them."""
        loop = asyncio.get_running_loop()
        # One image in one go: every change of threads costs.
        if len(images) == 1:
            return await loop.run_in_executor(self._decoders, self._encode_one, contract, images[0])
        rows = _rows(contract, images)
        readings = [
            loop.run_in_executor(self._decoders, self._read, contract, image, row) for image, row in zip(images, rows)
        ]
        faults = {index: fault for index, fault in enumerate(await asyncio.gather(*readings)) if fault is not None}
        return await loop.run_in_executor(self._decoders, _encode_rows, contract, rows, faults)

    def _encode_one(self, contract: ModelContract, image: bytes) -> EncodedImages:
        rows = _rows(contract, [image])
        fault = self._read(contract, image, rows[0])
        return _encode_rows(contract, rows, {} if fault is None else {0: fault})

    def _read(self, contract: ModelContract, image: bytes, row: np.ndarray | bytes) -> GatewayError | None:
        """Write the pixels of an image to its row, or check the file if the model takes files."""
        try:
            with self._decode_seconds.time():
                if contract.pixel_format is None:
                    pixels.check_header(image)
                else:
                    pixels.decode_into(row, image, contract.pixel_format)
        except GatewayError as fault:
            # Its trace would keep a half-decoded image of up to 200 MB alive until the garbage collector comes by.
            fault.__cause__ = fault.__context__ = None
            return fault.with_traceback(None)
        return None


def _rows(contract: ModelContract, images: Sequence[bytes]) -> np.ndarray | Sequence[bytes]:
    if contract.pixel_format is None:
        return images
    return np.empty((len(images), *contract.pixel_format.shape), contract.pixel_format.dtype)


def _encode_rows(
    contract: ModelContract, rows: np.ndarray | Sequence[bytes], faults: dict[int, GatewayError]
) -> EncodedImages:
    if len(faults) == len(rows):
        return EncodedImages(None, faults)
    encode: Callable[..., bytes] = contract.frame.encode
    if contract.pixel_format is None:
        rows, encode = [row for index, row in enumerate(rows) if index not in faults], contract.frame.encode_strings
    elif faults:
        rows = np.delete(rows, list(faults), axis=0)
    return EncodedImages(encode(rows), faults)
