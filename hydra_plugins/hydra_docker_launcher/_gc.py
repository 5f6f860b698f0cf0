"""Cleaning up: what this project has left on this machine is found, listed, and removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from . import _gc_caches, _gc_images, _gc_plan, _gc_refs, _gc_sweeps
from ._engine import Engine, Found, FoundImage
from ._errors import DockerLauncherError, EngineError
from ._gc_images import Family
from ._gc_plan import (
    COMMIT,
    FOLDER,
    KINDS,
    RUNNING,
    SWEEP,
    FoundTicket,
    Standing,
    SweepState,
    Terms,
    Thing,
)
from ._harmless import one_line
from ._paths import LEDGER
from ._repository import Repository, own_environment
from ._tickets import TICKET, from_ticket, is_left
from ._units import show_age, show_size

#: Seconds: by default this old, and hidden refs, which a run may be repeated from, this old.
OLDER_THAN, REFS_OLDER_THAN = 7 * 86400.0, 30 * 86400.0
NAMES = 3  # of things that stay for the same reason; more are counted


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. ``now`` in seconds since the epoch.

    ``repositories`` are those whose hidden refs are looked at, and whose folders for sweeps;
    ``cache`` is the folder of the caches; ``uid`` is whose secrets may go (None: anybody's).
    """

    terms: Terms
    kinds: tuple[str, ...] = KINDS
    repositories: tuple[Repository, ...] = ()
    cache: Path | None = None
    uid: int | None = None
    refs_of_past_sweeps: bool = False


@dataclass(frozen=True, slots=True)
class _Engine:
    """What is on the engine, whoever's it is."""

    containers: tuple[Found, ...]
    family: Family
    local: bool


def repository_of(folder: Path) -> Repository:
    """Return the repository that a folder is in. Raises ``SourceError``."""
    with own_environment():
        return Repository.containing(folder)


# ---- what there is -------------------------------------------------------------------------------


def survey(engine: Engine, request: Request) -> list[Thing]:
    """Return all that this project has left: what may go, and what stays."""
    terms, kinds = request.terms, request.kinds
    on_engine = _Engine(
        containers=engine.containers({}),
        family=_gc_images.family(engine.images({})),
        local=engine.host().name == os.uname().nodename,
    )
    trees = _working_trees(request.repositories)
    sweeps = _sweeps(on_engine, [tree for group in trees for tree in group], terms)
    containers = _gc_plan.containers(
        on_engine.containers, _ended(engine, on_engine.containers, terms), sweeps, terms
    )
    going = {t.keys[0] for t in containers if t.goes and "containers" in kinds}
    left = [container for container in on_engine.containers if container.id not in going]
    images = _gc_images.images(on_engine.family, left, sweeps, terms)
    things = [*containers, *images]
    if "tickets" in kinds:
        things += _gc_plan.tickets(_found_tickets(engine), sweeps, terms)
    if "secrets" in kinds:
        files = _gc_sweeps.leftovers(sweeps.values(), request.uid)
        things += _gc_plan.files(files, left, sweeps, terms)
    if "refs" in kinds and not terms.folders:
        named = _named(left, _images_left(on_engine.family, images, kinds), sweeps, request)
        for tree, *_ in trees:
            things += _gc_refs.judged(Repository(tree), named, terms)
    if "caches" in kinds and request.cache is not None and not terms.folders:
        found = _gc_caches.found(request.cache, on_engine.family.images.keys())
        things += _gc_plan.caches(found, terms)
    return [thing for thing in things if thing.kind in kinds]


def _found_tickets(engine: Engine) -> list[FoundTicket]:
    """Return the tickets that can be read, whoever's they are."""
    places = [place for ticket in engine.tickets(TICKET) if (place := from_ticket(ticket))]
    now = engine.now() if places else 0.0
    return [FoundTicket(one, is_left(one, now), max(0.0, now - one.seen)) for one in places]


def _working_trees(repositories: Iterable[Repository]) -> list[list[Path]]:
    """Return the working trees of each repository, which may be named by several of them."""
    groups: list[list[Path]] = []
    for repository in repositories:
        if not any(repository.root in group for group in groups):
            groups.append(_gc_refs.worktrees(repository))
    return groups


def _sweeps(engine: _Engine, trees: Iterable[Path], terms: Terms) -> dict[Path, SweepState]:
    """Look at every sweep that is known: by labels, in working trees, and by name.

    Raises ``DockerLauncherError`` for a name that is no sweep's.
    """
    labelled = [container.labels for container in engine.containers]
    labelled += [image.labels for image in engine.family.images.values()]
    folders = [Path(labels[FOLDER]) for labels in labelled if FOLDER in labels]
    folders += [folder for tree in trees for folder in _gc_sweeps.below(tree)]
    sweeps = {
        folder: _gc_sweeps.look(folder, local=engine.local) for folder in dict.fromkeys(folders)
    }
    places = {state.place for state in sweeps.values()}
    for folder in terms.folders:
        if folder not in places:
            sweeps[folder] = _gc_sweeps.look(folder, local=engine.local)
            if sweeps[folder].id is None and sweeps[folder].obstacle is None:
                raise DockerLauncherError(
                    f"{folder} is no folder of a sweep: it has no {LEDGER}, and no container and "
                    "no image has it in its labels"
                )
    return sweeps


