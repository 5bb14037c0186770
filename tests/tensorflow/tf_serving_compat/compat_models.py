"""SavedModels for the tests: y = k * x + 1, where k tells the versions apart, and signatures for the odd cases."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2


def _floats(name: str, shape: tuple[int | None, ...] = (None,)) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.float32, name=name)


class _Model(tf.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = tf.Variable(float(k))

    @tf.function(input_signature=[_floats("x")])
    def linear(self, x):
        return {"y": x * self.k + 1.0}

    @tf.function(input_signature=[_floats("a"), tf.TensorSpec([None], tf.int64, name="b")])
    def two(self, a, b):
        return {"sum": a + tf.cast(b, tf.float32), "b": b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="data")])
    def strings(self, data):
        return {"twice": tf.strings.join([data, data]), "twice_bytes": tf.strings.join([data, data])}

    @tf.function(input_signature=[_floats("x")])
    def divide(self, x):
        return {"y": x / 0.0}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, name="n")])
    def integers(self, n):
        return {"n": n}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.bool, name="flag")])
    def negate(self, flag):
        return {"not": tf.logical_not(flag)}

    @tf.function(input_signature=[_floats("image", (None, 380, 380, 3))])
    def brightness(self, image):
        return {"mean": tf.reduce_mean(image, axis=[1, 2, 3])}

    @tf.function(input_signature=[_floats("x")])
    def batch_size(self, x):
        return {"y": x * self.k, "rows": tf.fill([tf.shape(x)[0]], tf.shape(x)[0])}

    @tf.function(input_signature=[_floats("steps")])
    def count(self, steps):
        """Busy for as long as it takes to count to the largest of `steps`."""
        limit = tf.cast(tf.reduce_max(steps), tf.int64)
        end = tf.while_loop(lambda i: i < limit, lambda i: [i + 1], [tf.constant(0, tf.int64)], parallel_iterations=1)
        return {"end": tf.fill([tf.shape(steps)[0]], end[0])}


def export(directory: Path, k: float) -> Path:
    """Write the SavedModel with factor `k` and return its directory."""
    model = _Model(k)
    signatures = {
        "serving_default": model.linear,
        "two": model.two,
        "strings": model.strings,
        "divide": model.divide,
        "integers": model.integers,
        "negate": model.negate,
        "brightness": model.brightness,
        "batch_size": model.batch_size,
        "count": model.count,
    }
    tf.saved_model.save(model, str(directory), signatures=signatures)
    return directory


def predict_log(
    values: list[float], signature_name: str = "", input_name: str = "x"
) -> prediction_log_pb2.PredictionLog:
    """A warm-up record for a float input."""
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "any"
    request.model_spec.signature_name = signature_name
    request.inputs[input_name].CopyFrom(tf.make_tensor_proto(np.array(values, np.float32)))
    return log


def write_warmup(version: Path, records: list[bytes]) -> Path:
    """Write records as TensorFlow's own writer does, beside the model in directory `version`."""
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record)
    return file


def corrupt_last_byte_of_first_record(file: Path) -> None:
    """Flip a bit inside the first record's data, as a bad disk would."""
    content = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[12 + length - 1] ^= 1
    file.write_bytes(content)


def truncate(directory: Path) -> None:
    """Leave a version as a copy that stopped half-way: the graph is there, the variables are not complete."""
    for file in (directory / "variables").glob("variables.data-*"):
        os.truncate(file, 1)
