# Copyright (c) tf2x maintainers
# Apache License 2.0 (see https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# Private to the collection; may change without notice.

"""The rules by which versions are published, tried, promoted, rolled back and forgotten.

Nothing here touches a host: a plan is computed from a registry, and says what TF Serving and the gateways are to be
told step by step, and what the registry is afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.tf2x.serving.plugins.module_utils._registry import (
    CANARY,
    STABLE,
    Canary,
    Model,
    Registry,
    RegistryError,
)


class ReleaseError(ValueError):
    """The action cannot be done; the message says why and what would be possible."""


@dataclass
class Plan:
    """What an action comes to. `registry`: as it will be once the action has succeeded."""

    before: Registry
    registry: Registry
    changed: bool
    message: str
    version: int | None = None
    removed: dict[str, list[int]] = field(default_factory=dict)

    def serving(self) -> dict[str, list[dict[str, Any]]]:
        """Return for each step what `models.config` names: `before`, `loading`, `labelled`, `after`.

        No step lets a label point to a version that the step before it has not loaded.
        """
        before, after = self.before.models, self.registry.models
        loading, labelled = {}, {}
        for name in before.keys() | after.keys():
            old, new = before.get(name, Model()), after.get(name, Model())
            versions = old.loaded | new.loaded
            loading[name] = replace(old, loaded=versions)
            labelled[name] = replace(old, loaded=versions, labels={**old.labels, **new.labels})
        steps = {"before": before, "loading": loading, "labelled": labelled, "after": after}
        return {step: _served(models) for step, models in steps.items()}

    def traffic(self) -> dict[str, dict[str, Any]]:
        """Return the content of the gateways' `traffic.json`, `before` and `after`."""
        return {"before": _traffic(self.before), "after": _traffic(self.registry)}


