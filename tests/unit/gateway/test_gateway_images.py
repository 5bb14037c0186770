"""Image modes and oddities that cameras, scanners and drawing programs leave in files."""

from __future__ import annotations

import numpy as np
import pytest
from gateway_process import encode_image, noise
from PIL import Image


def sent_pixels(gateway, stub, image: bytes) -> np.ndarray:
    """Upload an image of the model's size and return the pixels that the model got, as 0 to 255."""
    answer = gateway.upload(image)
    assert answer.status == 200, answer.body
    return np.rint(stub.calls[-1].pixels[0] * 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA"])
def test_png_modes(gateway, stub, mode):
    image = noise(mode)
    expected = np.asarray(image.convert("RGB"))
    assert (sent_pixels(gateway, stub, encode_image(image)) == expected).all()


def test_alpha_is_dropped_and_not_blended(gateway, stub):
    image = Image.new("RGBA", (8, 6), (200, 100, 50, 0))
    assert (sent_pixels(gateway, stub, encode_image(image)) == (200, 100, 50)).all()


def test_palette_png_with_transparency(gateway, stub):
    image = noise().quantize(16)
    expected = np.asarray(image.convert("RGB"))
    assert (sent_pixels(gateway, stub, encode_image(image, transparency=0)) == expected).all()


def test_one_bit_png(gateway, stub):
    image = noise("L").point(lambda value: 255 * (value > 127)).convert("1")
    expected = np.asarray(image.convert("RGB"))
    assert set(np.unique(expected)) == {0, 255}
    assert (sent_pixels(gateway, stub, encode_image(image)) == expected).all()


def test_16_bit_png(gateway, stub):
    """Pillow's own conversion, as training with Keras has it too."""
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    file = encode_image(image)
    expected = np.asarray(image.convert("RGB"))
    assert (sent_pixels(gateway, stub, file) == expected).all()


def test_cmyk_jpeg(gateway, stub):
    file = encode_image(noise("CMYK"), "JPEG", quality=95)
    assert gateway.upload(file).status == 200
    assert stub.calls[-1].shape == (1, 6, 8, 3)
    assert np.ptp(stub.calls[-1].pixels) > 0


def test_grey_jpeg_has_three_equal_channels(gateway, stub):
    pixels = sent_pixels(gateway, stub, encode_image(noise("L"), "JPEG"))
    assert (pixels == pixels[..., :1]).all()
    assert np.ptp(pixels) > 0


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation(gateway, stub, image_format):
    red, blue = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    options = {"lossless": True} if image_format == "WEBP" else {}
    file = encode_image(red, image_format, save_all=True, append_images=[blue, red], duration=100, **options)
    assert (sent_pixels(gateway, stub, file) == (255, 0, 0)).all()


def test_exif_orientation_is_left_alone(gateway, stub):
    image = noise()
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (sent_pixels(gateway, stub, encode_image(image, exif=exif)) == np.asarray(image)).all()


@pytest.mark.parametrize("image_format", ["BMP", "PNG"])
def test_lossless_formats_pass_pixels_unchanged(gateway, stub, image_format):
    image = noise()
    assert (sent_pixels(gateway, stub, encode_image(image, image_format)) == np.asarray(image)).all()


def test_lossless_webp(gateway, stub):
    image = noise()
    assert (sent_pixels(gateway, stub, encode_image(image, "WEBP", lossless=True)) == np.asarray(image)).all()
