"""The pages for people: a greeting, the upload form, and the API's reference. They need nothing from other hosts."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from tf2x_gateway import reference

GREETING = """\
tf2x gateway: image classification with TensorFlow.

POST /model/predict/              classify an image (multipart field "file", or an image/* body)
POST /model/predict/batch/        classify several images (multipart fields "files")
POST /models/NAME/predict         the same with a model by name; /models/NAME/predict/batch
GET  /models                      the models and their labels
GET  /form                        classify images in the browser (also /ui)
GET  /docs                        what can be asked, and the answers (as OpenAPI: /openapi.json)
GET  /healthz, /readyz, /metrics
"""


@dataclass(frozen=True)
class Page:
    """An HTML document, and the Content-Security-Policy that allows it its own style, script and host and no more."""

    html: str
    content_security_policy: str


def form_page() -> Page:
    """Return the page that classifies images: without JavaScript, a form that posts one."""
    return _page(_template("form.html"))


def docs_page(schema: dict[str, Any]) -> Page:
    """Return an OpenAPI document as a page."""
    html = _template("docs.html").replace("<!-- title -->", escape(schema["info"]["title"]))
    return _page(html.replace("<!-- body -->", reference.render(schema)))


def _template(name: str) -> str:
    return _resource(name).replace("/* page.css */", _resource("page.css"))


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _page(html: str) -> Page:
    policy = (
        "default-src 'none'",
        f"style-src {_hashes('style', html)}",
        f"script-src {_hashes('script', html)}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
    return Page(html, "; ".join(policy))


def _hashes(tag: str, html: str) -> str:
    """Return the sources that allow the inline blocks of a tag, and nothing else."""
    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(block.encode()).digest() for block in blocks)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
