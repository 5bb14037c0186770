"""The cases, in the order in which they build on each other; each is a short story of the model `colours`."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from answers import phase
from rows import NotReady
from run import Case, Run, variant_scores
from stack import MODEL
from traffic import predict_path

CASES: dict[str, Case] = {}
# What the short form leaves out: what takes longest, or differs from another case in a number only.
LONG_CASES = frozenset(
    {
        "canary-50",
        "canary-sticky",
        "publish-slow",
        "canary-auto-slow",
        "publish-padded",
        "broken-warm-up",
        "lost-version",
        "image-unhealthy",
    }
)

# Models that the cases need.
VARIANTS = (
    "swapped",
    "swapped2",
    "swapped3",
    "padded",
    "slow",
    "wrong_shape",
    "missing_variables",
    "nan",
    "bad_warmup",
)

# With it, a publish that takes longer is a fault; without it, its time is reported.
PUBLISH_LIMIT = "TF2X_PUBLISH_LIMIT_SECONDS"

# A gateway looks for its share of the traffic once a second.
_NOTICE_SECONDS = 2
_SHARE_SECONDS = 15
_SHADOW_SECONDS = 10
_AUTO_SECONDS = 30
_CLIENTS, _TIMES = 40, 5
_DISK_LEFT_BYTES = 512 * 1024

# The other roles have nothing to do with it.
_STACK_ONLY = "tf_serving_stack"
_NEXT_IMAGE = "tf2x/lifecycle_next"

# What the output must have, besides failing.
_BROKEN = {
    "wrong_shape": r"\bgrey\b",
    "missing_variables": r"no data file",
    "nan": r"golden stripes",
    "bad_warmup": r"\bphotograph\b",
}


def _case(name: str) -> Callable[[Case], Case]:
    def add(case: Case) -> Case:
        CASES[name] = case
        return case

    return add


@_case("publish")
async def _publish(run: Run) -> None:
    old, version = run.stable, run.next_version
    await run.publish("swapped", after=phase(version))
    run.expect_labels(stable=version)
    run.expect(run.model["previous"] == old, f"version {run.model['previous']} is kept for a rollback, not {old}")


@_case("publish-again")
async def _publish_again(run: Run) -> None:
    if run.right[run.stable] != variant_scores(run.variants, "swapped"):
        raise NotReady(f"version {run.stable} is in service, and is not the one of case publish")
    versions = run.model["versions"]
    command = await run.play("publish_model", model=MODEL, source=run.source("swapped"))
    run.expect(command.changed == 0, f"{command.changed} tasks changed something")
    run.expect(run.model["versions"] == versions, f"versions are {sorted(run.model['versions'])} in the registry")


@_case("locked")
async def _locked(run: Run) -> None:
    """While one release is under way, no other one begins."""
    before, lock = run.model, f"{run.stack.root}/.release-lock"
    await run.stack.on(run.stack.manager, "sh", "-c", f"echo publish of {MODEL} >{lock}")
    try:
        await run.play("rollback", model=MODEL, fails=f"another release is under way: publish of {MODEL}")
    finally:
        await run.stack.on(run.stack.manager, "rm", lock)
    run.expect(run.model == before, f"the registry became {run.model}")


@_case("publish-candidate")
async def _publish_candidate(run: Run) -> None:
    """From an archive, as the guide uploads it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = shutil.make_archive(f"{folder}/{MODEL}-2", "zip", run.source("swapped2"))
        await _publish_unlabelled(run, "swapped2", source=archive)


@_case("canary-10")
async def _canary_10(run: Run) -> None:
    stable, canary = run.stable, run.candidate
    await run.play("canary", model=MODEL, percent=10, after=phase(stable, canary))
    run.expect_labels(stable=stable, canary=canary)
    await run.expect_share(canary, _SHARE_SECONDS, 0.03, 0.20)


@_case("canary-50")
async def _canary_50(run: Run) -> None:
    stable, canary = run.stable, run.canary
    await run.play("canary", model=MODEL, percent=50, after=phase(stable, canary))
    run.expect_labels(stable=stable, canary=canary)
    await run.expect_share(canary, _SHARE_SECONDS, 0.35, 0.65)


