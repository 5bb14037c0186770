"""An OpenAPI document as HTML for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from tf2x_gateway.openapi import ERRORS

_CONVENTIONS = """\
<ul>
<li>Answers are JSON in UTF-8. <code>success</code> is true in every prediction and false in every error.</li>
<li>Scores are the model's own numbers, not rounded, best first. They have no unit; a model that ends in softmax or
sigmoid gives 0 to 1.</li>
<li>Times are seconds, sizes are bytes. Names like <code>limits.max_upload_bytes</code> are keys of the gateway's
configuration.</li>
<li>The header <code>X-Request-Id</code> of an answer is the name of the request in the gateway's log.</li>
</ul>"""


def render(schema: dict[str, Any]) -> str:
    """Return the body of the page: conventions, every operation, every shape, every error code."""
    operations = [
        (method, path, operation) for path, methods in schema["paths"].items() for method, operation in methods.items()
    ]
    schemes = schema.get("components", {}).get("securitySchemes", {})
    shapes = schema.get("components", {}).get("schemas", {})
    return "\n".join(
        (
            _header(schema["info"]),
            _navigation(operations),
            "<main>",
            _section("conventions", "Conventions", _CONVENTIONS, _keys(schemes)),
            _section("operations", "Operations", *(_operation(*operation) for operation in operations)),
            _section("shapes", "Shapes", *(_shape(name, shape) for name, shape in shapes.items())),
            _section("errors", "Error codes", _errors()),
            "</main>",
        )
    )


def _header(info: dict[str, Any]) -> str:
    about = " ".join(filter(None, (info.get("description"), f"Version {info['version']}.")))
    return (
        f'<header><div><h1>{escape(info["title"])}</h1><p class="muted">{escape(about)}</p></div>\n'
        '<div class="links"><a class="button" href="/form">Try it</a> '
        '<a class="button" href="/openapi.json">OpenAPI</a></div></header>'
    )


def _navigation(operations: Iterable[tuple[str, str, dict[str, Any]]]) -> str:
    links = [
        f'<li><a href="#{escape(operation["operationId"])}">{_route(method, path)} '
        f'<span class="muted">{escape(operation.get("summary", ""))}</span></a></li>'
        for method, path, operation in operations
    ]
    links.append('<li><a href="#shapes">Shapes of the answers</a></li>')
    links.append('<li><a href="#errors">Error codes</a></li>')
    return '<nav aria-label="Contents"><ul>\n' + "\n".join(links) + "\n</ul></nav>"


def _section(anchor: str, title: str, *parts: str) -> str:
    return "\n".join((f'<section id="{anchor}"><h2>{title}</h2>', *parts, "</section>"))


def _keys(schemes: dict[str, Any]) -> str:
    if not schemes:
        return ""
    ways = " or ".join(
        f"<code>{escape(scheme['name'])}: KEY</code>"
        if scheme["type"] == "apiKey"
        else "<code>Authorization: Bearer KEY</code>"
        for scheme in schemes.values()
    )
    return f"<p>This gateway asks for an API key: send {ways}.</p>"


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    return "\n".join(
        (
            f'<article class="operation" id="{escape(operation["operationId"])}">',
            f'<h3 class="route">{_route(method, path)}</h3>',
            f"<p><strong>{escape(operation.get('summary', ''))}</strong></p>",
            _prose(operation.get("description", "")),
            *_parameters(operation),
            *_bodies(operation),
            "<h4>Example</h4>",
            *(f"<pre><code>{command}</code></pre>" for command in _commands(method, path, operation)),
            *_answers(operation["responses"]),
            "</article>",
        )
    )


def _route(method: str, path: str) -> str:
    return f'<span class="method {method}">{method.upper()}</span> <code>{escape(path)}</code>'


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    parameters = operation.get("parameters", ())
    if parameters:
        yield "<h4>Parameters</h4>"
        yield _definitions(
            (
                _term(parameter["name"], parameter["schema"], parameter.get("required", False)),
                f"<p>In the {escape(parameter['in'])}.</p>" + _prose(parameter.get("description", "")),
            )
            for parameter in parameters
        )


def _bodies(operation: dict[str, Any]) -> Iterator[str]:
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h4>Body <code>{escape(media_type)}</code></h4>"
        schema = content["schema"]
        yield _fields(schema) if "properties" in schema else _prose(schema.get("description", ""))


def _answers(responses: dict[str, Any]) -> Iterator[str]:
    errors = {status: answer for status, answer in responses.items() if not status.startswith("2")}
    for status, answer in responses.items():
        if status not in errors:
            yield f"<h4>Answer {escape(status)}</h4>"
            yield _prose(answer["description"])
            yield from _contents(answer)
    if errors:
        shapes = {
            _type(content["schema"]) for answer in errors.values() for content in answer.get("content", {}).values()
        }
        yield f"<details><summary>Errors: {escape(', '.join(errors))}</summary>"
        yield f"<p>Shape: {' or '.join(sorted(shapes))}</p>"
        yield _definitions(
            (f'<strong class="bad">{escape(status)}</strong>', _prose(answer["description"]))
            for status, answer in errors.items()
        )
        yield "</details>"


def _contents(answer: dict[str, Any]) -> Iterator[str]:
    for content in answer.get("content", {}).values():
        if "schema" in content:
            yield f"<p>Shape: {_type(content['schema'])}</p>"
        if "example" in content:
            yield f"<pre><code>{escape(json.dumps(content['example'], indent=2, ensure_ascii=False))}</code></pre>"


def _commands(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    """Yield a curl command for every kind of body, as HTML."""
    address = re.sub(r"{(\w+)}", lambda match: match[1].upper(), path)
    target = f'<span class="origin">http://gateway:9000</span>{escape(address)}'
    key = '-H "Authorization: Bearer $API_KEY" ' if operation.get("security") else ""
    bodies = operation.get("requestBody", {}).get("content", {})
    if not bodies:
        yield f"curl {key}{'' if method == 'get' else f'-X {method.upper()} '}{target}"
    for media_type, content in bodies.items():
        arguments = []
        for name, field in content["schema"].get("properties", {}).items():
            files = ("cat.jpg", "dog.jpg") if field.get("type") == "array" else ("cat.jpg",)
            arguments += [f"-F {name}=@{file}" for file in files]
        if not arguments:
            arguments = [f"-H 'Content-Type: {media_type.replace('*', 'jpeg')}'", "--data-binary @cat.jpg"]
        yield f"curl {key}{escape(' '.join(arguments), quote=False)} {target}"


def _shape(name: str, schema: dict[str, Any]) -> str:
    return "\n".join(
        (
            f'<article class="shape" id="shape-{escape(name)}"><h3><code>{escape(name)}</code></h3>',
            _prose(schema.get("description", "")),
            _fields(schema),
            "</article>",
        )
    )


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    return _definitions(
        (_term(name, field, name in required), _prose(field.get("description", "")))
        for name, field in schema.get("properties", {}).items()
    )


def _errors() -> str:
    return _definitions(
        (
            f'<code id="error-{code}">{code}</code><span class="type">{kind.status}</span>',
            f'{_prose(kind.when)}<p class="muted small"><q>{escape(kind.example)}</q></p>',
        )
        for code, kind in ERRORS.items()
    )


def _term(name: str, schema: dict[str, Any], required: bool) -> str:
    kind = _type(schema) + ("" if required else ", optional")
    return f'<code>{escape(name)}</code><span class="type">{kind}</span>'


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON schema in words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#shape-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object: name to {_type(schema['additionalProperties'])}"
    return _plain_type(schema)


def _plain_type(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f"always <code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(json.dumps(value), quote=False)}</code>" for value in schema["enum"])
    return "file" if schema.get("format") == "binary" else escape(schema.get("type", "any value"))


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>\n" + "\n".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in pairs) + "\n</dl>"


def _prose(text: str) -> str:
    """Return text of paragraphs and `code` as HTML."""
    paragraphs = (re.sub("`([^`]+)`", r"<code>\1</code>", escape(part)) for part in text.split("\n\n") if part)
    return "".join(f"<p>{part}</p>" for part in paragraphs)
