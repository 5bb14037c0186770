"""Image files of every supported format, taken apart and put together again with something wrong in them."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from random import Random
from typing import Any, Callable

from PIL import Image

Mutation = Callable[[Random, bytes], bytes]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Sizes at which fields overflow, turn negative or exceed every limit, and some at which they do not.
EXTREMES = (0, 1, 2, 7, 255, 256, 5000, 13_000, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
_START_OF_SCAN = 0xDA
_STANDALONE_MARKERS = (0x01, *range(0xD0, 0xDA))
_START_OF_FRAME = (0xC0, 0xC1, 0xC2)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its length and a valid checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def black_png(width: int, height: int) -> bytes:
    """Return a valid RGB PNG as small as deflate makes it, without ever holding its pixels."""
    total = height * (1 + 3 * width)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    repeated = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = packer.compress(bytes(total % len(block))) + packer.flush()
    # Adler-32 of zeros: the one sum stays 1, the other counts them.
    checksum = struct.pack(">I", (total % 65521) << 16 | 1)
    rows = b"\x78\xda" + repeated * (total // len(block)) + rest + checksum
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a picture with both flat and busy parts, the same every time."""
    dice = Random(mode)
    bands = len(Image.new(mode, (1, 1)).getbands())
    coarse = Image.frombytes(mode, (8, 6), dice.randbytes(8 * 6 * bands))
    fine = Image.frombytes(mode, (16, 12), dice.randbytes(16 * 12 * bands))
    coarse = coarse.resize(size, Image.Resampling.BILINEAR)
    coarse.paste(fine, (5, 3))
    return coarse


@cache
def samples() -> dict[str, bytes]:
    """Return valid files by a name that begins with their format."""
    rgb, frames = picture(), [picture().rotate(90 * turn) for turn in range(1, 3)]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    animated = {"save_all": True, "append_images": frames, "duration": 100}
    deep = Image.frombytes("I;16", (32, 24), Random(16).randbytes(32 * 24 * 2))
    return {
        "JPEG": encode(rgb, "JPEG"),
        "JPEG progressive": encode(rgb, "JPEG", progressive=True),
        "JPEG grey": encode(picture("L"), "JPEG"),
        "JPEG CMYK": encode(picture("CMYK"), "JPEG"),
        "JPEG EXIF": encode(rgb, "JPEG", exif=rotated),
        "JPEG restarts": encode(rgb, "JPEG", restart_marker_blocks=2),
        "PNG": encode(rgb, "PNG"),
        "PNG RGBA": encode(picture("RGBA"), "PNG"),
        "PNG palette": encode(rgb.quantize(16), "PNG", transparency=0),
        "PNG 16-bit": encode(deep, "PNG"),
        "PNG 1-bit": encode(picture("L").convert("1"), "PNG"),
        "PNG animated": encode(rgb, "PNG", **animated),
        "WebP": encode(rgb, "WEBP"),
        "WebP lossless": encode(picture("RGBA"), "WEBP", lossless=True),
        "WebP EXIF": encode(rgb, "WEBP", exif=rotated),
        "WebP animated": encode(rgb, "WEBP", **animated),
        "GIF": encode(rgb.quantize(32), "GIF"),
        "GIF animated": encode(rgb, "GIF", **animated),
        "BMP": encode(rgb, "BMP"),
        "BMP palette": encode(rgb.quantize(16), "BMP"),
        "BMP 1-bit": encode(picture("L").convert("1"), "BMP"),
    }


def mutate(dice: Random, name: str, file: bytes) -> bytes:
    """Return a sample with one to three things wrong with it, most of them where its format keeps its structure."""
    for _unused in range(dice.choice((1, 1, 1, 2, 3))):
        mutations = _ANY_FORMAT if dice.random() < 0.4 else _BY_FORMAT[name.split(maxsplit=1)[0]]
        file = dice.choice(mutations)(dice, file)
    return file


def damage(dice: Random, data: bytes) -> bytes:
    """Return bytes damaged without regard for what they mean."""
    return dice.choice(_ANY_FORMAT)(dice, data)