@_case("promote")
async def _promote(run: Run) -> None:
    canary = run.canary
    await run.play("promote", model=MODEL, after=phase(canary))
    run.expect_labels(stable=canary)


@_case("rollback")
async def _rollback(run: Run) -> None:
    old, previous = run.stable, run.model["previous"]
    if previous is None:
        raise NotReady("no version is kept for a rollback")
    command = await run.play("rollback", model=MODEL, after=phase(previous))
    run.expect_labels(stable=previous)
    run.note(run.last_answer_of(old, command))


@_case("canary-sticky")
async def _canary_sticky(run: Run) -> None:
    """Each client stays where it is, also when the share grows."""
    stable, canary = run.stable, run.newest
    if canary == stable:
        raise NotReady(f"no version is newer than {stable}")
    in_canary = []
    for percent in (20, 60):
        await run.play(
            "canary", model=MODEL, version=canary, percent=percent, sticky="true", after=phase(stable, canary)
        )
        run.expect_labels(stable=stable, canary=canary)
        await run.watch(_NOTICE_SECONDS)
        clients = await _sticky_clients(run)
        torn = [address for address, versions in clients.items() if len(set(versions)) > 1]
        run.expect(not torn, f"at {percent} %, clients were sent to and fro: {torn}")
        in_canary.append({address for address, versions in clients.items() if versions[0] == canary})
        run.note(f"at {percent} %, {len(in_canary[-1])} of {_CLIENTS} clients in the canary")
    run.expect(in_canary[0] <= in_canary[1], f"clients left the canary: {sorted(in_canary[0] - in_canary[1])}")
    run.expect(len(in_canary[0]) < len(in_canary[1]) < _CLIENTS, "its share of the clients did not grow as it should")


@_case("canary-shadow")
async def _canary_shadow(run: Run) -> None:
    """Only stable answers are seen, but the canary is asked as well, and found to give another label."""
    stable, canary = run.stable, run.newest
    if canary == stable:
        raise NotReady(f"no version is newer than {stable}")
    await run.play(
        "canary",
        model=MODEL,
        version=canary,
        mode="shadow",
        percent=100,
        sticky="false",
        after=phase(stable),
        # Until its label is there, and if it was a split canary.
        also=phase(stable, canary),
    )
    run.expect_labels(stable=stable, canary=canary)
    wanted = {"model": MODEL, "version": str(canary)}
    before = await run.stack.metric("tf2x_gateway_shadow_total", **wanted)
    other_before = await run.stack.metric("tf2x_gateway_shadow_total", **wanted, result="other_label")
    await run.watch(_SHADOW_SECONDS)
    grown = await run.stack.metric("tf2x_gateway_shadow_total", **wanted) - before
    other = await run.stack.metric("tf2x_gateway_shadow_total", **wanted, result="other_label") - other_before
    run.note(f"{grown:.0f} answers compared, {other:.0f} with another label")
    run.expect(other > 0, "no answer of the shadow was compared and found to have another label")


@_case("canary-auto-good")
async def _canary_auto_good(run: Run) -> None:
    stable, canary = run.stable, run.newest
    if canary == stable:
        raise NotReady(f"no version is newer than {stable}")
    await run.play(
        "canary",
        model=MODEL,
        version=canary,
        mode="split",
        percent=50,
        auto="true",
        auto_seconds=_AUTO_SECONDS,
        also=phase(stable, canary),
        after=phase(canary),
    )
    run.expect_labels(stable=canary)


@_case("publish-slow")
async def _publish_slow(run: Run) -> None:
    await _publish_unlabelled(run, "slow")


@_case("canary-auto-slow")
async def _canary_auto_slow(run: Run) -> None:
    """It answers rightly, but late: it is taken back by itself."""
    stable, canary = run.stable, run.candidate
    command = await run.play(
        "canary", model=MODEL, percent=10, auto="true", auto_seconds=_AUTO_SECONDS, also=phase(stable, canary)
    )
    run.expect_labels(stable=stable)
    reason = re.search(r"rollback: .{0,200}p95.{0,100}", command.text)
    run.expect(reason, "the output does not say that its p95 was the reason")
    run.note(reason[0] if reason else "")


