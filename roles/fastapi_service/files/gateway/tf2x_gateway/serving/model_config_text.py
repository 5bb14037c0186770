"""Model configuration files: the protobuf text format of tensorflow.serving.ModelServerConfig."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Union

from tf2x_gateway.serving.model_config import AllVersions, LatestVersions, ModelConfig, SpecificVersions, VersionPolicy

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[-+.\w]+)
    |(?P<sign>[][{}<>:;,])""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}

# The values of every field of a message, in the order in which they stand, each with its line.
Fields = dict[str, list["Value"]]
Value = tuple[Union[str, int, Fields], int]


class ModelConfigError(ValueError):
    """The text is no model configuration; the message says where and why."""


def parse_model_config(text: str) -> list[ModelConfig]:
    """Return the models of a file such as --model_config_file names. Raises ModelConfigError."""
    document = _Message(_Parser(text).message(None), 1, "the file", ("model_config_list",))
    config_list = document.message("model_config_list", ("config",))
    return [] if config_list is None else [_model(config) for config in config_list.messages("config", _MODEL_FIELDS)]


_MODEL_FIELDS = ("name", "base_path", "model_platform", "model_version_policy", "version_labels")
_POLICY_FIELDS = ("latest", "all", "specific")


def _model(config: _Message) -> ModelConfig:
    labels = {}
    for entry in config.messages("version_labels", ("key", "value")):
        labels[entry.text("key")] = entry.number("value")
    return ModelConfig(
        config.text("name"),
        config.text("base_path"),
        config.text("model_platform", "tensorflow"),
        _policy(config.message("model_version_policy", _POLICY_FIELDS)),
        labels,
    )


def _policy(policy: _Message | None) -> VersionPolicy:
    if policy is None or not policy.fields:
        return LatestVersions()
    if len(policy.fields) > 1:
        raise policy.error(f"one of {', '.join(_POLICY_FIELDS)} can stand in it, found {', '.join(policy.fields)}")
    policy.message("all", ())
    latest = policy.message("latest", ("num_versions",))
    specific = policy.message("specific", ("versions",))
    try:
        if latest is not None:
            return LatestVersions(latest.number("num_versions", 1))
        if specific is not None:
            return SpecificVersions(specific.numbers("versions"))
    except ValueError as error:
        raise policy.error(str(error)) from error
    return AllVersions()


class _Message:
    """The fields of one message, read with their types."""

    def __init__(self, fields: Fields, line: int, name: str, known: tuple[str, ...]) -> None:
        self.fields = fields
        self._line = line
        self._name = name
        for field, values in fields.items():
            if field not in known:
                expected = f"known here: {', '.join(known)}" if known else "it has no fields"
                raise ModelConfigError(f"line {values[0][1]}: {name}: unknown field {field!r}; {expected}")

    def error(self, fault: str) -> ModelConfigError:
        return ModelConfigError(f"line {self._line}: {self._name}: {fault}")

    def text(self, field: str, default: str | None = None) -> str:
        return self._single(field, str, "a string in quotes", default)

    def number(self, field: str, default: int | None = None) -> int:
        return self._single(field, int, "a number", default)

    def numbers(self, field: str) -> tuple[int, ...]:
        return tuple(self._typed(field, value, int, "a number") for value in self.fields.get(field, []))

    def message(self, field: str, known: tuple[str, ...]) -> _Message | None:
        messages = self.messages(field, known)
        if len(messages) > 1:
            raise self.error(f"{field} stands there {len(messages)} times; once is right")
        return messages[0] if messages else None

    def messages(self, field: str, known: tuple[str, ...]) -> list[_Message]:
        return [
            _Message(self._typed(field, value, dict, "a message in braces"), value[1], field, known)
            for value in self.fields.get(field, [])
        ]

    def _single(self, field: str, kind: type, expected: str, default: Any) -> Any:
        values = self.fields.get(field, [])
        if len(values) > 1:
            raise self.error(f"{field} stands there {len(values)} times; once is right")
        if not values:
            if default is None:
                raise self.error(f"{field} is missing; {expected} belongs there")
            return default
        return self._typed(field, values[0], kind, expected)

    @staticmethod
    def _typed(field: str, value: Value, kind: type, expected: str) -> Any:
        content, line = value
        if not isinstance(content, kind):
            found = "a message" if isinstance(content, dict) else repr(content)
            raise ModelConfigError(f"line {line}: {field}: found {found}; {expected} belongs there")
        return content


class _Parser:
    """Reads any message whose scalars are strings and integers; fields may stand in any order."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._position = 0

    def message(self, closing: str | None) -> Fields:
        """Return the fields up to the sign that ends the message: None for the end of the file."""
        fields: Fields = {}
        while True:
            kind, token, line = self._next()
            if kind == "end" or (kind == "sign" and token == closing):
                if closing is not None and kind == "end":
                    raise _unexpected(kind, token, line, repr(closing))
                if closing is None and kind != "end":
                    raise _unexpected(kind, token, line, "the name of a field")
                return fields
            if kind == "sign" and token in ",;" and fields:
                continue
            if kind != "word":
                raise _unexpected(kind, token, line, "the name of a field")
            values = fields.setdefault(token, [])
            colon = self._skip(":")
            if self._skip("["):
                values += self._list(colon)
            else:
                values.append(self._value(colon))

    def _list(self, scalars: bool) -> Iterator[Value]:
        while not self._skip("]"):
            yield self._value(scalars)
            if not self._skip(",") and self._peek()[1] != "]":
                raise _unexpected(*self._peek(), "',' or ']'")

    def _value(self, scalars: bool) -> Value:
        kind, token, line = self._next()
        if kind == "sign" and token in _CLOSING:
            return self.message(_CLOSING[token]), line
        if scalars and kind == "string":
            text = _unquoted(token, line)
            while self._peek()[0] == "string":
                text += _unquoted(self._next()[1], line)
            return text, line
        if scalars and kind == "word":
            return _integer(token, line), line
        raise _unexpected(kind, token, line, "a value" if scalars else "':' or '{'")

    def _skip(self, sign: str) -> bool:
        kind, token, _line = self._peek()
        if kind == "sign" and token == sign:
            self._position += 1
            return True
        return False

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._position]

    def _next(self) -> tuple[str, str, int]:
        token = self._peek()
        self._position += 1
        return token


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, text and line of every token, and one of the kind `end`."""
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ModelConfigError(f"line {line}: {text[position : position + 10]!r} is no part of the text format")
        kind = match.lastgroup or ""
        if kind != "blank":
            yield kind, match[0], line
        line += match[0].count("\n")
        position = match.end()
    yield "end", "the end of the file", line


def _unexpected(kind: str, token: str, line: int, expected: str) -> ModelConfigError:
    found = token if kind == "end" else repr(token)
    return ModelConfigError(f"line {line}: found {found}; {expected} belongs there")


def _unquoted(token: str, line: int) -> str:
    def unescaped(match: re.Match[str]) -> str:
        if match[1] not in "\\'\"":
            raise ModelConfigError(f"line {line}: the escape {match[0]!r} is not supported; write the character itself")
        return match[1]

    return re.sub(r"\\(.)", unescaped, token[1:-1])


def _integer(token: str, line: int) -> int:
    try:
        return int(token, 0)
    except ValueError:
        raise ModelConfigError(f"line {line}: found {token!r}; a number or a string in quotes belongs there") from None
