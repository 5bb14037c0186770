"""The pages for people: a greeting, an upload form, and the API's reference without anything from other hosts."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Any

GREETING = """\
tf2x gateway: image classification with TensorFlow.

POST /model/predict/        classify an image (multipart field "file", or an image/* body)
POST /models/NAME/predict   the same with a model by name
GET  /form                  upload an image from the browser
GET  /docs                  what can be asked, and the answers (as OpenAPI: /openapi.json)
GET  /healthz, /readyz, /metrics
"""

_DOCS = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 3rem auto; padding: 0 1rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>As OpenAPI: <a href="/openapi.json">/openapi.json</a></p>
{operations}
</body>
</html>
"""


def form_page() -> str:
    """Return the upload form."""
    return resources.files(__package__).joinpath("form.html").read_text(encoding="utf-8")


def docs_page(schema: dict[str, Any]) -> str:
    """Return the operations of an OpenAPI schema as a page."""
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return _DOCS.format(title=escape(schema["info"]["title"]), operations="\n".join(operations))


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    accepted = ", ".join(operation.get("requestBody", {}).get("content", {}))
    answers = "\n".join(
        f"<li><strong>{escape(code)}</strong> {escape(answer['description'])}</li>"
        for code, answer in operation["responses"].items()
    )
    return "\n".join(
        (
            f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
            f"<p>{escape('. '.join(operation[key] for key in ('summary', 'description') if key in operation))}</p>",
            f"<p>Body: {escape(accepted)}</p>" if accepted else "",
            f"<ul>\n{answers}\n</ul>",
        )
    )
