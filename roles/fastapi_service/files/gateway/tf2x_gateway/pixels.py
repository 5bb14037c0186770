"""Image files to the pixel tensors that a model was trained on."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps

from tf2x_gateway.errors import GatewayError

# Pillow compares a file's header with its limit before it decodes, but up to twice the limit it only warns.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# A partial image would be completed with grey: a prediction about nothing.
ImageFile.LOAD_TRUNCATED_IMAGES = False

_EIGHT_BIT_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")


@dataclass(frozen=True)
class PixelFormat:
    """What a model wants to see: size, channels (1: grey, 3: RGB), scale, NumPy type, and how files are read for it.

    An integer type is given 0 to 255, unscaled. `resize` is the name of one of Pillow's filters. `apply_exif` turns
    images upright after their EXIF orientation. `fast` lets JPEGs be decoded at a fraction of their size where the
    model needs no more: several times faster for large ones, with other pixels.
    """

    height: int
    width: int
    scale: float
    dtype: np.dtype
    channels: int = 3
    resize: str = "nearest"
    apply_exif: bool = False
    fast: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image's pixels: (height, width, channels)."""
        return self.height, self.width, self.channels


def set_process_limit(max_pixels: int) -> None:
    """Set how many pixels an image may have: a setting of Pillow's, for the whole process."""
    Image.MAX_IMAGE_PIXELS = max_pixels


def sniff_format(image: bytes) -> str:
    """Return the format that an image's first bytes name. Raises GatewayError unsupported_type."""
    if image.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if image.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if image.startswith(b"BM"):
        return "BMP"
    if image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        return "WebP"
    raise GatewayError(
        415, "unsupported_type", f"the file starts with {image[:8].hex(' ')}; {', '.join(FORMATS)} are supported"
    )


def decode(image: bytes, pixel_format: PixelFormat) -> np.ndarray:
    """Return the pixels of an image file, of shape (height, width, channels); see `decode_into`."""
    pixels = np.empty(pixel_format.shape, pixel_format.dtype)
    decode_into(pixels, image, pixel_format)
    return pixels


def decode_into(pixels: np.ndarray, image: bytes, pixel_format: PixelFormat) -> None:
    """Write the pixels of an image file to an array of shape (height, width, channels) and the format's type.

    The values are those of Keras' `img_to_array(load_img(file, target_size=(height, width), interpolation=resize))`
    times the scale; for a scale of 1 / n, divided by n. So the first frame of an animation, alpha dropped, and no
    rotation after EXIF unless the format says so.
    Raises GatewayError unsupported_type, image_too_large, image_truncated or image_invalid.
    """
    with _opened(image) as opened:
        _write_scaled(pixels, _pixels(opened, pixel_format), pixel_format)


def check_header(image: bytes) -> None:
    """Check an image file as far as that needs no decoding: type and number of pixels. Raises as `decode_into` does."""
    with _opened(image):
        pass


@contextmanager
def _opened(image: bytes) -> Iterator[Image.Image]:
    name = sniff_format(image)
    if name == "WebP" and len(image) < int.from_bytes(image[4:8], "little") + 8:
        raise _truncated(name, "it is shorter than its header says")
    try:
        with Image.open(io.BytesIO(image), formats=(name.upper(),)) as opened:
            yield opened
    except MemoryError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = str(error).split(" exceeds", maxsplit=1)[0]
        raise GatewayError(
            413, "image_too_large", f"{found} is more than the {Image.MAX_IMAGE_PIXELS} pixels allowed"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise _invalid(name, "its header is damaged or cut off") from error
    # Damaged files make Pillow's parsers raise nearly anything, and nothing but the file can be at fault here.
    except Exception as error:
        if isinstance(error, EOFError) or "truncated" in str(error).lower():
            raise _truncated(name, str(error)) from error
        raise _invalid(name, str(error)) from error


def _pixels(image: Image.Image, pixel_format: PixelFormat) -> np.ndarray:
    size = (pixel_format.width, pixel_format.height)
    mode = _MODE_OF_CHANNELS[pixel_format.channels]
    if pixel_format.fast:
        # Only JPEGs take notice; not below the size asked for, so that the resize has enough to work with. The longer
        # side is asked for both ways, since EXIF may yet turn the image.
        image.draft(mode, (max(size), max(size)))
    if pixel_format.apply_exif:
        image = ImageOps.exif_transpose(image)
    resample = Image.Resampling[pixel_format.resize.upper()]
    # NEAREST picks pixels and conversion maps each by itself: the order is free, and few pixels convert faster.
    # Of wider pixels Pillow picks others than of RGB, by other rounding; and other filters mix what they convert.
    if image.mode != mode and (resample != Image.Resampling.NEAREST or image.mode not in _EIGHT_BIT_MODES):
        image = image.convert(mode)
    if image.size != size:
        image = image.resize(size, resample)
    if image.mode != mode:
        image = image.convert(mode)
    return np.asarray(image).reshape(pixel_format.shape)


def _write_scaled(target: np.ndarray, pixels: np.ndarray, pixel_format: PixelFormat) -> None:
    if pixel_format.dtype.kind != "f":
        target[...] = pixels
        return
    divisor = round(1 / pixel_format.scale)
    # In float32, x * (1 / 255) and x / 255 differ in the last bit; models were trained on the quotient.
    if divisor and 1 / divisor == pixel_format.scale:
        operation, operand = np.divide, divisor
    else:
        operation, operand = np.multiply, pixel_format.scale
    # In float32 whatever the model's own type: a float16 quotient rounds otherwise.
    operation(pixels, np.float32(operand), out=target, dtype=np.float32, casting="same_kind")


def _truncated(name: str, detail: str) -> GatewayError:
    return GatewayError(422, "image_truncated", f"the {name} image is not complete: {detail}")


def _invalid(name: str, detail: str) -> GatewayError:
    return GatewayError(422, "image_invalid", f"the file is no valid {name} image: {detail}")
