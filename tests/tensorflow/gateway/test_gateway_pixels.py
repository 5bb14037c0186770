"""The gateway's pixels against Keras' load_img and img_to_array: bit for bit."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
from PIL import Image
from tf2x_gateway.pixels import PixelFormat, decode

RANDOM = np.random.default_rng(11)
FLOAT = np.dtype("float32")


def random_image(mode: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    if mode == "P":
        return random_image("RGB", size).quantize(64)
    if mode == "1":
        return random_image("L", size).convert("1")
    if mode == "I;16":
        return Image.fromarray(RANDOM.integers(0, 65536, (height, width), dtype=np.uint16))
    bands = [
        Image.fromarray(RANDOM.integers(0, 256, (height, width), dtype=np.uint8))
        for _unused in range({"L": 1, "LA": 2, "RGB": 3}.get(mode, 4))
    ]
    return bands[0] if mode == "L" else Image.merge(mode, bands)


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def keras_pixels(
    file: bytes, height: int, width: int, interpolation: str = "nearest", color_mode: str = "rgb"
) -> np.ndarray:
    image = keras.utils.load_img(
        io.BytesIO(file), target_size=(height, width), interpolation=interpolation, color_mode=color_mode
    )
    return keras.utils.img_to_array(image)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


FILES = [
    ("JPEG", "RGB", {"quality": 90}),
    ("JPEG", "RGB", {"quality": 60, "progressive": True, "subsampling": 2}),
    ("JPEG", "L", {}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "L", {}),
    ("PNG", "LA", {}),
    ("PNG", "P", {}),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "P", {"transparency": bytes(range(64))}),
    ("PNG", "RGB", {"transparency": (1, 2, 3)}),
    ("PNG", "L", {"transparency": 7}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("GIF", "P", {}),
    ("GIF", "P", {"transparency": 5}),
    ("GIF", "L", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("BMP", "1", {}),
    ("WEBP", "RGB", {"quality": 80}),
    ("WEBP", "RGBA", {"lossless": True}),
]
SIZES = [(1, 1), (64, 48), (48, 64), (7, 301), (500, 403), (1023, 769)]
TARGETS = [(48, 64), (224, 224), (380, 380)]


@pytest.mark.parametrize(("image_format", "mode", "options"), FILES)
@pytest.mark.parametrize("size", SIZES)
def test_same_pixels_as_keras(image_format, mode, options, size):
    file = encoded(random_image(mode, size), image_format, **options)
    for height, width in TARGETS:
        found = decode(file, PixelFormat(height, width, 1 / 255, FLOAT))
        assert_same_bits(found, keras_pixels(file, height, width) / 255.0)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize(("image_format", "mode", "options"), FILES)
def test_same_pixels_as_keras_with_other_filters(image_format, mode, options, resize):
    for size in SIZES[1:4]:
        file = encoded(random_image(mode, size), image_format, **options)
        found = decode(file, PixelFormat(48, 64, 1 / 255, FLOAT, resize=resize))
        assert_same_bits(found, keras_pixels(file, 48, 64, resize) / 255.0)


# Keras leaves 16 bits as they are if the image is to be grey, and makes 8 of them if it is to be RGB.
EIGHT_BIT_FILES = [file for file in FILES if file[1] != "I;16"]


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
@pytest.mark.parametrize(("image_format", "mode", "options"), EIGHT_BIT_FILES)
def test_same_grey_pixels_as_keras(image_format, mode, options, resize):
    for size in SIZES[1:4]:
        file = encoded(random_image(mode, size), image_format, **options)
        found = decode(file, PixelFormat(48, 64, 1 / 255, FLOAT, channels=1, resize=resize))
        assert_same_bits(found, keras_pixels(file, 48, 64, resize, "grayscale") / 255.0)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_same_frame_as_keras(image_format):
    frames = [random_image("RGB", (60, 40)) for _unused in range(3)]
    file = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    found = decode(file, PixelFormat(40, 60, 1 / 255, FLOAT))
    assert_same_bits(found, keras_pixels(file, 40, 60) / 255.0)


def test_exif_orientation_like_keras():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(random_image("RGB", (50, 30)), "JPEG", exif=exif)
    found = decode(file, PixelFormat(64, 48, 1 / 255, FLOAT))
    assert_same_bits(found, keras_pixels(file, 64, 48) / 255.0)


@pytest.mark.parametrize("divisor", [255, 256, 128, 127, 1])
def test_every_byte_value_divides_like_keras(divisor):
    image = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))
    file = encoded(image, "PNG")
    found = decode(file, PixelFormat(16, 16, 1 / divisor, FLOAT))
    assert_same_bits(found, keras_pixels(file, 16, 16) / divisor)


@pytest.mark.parametrize("scale", [0.017, 1 / 127.5, 2.0])
def test_scales_that_are_no_quotient(scale):
    file = encoded(random_image("RGB", (20, 20)), "PNG")
    found = decode(file, PixelFormat(20, 20, scale, FLOAT))
    assert_same_bits(found, keras_pixels(file, 20, 20) * np.float32(scale))


def test_other_types():
    file = encoded(random_image("RGB", (20, 20)), "PNG")
    reference = keras_pixels(file, 20, 20)
    for name in ("float16", "float64"):
        found = decode(file, PixelFormat(20, 20, 1 / 255, np.dtype(name)))
        assert_same_bits(found, (reference / 255.0).astype(name))
    for name in ("uint8", "int32", "int64"):
        found = decode(file, PixelFormat(20, 20, 1 / 255, np.dtype(name)))
        assert_same_bits(found, reference.astype(name))
