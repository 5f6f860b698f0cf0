"""hydra-docker gc: what goes and what stays, and why, as tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _gc_images, _gc_plan
from hydra_plugins.hydra_docker_launcher._engine import Found, FoundImage
from hydra_plugins.hydra_docker_launcher._gc_plan import (
    FoundFile,
    FoundRef,
    Standing,
    SweepState,
    Terms,
    Thing,
)

HOUR, DAY = 3600.0, 86400.0
NOW = 1_800_000_000.0
FOLDER = Path("/home/ada/code/multirun/10-00-00")
ID = "20261122-100000-abcdef"
COMMIT = "c" * 40
LABELS = {"hydra.docker.sweep": ID, "hydra.docker.commit": COMMIT, "hydra.docker.user": "ada"}
OF_JOB = {**LABELS, "hydra.docker.job": "3", "hydra.docker.folder": str(FOLDER)}
TERMS = Terms(now=NOW, older_than=7 * DAY, refs_older_than=30 * DAY, user="ada")
IN_PROGRESS = (False, "its sweep is in progress")
BUSY = {"standing": Standing.IN_PROGRESS}
UNSEEN = {"standing": Standing.UNKNOWN, "detail": "it is not here"}
ALONE = (
    f"runs, and no launcher looks after it: hydra-docker attach {FOLDER}, or docker stop "
    "train-10-00-00-3"
)
ENDED = (True, "its job is over: error")
GONE = (True, "its sweep's folder is gone")
ATTACH = f"its sweep is not all recorded: hydra-docker attach {FOLDER}"


def a_sweep(standing: Standing = Standing.OVER, **facts) -> SweepState:
    return SweepState(FOLDER, FOLDER, standing, **{"id": ID, "outcomes": {3: "error"}, **facts})


def a_container(name: str = "train-10-00-00-3", **other) -> Found:
    values = {"id": name, "labels": OF_JOB, "status": "exited", "created": NOW - 9 * DAY}
    return Found(**{"name": name, "image": "layer", **values, **other})


def an_image(id_: str = "layer", *names: str, **other) -> FoundImage:
    values = {"digests": (), "labels": LABELS, "created": NOW - 9 * DAY, "size": 100}
    values |= {"used": other.get("created", NOW - 9 * DAY)}
    return FoundImage(**{"id": id_, "names": names, **values, **other})


def verdict(things: list[Thing]) -> tuple[bool, str] | None:
    assert len(things) < 2
    return (things[0].goes, things[0].why) if things else None


# ---- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "sweep", "days", "expected"),
    [
        ({}, {}, 8, ENDED),
        ({}, {}, 6, (False, "younger than 7d")),
        ({"status": "dead"}, {}, 8, ENDED),
        ({}, {"outcomes": {}}, 8, (True, "its sweep is over")),
        ({}, {"standing": Standing.GONE}, 8, (True, "its sweep's folder is gone")),
        ({}, {"standing": Standing.GONE}, 6, (False, "younger than 7d")),
        ({}, BUSY, 80, IN_PROGRESS),
        ({}, {"standing": Standing.UNSETTLED}, 80, (False, ATTACH)),
        ({}, UNSEEN, 80, (False, "it is not here")),
        ({"status": "running"}, BUSY, 80, (False, "runs")),
        ({"status": "paused"}, {}, 80, (False, ALONE)),
        ({"status": "created"}, {}, 0.05, (True, "was never started")),
        ({"status": "created"}, {}, 0.01, (False, "younger than 1h")),
        ({"status": "created"}, {"standing": Standing.UNSETTLED}, 8, (False, ATTACH)),
        # A name that was taken has got a suffix; a new attempt may have one.
        ({"name": "train-10-00-00-3-ab12"}, {}, 8, ENDED),
        # Made by hand: from an image that was committed from a job's container, or has its labels.
        ({"name": "eager_bohr"}, {}, 8, None),
        ({"name": "train-10-00-00-3-debug"}, {}, 8, None),
        ({"labels": LABELS}, {}, 8, None),
        ({"labels": {}}, {}, 8, None),
        ({"labels": {**OF_JOB, "hydra.docker.user": "bob"}}, {}, 8, None),
    ],
)  # fmt: skip
def test_containers_of_jobs(container, sweep, days, expected):
    """One that has ended long ago goes, where all of it is recorded; one by hand is not touched."""
    found = a_container(**container)
    state = a_sweep(**sweep)
    ended = {found.id: NOW - days * DAY}
    assert verdict(_gc_plan.containers([found], ended, {FOLDER: state}, TERMS)) == expected


@pytest.mark.parametrize(
    ("name", "status", "age", "expected"),
    [
        ("hydra-docker-layer-cccccccccccc-abcdef-01234567", "created", 2 * HOUR, True),
        ("hydra-docker-preflight-4711-01234567", "exited", 2 * HOUR, True),
        ("hydra-docker-preflight-4711-01234567", "exited", HOUR / 2, False),
        ("hydra-docker-preflight-4711-01234567", "running", 2 * HOUR, False),
        ("hydra-docker-preflight", "exited", 2 * HOUR, None),
        ("hydra-docker-layer-mine", "exited", 2 * HOUR, None),
    ],
)
def test_short_lived_containers(name, status, age, expected):
    """What a killed launcher left that no job runs in goes after an hour."""
    found = a_container(name, labels={}, status=status, created=NOW - age)
    judged = verdict(_gc_plan.containers([found], {}, {}, TERMS))
    assert (judged and judged[0]) == expected


def test_whose():
    """Others' containers are looked at only when asked for; a sweep's alone when it is named."""
    bob = a_container(labels={**OF_JOB, "hydra.docker.user": "bob"})
    probe = a_container("hydra-docker-preflight-4711-01234567", labels={})
    sweeps = {FOLDER: a_sweep()}

    def names(terms: Terms) -> list[str]:
        return [t.name for t in _gc_plan.containers([bob, probe], {}, sweeps, terms)]

    everybody = replace(TERMS, user=None)
    assert names(TERMS) == [probe.name]
    assert names(everybody) == [bob.name, probe.name]
    assert names(replace(everybody, folders=(FOLDER,))) == [bob.name]
    assert names(replace(everybody, folders=(Path("/else"),))) == []


# ---- images --------------------------------------------------------------------------------------

LAYER = "train:cccccccccccc-abcdef"
BUILT = "hydra-docker/code:0123456789abcdef"
BAKED = "hydra-docker/code:cccccccccccc-0123456789abcdef"
USED = (False, "made or used less than 7d ago")
RUNS = (False, f"the sweep in {FOLDER} is in progress")
BASE = FoundImage("base", ("python:3.12",), (), {}, NOW - 99 * DAY, NOW - 99 * DAY, 60)


@pytest.mark.parametrize(
    ("image", "sweep", "days", "expected"),
    [
        (an_image("i", LAYER), {}, 0.1, (True, "its sweep is over")),
        (an_image("i", LAYER), {}, 0.01, (False, "younger than 1h")),
        (an_image("i", LAYER), {"standing": Standing.GONE}, 1, GONE),
        (an_image("i", LAYER), BUSY, 80, IN_PROGRESS),
        (an_image("i", LAYER), {"standing": Standing.UNSETTLED}, 80, (False, ATTACH)),
        (an_image("i", LAYER), {"id": "another"}, 8, (True, "no trace of its sweep")),
        (an_image("i", LAYER), {"id": "another"}, 6, (False, "younger than 7d")),
        (an_image("i", LAYER, "mine:1"), {}, 8, (False, "it has another name: mine:1")),
        (an_image("i", "train:cccccccccccc-fedcba"), {}, 8, None),
        (an_image("i", "mine:1"), {}, 8, None),
        (an_image("i", LAYER, labels={}), {}, 8, None),
        (an_image("i", LAYER, labels={**LABELS, "hydra.docker.user": "bob"}), {}, 8, None),
        (an_image("i", BUILT), {}, 8, (True, "can be built again")),
        (an_image("i", BAKED), {}, 8, (True, "can be built again")),
        (an_image("i", BUILT), {}, 6, USED),
        (an_image("i", BUILT), {"images": {"i"}, "started": NOW - DAY}, 8, USED),
        (an_image("i", BUILT), {"images": {"i"}, **BUSY}, 8, RUNS),
        (an_image("i", BUILT, "mine:1"), {}, 8, (False, "it has another name: mine:1")),
        (an_image("i", BUILT, labels={}), {}, 8, None),
        (an_image("i", "hydra-docker/code:mine"), {}, 8, None),
        (an_image("i"), {}, 8, (True, "has no name any more")),
        (an_image("i"), {"standing": Standing.UNSETTLED}, 8, (False, ATTACH)),
        (an_image("i", digests=("registry/x@sha256:1",)), {}, 8, None),
    ],
)  # fmt: skip
def test_images(image, sweep, days, expected):
    """What was made here goes when its sweep is over, or when nobody has used it for long."""
    image = replace(image, created=NOW - days * DAY, used=NOW - days * DAY)
    family = _gc_images.family([BASE, image])
    assert verdict(_gc_images.images(family, [], {FOLDER: a_sweep(**sweep)}, TERMS)) == expected


def test_image_in_use():
    """What a container runs stays, and what that stands on; one that goes holds nothing."""
    built = an_image("b", BUILT, parent="base")
    layer = an_image("layer", LAYER, parent="b")
    family, sweeps = _gc_images.family([BASE, built, layer]), {FOLDER: a_sweep()}
    by_hand = a_container("eager_bohr", labels={})

    things = _gc_images.images(family, [by_hand], sweeps, TERMS)
    assert [(t.goes, t.why) for t in things] == [(False, "the container eager_bohr uses it")] * 2
    things = _gc_images.images(family, [], sweeps, TERMS)
    assert [(t.name, t.goes) for t in things] == [(LAYER, True), (BUILT, True)]


@pytest.mark.parametrize("layers", [True, False])
def test_image_that_another_stands_on(layers):
    """The user's own image inherits labels; it is not touched, nor what it stands on."""
    built = an_image("b", BUILT, layers=("1", "2"))
    mine = an_image("m", "mine:1", layers=("1", "2", "3", "4"))
    if not layers:
        built, mine = replace(built, layers=()), replace(mine, layers=(), parent="b")
    things = _gc_images.images(_gc_images.family([built, mine]), [], {}, TERMS)
    assert [(t.name, t.goes, t.why) for t in things] == [(BUILT, False, "mine:1 stands on it")]
    nameless = replace(mine, names=())
    things = _gc_images.images(_gc_images.family([built, nameless]), [], {}, TERMS)
    assert [t.name for t in things if t.goes] == []


