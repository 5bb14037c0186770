"""`tf_serving_release`: the rules by which versions come, are tried, serve and go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.tf2x.serving.plugins.module_utils import _registry, _release
from hypothesis import given
from hypothesis import strategies as st

MODULE = "tf_serving_release"
Action = Callable[..., dict[str, Any]]


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


@pytest.fixture
def act(run_module: Any) -> Action:
    """Do an action on the registry that the last successful one left, as a playbook would."""
    state: dict[str, Any] = {"registry": {}}

    def run(action: str, /, **options: Any) -> dict[str, Any]:
        options.setdefault("registry", state["registry"])
        result = run_module(MODULE, action=action, **({"model": "pets"} | options))
        if not result.get("failed"):
            state["registry"] = json.loads(json.dumps(result["registry"]))
        return result

    return run


@pytest.fixture
def publish(act: Action) -> Action:
    def run(content: int, **options: Any) -> dict[str, Any]:
        return act("publish", digest=digest(content), **options)

    return run


def state_of(result: dict[str, Any], name: str = "pets") -> dict[str, Any]:
    model = result["registry"]["models"][name]
    return {key: model[key] for key in ("loaded", "labels", "previous")}


def steps(result: dict[str, Any], name: str = "pets") -> list[tuple[list[int], dict[str, int]] | None]:
    found = []
    for step in ("before", "loading", "labelled", "after"):
        models = {model["name"]: model for model in result["serving"][step]}
        found.append((models[name]["versions"], models[name]["labels"]) if name in models else None)
    return found


def test_the_first_version_becomes_stable(publish: Action) -> None:
    result = publish(1, size_bytes=684000, source="pets.zip", stable=False)

    assert result["changed"] is True
    assert result["version"] == 1
    assert result["message"] == "pets: stable 1, the first version"
    assert steps(result) == [None, ([1], {}), ([1], {"stable": 1}), ([1], {"stable": 1})]
    registry = result["registry"]
    assert (registry["format"], registry["revision"]) == (1, 1)
    model = registry["models"]["pets"]
    now = model["history"][0]["at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now)
    record = {"digest": digest(1), "size_bytes": 684000, "published_at": now, "source": "pets.zip"}
    assert model == {
        "versions": {"1": record},
        "loaded": [1],
        "labels": {"stable": 1},
        "previous": None,
        "canary": None,
        "history": [
            {"at": now, "action": "publish", "version": 1, "outcome": "ok", "detail": "stable 1, the first version"}
        ],
    }


def test_a_new_version_takes_over_and_the_old_one_stays_loaded(publish: Action) -> None:
    publish(1)
    publish(2)
    result = publish(3)

    assert result["message"] == "pets: stable 2 -> 3, version 2 stays loaded for a rollback"
    assert state_of(result) == {"loaded": [2, 3], "labels": {"stable": 3}, "previous": 2}
    assert steps(result) == [
        ([1, 2], {"stable": 2}),
        ([1, 2, 3], {"stable": 2}),
        ([1, 2, 3], {"stable": 3}),
        ([2, 3], {"stable": 3}),
    ]
    assert list(result["registry"]["models"]["pets"]["versions"]) == ["1", "2", "3"]


def test_a_version_can_be_loaded_without_serving(publish: Action) -> None:
    publish(1)
    publish(2)
    first = publish(3, stable=False)
    assert state_of(first) == {"loaded": [1, 2, 3], "labels": {"stable": 2}, "previous": 1}

    second = publish(4, stable=False)
    assert state_of(second) == {"loaded": [1, 2, 4], "labels": {"stable": 2}, "previous": 1}
    assert steps(second)[1] == ([1, 2, 3, 4], {"stable": 2})


def test_content_that_is_known_is_not_published_again(publish: Action) -> None:
    publish(1)
    first = publish(2)
    again = publish(2)
    assert again["changed"] is False
    assert again["version"] == 2
    assert again["registry"] == first["registry"]
    assert again["message"] == "pets: this content is version 2, which is stable"
    assert len({json.dumps(models) for models in again["serving"].values()}) == 1
    assert publish(2, version=2)["changed"] is False
    assert "version 1, which is loaded, without a label; promote.yml -e version=1 puts" in publish(1)["message"]

    publish(3)
    assert "version 1, which is only stored; promote.yml -e version=1" in publish(1, version=1)["message"]
    assert publish(1, version=7)["version"] == 7


def test_a_version_never_changes(publish: Action) -> None:
    publish(1)
    refused = publish(2, version=1)
    assert refused["failed"]
    assert f"pets version 1 is there with another content: {digest(1)}, not {digest(2)}" in refused["msg"]
    assert "version=2 is free" in refused["msg"]


def test_the_number_of_a_failed_version_is_not_used_again(publish: Action, act: Action) -> None:
    publish(1)
    act("failure", failed_action="publish", version=2, detail="node3: version 2 END")
    assert publish(3)["version"] == 3


def test_a_canary_from_the_first_try_to_promotion(publish: Action, act: Action) -> None:
    publish(1)
    publish(2)
    publish(3, stable=False)
    tried = act("canary", percent=10)
    assert tried["message"] == "pets: canary 3 gets 10 % of the requests, stable is 2"
    assert state_of(tried) == {"loaded": [1, 2, 3], "labels": {"stable": 2, "canary": 3}, "previous": 1}
    canary = {"canary": {"mode": "split", "percent": 10, "sticky": False}}
    assert tried["traffic"] == {"before": {"models": {}}, "after": {"models": {"pets": canary}}}

    assert act("canary", percent=10)["changed"] is False
    more = act("canary", percent=50, sticky=True)
    assert more["traffic"]["before"] == {"models": {"pets": canary}}
    assert more["traffic"]["after"]["models"]["pets"]["canary"] == {"mode": "split", "percent": 50, "sticky": True}
    kept = act("canary", mode="shadow")
    assert kept["message"] == "pets: canary 3 gets copies of 50 % of the requests, by client, stable is 2"

    promoted = act("promote")
    assert promoted["message"] == "pets: stable 2 -> 3, version 2 stays loaded for a rollback"
    assert state_of(promoted) == {"loaded": [2, 3], "labels": {"stable": 3}, "previous": 2}
    assert promoted["traffic"]["after"] == {"models": {}}
    assert steps(promoted)[1:] == [
        ([1, 2, 3], {"stable": 2, "canary": 3}),
        ([1, 2, 3], {"stable": 3, "canary": 3}),
        ([2, 3], {"stable": 3}),
    ]
    assert act("promote", version=3)["changed"] is False


def test_which_version_a_canary_is(publish: Action, act: Action) -> None:
    publish(1)
    assert "pets has no version to try: stable is 1" in act("canary", percent=5)["msg"]
    publish(2)
    # The one that was stable before is not what anybody means to try.
    assert "no version to try" in act("canary", percent=5)["msg"]
    act("rollback")
    assert act("canary", percent=5)["version"] == 2
    assert act("canary", percent=5, version=2)["changed"] is False


def test_a_canary_that_is_not_loaded_is_loaded_first(publish: Action, act: Action) -> None:
    for content in (1, 2, 3):
        publish(content)
    result = act("canary", percent=5, version=1)
    assert steps(result) == [
        ([2, 3], {"stable": 3}),
        ([1, 2, 3], {"stable": 3}),
        ([1, 2, 3], {"stable": 3, "canary": 1}),
        ([1, 2, 3], {"stable": 3, "canary": 1}),
    ]
    assert state_of(act("rollback")) == {"loaded": [2, 3], "labels": {"stable": 3}, "previous": 2}


def test_the_version_before_stays_loaded_though_it_was_a_canary(publish: Action, act: Action) -> None:
    publish(1)
    publish(2)
    act("canary", percent=5, version=1)
    assert state_of(act("rollback")) == {"loaded": [1, 2], "labels": {"stable": 2}, "previous": 1}


def test_while_a_canary_is_under_way(publish: Action, act: Action) -> None:
    publish(1)
    publish(2, stable=False)
    act("canary", percent=5)
    assert "pets version 2 is a canary: promote it or roll it back first" in publish(3)["msg"]
    assert "which is the canary" in publish(2)["message"]
    ended = act("rollback")
    assert ended["message"] == "pets: canary 2 has ended, stable stays 1"
    assert ended["version"] == 2
    assert steps(ended)[2:] == [([1, 2], {"stable": 1, "canary": 2}), ([1], {"stable": 1})]
    assert ended["traffic"]["after"] == {"models": {}}


def test_another_canary_must_wait(publish: Action, act: Action) -> None:
    for content in (1, 2, 3):
        publish(content)
    act("canary", percent=5, version=1)
    refused = act("canary", percent=5, version=2)
    assert "pets version 1 is a canary already: promote it or roll it back first, then try 2" in refused["msg"]
    assert "pets version 3 is stable already" in act("canary", percent=5, version=3)["msg"]


def test_promotion_of_a_version_by_name(publish: Action, act: Action) -> None:
    for content in (1, 2, 3):
        publish(content)
    refused = act("promote")["msg"]
    assert refused == "pets has no canary to promote. Versions are 1, 2, 3, stable is 3: name one with version=N"
    result = act("promote", version=1)
    assert state_of(result) == {"loaded": [1, 3], "labels": {"stable": 1}, "previous": 3}
    assert steps(result)[1] == ([1, 2, 3], {"stable": 3})
    assert "pets has no version 9; its versions are 1, 2, 3" in act("promote", version=9)["msg"]


def test_rollback_to_the_version_before(publish: Action, act: Action) -> None:
    publish(1)
    publish(2)
    result = act("rollback")
    assert result["message"] == "pets: stable 2 -> 1"
    assert state_of(result) == {"loaded": [1], "labels": {"stable": 1}, "previous": None}
    assert steps(result)[1:] == [([1, 2], {"stable": 2}), ([1, 2], {"stable": 1}), ([1], {"stable": 1})]

    refused = act("rollback")["msg"]
    assert "pets has no version to go back to: stable is 1, stored are 1, 2" in refused
    assert "promote.yml" in refused


def test_rollback_to_a_version_by_name(publish: Action, act: Action) -> None:
    for content in (1, 2, 3):
        publish(content)
    act("canary", version=2, percent=20)
    result = act("rollback", version=1)
    assert result["message"] == "pets: stable 3 -> 1"
    assert state_of(result) == {"loaded": [1], "labels": {"stable": 1}, "previous": None}
    assert result["traffic"]["after"] == {"models": {}}
    assert steps(result)[1:3] == [
        ([1, 2, 3], {"stable": 3, "canary": 2}),
        ([1, 2, 3], {"stable": 1, "canary": 2}),
    ]
    assert act("rollback", version=1)["changed"] is False


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_canary_that_somebody_has_decided_about(publish: Action, act: Action, action: str) -> None:
    publish(1)
    publish(2, stable=False)
    act("canary", percent=10)
    decided = act("promote")
    late = act(action, if_canary=2)
    assert late["changed"] is False
    assert late["message"] == "pets: version 2 is not the canary any more, so this is decided"
    assert late["registry"] == decided["registry"]

    act("canary", percent=10, version=1)
    assert act(action, if_canary=2)["changed"] is False
    assert act(action, if_canary=1)["changed"] is True


def test_prune_keeps_what_is_needed(publish: Action, act: Action) -> None:
    for content in range(1, 7):
        publish(content)
    act("rollback", version=2)
    for content in (1, 2, 3):
        publish(content, model="cars")
    result = act("prune", keep=2, model=None)

    assert result["removed"] == {"cars": [1], "pets": [1, 3, 4]}
    assert result["message"] == "cars: 1 removed; pets: 1, 3, 4 removed"
    assert list(result["registry"]["models"]["pets"]["versions"]) == ["2", "5", "6"]
    assert len({json.dumps(models) for models in result["serving"].values()}) == 1
    assert act("prune", keep=2)["changed"] is False
    # What was removed is new when it comes back.
    assert publish(4)["version"] == 7


def test_prune_of_one_model(publish: Action, act: Action) -> None:
    for content in (1, 2, 3):
        publish(content, model="cars")
        publish(content)
    assert act("prune", keep=1, model="pets")["removed"] == {"pets": [1]}


def test_a_failure_is_put_on_record_and_changes_nothing_else(publish: Action, act: Action) -> None:
    before = publish(1)
    result = act("failure", failed_action="publish", version=2, detail="node3: no space left on /opt")
    assert result["changed"] is True
    assert state_of(result) == state_of(before)
    assert result["registry"]["revision"] == 2
    event = result["registry"]["models"]["pets"]["history"][-1]
    assert {key: event[key] for key in ("action", "version", "outcome", "detail")} == {
        "action": "publish",
        "version": 2,
        "outcome": "failed",
        "detail": "node3: no space left on /opt",
    }

    unknown = act("failure", model="cars", failed_action="publish", version=1, detail="oops")
    assert unknown["changed"] is False
    assert list(unknown["registry"]["models"]) == ["pets"]


def test_history_has_an_end(publish: Action, act: Action) -> None:
    publish(1)
    for number in range(201):
        result = act("failure", failed_action="publish", version=2, detail=str(number))
    history = result["registry"]["models"]["pets"]["history"]
    assert len(history) == 200
    assert [history[0]["detail"], history[-1]["detail"]] == ["1", "200"]


def test_models_do_not_disturb_each_other(publish: Action) -> None:
    publish(1)
    publish(1, model="cars")
    result = publish(2, model="cars")
    assert steps(result, "pets") == [([1], {"stable": 1})] * 4
    assert [model["name"] for model in result["serving"]["after"]] == ["cars", "pets"]


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("canary", {"model": "cars", "percent": 5}, "model cars is not known; known models: pets"),
        ("promote", {"model": "cars"}, "model cars is not known"),
        ("rollback", {"model": "cars"}, "model cars is not known"),
        ("prune", {"model": "cars", "keep": 1}, "model cars is not known"),
        ("promote", {"registry": {}}, "known models: none, publish one first"),
        ("canary", {"version": 2}, "percent is missing"),
        ("canary", {"version": 2, "percent": 101}, "percent is 101.0, a number from 0 to 100 would be right"),
        ("canary", {"version": 2, "percent": -1}, "percent is -1.0"),
        ("canary", {"version": 2, "percent": float("nan")}, "percent is nan"),
        ("canary", {"version": 2, "percent": 5, "mode": "mirror"}, "value of mode must be one of: split, shadow"),
        ("canary", {"version": 9, "percent": 5}, "pets has no version 9; its versions are 1, 2, 3"),
        ("prune", {"keep": 0}, "keep is 0, 1 or more would be right"),
        ("promote", {"version": 0}, "version is 0, 1 or more would be right"),
        ("publish", {}, "missing: digest"),
        ("prune", {}, "missing: keep"),
        ("failure", {}, "missing: failed_action, detail"),
    ],
)
def test_what_cannot_be_done(
    *, publish: Action, act: Action, action: str, options: dict[str, Any], message: str
) -> None:
    for content in (1, 2, 3):
        publish(content)
    result = act(action, **options)
    assert result["failed"]
    assert message in result["msg"]


def broken(**changes: Any) -> dict[str, Any]:
    model = {
        "versions": {"1": {"digest": digest(1)}, "2": {"digest": digest(2)}},
        "loaded": [1, 2],
        "labels": {"stable": 2},
        "previous": 1,
        "canary": None,
        "history": [],
    }
    return {"format": 1, "revision": 3, "models": {"pets": {**model, **changes}}}


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        ({**broken(), "format": 2}, "the registry's format is 2, 1 would be right"),
        ({"models": {}}, "the registry's format is None"),
        ({"format": 1, "models": {}}, "revision is missing"),
        ({"format": 1, "revision": 1, "models": []}, "models is [], a value of type dict would be right"),
        ({**broken(), "colour": "red"}, "colour is not known"),
        ({"format": 1, "revision": 1, "models": {"pets": 1}}, "model pets: it is 1, an object would be right"),
        (broken(loaded=[2]), "model pets: previous stands for version 1, which is not loaded"),
        (broken(loaded=[1, 2, 3]), "version 3 is loaded but not among the versions"),
        (broken(loaded=[1, "2"]), "loaded has '2', values of type int would be right"),
        (broken(labels={"stable": 5}), "label stable stands for version 5, which is not loaded"),
        (broken(labels={"stable": None}), "labels has None"),
        (broken(labels={}), "no version is stable"),
        (broken(labels={"stable": 2, "blue": 1}), "label blue is neither stable nor canary"),
        (broken(labels={"stable": 2, "canary": 1}), "are there only together"),
        (broken(canary={"mode": "split", "percent": 1, "sticky": False}), "are there only together"),
        (broken(canary={"mode": "mirror", "percent": 1, "sticky": False}), "mode is 'mirror'"),
        (broken(canary={"mode": "split", "percent": "1", "sticky": False}), "percent is '1'"),
        (
            broken(labels={"stable": 2, "canary": 2}, canary={"mode": "split", "percent": 1, "sticky": False}),
            "version 2 is both stable and canary",
        ),
        (broken(versions={"one": {"digest": ""}}), "version 'one' is not a number"),
        (broken(versions={"1": {}}), "version 1: digest is missing"),
        (broken(previous="1"), "previous is '1', a value of type int or null would be right"),
        (broken(history=[1]), "history has 1"),
    ],
)
def test_a_registry_that_cannot_be_used(act: Action, registry: dict[str, Any], message: str) -> None:
    result = act("prune", keep=1, registry=registry)
    assert result["failed"]
    assert message in result["msg"]


def test_check_mode_plans_the_same(publish: Action, run_module: Any) -> None:
    registry = publish(1)["registry"]
    options = {"registry": registry, "action": "publish", "model": "pets", "digest": digest(2)}
    plans = [run_module(MODULE, check=check, **options) for check in (True, False)]
    assert plans[0]["serving"] == plans[1]["serving"]


_VERSION = st.none() | st.integers(1, 6)
_ACTION = st.one_of(
    st.tuples(
        st.just("publish"),
        st.fixed_dictionaries(
            {
                "version": _VERSION,
                "digest": st.sampled_from("abcdef"),
                "stable": st.booleans(),
                "size_bytes": st.just(1),
                "source": st.just("here"),
            }
        ),
    ),
    st.tuples(
        st.just("canary"),
        st.fixed_dictionaries(
            {
                "version": _VERSION,
                "percent": st.none() | st.sampled_from([0, 10, 100]),
                "mode": st.sampled_from([None, "split", "shadow"]),
                "sticky": st.sampled_from([None, True, False]),
            }
        ),
    ),
    st.tuples(st.sampled_from(["promote", "rollback"]), st.fixed_dictionaries({"version": _VERSION})),
    st.tuples(st.just("prune"), st.fixed_dictionaries({"keep": st.integers(1, 3)})),
    st.tuples(
        st.just("failure"),
        st.fixed_dictionaries({"action": st.just("publish"), "version": _VERSION, "detail": st.just("oops")}),
    ),
)


def served(plan: _release.Plan) -> list[dict[str, dict[str, Any]]]:
    return [{model["name"]: model for model in models} for models in plan.serving().values()]


@given(st.lists(st.tuples(st.sampled_from(["pets", "cars"]), _ACTION), max_size=30))
def test_whatever_is_done_what_serves_is_loaded(actions: list[Any]) -> None:
    document: dict[str, Any] = {}
    for name, (action, options) in actions:
        registry = _registry.parse(document)
        planner = _release.Planner(registry, "2026-01-01T00:00:00Z")
        try:
            plan = getattr(planner, action)(name, **options)
        except _release.ReleaseError:
            continue
        assert plan.changed == (plan.registry.as_dict() != registry.as_dict())
        assert plan.registry.revision == registry.revision + plan.changed
        # Reading checks that stable is there, labels are on loaded versions, and loaded versions are known.
        document = json.loads(json.dumps(plan.registry.as_dict()))
        assert _registry.parse(document) == plan.registry

        before, loading, labelled, after = served(plan)
        assert [before, after] == [
            {
                one: {"name": one, "versions": sorted(model.loaded), "labels": model.labels}
                for one, model in models.items()
            }
            for models in (registry.models, plan.registry.models)
        ]
        for one, model in loading.items():
            assert set(before.get(one, {"versions": []})["versions"]) <= set(model["versions"])
            assert model["labels"] == before.get(one, {"labels": {}})["labels"]
            # A label only ever stands for what the step before has loaded.
            assert set(labelled[one]["labels"].values()) <= set(model["versions"])
            assert labelled[one]["versions"] == model["versions"]
            assert set(after[one]["versions"]) <= set(model["versions"])
            assert after[one]["labels"].items() <= labelled[one]["labels"].items()
        assert loading.keys() == labelled.keys() == after.keys()
        shares = {one for one, model in after.items() if "canary" in model["labels"]}
        assert plan.traffic()["after"]["models"].keys() == shares

        if action == "publish" or (action in ("canary", "promote", "prune") and plan.changed):
            again = _release.Planner(_registry.parse(document), "2026-01-02T00:00:00Z")
            repeated = options if action != "promote" else {"version": plan.version}
            assert not getattr(again, action)(name, **repeated).changed
