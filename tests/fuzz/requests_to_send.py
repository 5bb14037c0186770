"""Requests for predictions with something wrong in the image, in the form around it or in the HTTP around that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Callable

from image_files import EXTREMES, damage, mutate, samples

SINGLE, BATCH = "/model/predict/", "/model/predict/batch/"
TWO_GB = 2 * 1024**3
_BOUNDARY = b"----fuzz7d1f"
_MEDIA_TYPES = (b"image/jpeg", b"image/png", b"image/webp", b"image/x-unknown", b"image/", b"image/svg+xml; a=b")
# One-byte chunks cost six bytes and some CPU for each.
_MAX_BYTES_IN_TINY_CHUNKS = 3000


@dataclass(frozen=True)
class Case:
    """A request as the pieces in which its bytes are sent.

    `hangs_up`: the client then closes the connection instead of waiting. `stalls`: the gateway still waits for bytes
    that never come, so that the answer takes as long as it allows for a body.
    `reusable`: whether the connection can carry another request after the answer.
    """

    name: str
    pieces: tuple[bytes, ...]
    hangs_up: bool = False
    stalls: bool = False
    reusable: bool = True


def form(field: bytes, files: Iterable[bytes], boundary: bytes = _BOUNDARY) -> bytes:
    """Return a multipart body with the files."""
    head = b'Content-Disposition: form-data; name="%b"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n' % field
    parts = [b"--%b\r\n%b%b\r\n" % (boundary, head, file) for file in files]
    return b"".join([*parts, b"--%b--\r\n" % boundary])


def form_type(boundary: bytes = _BOUNDARY) -> bytes:
    """Return the Content-Type of such a body."""
    return b"multipart/form-data; boundary=" + boundary


def head(path: str, content_type: bytes, *more: bytes) -> bytes:
    """Return the head of a POST, with further header lines."""
    lines = [b"POST %b HTTP/1.1" % path.encode(), b"Host: gateway", b"Content-Type: " + content_type, *more]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def length(body: bytes) -> bytes:
    """Return the header line that tells a body's length."""
    return b"Content-Length: %d" % len(body)


def chunked(body: bytes, size: int) -> bytes:
    """Return a body in chunks of `size` bytes."""
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def make_case(seed: int, number: int) -> Case:
    """Return a case that depends on nothing but the two numbers."""
    dice = Random(f"{seed} {number}")
    kind = dice.choices((_image_case, _batch_case, _form_case, _http_case), (55, 12, 18, 15))[0]
    return kind(dice)


def _image(dice: Random) -> tuple[str, bytes]:
    name = dice.choice(list(samples()))
    return name, mutate(dice, name, samples()[name])


def _image_case(dice: Random) -> Case:
    name, file = _image(dice)
    if dice.random() < 0.5:
        body, content_type = form(b"file", [file]), form_type()
    else:
        body, content_type = file, dice.choice(_MEDIA_TYPES)
    return Case(name, (head(SINGLE, content_type, length(body)) + body,))


def _batch_case(dice: Random) -> Case:
    """Good, damaged and empty images in one batch."""
    files = []
    for _unused in range(dice.choice((1, 2, 3, 8, 8, 33))):
        name, damaged = _image(dice)
        files.append(dice.choice((samples()[name], damaged, damaged, b"")))
    body = form(b"files", files)
    return Case(f"batch of {len(files)}", (head(BATCH, form_type(), length(body)) + body,))


# ---- the form


def _form_case(dice: Random) -> Case:
    name, file = dice.choice(list(samples().items()))
    field, path = (b"files", BATCH) if dice.random() < 0.3 else (b"file", SINGLE)
    spoil = dice.choice(_FORM_FAULTS)
    body, content_type = spoil(dice, field, file)
    return Case(f"form, {spoil.__name__.strip('_')}, {name}", (head(path, content_type, length(body)) + body,))


