"""Capacity: what is promised of a machine, and whether one more container has room. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ._engine import ContainerSpec, Host, Occupant
from ._option_values import NO_GPUS, Gpus
from ._options import LABEL_PREFIX, VISIBLE_GPUS

GPUS_LABEL = f"{LABEL_PREFIX}gpus"
SHARE_LABEL = f"{LABEL_PREFIX}gpu_share"
TOLERANCE = 1e-6  # CPUs; what binary fractions make of ten tenths


@dataclass(frozen=True, slots=True)
class Machine:
    """What containers can be promised. ``gpus`` are the ids, as far as they are known.

    ``parts`` are those of GPUs (MIG), each with the GPU that it is of.
    """

    cpus: float
    memory: int
    gpus: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(host: Host, gpus: tuple[str, ...], parts: tuple[tuple[str, str], ...] = ()) -> Machine:
        return Machine(host.cpus, host.memory, gpus, parts)

    def named(self, gpus: Gpus) -> Gpus:
        """Return GPUs by their ids, where they are given by their numbers on the machine."""
        return replace(gpus, ids=tuple(map(self._id, gpus.ids)))

    def _id(self, name: str) -> str:
        known = name.isdecimal() and int(name) < len(self.gpus)
        return self.gpus[int(name)] if known else name


@dataclass(frozen=True, slots=True)
class Promise:
    """What one container may use. ``holder`` says whose it is, in words for a person."""

    holder: str
    #: The sweep it belongs to, None of a container that is no sweep's.
    sweep: str | None
    cpus: float = 0.0
    memory: int = 0
    gpus: Gpus = NO_GPUS
    shared: bool = False

    @staticmethod
    def to(spec: ContainerSpec) -> Promise:
        """Return what a container of a sweep is promised."""
        labels = dict(spec.labels)
        return Promise(
            holder=holder(labels, spec.name),
            sweep=labels.get(f"{LABEL_PREFIX}sweep"),
            cpus=spec.limits.cpus,
            memory=spec.limits.memory,
            gpus=spec.gpus,
            shared=SHARE_LABEL in labels,
        )

    @staticmethod
    def held_by(occupant: Occupant) -> Promise:
        """Return what a container that runs may use; where it has no limit, nothing is promised."""
        return Promise(
            holder=holder(occupant.labels, occupant.name),
            sweep=occupant.labels.get(f"{LABEL_PREFIX}sweep"),
            cpus=occupant.cpus or 0.0,
            memory=occupant.memory or 0,
            gpus=as_given(occupant.gpus),
            shared=SHARE_LABEL in occupant.labels,
        )


def holder(labels: Mapping[str, str], name: str) -> str:
    """Return ``ann's train-10-00-00`` of a sweep's container, else ``the container redis``."""
    user, job = labels.get(f"{LABEL_PREFIX}user"), labels.get(f"{LABEL_PREFIX}job")
    if user is None:
        return f"the container {name}"
    if job is None:
        return f"{user}'s {name}"
    sweep, dash, _ = name.rpartition(f"-{job}")
    return f"{user}'s {sweep if dash else name}"


@dataclass(frozen=True, slots=True)
class Room:
    """Whether a container has room: the GPUs that it gets, or what there is too little of.

    ``short`` has some of: CPUs, memory, GPUs.
    """

    gpus: Gpus = NO_GPUS
    short: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.short


def room(machine: Machine, wanted: Promise, others: Iterable[Promise]) -> Room:
    """Tell whether ``wanted`` has room beside ``others``.

    These are in the order in which they come first: one that waits, and has not got its GPUs yet,
    has those that it would get (or all that it could get of too few).
    """
    others = tuple(others)
    book = _GpuBook(machine.gpus, machine.parts)
    for other in others:
        if other.gpus:
            book.lease(machine.named(other.gpus), shared=other.shared)
    found = book.choose(machine.named(wanted.gpus), shared=wanted.shared)
    cpus = sum(other.cpus for other in others) + wanted.cpus
    memory = sum(other.memory for other in others) + wanted.memory
    short = {
        "CPUs": wanted.cpus > 0 and cpus > machine.cpus + TOLERANCE,
        "memory": wanted.memory > 0 and memory > machine.memory,
        "GPUs": found is None,
    }
    return Room(found or NO_GPUS, tuple(kind for kind, missing in short.items() if missing))


class _GpuBook:
    """Who has which GPUs. Where the machine's are not known by id, one has all of them.

    Who has a GPU has all its parts, and who has a part keeps others from the whole.
    """

    def __init__(self, known: tuple[str, ...], parts: tuple[tuple[str, str], ...] = ()) -> None:
        self._known = known
        #: What cannot be had beside a GPU or a part of one, by its id.
        self._related: dict[str, list[str]] = {}
        for part, whole in parts:
            self._related.setdefault(part, []).append(whole)
            self._related.setdefault(whole, []).append(part)
        #: How many share a GPU, by its id; -1: somebody has it alone.
        self._users: dict[str, int] = {}
        #: As above, of GPUs nobody knows which.
        self._of_unknown = 0

    def lease(self, gpus: Gpus, *, shared: bool) -> None:
        chosen = self.choose(gpus, shared=shared)
        if chosen is None:  # it waits for more, or has what others have too
            chosen = Gpus(ids=gpus.ids or self._free(shared=shared)) if self._known else gpus
        ids = self._known if chosen.all else chosen.ids
        for name in ids:
            self._users[name] = _one_more(self._users.get(name, 0), shared=shared)
        if not ids or chosen.count:
            self._of_unknown = _one_more(self._of_unknown, shared=shared)

    def choose(self, wanted: Gpus, *, shared: bool) -> Gpus | None:
        """Return the GPUs that somebody gets, None where there are not enough."""
        if not wanted:
            return NO_GPUS
        if not _may_have(self._of_unknown, shared=shared):
            return None
        if wanted.ids:
            free = all(self._is_free(name, shared=shared) for name in wanted.ids)
            return wanted if free else None
        if not self._known:
            return wanted if _all_may(self._users.values(), shared=shared) else None
        if wanted.all:
            everyone = _all_may(self._users.values(), shared=shared)
            return Gpus(ids=self._known) if everyone else None
        free_ids = self._free(shared=shared)
        enough = len(free_ids) >= wanted.count
        return Gpus(ids=free_ids[: wanted.count]) if enough else None

    def _free(self, *, shared: bool) -> tuple[str, ...]:
        """Return the GPUs that are to be had, those with the fewest users first."""
        free = [name for name in self._known if self._is_free(name, shared=shared)]
        return tuple(sorted(free, key=lambda name: self._users.get(name, 0)))

    def _is_free(self, name: str, *, shared: bool) -> bool:
        names = (name, *self._related.get(name, ()))
        return _all_may((self._users.get(one, 0) for one in names), shared=shared)


def _one_more(users: int, *, shared: bool) -> int:
    return users + 1 if shared and users >= 0 else -1


def _may_have(users: int, *, shared: bool) -> bool:
    return users == 0 or (shared and users > 0)


def _all_may(users: Iterable[int], *, shared: bool) -> bool:
    return all(_may_have(number, shared=shared) for number in users)


def as_given(gpus: Gpus) -> Gpus:
    """Return the GPUs of a container that runs: of a number of them, the engine's first ones."""
    return Gpus(ids=tuple(map(str, range(gpus.count)))) if gpus.count else gpus