async def _broken(run: Run, variant: str) -> None:
    before, stored = run.model, await run.stack.stored()
    await run.play("publish_model", model=MODEL, source=run.source(variant), fails=_BROKEN[variant])
    await _expect_nothing_left(run, before, stored)


@_case("broken-wrong-shape")
async def _wrong_shape(run: Run) -> None:
    await _broken(run, "wrong_shape")


@_case("broken-missing-variables")
async def _missing_variables(run: Run) -> None:
    await _broken(run, "missing_variables")


@_case("broken-nan")
async def _nan(run: Run) -> None:
    await _broken(run, "nan")


@_case("broken-warm-up")
async def _bad_warmup(run: Run) -> None:
    await _broken(run, "bad_warmup")


@_case("disk-full")
async def _disk_full(run: Run) -> None:
    """On one host there is no room for the version: the output names host and path."""
    host = run.stack.hosts[-1]
    before, stored = run.model, await run.stack.stored()
    async with run.stack.full_store(host, _DISK_LEFT_BYTES):
        told = rf"{re.escape(host)}.{{0,400}}{re.escape(run.stack.root)}/models"
        await run.play("publish_model", model=MODEL, source=run.source("padded"), fails=told)
        await _expect_nothing_left(run, before, stored)


@_case("publish-padded")
async def _publish_padded(run: Run) -> None:
    version = run.next_version
    await run.publish("padded", after=phase(version))
    run.expect_labels(stable=version)
    limit = float(os.environ.get(PUBLISH_LIMIT, "inf"))
    seconds = run.commands[-1].seconds
    run.note(f"a model of 2 MB was in service after {seconds:.1f} s")
    run.expect(seconds <= limit, f"the publish took {seconds:.1f} s, {limit:g} s are allowed")


@_case("declared")
async def _declared(run: Run) -> None:
    """A higher version in the inventory is published by site.yml."""
    version = run.next_version
    run.learn(version, "swapped3")
    models = [{"name": MODEL, "source": str(run.source("swapped3")), "version": version}]
    await run.play("site", tags=_STACK_ONLY, tf_serving_stack_models=models, after=phase(version))
    run.expect_labels(stable=version)


@_case("lost-version")
async def _lost_version(run: Run) -> None:
    """A node that lost a version is found out, and gets it from the other one."""
    host, stored = run.stack.hosts[-1], await run.stack.stored()
    lost = str(run.model["previous"])
    await run.stack.on(host, "rm", "-r", f"{run.stack.store}/{lost}")
    found = await run.play("models")
    run.expect(f"{host}: {MODEL} version {lost}" in found.text, f"models.yml does not say that {host} lost {lost}")
    await run.play("site", tags=_STACK_ONLY)
    run.expect(await run.stack.stored() == stored, f"the stores have {await run.stack.stored()}, and had {stored}")
    run.expect("no drift" in (await run.play("models")).output, "models.yml still sees a difference")


@_case("image-update")
async def _image_update(run: Run) -> None:
    """Every replica is replaced, one after the other, by one of the same image under another name."""
    present = await run.stack.image()
    image = f"{_NEXT_IMAGE}:{int(time.time())}"
    for host in run.stack.hosts:
        await run.stack.on(host, "docker", "tag", present, image)
    await run.play("site", tags=_STACK_ONLY, **await _with_image(run, image))
    run.expect(await run.stack.image() == image, f"the service is to run {await run.stack.image()}, not {image}")


@_case("image-crashes")
async def _image_crashes(run: Run) -> None:
    script = "echo this image ends at once >&2; exit 3"
    await _bad_image(run, "tf2x/lifecycle_crash:1", script, fails=r"non-zero exit \(3\)")


@_case("image-unhealthy")
async def _image_unhealthy(run: Run) -> None:
    await _bad_image(run, "tf2x/lifecycle_mute:1", "sleep infinity", fails=r"(?i)unhealthy")