def test_steps_of_a_build():
    """The steps of a build go with it, down to its base image; what others share stays."""
    label = {**LABELS, "hydra.docker.base": "base"}
    base = replace(BASE, names=())  # somebody has built another one of that name
    shared = an_image("s", labels={}, parent="base", size=70)
    step = an_image("t", labels=LABELS, parent="s", size=80)  # the builder's own, for the labels
    built = an_image("b", BUILT, labels=label, parent="t", size=100)
    (thing,) = _gc_images.images(_gc_images.family([base, shared, step, built]), [], {}, TERMS)
    assert (thing.keys, thing.size) == ((BUILT, "t", "s"), 40)

    other = an_image("o", "mine:1", labels={}, parent="s", size=90)
    family = _gc_images.family([base, shared, step, built, other])
    (thing,) = _gc_images.images(family, [], {}, TERMS)
    assert (thing.keys, thing.size) == ((BUILT, "t"), 30)

    unknown = replace(built, labels=LABELS)
    (thing,) = _gc_images.images(
        _gc_images.family([base, replace(step, labels={}), unknown]), [], {}, TERMS
    )
    assert thing.keys == (BUILT,)


def test_pushed_image():
    """The name that it was pushed by goes too: the registry has it."""
    name = "registry:5000/team/code:0123456789abcdef"
    digest = "registry:5000/team/code@sha256:1"
    pushed = an_image("b", BUILT, name, digests=(digest,))
    (thing,) = _gc_images.images(_gc_images.family([pushed]), [], {}, TERMS)
    assert (thing.goes, thing.keys) == (True, (BUILT, name))
    not_there = replace(pushed, digests=())
    (thing,) = _gc_images.images(_gc_images.family([not_there]), [], {}, TERMS)
    assert (thing.goes, thing.why) == (False, f"it has another name: {name}")