def _ended(engine: Engine, containers: Iterable[Found], terms: Terms) -> dict[str, float]:
    """Ask when the containers of jobs have ended that have run."""
    ended = {}
    for container in containers:
        over = container.status not in (*RUNNING, "created")
        if over and _gc_plan.is_job(container) and _gc_plan.is_asked_for(container.labels, terms):
            state = engine.state(container.id)
            moment = None if state is None else _moment(state.finished_at)
            if moment is not None:
                ended[container.id] = moment
    return ended


def _moment(text: str) -> float | None:
    """Return the seconds since the epoch of the engine's time in UTC, None where it is none."""
    try:
        moment = datetime.fromisoformat(text.rstrip("Z").partition(".")[0])
    except ValueError:
        return None
    return None if moment.year == 1 else moment.replace(tzinfo=timezone.utc).timestamp()


def _images_left(family: Family, things: Iterable[Thing], kinds: Sequence[str]) -> list[FoundImage]:
    going = {key for thing in things if thing.goes and "images" in kinds for key in thing.keys}
    return [
        image
        for image in family.images.values()
        if SWEEP in image.labels and going.isdisjoint((image.id, *image.names))
    ]


def _named(
    containers: Iterable[Found],
    images: Iterable[FoundImage],
    sweeps: Mapping[Path, SweepState],
    request: Request,
) -> dict[str, str]:
    """Return the commits that something names, and what that is."""
    named: dict[str, str] = {}
    for state in sweeps.values():
        if state.standing is Standing.IN_PROGRESS or not request.refs_of_past_sweeps:
            named |= dict.fromkeys(state.commits, f"{state.folder} names it")
    for image in images:
        if COMMIT in image.labels:
            named[image.labels[COMMIT]] = f"the image {_gc_images.shown(image)} is of it"
    for container in containers:
        if COMMIT in container.labels:
            named[container.labels[COMMIT]] = f"the container {container.name} is of it"
    return named


# ---- removal -------------------------------------------------------------------------------------


def remove(engine: Engine, things: Iterable[Thing], terms: Terms) -> list[tuple[Thing, str]]:
    """Remove what may go; return what could not be removed, and why.

    A sweep may have started since it was looked at: nothing that is used now is removed.
    """
    failed = []
    for thing in things:
        if thing.goes:
            try:
                _remove(engine, thing, terms)
            except DockerLauncherError as error:
                failed.append((thing, str(error)))
    return failed


def _remove(engine: Engine, thing: Thing, terms: Terms) -> None:
    if thing.folder is not None:
        state = _gc_sweeps.look(thing.folder, local=True)
        waits = thing.kind != "secrets" and state.standing is Standing.UNSETTLED
        if waits or state.standing is Standing.IN_PROGRESS:
            raise EngineError(f"in use now: {state.obstacle}")
    if thing.kind == "containers":
        engine.discard(thing.keys[0])
    elif thing.kind == "images":
        _remove_image(engine, thing, terms)
    elif thing.kind == "tickets":
        engine.drop_ticket(thing.keys[0])  # renewed, it has another name
    elif thing.kind == "refs":
        _gc_refs.remove(thing)
    elif thing.kind == "caches":
        _gc_caches.remove(Path(thing.keys[0]))
    elif thing.folder is not None:
        _gc_sweeps.remove(thing.folder, Path(thing.keys[0]))


def _remove_image(engine: Engine, thing: Thing, terms: Terms) -> None:
    names = [key for key in thing.keys if not key.startswith("sha256:")] or [thing.keys[0]]
    for image in engine.images({SWEEP: None}):
        if names[0] in (image.id, *image.names) and image.used > terms.now:
            raise EngineError("in use now: a sweep has just asked for it")
    for name in names:
        engine.discard_image(name)
    for step in thing.keys:
        if step not in names:
            with suppress(EngineError):  # another build may stand on it since
                engine.discard_image(step)


# ---- in words ------------------------------------------------------------------------------------


def describe(things: Sequence[Thing]) -> str:
    """Return what would be removed, a line each, then what stays and why."""
    lines = []
    for kind in KINDS:
        rows = [_row(thing) for thing in things if thing.goes and thing.kind == kind]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [kind] if rows else []
        for *cells, why in rows:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
            lines.append(f"  {'  '.join(padded)}  {why}")
    going = [thing for thing in things if thing.goes]
    if going:
        size = show_size(sum(thing.size or 0 for thing in going))
        number = f"{len(going)} thing{'' if len(going) == 1 else 's'}"
        lines.append(f"{number} to remove, {size} in images and caches")
    else:
        lines.append("Nothing to remove.")
    return "\n".join([*lines, *_kept(things)])


def _row(thing: Thing) -> tuple[str, str, str, str]:
    age = "" if thing.age is None else show_age(thing.age)
    size = "" if thing.size is None else show_size(thing.size)
    return one_line(thing.name), age, size, one_line(thing.why)


def _kept(things: Sequence[Thing]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for thing in things:
        if not thing.goes:
            why = one_line(thing.why)
            reasons.setdefault((thing.kind, why), []).append(one_line(thing.name))
    lines = []
    for (kind, why), names in sorted(reasons.items(), key=lambda item: KINDS.index(item[0][0])):
        which = f"{len(names)} {kind}" if len(names) > NAMES else f"{kind} {', '.join(names)}"
        lines.append(f"  {which}: {why}")
    return ["Kept:", *lines] if lines else []