@_case("image-missing")
async def _image_missing(run: Run) -> None:
    present = await run.stack.image()
    # Nothing listens there, so that the pull fails at once.
    image = "127.0.0.1:1/tf2x/none:1"
    await run.play("site", tags=_STACK_ONLY, **await _with_image(run, image), fails=r"127\.0\.0\.1:1/tf2x/none:1")
    run.expect(await run.stack.image() == present, f"the service is to run {await run.stack.image()}, not {present}")


@_case("image-back")
async def _image_back(run: Run) -> None:
    """As the inventory has it, so that site.yml has nothing to do after it."""
    await run.play("site", tags=_STACK_ONLY)
    run.expect(_NEXT_IMAGE not in await run.stack.image(), f"the service is to run {await run.stack.image()}")


@_case("prune")
async def _prune(run: Run) -> None:
    newest = sorted(map(int, run.model["versions"]))[-2:]
    kept = sorted({*newest, *run.model["loaded"], *run.labels.values()})
    await run.play("prune_models", keep=2)
    found = sorted(map(int, run.model["versions"]))
    run.expect(found == kept, f"the registry has the versions {found}, {kept} would be right")
    for host, names in (await run.stack.stored()).items():
        run.expect(names == sorted(map(str, kept)), f"{host} has the folders {names}, {kept} would be right")


@_case("models")
async def _models(run: Run) -> None:
    command = await run.play("models")
    for text in (MODEL, "stable", str(run.stable)):
        run.expect(text in command.text, f"the output does not have {text}")
    run.expect(command.changed == 0, f"{command.changed} tasks changed something")


async def _publish_unlabelled(run: Run, variant: str, **options: str) -> None:
    labels = dict(run.labels)
    version = await run.publish(variant, stable="false", **options)
    run.expect_labels(**labels)
    run.expect(version in run.model["loaded"], f"version {version} is not among the loaded: {run.model['loaded']}")


async def _expect_nothing_left(run: Run, before: dict, stored: dict[str, list[str]]) -> None:
    for part in ("versions", "loaded", "labels", "previous", "canary"):
        run.expect(
            run.model[part] == before[part], f"the registry's {part} became {run.model[part]}, from {before[part]}"
        )
    # What is refused before any host is touched is no event.
    added = run.model["history"][len(before["history"]) :]
    run.expect(all(event["outcome"] == "failed" for event in added), f"the registry's history got {added}")
    left = await run.stack.stored()
    run.expect(left == stored, f"the stores have {left}, and had {stored}")


async def _sticky_clients(run: Run) -> dict[str, list[int]]:
    """Return the versions that answered each client; clients are loopback addresses on a gateway's host."""
    code = (Path(__file__).parent / "sticky_clients.py").read_text()
    port = str(urlsplit(run.stack.gateways[0]).port)
    picture = (run.source("swapped") / "assets.extra" / "golden-stripes.png").read_bytes()
    command = ("python3", "-c", code, port, predict_path(MODEL), str(_CLIENTS), str(_TIMES))
    return json.loads(await run.stack.on(run.stack.gateway_host, *command, stdin=picture))


async def _with_image(run: Run, image: str) -> dict[str, object]:
    """Return the variables with which site.yml runs TF Serving from an image that is on the nodes already."""
    balancer = await run.stack.image("PROD-STACK_balancer")
    return {
        "tf_serving_stack_image_source": "registry",
        "tf_serving_stack_images": {"tf_serving": image, "balancer": balancer},
    }


async def _bad_image(run: Run, image: str, script: str, *, fails: str) -> None:
    """A release of an image whose containers run `script` must fail and leave the replicas with the present one."""
    present = await run.stack.image()
    change = f"ENTRYPOINT {json.dumps(['bash', '-c', script])}"
    for host in run.stack.hosts:
        container = (await run.stack.on(host, "docker", "create", present)).strip()
        await run.stack.on(host, "docker", "commit", "--change", change, container, image)
        await run.stack.on(host, "docker", "rm", container)
    await run.play("site", tags=_STACK_ONLY, **await _with_image(run, image), fails=fails)
    run.expect(await run.stack.image() == present, f"the service is to run {await run.stack.image()}, not {present}")