# ---- of any format


def _flip_bits(dice: Random, file: bytes) -> bytes:
    damaged = bytearray(file)
    for _unused in range(dice.randint(1, 12) if damaged else 0):
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def _flip_bits_in_the_head(dice: Random, file: bytes) -> bytes:
    return _flip_bits(dice, file[:128]) + file[128:]


def _cut_off(dice: Random, file: bytes) -> bytes:
    return file[: dice.randrange(len(file) + 1)]


def _cut_out(dice: Random, file: bytes) -> bytes:
    start, end = _slice(dice, file)
    return file[:start] + file[end:]


def _repeat_a_part(dice: Random, file: bytes) -> bytes:
    start, end = _slice(dice, file)
    return file[:end] + file[start:end] * dice.randint(1, 4) + file[end:]


def _insert_noise(dice: Random, file: bytes) -> bytes:
    at = dice.randrange(len(file) + 1)
    return file[:at] + dice.randbytes(dice.randint(1, 64)) + file[at:]


def _write_an_extreme(dice: Random, file: bytes) -> bytes:
    width = dice.choice((1, 2, 4))
    number = (dice.choice(EXTREMES) % (1 << 8 * width)).to_bytes(width, dice.choice(("little", "big")))
    at = dice.randrange(max(1, min(len(file), 256)))
    return file[:at] + number + file[at + width :]


def _swap_the_head(dice: Random, file: bytes) -> bytes:
    """Another format's first bytes."""
    other = dice.choice(list(samples().values()))
    length = dice.choice((4, 8, 16, 32))
    return other[:length] + file[length:]


def _append_another_file(dice: Random, file: bytes) -> bytes:
    return file + dice.choice(list(samples().values()))


def _slice(dice: Random, file: bytes) -> tuple[int, int]:
    start = dice.randrange(len(file) + 1)
    return start, min(len(file), start + dice.randint(1, 200))


_ANY_FORMAT: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_bits_in_the_head,
    _cut_off,
    _cut_out,
    _repeat_a_part,
    _insert_noise,
    _write_an_extreme,
    _swap_the_head,
    _append_another_file,
)


# ---- what formats made of chunks have in common


def _rearrange(dice: Random, chunks: list[bytes]) -> list[bytes]:
    """Return the chunks with one left out, repeated, damaged, or exchanged with another one."""
    if not chunks:
        return chunks
    at, other = dice.randrange(len(chunks)), dice.randrange(len(chunks))
    kind = dice.randrange(4)
    if kind == 0:
        return chunks[:at] + chunks[at + 1 :]
    if kind == 1:
        return chunks[: at + 1] + chunks[at : at + 1] * dice.randint(1, 20) + chunks[at + 1 :]
    if kind == 2:
        return [*chunks[:at], _flip_bits(dice, chunks[at]), *chunks[at + 1 :]]
    chunks[at], chunks[other] = chunks[other], chunks[at]
    return chunks


# ---- PNG


