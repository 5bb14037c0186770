"""Train the demo model on drawings, write it as a SavedModel, and measure it on drawings that it has not seen.

python train.py            # writes 1/ and accuracy.json beside this file; then run golden.py
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from dataset import HELD_OUT_SEEDS, SIDE, TRAINING_SEEDS, VALIDATION_SEEDS, examples
from drawings import KINDS

FOLDER = Path(__file__).resolve().parent
SEED = 20
EPOCHS = 16
BATCH = 32
# (filters, kernel size, stride) of each convolution: 380 -> 95 -> 48 -> 24 -> 12 -> 6 pixels a side.
CONVOLUTIONS = ((16, 5, 4), (24, 3, 2), (48, 3, 2), (64, 3, 2), (96, 3, 2))


class Batches(keras.utils.PyDataset):
    """Shuffled, varied batches of float32 pixels in [0, 1]; the whole set as floats would not fit a small machine.

    The cat and the dog of one seed stay in one batch and are varied alike: what they share then cancels out of the
    gradient. A pair is mirrored, cropped and has its colour channels swapped at random.
    """

    def __init__(self, images: np.ndarray, classes: np.ndarray) -> None:
        super().__init__()
        self._images, self._classes = images, classes
        self._epoch = -1
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self._images) / BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng((SEED, self._epoch, index))
        pairs = self._pairs[index * BATCH // 2 : (index + 1) * BATCH // 2]
        rows = np.stack([2 * pairs, 2 * pairs + 1], axis=1)
        pixels = np.concatenate([_varied(self._images[row], random) for row in rows])
        return pixels / np.float32(255), self._classes[rows.ravel()]

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._pairs = np.random.default_rng((SEED, self._epoch)).permutation(len(self._images) // 2)


def _varied(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `images`, uint8 (n, 380, 380, 3), all mirrored, cropped and recoloured in one random way."""
    columns, rows = (_window(random) for _unused in range(2))
    if random.random() < 0.5:
        columns = columns[::-1]
    return images[:, rows][:, :, columns][..., random.permutation(3)]


def _window(random: np.random.Generator) -> np.ndarray:
    """Return 380 positions that sample a random window of 80 to 100 % of a side."""
    share = random.uniform(0.8, 1.0)
    start = random.uniform(0, 1 - share)
    return ((start + share * (np.arange(SIDE) + 0.5) / SIDE) * SIDE).astype(np.intp)


class Classifier(tf.Module):
    """The trained network as it is served: convolutions with their batch normalisation folded in, pooling, softmax.

    A plain module, because a saved Keras model carries its training graph and metadata along.
    """

    def __init__(self, model: keras.Sequential) -> None:
        super().__init__()
        self.kernels, self.biases = [], []
        for convolution, norm in zip(
            (layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)),
            (layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)),
            strict=True,
        ):
            gamma, beta, mean, variance = norm.get_weights()
            gain = gamma / np.sqrt(variance + norm.epsilon)
            self.kernels.append(tf.Variable(convolution.get_weights()[0] * gain, trainable=False, name="kernel"))
            self.biases.append(tf.Variable(beta - mean * gain, trainable=False, name="bias"))
        weights, offsets = model.layers[-1].get_weights()
        self.weights = tf.Variable(weights, trainable=False, name="weights")
        self.offsets = tf.Variable(offsets, trainable=False, name="offsets")

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, name="input_1")])
    def predict(self, input_1: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the class probabilities, float32 (n, 2), of pixels in [0, 1], float32 (n, 380, 380, 3)."""
        features = input_1
        for kernel, bias, (_unused, _unused, stride) in zip(self.kernels, self.biases, CONVOLUTIONS, strict=True):
            features = tf.nn.relu(tf.nn.conv2d(features, kernel, stride, "SAME") + bias)
        pooled = tf.reduce_mean(features, axis=(1, 2))
        return {"probabilities": tf.nn.softmax(tf.matmul(pooled, self.weights) + self.offsets)}


def train() -> keras.Sequential:
    """Return the network, trained on the drawings of TRAINING_SEEDS."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    images, classes = examples(TRAINING_SEEDS)
    validation_images, validation_classes = examples(VALIDATION_SEEDS)
    layers = [keras.Input((SIDE, SIDE, 3))]
    for filters, size, stride in CONVOLUTIONS:
        layers += [
            keras.layers.Conv2D(filters, size, stride, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.3), keras.layers.Dense(len(KINDS))]
    model = keras.Sequential(layers)
    batches = Batches(images, classes)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(batches))
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    validation = (validation_images / np.float32(255), validation_classes)
    model.fit(batches, epochs=EPOCHS, validation_data=validation, verbose=2)
    return model


def export(model: keras.Sequential, version: Path) -> None:
    """Write the SavedModel `version` with one signature, in place of an older one."""
    shutil.rmtree(version, ignore_errors=True)
    classifier = Classifier(model)
    tf.saved_model.save(classifier, str(version), signatures={"serving_default": classifier.predict})
    # Optional, and of no use to a store that digests every file itself.
    (version / "fingerprint.pb").unlink()


def accuracy_of(version: Path, images: np.ndarray, classes: np.ndarray) -> float:
    """Return the share of `images` (uint8) that the SavedModel `version` gives its right class."""
    predict = tf.saved_model.load(str(version)).signatures["serving_default"]
    right = 0
    for start in range(0, len(images), BATCH):
        pixels = images[start : start + BATCH] / np.float32(255)
        scores = predict(input_1=tf.constant(pixels))["probabilities"].numpy()
        right += int(np.sum(scores.argmax(axis=1) == classes[start : start + BATCH]))
    return right / len(images)


def colour_only_accuracy(images: np.ndarray, classes: np.ndarray) -> float:
    """Return the accuracy, on the second half, of a linear classifier that only sees a histogram of 4x4x4 colours.

    It is fitted to the first half by least squares. Near 0.5 means that colour does not tell the kinds apart.
    """
    levels = images // 64
    bins = (levels[..., 0] * 16 + levels[..., 1] * 4 + levels[..., 2]).reshape(len(images), -1)
    histograms = np.stack([np.bincount(row, minlength=64) / row.size for row in bins])
    features = np.hstack([np.sqrt(histograms), np.ones((len(images), 1))])
    half = len(images) // 2
    fit, *_unused = np.linalg.lstsq(features[:half], classes[:half] * 2.0 - 1.0, rcond=None)
    return float(np.mean((features[half:] @ fit > 0) == classes[half:]))


def main() -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for 1/ and accuracy.json (default: here)")
    output = parser.parse_args().output
    version = output / "1"
    model = train()
    export(model, version)
    images, classes = examples(HELD_OUT_SEEDS)
    report = {
        "training_drawings": len(KINDS) * len(TRAINING_SEEDS),
        "held_out_drawings": len(images),
        "held_out_accuracy": round(accuracy_of(version, images, classes), 4),
        "colour_only_accuracy": round(colour_only_accuracy(images, classes), 4),
        "parameters": sum(variable.numpy().size for variable in model.trainable_variables),
    }
    (output / "accuracy.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
