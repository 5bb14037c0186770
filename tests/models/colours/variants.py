"""Write further versions of `colours`: good ones that can be told apart by their answers, and broken ones.

python variants.py FOLDER NAME…     # with TensorFlow; writes FOLDER/NAME/ for each

swapped, swapped2, …   good; each gives the golden picture other scores, and the next one another label
padded                 good, and about 2 MB
slow                   good, and takes 0.2 s for an answer
wrong_shape            four scores and labels where there were three
missing_variables      the file with the variables' values is missing
nan                    a variable is not a number; the golden file holds what the model answered before
bad_warmup             good, but brings warm-up requests that its signature refuses
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from make import LABELS, Colours, save
from tensorflow_serving.apis import prediction_log_pb2

PADDING_BYTES = 2_000_000
SLOW_SECONDS = 0.2


class _Swapped(Colours):
    """The scores of one colour go to the next, `turns` times."""

    def __init__(self, turns: int) -> None:
        # Another temperature, so that the scores tell all of them apart and not just three.
        super().__init__(32.0 + 4 * turns)
        self._turns = turns

    def scores(self, means: tf.Tensor) -> tf.Tensor:
        return tf.roll(super().scores(means), self._turns, axis=1)


class _Padded(Colours):
    def __init__(self) -> None:
        super().__init__(20.0)
        noise = np.random.default_rng(1).integers(-128, 128, PADDING_BYTES, np.int8)
        self.padding = tf.Variable(noise, name="padding", trainable=False)


class _Slow(Colours):
    """Sleeps, rather than count: a busy loop would slow down whatever else runs on the machine."""

    def __init__(self) -> None:
        super().__init__(24.0)

    def scores(self, means: tf.Tensor) -> tf.Tensor:
        shapes = [means.shape]
        ready = tf.raw_ops.TensorDataset(components=[means], output_shapes=shapes)
        late = tf.raw_ops.SleepDataset(
            input_dataset=ready,
            sleep_microseconds=tf.constant(round(SLOW_SECONDS * 1e6), tf.int64),
            output_types=[means.dtype],
            output_shapes=shapes,
        )
        (means,) = tf.raw_ops.DatasetToSingleElement(dataset=late, output_types=[means.dtype], output_shapes=shapes)
        return super().scores(means)


class _FourScores(Colours):
    def scores(self, means: tf.Tensor) -> tf.Tensor:
        return super().scores(tf.concat([means, tf.reduce_mean(means, axis=1, keepdims=True)], axis=1))


def write(name: str, folder: Path) -> None:
    """Write the variant into `folder`. Raises ValueError when there is none of that name."""
    swapped = re.fullmatch(r"swapped([1-9][0-9]*)?", name)
    if swapped:
        save(_Swapped(int(swapped[1] or 1)), folder)
    elif name in _OTHERS:
        _OTHERS[name](folder)
    else:
        raise ValueError(f"there is no variant {name}; there are swapped, swapped2 and so on, {', '.join(_OTHERS)}")


def _missing_variables(folder: Path) -> None:
    save(Colours(40.0), folder)
    for data in (folder / "variables").glob("variables.data-*"):
        data.unlink()


def _nan(folder: Path) -> None:
    model = Colours(44.0)
    save(model, folder)
    golden = folder / "assets.extra" / "golden.json"
    content = golden.read_bytes()
    model.temperature.assign(float("nan"))
    save(model, folder)
    golden.write_bytes(content)


def _bad_warmup(folder: Path) -> None:
    save(Colours(48.0), folder)
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "colours"
    request.inputs["photograph"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 2), np.float32)))
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


_OTHERS: dict[str, Callable[[Path], None]] = {
    "padded": lambda folder: save(_Padded(), folder),
    "slow": lambda folder: save(_Slow(), folder),
    "wrong_shape": lambda folder: save(_FourScores(), folder, (*LABELS, "grey")),
    "missing_variables": _missing_variables,
    "nan": _nan,
    "bad_warmup": _bad_warmup,
}


def main() -> None:
    """Write the variants that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", metavar="NAME")
    options = parser.parse_args()
    for name in options.names:
        write(name, options.folder / name)


if __name__ == "__main__":
    main()