def png_chunks(file: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and content of each chunk, as far as the file goes."""
    chunks, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(file):
        length = int.from_bytes(file[at : at + 4], "big")
        chunks.append((file[at + 4 : at + 8], file[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return PNG_SIGNATURE + b"".join(png_chunk(kind, content) for kind, content in chunks)


def _png_header(dice: Random, file: bytes) -> bytes:
    """Another size, depth, colour type or interlacing, under a valid checksum."""
    chunks = png_chunks(file)
    if not chunks or len(chunks[0][1]) != 13:
        return file
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    if dice.random() < 0.5:
        width, height = dice.choice((width, *EXTREMES)), dice.choice((height, *EXTREMES))
    else:
        rest[dice.randrange(5)] = dice.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 255))
    return _png([(b"IHDR", struct.pack(">IIBBBBB", width, height, *rest)), *chunks[1:]])


def _png_chunk_order(dice: Random, file: bytes) -> bytes:
    chunks = [png_chunk(*chunk) for chunk in png_chunks(file)]
    return PNG_SIGNATURE + b"".join(_rearrange(dice, chunks))


def _png_chunk_content(dice: Random, file: bytes) -> bytes:
    """A damaged or emptied chunk under a valid checksum."""
    chunks = png_chunks(file)
    if not chunks:
        return file
    at = dice.randrange(len(chunks))
    kind, content = chunks[at]
    chunks[at] = kind, dice.choice((b"", damage(dice, content), dice.randbytes(30)))
    return _png(chunks)


def _png_chunk_length(dice: Random, file: bytes) -> bytes:
    chunks = [png_chunk(*chunk) for chunk in png_chunks(file)]
    if not chunks:
        return file
    at = dice.randrange(len(chunks))
    chunks[at] = struct.pack(">I", dice.choice(EXTREMES)) + chunks[at][4:]
    return PNG_SIGNATURE + b"".join(chunks)


def _png_additional_chunk(dice: Random, file: bytes) -> bytes:
    """Text, profiles and frames: what is read besides the pixels. One of them unpacks to 16 MB."""
    packed = zlib.compress(bytes(1 << 24), 9)
    additional = dice.choice(
        (
            (b"zTXt", b"comment\0\0" + packed),
            (b"iTXt", b"comment\0\1\0en\0\0" + packed),
            (b"iCCP", b"profile\0\0" + packed),
            (b"tEXt", b"no separator"),
            (b"acTL", struct.pack(">II", dice.choice(EXTREMES), 0)),
            (b"fcTL", struct.pack(">IIIIIHHBB", 0, *(dice.choice(EXTREMES) for _unused in range(4)), 1, 0, 9, 9)),
            (b"tRNS", dice.randbytes(dice.randint(0, 300))),
            (b"PLTE", dice.randbytes(dice.randint(0, 800))),
            (b"eXIf", dice.randbytes(40)),
            (b"pHYs", b"\0"),
            (dice.randbytes(4), b"unknown"),
        )
    )
    chunks = png_chunks(file)
    chunks.insert(dice.randint(1, max(1, len(chunks))), additional)
    return _png(chunks)


# ---- JPEG


def jpeg_segments(file: bytes) -> list[bytes]:
    """Return the segments, as far as the file goes; the last one has the coded pixels in it."""
    segments, at = [file[:2]], 2
    while at + 4 <= len(file) and file[at] == 0xFF and file[at + 1] != _START_OF_SCAN:
        length = 0 if file[at + 1] in _STANDALONE_MARKERS else int.from_bytes(file[at + 2 : at + 4], "big")
        segments.append(file[at : at + 2 + length])
        at += 2 + length
    return [*segments, file[at:]]


def _jpeg_segment_order(dice: Random, file: bytes) -> bytes:
    start, *segments = jpeg_segments(file)
    return start + b"".join(_rearrange(dice, segments))


def _jpeg_segment_length(dice: Random, file: bytes) -> bytes:
    segments = jpeg_segments(file)
    at = dice.randrange(len(segments))
    length = (dice.choice(EXTREMES) % 65536).to_bytes(2, "big")
    segments[at] = segments[at][:2] + length + segments[at][4:]
    return b"".join(segments)


def _jpeg_frame(dice: Random, file: bytes) -> bytes:
    """Another size, depth, number of components or sampling."""
    segments = jpeg_segments(file)
    for index, segment in enumerate(segments):
        if len(segment) > 9 and segment[1] in _START_OF_FRAME:
            frame = bytearray(segment)
            if dice.random() < 0.5:
                frame[5:9] = struct.pack(">HH", *(dice.choice(EXTREMES) % 65536 for _unused in range(2)))
            else:
                frame[dice.randrange(4, len(frame))] = dice.choice((0, 1, 2, 3, 4, 12, 16, 0x11, 0x44, 255))
            segments[index] = bytes(frame)
    return b"".join(segments)


def _jpeg_table(dice: Random, file: bytes) -> bytes:
    """A damaged segment of its old length."""
    segments = jpeg_segments(file)
    at = dice.randrange(len(segments))
    segments[at] = segments[at][:4] + _flip_bits(dice, segments[at][4:])
    return b"".join(segments)


# ---- WebP


def riff_chunks(file: bytes) -> list[bytes]:
    """Return the chunks of a RIFF file, as far as it goes, with their padding."""
    chunks, at = [], 12
    while at + 8 <= len(file):
        length = int.from_bytes(file[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        chunks.append(file[at:end])
        at = end
    return chunks


def _riff(chunks: list[bytes]) -> bytes:
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _webp_chunk_order(dice: Random, file: bytes) -> bytes:
    return _riff(_rearrange(dice, riff_chunks(file)))


def _webp_chunk_length(dice: Random, file: bytes) -> bytes:
    chunks = riff_chunks(file)
    if not chunks:
        return file
    at = dice.randrange(len(chunks))
    chunks[at] = chunks[at][:4] + struct.pack("<I", dice.choice(EXTREMES)) + chunks[at][8:]
    return _riff(chunks)


def _webp_file_length(dice: Random, file: bytes) -> bytes:
    return file[:4] + struct.pack("<I", dice.choice(EXTREMES)) + file[8:]


def _webp_canvas(dice: Random, file: bytes) -> bytes:
    """A VP8X chunk with another canvas: 24 bits a side, minus one."""
    sides = b"".join((dice.choice(EXTREMES) % (1 << 24)).to_bytes(3, "little") for _unused in range(2))
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes([dice.randrange(256)]) + bytes(3) + sides
    return _riff([chunk, *(other for other in riff_chunks(file) if other[:4] != b"VP8X")])


def _webp_bitstream(dice: Random, file: bytes) -> bytes:
    """Damage in the first bytes of a chunk's content, where sizes and offsets stand."""
    chunks = riff_chunks(file)
    if not chunks:
        return file
    at = dice.randrange(len(chunks))
    chunks[at] = chunks[at][:8] + _flip_bits(dice, chunks[at][8:40]) + chunks[at][40:]
    return _riff(chunks)


# ---- GIF and BMP


def _gif_screen(dice: Random, file: bytes) -> bytes:
    """Another canvas, colour table or background."""
    sides = struct.pack("<HH", *(dice.choice(EXTREMES) % 65536 for _unused in range(2)))
    return file[:6] + dice.choice((sides, file[6:10])) + dice.randbytes(3) + file[13:]


def _gif_frame(dice: Random, file: bytes) -> bytes:
    """Another place and size of a frame, or another code size of its pixels."""
    at = file.find(b",", 13 if dice.random() < 0.5 else len(file) // 2)
    if at < 0:
        return file
    box = struct.pack("<HHHH", *(dice.choice(EXTREMES) % 65536 for _unused in range(4)))
    return file[: at + 1] + box + dice.randbytes(2) + file[at + 11 :]


def _gif_block(dice: Random, file: bytes) -> bytes:
    """An extension whose blocks do not fit."""
    at = dice.randrange(13, max(14, len(file)))
    label = dice.choice((b"\xf9", b"\xff", b"\xfe", b"\x01"))
    return file[:at] + b"!" + label + bytes([dice.randrange(256)]) + dice.randbytes(8) + file[at:]


def _bmp_header(dice: Random, file: bytes) -> bytes:
    """Extreme values in one to three fields of the two headers."""
    fields = [(2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4)]
    damaged = bytearray(file)
    for at, width in dice.sample(fields, dice.randint(1, 3)):
        damaged[at : at + width] = (dice.choice((*EXTREMES, 4, 12, 40, 124)) % (1 << 8 * width)).to_bytes(
            width, "little"
        )
    return bytes(damaged)


_BY_FORMAT: dict[str, tuple[Mutation, ...]] = {
    "PNG": (_png_header, _png_chunk_order, _png_chunk_content, _png_chunk_length, _png_additional_chunk),
    "JPEG": (_jpeg_segment_order, _jpeg_segment_length, _jpeg_frame, _jpeg_table),
    "WebP": (_webp_chunk_order, _webp_chunk_length, _webp_file_length, _webp_canvas, _webp_bitstream),
    "GIF": (_gif_screen, _gif_frame, _gif_block),
    "BMP": (_bmp_header,),
}