def _damaged_body(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    return damage(dice, form(field, [file])), form_type()


def _damaged_part_head(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    before, blank, after = form(field, [file]).partition(b"\r\n\r\n")
    return damage(dice, before) + blank + after, form_type()


def _other_part_head(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    disposition = dice.choice(
        (
            b"",
            b'form-data; name="%b' % field,
            b"form-data; name*=utf-8''%b" % field,
            b"form-data; name*=utf-8''%%ff%%fe",
            b"form-data; name*=nocharset''%b" % field,
            b'form-data; name="\xff\xfe\x00"',
            b'form-data; name="%b"; name="%b"' % (field, field),
            b'attachment; filename="../../etc/passwd"; name="%b"' % field,
            b'form-data; name="%b"; filename="%b"' % (field, b"a" * 20_000),
            b'form-data; name="%b"' % (b"n" * 20_000),
            b";" * 500,
            dice.randbytes(40).replace(b"\n", b"").replace(b"\r", b""),
        )
    )
    more = dice.choice((b"", b"Content-Transfer-Encoding: base64\r\n", b"X: y\r\n" * 200, b"Content-Length: -1\r\n"))
    part = b"Content-Disposition: " + disposition + b"\r\n" + more
    return b"--%b\r\n%b\r\n%b\r\n--%b--\r\n" % (_BOUNDARY, part, file, _BOUNDARY), form_type()


def _other_boundary(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    boundary = dice.choice(
        (b"", b'""', b"x" * 71, b"y" * 5000, b'"quo ted"', b"\xff\xfe", b"wrong", _BOUNDARY[:-1], _BOUNDARY + b"-")
    )
    content_type = dice.choice(
        (
            form_type(boundary),
            b"multipart/form-data; boundary*=utf-8''" + _BOUNDARY,
            b"multipart/form-data; boundary*0=----; boundary*1=fuzz7d1f",
            b"multipart/form-data;; ;boundary=" + _BOUNDARY,
            b"multipart/mixed; boundary=" + _BOUNDARY,
            b"MULTIPART/FORM-DATA; BOUNDARY=" + _BOUNDARY,
            form_type() + b"; boundary=other",
            b"multipart/form-data",
            dice.randbytes(30).replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b""),
        )
    )
    return form(field, [file]), content_type


def _other_line_ends(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    body = form(field, [file])
    before, after = dice.choice(((b"\r\n", b"\n"), (b"\r\n", b"\r"), (b"\r\n\r\n", b"\r\n"), (b"--\r\n", b"-")))
    return body.replace(before, after), form_type()


def _text_around(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    body = form(field, [file])
    noise = dice.randbytes(dice.randint(1, 300))
    return dice.choice((noise + body, b"\r\n" + body, body + noise, body + body, b"preamble\r\n" + body)), form_type()


def _many_parts(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    names = [field] * dice.choice((1, 2, 33)) + [b"other%d" % number for number in range(dice.choice((0, 5, 25, 300)))]
    dice.shuffle(names)
    parts = [form(name, [dice.choice((file, b""))])[: -len(_BOUNDARY) - 6] for name in names]
    return b"".join(parts) + b"--%b--\r\n" % _BOUNDARY, form_type()


def _nested(dice: Random, field: bytes, file: bytes) -> tuple[bytes, bytes]:
    """A form in a form, with the same or another boundary."""
    return form(field, [form(field, [file], dice.choice((_BOUNDARY, b"inner")))]), form_type()


_FORM_FAULTS: tuple[Callable[[Random, bytes, bytes], tuple[bytes, bytes]], ...] = (
    _damaged_body,
    _damaged_part_head,
    _other_part_head,
    _other_boundary,
    _other_line_ends,
    _text_around,
    _many_parts,
    _nested,
)


# ---- HTTP


def _http_case(dice: Random) -> Case:
    name, file = dice.choice(list(samples().items())) if dice.random() < 0.7 else _image(dice)
    body, content_type = (form(b"file", [file]), form_type()) if dice.random() < 0.6 else (file, b"image/png")
    return dice.choice(_HTTP_FAULTS)(dice, name, body, content_type)


def _declared_too_long(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    """More is declared than is sent; then the client waits, or leaves."""
    start = head(SINGLE, content_type, b"Content-Length: %d" % (len(body) + dice.choice((1, 100, 60_000))))
    leaves = dice.random() < 0.7
    return Case(f"declared too long, {name}", (start + body,), hangs_up=leaves, stalls=not leaves, reusable=False)


def _declared_too_short(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    """What is sent beyond the declared length looks like the next request."""
    start = head(SINGLE, content_type, b"Content-Length: %d" % dice.randrange(len(body) + 1))
    return Case(f"declared too short, {name}", (start + body,), reusable=False)


def _declared_huge(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    declared = dice.choice((TWO_GB, TWO_GB - 1, 2**32, 2**63, 10**30))
    start = head(SINGLE, content_type, b"Content-Length: %d" % declared)
    return Case(f"declared {declared}, {name}", (start, body), reusable=False)


def _no_number(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    lines = dice.choice(
        (
            (b"Content-Length: -1",),
            (b"Content-Length: 1e3",),
            (b"Content-Length: 0x10",),
            (b"Content-Length:",),
            (length(body), length(body)),
            (length(body), b"Content-Length: 5"),
            (length(body), b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: gzip",),
            (b"Transfer-Encoding: chunked, identity",),
        )
    )
    start = head(SINGLE, content_type, *lines)
    return Case(f"{b', '.join(lines).decode()}, {name}", (start + body,), stalls=True, reusable=False)


def _in_chunks(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    size = dice.choice((1, 7, 100, 5000))
    body = chunked(body[:_MAX_BYTES_IN_TINY_CHUNKS] if size == 1 else body, size)
    return Case(f"chunks of {size}, {name}", (head(SINGLE, content_type, b"Transfer-Encoding: chunked") + body,))


def _in_damaged_chunks(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    sent = chunked(body, 200)
    sent = dice.choice(
        (
            damage(dice, sent),
            sent[: len(sent) // 2],
            b"%x\r\n" % dice.choice(EXTREMES) + body,
            b"fffffffffffffffffffff\r\n" + body,
            b"-5\r\n" + body,
            sent.replace(b"0\r\n\r\n", b"0\r\nX-Trailer: y\r\n\r\n"),
            sent.replace(b"\r\n", b";a=b\r\n", 1),
        )
    )
    start = head(SINGLE, content_type, b"Transfer-Encoding: chunked")
    return Case(f"damaged chunks, {name}", (start + sent,), stalls=True, reusable=False)


def _in_pieces(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    """The whole request in a few packets, cut anywhere."""
    message = head(SINGLE, content_type, length(body)) + body
    cuts = [0, *sorted(dice.sample(range(1, len(message)), 6)), len(message)]
    return Case(f"pieces, {name}", tuple(message[start:end] for start, end in zip(cuts, cuts[1:])))


def _leaving(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    """The client leaves before, while or after it has sent everything."""
    message = head(SINGLE, content_type, length(body)) + body
    sent = dice.choice((message, message[: dice.randrange(1, len(message))]))
    return Case(f"leaving, {name}", (sent,), hangs_up=True, reusable=False)


def _other_headers(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    line = dice.choice(
        (
            b"X-Request-Id: " + dice.randbytes(12).hex().encode() * dice.choice((1, 20)),
            b"X-Request-Id: \xff\xfe\xfd",
            b"X-Request-Id: a b\tc",
            b"traceparent: 00-" + b"f" * 32 + b"-" + b"e" * 16 + b"-01",
            b"traceparent: " + b"0" * 55,
            b"Authorization: Bearer \xff",
            b"X-Forwarded-For: not an address",
            b"Expect: 100-continue",
            b"Content-Encoding: gzip",
            b"Connection: close",
            b"Upgrade: websocket\r\nConnection: Upgrade",
            b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
            b"X-Long: " + b"a" * 30_000,
            b"X-Too-Long: " + b"a" * 70_000,
            b"X-Many: 1\r\n" * 300 + b"X-End: 1",
            b"Bad Name: 1",
            b": nothing",
        )
    )
    start = head(SINGLE, content_type, length(body), line)
    return Case(f"{line[:30]!r}, {name}", (start + body,), stalls=True, reusable=False)


def _other_target(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    target = dice.choice(
        (
            b"/models/pets/predict",
            b"/models/%00/predict",
            b"/models/%ff%fe/predict",
            b"/models/" + b"a" * 9000 + b"/predict",
            b"/models/%2e%2e%2f/predict/batch",
            b"//model/predict/",
            b"/model/predict/?" + b"q=1&" * 1000,
            b"http://elsewhere/model/predict/",
            b"*",
            b"no-slash",
            b"/\xc3\xa9\xff",
            b"/%",
        )
    )
    start = head("TARGET", content_type, length(body)).replace(b"TARGET", target, 1)
    return Case(f"target {target[:30]!r}, {name}", (start + body,), stalls=True, reusable=False)


def _damaged_head(dice: Random, name: str, body: bytes, content_type: bytes) -> Case:
    start = damage(dice, head(SINGLE, content_type, length(body)))
    return Case(f"damaged head, {name}", (start + body,), hangs_up=dice.random() < 0.5, stalls=True, reusable=False)


_HTTP_FAULTS: tuple[Callable[[Random, str, bytes, bytes], Case], ...] = (
    _declared_too_long,
    _declared_too_short,
    _declared_huge,
    _no_number,
    _in_chunks,
    _in_damaged_chunks,
    _in_pieces,
    _leaving,
    _other_headers,
    _other_target,
    _damaged_head,
)
