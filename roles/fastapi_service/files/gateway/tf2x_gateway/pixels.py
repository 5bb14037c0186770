"""Image files to the pixel tensors that a model was trained on."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from tf2x_gateway.errors import GatewayError

# Pillow compares a file's header with its limit before it decodes, but up to twice the limit it only warns.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# A partial image would be completed with grey: a prediction about nothing.
ImageFile.LOAD_TRUNCATED_IMAGES = False

_EIGHT_BIT_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")


@dataclass(frozen=True)
class PixelFormat:
    """What a model wants to see: size, scale and NumPy type. An integer type is given 0 to 255, unscaled."""

    height: int
    width: int
    scale: float
    dtype: np.dtype


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
    """Return the pixels of an image file, of shape (height, width, 3), in RGB.

    The values are those of Keras' `img_to_array(load_img(file, target_size=(height, width)))` times the scale; for a
    scale of 1 / n, divided by n. So the first frame of an animation, no rotation after EXIF, alpha dropped.
    Raises GatewayError unsupported_type, image_too_large, image_truncated or image_invalid.
    """
    name = sniff_format(image)
    if name == "WebP" and len(image) < int.from_bytes(image[4:8], "little") + 8:
        raise _truncated(name, "it is shorter than its header says")
    try:
        with Image.open(io.BytesIO(image), formats=(name.upper(),)) as opened:
            return _scale(_rgb_pixels(opened, pixel_format), pixel_format)
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


def _rgb_pixels(image: Image.Image, pixel_format: PixelFormat) -> np.ndarray:
    size = (pixel_format.width, pixel_format.height)
    # NEAREST picks pixels and conversion to RGB maps each by itself: the order is free, and few pixels convert faster.
    # Only of wider pixels Pillow picks others than of RGB, by other rounding.
    if image.mode not in _EIGHT_BIT_MODES:
        image = image.convert("RGB")
    if image.size != size:
        image = image.resize(size, Image.Resampling.NEAREST)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def _scale(pixels: np.ndarray, pixel_format: PixelFormat) -> np.ndarray:
    if pixel_format.dtype.kind != "f":
        return np.ascontiguousarray(pixels, dtype=pixel_format.dtype)
    divisor = round(1 / pixel_format.scale)
    if divisor and 1 / divisor == pixel_format.scale:
        # In float32, x * (1 / 255) and x / 255 differ in the last bit; models were trained on the quotient.
        scaled = np.divide(pixels, np.float32(divisor))
    else:
        scaled = np.multiply(pixels, np.float32(pixel_format.scale))
    return scaled.astype(pixel_format.dtype, copy=False)


def _truncated(name: str, detail: str) -> GatewayError:
    return GatewayError(422, "image_truncated", f"the {name} image is not complete: {detail}")


def _invalid(name: str, detail: str) -> GatewayError:
    return GatewayError(422, "image_invalid", f"the file is no valid {name} image: {detail}")
