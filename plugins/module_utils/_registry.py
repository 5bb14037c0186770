# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""The registry document: which versions of which models there are, what is loaded, and which labels they have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
HISTORY_EVENTS = 200
STABLE, CANARY = "stable", "canary"
MODES = ("split", "shadow")

_VERSION_KEYS = ("digest", "size_bytes", "published_at", "source")


class RegistryError(ValueError):
    """The document is not a registry, or contradicts itself."""


@dataclass(frozen=True)
class Canary:
    """How a canary is tried. `percent`: share of the requests, 0 to 100; `sticky`: a client stays where it is."""

    percent: float
    mode: str
    sticky: bool

    def __post_init__(self) -> None:
        if not _is_number(self.percent) or not 0 <= self.percent <= 100:
            raise RegistryError(f"percent is {self.percent!r}, a number from 0 to 100 would be right")
        if self.mode not in MODES:
            raise RegistryError(f"mode is {self.mode!r}, {' or '.join(MODES)} would be right")
        if not isinstance(self.sticky, bool):
            raise RegistryError(f"sticky is {self.sticky!r}, true or false would be right")

    def as_dict(self) -> dict[str, Any]:
        percent = int(self.percent) if self.percent == int(self.percent) else self.percent
        return {"mode": self.mode, "percent": percent, "sticky": self.sticky}

    def __str__(self) -> str:
        verb = "gets" if self.mode == "split" else "gets copies of"
        return f"{verb} {self.percent:g} % of the requests{', by client' if self.sticky else ''}"


@dataclass
class Model:
    """One model. `versions`: what is on record of each; `previous`: the version that was stable before."""

    versions: dict[int, dict[str, Any]] = field(default_factory=dict)
    loaded: frozenset[int] = frozenset()
    labels: dict[str, int] = field(default_factory=dict)
    previous: int | None = None
    canary: Canary | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stable(self) -> int:
        return self.labels[STABLE]

    def as_dict(self) -> dict[str, Any]:
        return {
            "versions": {str(version): record for version, record in sorted(self.versions.items())},
            "loaded": sorted(self.loaded),
            "labels": dict(sorted(self.labels.items())),
            "previous": self.previous,
            "canary": self.canary.as_dict() if self.canary else None,
            "history": self.history[-HISTORY_EVENTS:],
        }


@dataclass
class Registry:
    revision: int = 0
    models: dict[str, Model] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        models = {name: model.as_dict() for name, model in sorted(self.models.items())}
        return {"format": FORMAT, "revision": self.revision, "models": models}


def parse(document: Mapping[str, Any]) -> Registry:
    """Read a registry document, `{}` for none yet. Raises RegistryError that names the place and what is wrong."""
    if not document:
        return Registry()
    if document.get("format") != FORMAT or isinstance(document["format"], bool):
        raise RegistryError(f"the registry's format is {document.get('format')!r}, {FORMAT} would be right")
    try:
        _only(document, ("format", "revision", "models"))
        revision = _typed(document, "revision", int)
        models = {}
        for name, content in _typed(document, "models", dict).items():
            try:
                models[name] = _model(content)
            except RegistryError as error:
                raise RegistryError(f"model {name}: {error}") from error
    except RegistryError as error:
        raise RegistryError(f"the registry cannot be used: {error}") from error
    return Registry(revision, models)


def _model(content: Any) -> Model:
    if not isinstance(content, dict):
        raise RegistryError(f"it is {content!r:.80}, an object would be right")
    _only(content, ("versions", "loaded", "labels", "previous", "canary", "history"))
    labels = _typed(content, "labels", dict)
    model = Model(
        versions=dict(_version(key, record) for key, record in _typed(content, "versions", dict).items()),
        loaded=frozenset(_each("loaded", _typed(content, "loaded", list), int)),
        labels=dict(zip(labels, _each("labels", labels.values(), int))),
        previous=_typed(content, "previous", (int, type(None))),
        canary=_canary(_typed(content, "canary", (dict, type(None)))),
        history=_each("history", _typed(content, "history", list), dict),
    )
    problems = _contradictions(model)
    if problems:
        raise RegistryError("; ".join(problems))
    return model


def _version(key: Any, record: Any) -> tuple[int, dict[str, Any]]:
    if not isinstance(key, str) or not key.isdecimal() or str(int(key)) != key:
        raise RegistryError(f"version {key!r:.80} is not a number")
    if not isinstance(record, dict):
        raise RegistryError(f"version {key} is {record!r:.80}, an object would be right")
    try:
        _only(record, _VERSION_KEYS)
        _typed(record, "digest", str)
    except RegistryError as error:
        raise RegistryError(f"version {key}: {error}") from error
    return int(key), dict(record)


def _canary(content: dict[str, Any] | None) -> Canary | None:
    if content is None:
        return None
    _only(content, ("mode", "percent", "sticky"))
    return Canary(
        percent=_typed(content, "percent", (int, float)),
        mode=_typed(content, "mode", str),
        sticky=_typed(content, "sticky", bool),
    )


def _contradictions(model: Model) -> list[str]:
    problems = []
    unknown = sorted(set(model.labels) - {STABLE, CANARY})
    if unknown:
        problems.append(f"label {', '.join(unknown)} is neither {STABLE} nor {CANARY}")
    if STABLE not in model.labels:
        problems.append(f"no version is {STABLE}")
    problems += [
        f"version {version} is loaded but not among the versions"
        for version in sorted(model.loaded - model.versions.keys())
    ]
    pointers = {f"label {label}": version for label, version in sorted(model.labels.items())}
    if model.previous is not None:
        pointers["previous"] = model.previous
    problems += [
        f"{name} stands for version {version}, which is not loaded"
        for name, version in pointers.items()
        if version not in model.loaded
    ]
    if (CANARY in model.labels) != (model.canary is not None):
        problems.append(f"label {CANARY} and the share that it gets are there only together")
    elif model.canary and model.labels[CANARY] == model.labels.get(STABLE):
        problems.append(f"version {model.labels[CANARY]} is both {STABLE} and {CANARY}")
    return problems


def _only(content: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    unknown = sorted(str(key) for key in content if key not in keys)
    if unknown:
        raise RegistryError(f"{', '.join(unknown)} is not known, {', '.join(keys)} would be right")


def _typed(content: Mapping[str, Any], key: str, kind: Any) -> Any:
    if key not in content:
        raise RegistryError(f"{key} is missing")
    value = content[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(
            one.__name__.replace("NoneType", "null") for one in (kind if isinstance(kind, tuple) else (kind,))
        )
        raise RegistryError(f"{key} is {value!r:.80}, a value of type {names} would be right")
    return value


def _each(key: str, values: Iterable[Any], kind: type) -> list[Any]:
    values = list(values)
    wrong = [value for value in values if not isinstance(value, kind) or isinstance(value, bool)]
    if wrong:
        raise RegistryError(f"{key} has {wrong[0]!r:.80}, values of type {kind.__name__} would be right")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
