"""Which images may go: those that this project has made, and that nothing stands on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import _delivery
from ._engine import Found, FoundImage
from ._gc_plan import (
    FOLDER,
    GRACE,
    SWEEP,
    Standing,
    SweepState,
    Terms,
    Thing,
    is_asked_for,
)
from ._image import BASE_LABEL
from ._units import show_age

#: ``hydra-docker/<repository>:<digest>``, and that of a commit.
BY_CONTENT = re.compile(r"hydra-docker/[a-z0-9-]+:([0-9a-f]{12}-)?[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Family:
    """The images of an engine, and which stands on which."""

    images: Mapping[str, FoundImage]
    below: Mapping[str, str | None]

    def ancestors(self, image: str) -> Iterator[str]:
        """Yield the ids of what an image stands on, the nearest first."""
        under = self.below.get(image)
        while under is not None:
            yield under
            under = self.below.get(under)

    def own_size(self, image: FoundImage) -> int:
        """Return the bytes that an image has beyond the one it stands on."""
        under = self.below.get(image.id)
        return max(0, image.size - (self.images[under].size if under is not None else 0))

    def children(self, image: str) -> list[str]:
        return [child for child, under in self.below.items() if under == image]


def family(images: Iterable[FoundImage]) -> Family:
    """Find out what stands on what: by the parent that the engine tells, else by the layers."""
    known = {image.id: image for image in images}
    by_layers = {image.layers: image.id for image in known.values() if image.layers}
    below: dict[str, str | None] = {}
    for image in known.values():
        if image.parent in known:
            below[image.id] = image.parent
            continue
        shorter = (image.layers[:end] for end in range(len(image.layers) - 1, 0, -1))
        below[image.id] = next((by_layers[part] for part in shorter if part in by_layers), None)
    return Family(known, below)


def images(
    family: Family, left: Sequence[Found], sweeps: Mapping[Path, SweepState], terms: Terms
) -> list[Thing]:
    """Judge the images of this project. ``left`` are the containers that stay, of anybody."""
    users: dict[str, str] = {}
    for container in left:
        for id_ in (container.image, *family.ancestors(container.image)):
            users.setdefault(id_, f"the container {container.name} uses it")
    by_id = {state.id: state for state in sweeps.values()}
    depth = {id_: len(list(family.ancestors(id_))) for id_ in family.images}
    things: list[Thing] = []
    going: set[str] = set()
    for image in sorted(family.images.values(), key=lambda image: -depth[image.id]):
        if image.id in going or SWEEP not in image.labels:
            continue
        if not is_asked_for(image.labels, terms):
            continue
        state = by_id.get(image.labels[SWEEP]) or sweeps.get(Path(image.labels.get(FOLDER, "")))
        if terms.folders and (state is None or state.place not in terms.folders):
            continue
        thing = _judged(image, family, state, sweeps, terms)
        if thing is None:
            continue
        above = [child for child in family.children(image.id) if child not in going]
        if above and not image.names:
            continue  # a part of another image by now
        obstacle = users.get(image.id)
        if obstacle is None and above:
            obstacle = f"{shown(family.images[above[0]])} stands on it"
        if obstacle is not None:
            thing = replace(thing, goes=False, why=obstacle)
        if thing.goes:
            steps = _steps(image, family, users)
            going |= {image.id, *(step.id for step in steps)}
            size = sum(family.own_size(part) for part in (image, *steps))
            keys = (*thing.keys, *(step.id for step in steps))
            thing = replace(thing, size=size, keys=keys)
        things.append(thing)
    return things


def shown(image: FoundImage) -> str:
    return next(iter((*image.names, *image.digests)), image.id.removeprefix("sha256:")[:12])


def _judged(
    image: FoundImage,
    family: Family,
    state: SweepState | None,
    sweeps: Mapping[Path, SweepState],
    terms: Terms,
) -> Thing | None:
    """Judge an image by its name, None where it is not of this project.

    Labels alone do not tell: an image inherits those of the image that it is made from.
    """
    own = [name for name in image.names if _delivery.is_layer(name, image.labels)]
    content = [name for name in image.names if BY_CONTENT.fullmatch(name)]
    version = content[0].rpartition(":")[2] if content else ""
    pushed = [
        name
        for name in image.names
        if name.rpartition(":")[2] == version
        if any(digest.startswith(f"{name.rpartition(':')[0]}@") for digest in image.digests)
    ]
    others = [name for name in image.names if name not in {*own, *content, *pushed}]
    age = max(0.0, terms.now - image.used)
    if own:
        goes, why = _of_sweep(state, age, terms)
    elif content:
        last = _last_use(image, sweeps.values())
        age = max(0.0, terms.now - last)
        goes, why = _by_content(image, sweeps.values(), age, terms)
    elif not image.names and not image.digests and _labelled_itself(image, family):
        goes, why = _nameless(state, age)
    else:
        return None
    if goes and others:
        goes, why = False, f"it has another name: {others[0]}"
    keys = tuple(dict.fromkeys((*own, *content, *pushed))) or (image.id,)
    folder = state.folder if state is not None and not content else None
    return Thing("images", shown(image), goes, why, age, family.own_size(image), keys, folder)


def _of_sweep(state: SweepState | None, age: float, terms: Terms) -> tuple[bool, str]:
    if state is None:
        limit = max(GRACE, terms.older_than)
        return (True, "no trace of its sweep") if age >= limit else (False, _younger(limit))
    if state.obstacle is not None:
        return False, state.obstacle
    if age < GRACE:
        return False, _younger(GRACE)
    gone = state.standing is Standing.GONE
    return True, "its sweep's folder is gone" if gone else "its sweep is over"


def _by_content(
    image: FoundImage, sweeps: Iterable[SweepState], age: float, terms: Terms
) -> tuple[bool, str]:
    for state in sweeps:
        if image.id in state.images and state.standing is Standing.IN_PROGRESS:
            return False, f"the sweep in {state.folder} is in progress"
    limit = max(GRACE, terms.older_than)
    if age < limit:
        return False, f"made or used less than {show_age(limit)} ago"
    return True, "can be built again"


def _nameless(state: SweepState | None, age: float) -> tuple[bool, str]:
    if state is not None and state.obstacle is not None:
        return False, state.obstacle
    return (True, "has no name any more") if age >= GRACE else (False, _younger(GRACE))


def _last_use(image: FoundImage, sweeps: Iterable[SweepState]) -> float:
    started = (state.started or 0.0 for state in sweeps if image.id in state.images)
    return max(image.used, *started, 0.0)


def _labelled_itself(image: FoundImage, family: Family) -> bool:
    """Tell whether the sweep's label is its own, not that of an image it was made from."""
    return all(
        family.images[under].labels.get(SWEEP) != image.labels[SWEEP]
        for under in family.ancestors(image.id)
    )


def _steps(image: FoundImage, family: Family, users: Mapping[str, str]) -> list[FoundImage]:
    """Return the steps of the build of an image that nothing else stands on.

    They end at the base image, which has a name, or is the one that the image's label tells.
    """
    base = image.labels.get(BASE_LABEL)
    ancestors = list(family.ancestors(image.id))
    if base not in ancestors:
        return []
    steps: list[FoundImage] = []
    above = image.id
    for under in ancestors:
        step = family.images[under]
        own = not (step.names or step.digests or step.id in users or step.id == base)
        if not own or family.children(under) != [above]:
            break
        steps.append(step)
        above = under
    return steps


def _younger(limit: float) -> str:
    return f"younger than {show_age(limit)}"