def leased(spec: ContainerSpec, gpus: Gpus) -> ContainerSpec:
    """Return the specification of a container with the GPUs that it has got.

    A number of GPUs alone would give every container the engine's first ones.
    """
    if not spec.gpus:
        return spec
    shown = ",".join(gpus.ids) or ("all" if gpus.all else str(gpus.count))
    environment = dict(spec.environment)
    if gpus.ids:
        environment[VISIBLE_GPUS] = shown
    return replace(
        spec,
        gpus=gpus,
        environment=tuple(environment.items()),
        labels=tuple({**dict(spec.labels), GPUS_LABEL: shown}.items()),
    )


@dataclass
class Capacity:
    """What the containers of one sweep may use together, whatever else runs on the machine.

    ``n_jobs`` -1: as many as fit by CPUs, memory and GPUs; else that many, whatever they use.
    ``engine_wide``: what others run counts too, and somebody else keeps an eye on that
    (``Admission``); here only ``n_jobs`` counts.
    """

    host: Host
    n_jobs: int
    gpus: tuple[str, ...] = ()
    engine_wide: bool = False
    gpu_parts: tuple[tuple[str, str], ...] = ()
    _running: dict[int, ContainerSpec] = field(default_factory=dict)

    @property
    def machine(self) -> Machine:
        return Machine.of(self.host, self.gpus, self.gpu_parts)

    def fits(self, spec: ContainerSpec) -> bool:
        """Tell whether a container may start now. Where nothing runs, any may."""
        if not self._running:
            return True
        if self.n_jobs > 0 and len(self._running) >= self.n_jobs:
            return False
        if self.engine_wide:
            return True
        short = self._room(spec).short
        return not short or (self.n_jobs > 0 and "GPUs" not in short)

    def take(self, number: int, spec: ContainerSpec) -> ContainerSpec:
        """Note that a job runs; return its specification with the GPUs that it gets, by id."""
        if spec.gpus and not self.engine_wide:
            found = self._room(spec)
            few = Gpus(ids=self.gpus[: spec.gpus.count]) if self.gpus else spec.gpus
            spec = leased(spec, few if "GPUs" in found.short else found.gpus)
        self._running[number] = spec
        return spec

    def hold(self, number: int, spec: ContainerSpec) -> ContainerSpec:
        """Note that a job runs already, with the GPUs that stand in its specification."""
        self._running[number] = replace(spec, gpus=as_given(spec.gpus))
        return spec

    def give_back(self, number: int) -> None:
        """Note that a job has ended; once more is no error."""
        self._running.pop(number, None)

    def _room(self, spec: ContainerSpec) -> Room:
        running: Sequence[ContainerSpec] = tuple(self._running.values())
        return room(self.machine, Promise.to(spec), map(Promise.to, running))