# ---- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "standing", "status", "age", "expected"),
    [
        (True, Standing.OVER, None, 2 * HOUR, (True, "its job is over")),
        (True, Standing.OVER, None, HOUR / 2, (False, "younger than 1h")),
        (True, Standing.OVER, "exited", 2 * HOUR, (True, "its job is over")),
        (True, Standing.UNSETTLED, None, 2 * HOUR, (True, "no container needs it")),
        (True, Standing.UNSETTLED, "exited", 2 * HOUR, (True, "no container needs it")),
        (True, Standing.UNSETTLED, "running", 2 * HOUR, (False, "its container needs it")),
        (True, Standing.IN_PROGRESS, None, 2 * HOUR, IN_PROGRESS),
        (False, Standing.OVER, None, 2 * HOUR, (True, "its job is over")),
        (False, Standing.OVER, "exited", 2 * HOUR, (False, "its container has it mounted")),
        (False, Standing.UNSETTLED, None, 2 * HOUR, (False, ATTACH)),
        (False, Standing.IN_PROGRESS, None, 2 * HOUR, IN_PROGRESS),
    ],
)  # fmt: skip
def test_files_of_jobs(secret, standing, status, age, expected):
    """Secrets go once no container can need them, the pickled config once its job is over."""
    state = a_sweep(standing)
    file = FoundFile(state, 3, FOLDER / "3/.docker/x", NOW - age, secret)
    other = a_container("train-10-00-00-4", labels={**OF_JOB, "hydra.docker.job": "4"})
    left = [replace(other, status="running"), *([a_container(status=status)] if status else [])]
    assert verdict(_gc_plan.files([file], left, {FOLDER: state}, TERMS)) == expected
    renamed = [replace(container, name="mine") for container in left]
    assert verdict(_gc_plan.files([file], renamed, {FOLDER: state}, TERMS)) == expected
    others = replace(file, sweep=replace(state, user="bob"))
    assert _gc_plan.files([others], left, {FOLDER: state}, TERMS) == []


# ---- refs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "named", "expected"),
    [
        (31, {}, (True, "no sweep that is found here names it")),
        (29, {}, (False, "younger than 30d")),
        (31, {COMMIT: "the image i is of it"}, (False, "the image i is of it")),
        (None, {}, (False, "git does not tell when it was made")),
    ],
)
def test_refs(days, named, expected):
    """A hidden ref goes after a month, unless something names its commit."""
    made = None if days is None else NOW - days * DAY
    ref = FoundRef(Path("/r"), f"refs/hydra-docker/snapshots/{COMMIT}", COMMIT, made)
    assert verdict(_gc_plan.refs([ref], named, TERMS)) == expected