class Planner:
    """Plans one action on a registry. `now`: what is written as its time, UTC in ISO 8601.

    Every method returns a Plan and raises ReleaseError.
    """

    def __init__(self, registry: Registry, now: str) -> None:
        self._before = registry
        self._after = copy.deepcopy(registry)
        self._now = now

    def publish(
        self, name: str, *, version: int | None, digest: str, size_bytes: int | None, source: str | None, stable: bool
    ) -> Plan:
        """Take a new version on: as the stable one, or loaded and without a label."""
        model = self._after.models.get(name)
        if model is None:
            model = self._after.models[name] = Model()
        known = _known_as(model, digest, version)
        if known is not None:
            return self._nothing(f"{name}: this content is version {known}, {_standing(model, known)}", known)
        if version in model.versions:
            raise ReleaseError(
                f"{name} version {version} is there with another content: {model.versions[version]['digest']}, not "
                f"{digest}. A version never changes; version={_next_version(model)} is free"
            )
        if model.canary:
            raise ReleaseError(
                f"{name} version {model.labels[CANARY]} is a canary: promote it or roll it back first, then publish"
            )
        version = _next_version(model) if version is None else version
        record = {"digest": digest, "size_bytes": size_bytes, "published_at": self._now, "source": source}
        model.versions[version] = record
        old = model.labels.get(STABLE)
        if old is None:
            model.loaded, model.labels = frozenset({version}), {STABLE: version}
            return self._done(name, "publish", version, f"stable {version}, the first version")
        if not stable:
            model.loaded = _needed(model) | {version}
            return self._done(name, "publish", version, f"version {version} is loaded without a label, stable is {old}")
        return self._done(name, "publish", version, _make_stable(model, version))

    def canary(
        self, name: str, *, version: int | None, percent: float | None, mode: str | None, sticky: bool | None
    ) -> Plan:
        """Give a version a share of the requests. What is None stays as it is, or is split and not sticky."""
        model = self._model(name)
        present = model.labels.get(CANARY)
        if version is None:
            version = _candidate(model) if present is None else present
        if version is None:
            raise ReleaseError(
                f"{name} has no version to try: stable is {model.stable}, and none of {_listed(model.versions)} is "
                "newer. Publish one with stable=false, or name an older one with version=N"
            )
        self._check_stored(name, model, version)
        if version == model.stable:
            raise ReleaseError(f"{name} version {version} is stable already, so there is nothing to try")
        if present not in (None, version):
            raise ReleaseError(
                f"{name} version {present} is a canary already: promote it or roll it back first, then try {version}"
            )
        percent = model.canary.percent if percent is None and model.canary else percent
        if percent is None:
            raise ReleaseError("percent is missing: the share of the requests that the canary gets")
        try:
            canary = Canary(
                percent=percent,
                mode=mode or (model.canary.mode if model.canary else "split"),
                sticky=sticky if sticky is not None else bool(model.canary and model.canary.sticky),
            )
        except RegistryError as error:
            raise ReleaseError(str(error)) from error
        if model.canary == canary:
            return self._nothing(f"{name}: canary {version} {canary} already", version)
        model.canary = canary
        model.labels[CANARY] = version
        model.loaded |= {version}
        return self._done(name, "canary", version, f"canary {version} {canary}, stable is {model.stable}")

    def promote(self, name: str, *, version: int | None, if_canary: int | None = None) -> Plan:
        """Make a version the stable one, by default the canary. Not unless `if_canary`, if given, is the canary."""
        model = self._model(name)
        if if_canary not in (None, model.labels.get(CANARY)):
            return self._other_canary(name, if_canary)
        version = model.labels.get(CANARY) if version is None else version
        if version is None:
            raise ReleaseError(
                f"{name} has no canary to promote. Versions are {_listed(model.versions)}, stable is {model.stable}: "
                "name one with version=N"
            )
        self._check_stored(name, model, version)
        if version == model.stable:
            if not model.canary:
                return self._nothing(f"{name}: version {version} is stable already", version)
            return self._done(name, "promote", version, _end_canary(model))
        return self._done(name, "promote", version, _make_stable(model, version))

    def rollback(self, name: str, *, version: int | None, if_canary: int | None = None) -> Plan:
        """End a canary; without one, go back to the version that was stable before; or to the one that is named.

        Not unless `if_canary`, if given, is the canary.
        """
        model = self._model(name)
        if if_canary not in (None, model.labels.get(CANARY)):
            return self._other_canary(name, if_canary)
        if version is None and model.canary:
            return self._done(name, "rollback", model.labels[CANARY], _end_canary(model))
        if version is None and model.previous is None:
            raise ReleaseError(
                f"{name} has no version to go back to: stable is {model.stable}, stored are {_listed(model.versions)}. "
                "Name one with version=N, here or in promote.yml"
            )
        version = model.previous if version is None else version
        self._check_stored(name, model, version)
        if version == model.stable and not model.canary:
            return self._nothing(f"{name}: version {version} is stable already", version)
        message = f"stable {model.stable} -> {version}"
        if version == model.stable:
            message = f"stable stays {version}, canary {model.labels[CANARY]} has ended"
        model.labels, model.loaded = {STABLE: version}, frozenset({version})
        model.canary = model.previous = None
        return self._done(name, "rollback", version, message)

    def prune(self, name: str | None, *, keep: int) -> Plan:
        """Forget versions beyond the newest `keep` that nothing needs, of one model or of all."""
        if keep < 1:
            raise ReleaseError(f"keep is {keep}, 1 or more would be right")
        models = self._after.models if name is None else {name: self._model(name)}
        removed = {}
        for one, model in sorted(models.items()):
            newest = set(sorted(model.versions)[-keep:])
            gone = sorted(model.versions.keys() - newest - model.loaded)
            if gone:
                model.versions = {key: record for key, record in model.versions.items() if key not in gone}
                self._record(model, "prune", None, "ok", f"removed {_listed(gone)}")
                removed[one] = gone
        if not removed:
            return self._nothing(f"{name or 'every model'}: nothing to remove with keep={keep}", None)
        self._after.revision += 1
        message = "; ".join(f"{one}: {_listed(gone)} removed" for one, gone in removed.items())
        return Plan(self._before, self._after, True, message, removed=removed)

    def failure(self, name: str, *, action: str, version: int | None, detail: str) -> Plan:
        """Put on record that an action failed. Of a model that was never served there is no record."""
        model = self._after.models.get(name)
        what = f"{action} of {name}{'' if version is None else f' version {version}'} failed"
        if model is None:
            return self._nothing(f"{what}, and there is no such model on record", version)
        self._record(model, action, version, "failed", detail)
        self._after.revision += 1
        return Plan(self._before, self._after, True, f"{what}: {detail}", version)

    def _model(self, name: str) -> Model:
        if name not in self._after.models:
            known = ", ".join(sorted(self._after.models)) or "none, publish one first"
            raise ReleaseError(f"model {name} is not known; known models: {known}")
        return self._after.models[name]

    def _check_stored(self, name: str, model: Model, version: int) -> None:
        if version not in model.versions:
            raise ReleaseError(f"{name} has no version {version}; its versions are {_listed(model.versions)}")

    def _record(self, model: Model, action: str, version: int | None, outcome: str, detail: str) -> None:
        event = {"at": self._now, "action": action, "version": version, "outcome": outcome, "detail": detail}
        model.history.append(event)

    def _done(self, name: str, action: str, version: int, detail: str) -> Plan:
        self._record(self._after.models[name], action, version, "ok", detail)
        self._after.revision += 1
        return Plan(self._before, self._after, True, f"{name}: {detail}", version)

    def _other_canary(self, name: str, version: int) -> Plan:
        return self._nothing(f"{name}: version {version} is not the canary any more, so this is decided", version)

    def _nothing(self, message: str, version: int | None) -> Plan:
        return Plan(self._before, self._before, False, message, version)


