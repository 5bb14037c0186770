"""Warm-up: the requests recorded beside a model are answered before it becomes available."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from grpc import StatusCode

from tf_serving_compat import metrics
from tf_serving_compat.errors import ServingError, invalid_argument
from tf_serving_compat.predict import Servable
from tf_serving_compat.protos import prediction_log_pb2

logger = logging.getLogger(__name__)

REQUESTS_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000


def run(servable: Servable, model_path: str, iterations: int = 1) -> None:
    """Answer every record of the model's warm-up file, `iterations` times each; without a file do nothing.

    Raises ServingError when a record is damaged or the model cannot answer it.
    """
    file = Path(model_path) / REQUESTS_FILE
    if not file.exists():
        logger.info("No warmup data file found at %s", file)
        return
    started = time.monotonic()
    count, status = 0, "OK"
    try:
        for record in read_records(file):
            if count == MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}")
            for _unused in range(iterations):
                _replay(servable, record, file)
            count += 1
    except ServingError as error:
        status = str(error)
        raise
    finally:
        latency = (time.monotonic() - started) * 1e6
        metrics.WARMUP_LATENCY.add(latency, model_path, status)
        metrics.WARMUP_RECORDS.add(model_path, status, amount=count)
    logger.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
        "Elapsed time (microseconds): %d.",
        file,
        count,
        latency,
    )


def _replay(servable: Servable, record: bytes, file: Path) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise invalid_argument(f"Failed to parse warmup record from {file}: {error}") from error
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        servable.predict_request(log.predict_log.request)
    elif kind is not None:
        raise ServingError(StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")


def read_records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file; ServingError DATA_LOSS for a damaged one."""
    content = file.read_bytes()
    position = 0
    while position < len(content):
        header = content[position : position + 12]
        if len(header) < 12 or _masked_crc(header[:8]) != struct.unpack("<I", header[8:])[0]:
            raise _damaged(file, position)
        end = position + 12 + struct.unpack("<Q", header[:8])[0]
        record, checksum = content[position + 12 : end], content[end : end + 4]
        if len(checksum) < 4 or _masked_crc(record) != struct.unpack("<I", checksum)[0]:
            raise _damaged(file, position)
        yield record
        position = end + 4


def _damaged(file: Path, position: int) -> ServingError:
    return ServingError(
        StatusCode.DATA_LOSS,
        f"corrupted record at {position} in {file}. Please verify your warmup data is in TFRecord format.",
    )


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _unused in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC32C_TABLE = _crc32c_table()


def _masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and offset so that checksums of checksums are safe."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