def _make_stable(model: Model, version: int) -> str:
    old = model.stable
    model.labels, model.canary = {STABLE: version}, None
    model.previous, model.loaded = old, frozenset({old, version})
    return f"stable {old} -> {version}, version {old} stays loaded for a rollback"


def _end_canary(model: Model) -> str:
    version = model.labels.pop(CANARY)
    model.canary = None
    if version != model.previous:
        model.loaded -= {version}
    return f"canary {version} has ended, stable stays {model.stable}"


def _needed(model: Model) -> frozenset[int]:
    return frozenset({*model.labels.values(), *([] if model.previous is None else [model.previous])})


def _next_version(model: Model) -> int:
    # One that failed or was removed is not used again, so that a number never stands for two contents.
    used = {event["version"] for event in model.history if isinstance(event.get("version"), int)}
    return max(used | model.versions.keys(), default=0) + 1


def _known_as(model: Model, digest: str, version: int | None) -> int | None:
    """Return the version with this content that is most in use."""
    same = [one for one, record in model.versions.items() if record["digest"] == digest and version in (None, one)]
    return max(same, key=lambda one: (one in model.labels.values(), one in model.loaded, one), default=None)


def _standing(model: Model, version: int) -> str:
    labels = [label for label, one in sorted(model.labels.items(), reverse=True) if one == version]
    if STABLE in labels:
        return "which is stable"
    place = f"the {labels[0]}" if labels else "loaded, without a label" if version in model.loaded else "only stored"
    return f"which is {place}; promote.yml -e version={version} puts it into service"


def _candidate(model: Model) -> int | None:
    unlabelled = model.loaded - _needed(model)
    newer = {version for version in model.versions if version > model.stable}
    return max(unlabelled or newer, default=None)


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(str(version) for version in sorted(versions))


def _served(models: Mapping[str, Model]) -> list[dict[str, Any]]:
    return [
        {"name": name, "versions": sorted(model.loaded), "labels": dict(sorted(model.labels.items()))}
        for name, model in sorted(models.items())
    ]


def _traffic(registry: Registry) -> dict[str, Any]:
    canaries = {name: model.canary for name, model in sorted(registry.models.items()) if model.canary}
    return {"models": {name: {"canary": canary.as_dict()} for name, canary in canaries.items()}}
