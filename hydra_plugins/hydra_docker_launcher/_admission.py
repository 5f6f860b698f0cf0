"""Admission: a job starts when nobody on its engine has been promised what it needs.

All launchers that use an engine, of any user and on any machine, agree through that engine alone.
Each keeps a *ticket* there for the job that is next in its sweep: an empty volume, whose labels say
what the job wants and since when it waits. A ticket *waits* or is *admitted*. What is promised:
what runs, and every admitted ticket, until its container runs.

- To be admitted, a launcher makes its ticket an admitted one, and looks at the engine *after that*:
  only if there is room beside all that is promised, it starts. Of two that do so at the same
  moment, the one that looked last has seen the other: no lock is needed, and none can be left.
- Who waits longer comes first: what an older ticket wants counts as if it was promised. So nobody
  is overtaken by a job that takes what they wait for. Of two that hinder each other, the younger
  one steps back.
- Tickets of a launcher that was killed count for nothing: its process is gone, or, where that
  cannot be seen from here, it has not renewed them for STALE seconds.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import _capacity
from ._capacity import Machine, Promise, Room
from ._engine import ContainerSpec, Engine, Occupant, Ticket
from ._errors import EngineError
from ._option_values import Gpus
from ._options import LABEL_PREFIX
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

BEAT = 20.0  # seconds after which a ticket is renewed
STALE = 90.0  # seconds without renewal after which a ticket of an unseen process counts no more
FIRST_PAUSE = 0.1  # seconds between two looks of whoever is the next one to get in
LONGEST_PAUSE = 0.5  # of all others
STOP_PATIENCE = 30.0  # seconds that the engine has to take tickets back
YIELD = 0.03  # seconds that a younger one gets to step back
YIELDS = 20  # times; it may be further than that, and start its container already
TOLD_AFTER = 1.0  # seconds that a job waits before its user is told why
TOLD_AGAIN = 10.0  # seconds at least between two reasons
NAMED = 4  # holders that a message names at most

TICKET = f"{LABEL_PREFIX}ticket"
#: How many seconds a container's job has waited for room.
WAITED = f"{LABEL_PREFIX}waited"
_PREFIX = f"{TICKET}."
_SAME = tuple(f"{LABEL_PREFIX}{name}" for name in ("sweep", "job", "attempt"))


@dataclass(frozen=True, slots=True)
class Request:
    """A job's next attempt, as its sweep asks for it. ``key`` is nobody else's in the sweep."""

    key: tuple[int, int]
    title: str
    spec: ContainerSpec


@dataclass(frozen=True, slots=True)
class Place:
    """A ticket, as any launcher reads it. Times in seconds by the engine's clock."""

    id: str
    name: str
    since: float
    seen: float
    admitted: bool
    process: str
    promise: Promise
    #: Which attempt of which job it is for.
    attempt: tuple[str | None, ...]

    def __lt__(self, other: Place) -> bool:
        """Tell whether it is older."""
        return (self.since, self.id) < (other.since, other.id)


def to_ticket(place: Place, serial: int, labels: Mapping[str, str]) -> Ticket:
    """Return a ticket as it is kept; ``labels`` are those of the job's container."""
    promise = place.promise
    own = {
        "since": f"{place.since:.6f}",
        "seen": f"{place.seen:.6f}",
        "serial": str(serial),
        "state": "admitted" if place.admitted else "waiting",
        "process": place.process,
        "holder": promise.holder,
        "cpus": f"{promise.cpus:.9f}",
        "memory": str(promise.memory),
        "gpus": gpus_text(promise.gpus),
        "shared": "yes" if promise.shared else "no",
    }
    named = {f"{LABEL_PREFIX}{name}" for name in ("user", "folder")} | set(_SAME)
    return Ticket(
        f"hydra-docker-ticket-{place.id}-{serial}",
        {
            **{name: value for name, value in labels.items() if name in named},
            TICKET: place.id,
            **{f"{_PREFIX}{name}": value for name, value in own.items()},
        },
    )


def from_ticket(ticket: Ticket) -> Place | None:
    """Return what a ticket says, None where it is none that this version can read."""
    labels = ticket.labels

    def own(name: str) -> str:
        return labels[_PREFIX + name]

    try:
        return Place(
            id=labels[TICKET],
            name=ticket.name,
            since=float(own("since")),
            seen=float(own("seen")),
            admitted=own("state") == "admitted",
            process=own("process"),
            promise=Promise(
                holder=own("holder"),
                sweep=labels.get(f"{LABEL_PREFIX}sweep"),
                cpus=float(own("cpus")),
                memory=int(own("memory")),
                gpus=gpus_of(own("gpus")),
                shared=own("shared") == "yes",
            ),
            attempt=tuple(labels.get(name) for name in _SAME),
        )
    except (KeyError, ValueError):
        return None


def gpus_text(gpus: Gpus) -> str:
    return "all" if gpus.all else f"ids:{','.join(gpus.ids)}" if gpus.ids else str(gpus.count)


def gpus_of(text: str) -> Gpus:
    if text.startswith("ids:"):
        return Gpus(ids=tuple(text.removeprefix("ids:").split(",")))
    return Gpus(all=True) if text == "all" else Gpus(count=int(text))


# ---- what is there -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """What is promised on an engine, and who waits, as one launcher has found it."""

    running: tuple[Promise, ...]
    unlimited: tuple[str, ...]
    #: The tickets, each once, the oldest first.
    places: tuple[Place, ...]

    def before(self, place: Place) -> tuple[Promise, ...]:
        """Return what comes before a ticket: all that is promised, and who waits longer."""
        others = [other for other in self.places if other.id != place.id]
        return (
            *self.running,
            *(other.promise for other in others if other.admitted),
            *(other.promise for other in others if not other.admitted and other < place),
        )

    def before_older(self, place: Place) -> tuple[Promise, ...]:
        """Return the same without what younger tickets are admitted to: they may step back."""
        return (*self.running, *(other.promise for other in self.places if other < place))


def look(engine: Engine, now: float, *, mine: Callable[[str], bool]) -> View:
    """Return what is promised now, and remove tickets of launchers that are gone."""
    # In this order: a ticket goes only when its container runs.
    tickets = engine.tickets(TICKET)
    occupants = engine.occupants()
    places: dict[str, Place] = {}
    for place in filter(None, map(from_ticket, tickets)):
        if not mine(place.id) and is_left(place, now):
            with suppress(EngineError):  # whoever looks next can do it
                engine.drop_ticket(place.name)
            continue
        known = places.get(place.id)
        if known is None or (place.admitted, place.seen) > (known.admitted, known.seen):
            places[place.id] = place
    # A container and its ticket are one promise.
    there = {tuple(occupant.labels.get(name) for name in _SAME) for occupant in occupants}
    there = {attempt for attempt in there if None not in attempt}
    waiting = [place for place in places.values() if place.attempt not in there]
    return View(
        running=tuple(map(Promise.held_by, occupants)),
        unlimited=_unlimited(occupants),
        places=tuple(sorted(waiting)),
    )


def _unlimited(occupants: Iterable[Occupant]) -> tuple[str, ...]:
    names = (
        occupant.name for occupant in occupants if occupant.cpus is None or occupant.memory is None
    )
    return tuple(sorted(names))


def is_left(place: Place, now: float) -> bool:
    """Tell whether the launcher that a ticket belongs to is gone."""
    alive = is_alive(place.process)
    return now - place.seen > STALE if alive is None else not alive


def this_process() -> str:
    """Return what tells this process from all others: the machine's start, its pid, its start."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_alive(process: str) -> bool | None:
    """Tell whether a process runs; None where that cannot be seen from here."""
    machine, _, rest = process.partition(" ")
    pid, _, started = rest.partition(" ")
    if not machine or machine != _machine() or not pid.isdecimal():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    now = _started(int(pid))
    return None if now is None else now == started


def _machine() -> str:
    """Return the id of this start of this machine, and the pids' namespace; empty: unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process has started, in the kernel's ticks; empty: it is over; None: hidden."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in ("Z", "X") else fields[19]


def _clock() -> float:
    """Return seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


# ---- getting in ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ticket:
    """A ticket of this launcher: how it stands on the engine (``name``: under which name)."""

    request: Request
    place: Place
    serial: int = 0
    names: list[str] = field(default_factory=list)


class Admission:
    """Gets the jobs of one sweep in, one after the other, in a thread of its own.

    ``wake`` is called when there is something to ask for. ``stop`` must be called in the end.
    """

    def __init__(self, engine: Engine, machine: Machine, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._machine = machine
        self._wake = wake
        self._process = this_process()
        self._behind: float | None = None
        self._changed = threading.Condition()
        #: What the sweep asks for, and what came of it: GPUs, or why it cannot be told.
        self._wish: Request | None = None
        self._answer: tuple[Request, ContainerSpec | EngineError] | None = None
        self._over: list[tuple[int, int]] = []
        self._poked = False
        self._stopped = False
        #: Of the thread alone (the lock is for who looks whether one is there).
        self._tickets: dict[tuple[int, int], _Ticket] = {}
        #: Names of tickets that are to be removed.
        self._useless: list[str] = []
        #: The reason that the user was told last, and when.
        self._told: tuple[tuple[str, ...], float] = ((), -TOLD_AGAIN)
        self._thread: threading.Thread | None = None

    # ---- what the scheduler says -----------------------------------------------------------------

    def ask(self, request: Request) -> None:
        """Ask for a job, as long as nothing else is asked for."""
        with self._changed:
            if self._wish is None:
                self._wish = request
                self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="admission", daemon=True)
                self._thread.start()

    def answer(self) -> tuple[Request, ContainerSpec | EngineError] | None:
        """Return what came of the request: the container to start, or why that cannot be known."""
        with self._changed:
            return self._answer

    def taken(self) -> None:
        """Say that the answer was taken; the next job can be asked for."""
        with self._changed:
            self._wish = self._answer = None

    def over(self, key: tuple[int, int]) -> None:
        """Say that a job's container runs, or never will: its ticket has done its work."""
        with self._changed:
            self._over.append(key)
            self._changed.notify_all()

    def poke(self) -> None:
        """Say that something has ended: there may be room now."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def withdraw(self) -> None:
        """Ask for nothing any more; what was admitted and not taken is given back."""
        with self._changed:
            wish, self._wish, self._answer = self._wish, None, None
            if wish is not None:
                self._over.append(wish.key)
                self._changed.notify_all()

    def stop(self) -> None:
        """Take back all tickets, and end.

        An engine that hangs is not waited for: nobody counts tickets of a process that is over.
        """
        self.withdraw()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(STOP_PATIENCE)

    # ---- what a job's thread asks ----------------------------------------------------------------

    def holds(self, key: tuple[int, int]) -> bool:
        """Tell whether the ticket of an admitted job is on the engine still.

        Somebody may have removed it: by hand, or because this machine was asleep for long.
        """
        ticket = self._tickets.get(key)
        return ticket is not None and bool(self._engine.tickets(f"{TICKET}={ticket.place.id}"))

    # ---- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                if not (self._poked or self._over or self._stopped):
                    wanted = self._wish is not None and self._answer is None
                    self._changed.wait(pause if wanted else BEAT / 2 if self._tickets else None)
                over, self._over, self._poked = self._over, [], False
                stopped = self._stopped
                wish = self._wish if self._answer is None else None
            for key in list(self._tickets) if stopped else over:
                self._useless += self._tickets.pop(key).names if key in self._tickets else []
            self._drop_useless()
            if stopped:
                return
            try:
                self._renew()
                pause = LONGEST_PAUSE if wish is None else self._step(wish)
            except Exception as error:  # noqa: BLE001  (a sweep must not wait for a thread that ended)
                pause = LONGEST_PAUSE
                if wish is not None:
                    if not isinstance(error, EngineError):
                        error = EngineError(f"cannot admit it: {error!r}")
                    self._give(wish, error)

    def _give(self, wish: Request, answer: ContainerSpec | EngineError) -> None:
        with self._changed:
            if self._wish is wish:
                self._answer = wish, answer
        self._wake()

    def _now(self) -> float:
        """Return the time by the engine's clock."""
        if self._behind is None:
            self._behind = self._engine.now() - _clock()
        return _clock() + self._behind

    def _look(self) -> View:
        own = {ticket.place.id for ticket in self._tickets.values()}
        return look(self._engine, self._now(), mine=lambda number: number in own)

    def _step(self, wish: Request) -> float:
        """Try to get a job in; return the seconds until the next look."""
        ticket = self._tickets.get(wish.key) or self._new(wish)
        view = self._look()
        place = ticket.place
        found = _capacity.room(self._machine, place.promise, view.before(place))
        if found and self._enter(ticket, found):
            waited = self._now() - ticket.place.since
            spec = _capacity.leased(wish.spec, ticket.place.promise.gpus)
            self._give(wish, replace(spec, labels=(*spec.labels, (WAITED, f"{waited:.3f}"))))
            return 0.0
        if not any(known.id == place.id for known in view.places):
            self._post(ticket, ticket.place)  # for the first time, or somebody has removed it
        self._tell(wish, ticket.place, view, found)
        first = next(iter([p for p in view.places if not p.admitted]), None)
        return LONGEST_PAUSE if first is not None and first < place else FIRST_PAUSE

    def _enter(self, ticket: _Ticket, found: Room) -> bool:
        """Become admitted, and stay so if there is room beside all who are too."""
        waiting = ticket.place
        promise = replace(waiting.promise, gpus=found.gpus)
        self._post(ticket, replace(waiting, admitted=True, promise=promise))
        for _ in range(YIELDS):
            view = self._look()
            if _capacity.room(self._machine, promise, view.before(ticket.place)):
                return True
            if not _capacity.room(self._machine, promise, view.before_older(ticket.place)):
                break
            time.sleep(YIELD)
        self._post(ticket, waiting)
        return False

    def _new(self, wish: Request) -> _Ticket:
        labels = dict(wish.spec.labels)
        now = round(self._now(), 6)  # as tickets have it
        place = Place(
            id=secrets.token_hex(8),
            name="",
            since=now,
            seen=now,
            admitted=False,
            process=self._process,
            promise=Promise.to(wish.spec),
            attempt=tuple(labels.get(name) for name in _SAME),
        )
        ticket = _Ticket(wish, place)
        self._tickets[wish.key] = ticket
        return ticket

    def _post(self, ticket: _Ticket, place: Place) -> None:
        """Put a ticket up as ``place``, instead of how it stood before."""
        earlier = list(ticket.names)
        ticket.serial += 1
        ticket.place = replace(place, seen=round(self._now(), 6))
        kept = to_ticket(ticket.place, ticket.serial, dict(ticket.request.spec.labels))
        ticket.names.append(kept.name)  # before it is there: it may be though no answer came
        self._engine.post_ticket(kept)
        ticket.names = ticket.names[len(earlier) :]
        self._useless += earlier
        self._drop_useless()

    def _renew(self) -> None:
        due = [t for t in self._tickets.values() if t.names and self._now() - t.place.seen > BEAT]
        if due:
            self._behind = None  # somebody may have set the engine's clock
        for ticket in due:
            self._post(ticket, ticket.place)

    def _drop_useless(self) -> None:
        """Remove tickets that have done their work; what cannot be removed now is later."""
        for name in list(self._useless):
            with suppress(EngineError):
                self._engine.drop_ticket(name)
                self._useless.remove(name)

    def _tell(self, wish: Request, place: Place, view: View, found: Room) -> None:
        """Tell the user once why a job waits, and again when that is another reason."""
        others = [p for p in view.before(place) if p.sweep != place.promise.sweep]
        own = [p for p in view.before(place) if p.sweep == place.promise.sweep]
        early = self._now() - place.since < TOLD_AFTER
        if early or not others or not _capacity.room(self._machine, place.promise, own):
            return  # it waits for its own sweep's jobs, at least
        short = found.short or _capacity.room(self._machine, place.promise, others).short
        reason = (*short, *sorted({p.holder for p in others if _has(p, short)}))
        now = _clock()
        known, told_at = self._told
        if not short or reason == known or now - told_at < TOLD_AGAIN:
            return
        self._told = reason, now
        log.info("%s waits: %s", wish.title, describe(self._machine, others, short, view.unlimited))


@contextmanager
def held(engine: Engine, machine: Machine, spec: ContainerSpec) -> Iterator[None]:
    """Wait until there is room for a container that is no job's, and hold that for the block.

    While the container runs, it is counted twice. Raises ``EngineError``.
    """
    woken = threading.Event()
    admission = Admission(engine, machine, woken.set)
    try:
        admission.ask(Request((-1, 1), "The look into the image", spec))
        while (answer := admission.answer()) is None:
            woken.wait(LONGEST_PAUSE)
        if isinstance(answer[1], EngineError):
            raise answer[1]
        yield
    finally:
        admission.stop()


def _has(promise: Promise, kinds: Iterable[str]) -> bool:
    has = {"CPUs": promise.cpus > 0, "memory": promise.memory > 0, "GPUs": bool(promise.gpus)}
    return any(has[kind] for kind in kinds)


def describe(
    machine: Machine, others: Iterable[Promise], short: Iterable[str], unlimited: Iterable[str] = ()
) -> str:
    """Return in words what is promised to others of what there is too little of."""
    others = tuple(others)
    parts = []
    for kind in short:
        amounts: dict[str, float] = {}
        for other in others:
            amounts[other.holder] = amounts.get(other.holder, 0) + _amount(machine, other, kind)
        amounts = {name: amount for name, amount in amounts.items() if amount}
        largest = sorted(amounts, key=lambda name: -amounts[name])
        names = [f"{name} ({_shown(kind, amounts[name])})" for name in largest[:NAMED]]
        more = len(largest) - len(names)
        total = _shown(kind, sum(amounts.values()))
        parts.append(
            f"{total} of {_shown(kind, _whole(machine, kind))}{_unit(kind)} promised to others"
            f"{': ' if names else ''}{', '.join(names)}{f' and {more} more' if more > 0 else ''}"
        )
    free = list(unlimited)
    if free:
        parts.append(f"without limits, and not counted: {', '.join(free[:NAMED])}")
    return "; ".join(parts)


def _amount(machine: Machine, promise: Promise, kind: str) -> float:
    if kind == "CPUs":
        return promise.cpus
    if kind == "memory":
        return promise.memory
    gpus = promise.gpus
    return len(machine.gpus) or 1 if gpus.all else gpus.count or len(gpus.ids)


def _whole(machine: Machine, kind: str) -> float:
    return {"CPUs": machine.cpus, "memory": machine.memory, "GPUs": len(machine.gpus)}[kind]


def _shown(kind: str, amount: float) -> str:
    return show_size(int(amount)) if kind == "memory" else f"{amount:g}"


def _unit(kind: str) -> str:
    return {"CPUs": " CPUs are", "memory": " memory is", "GPUs": " GPUs are"}[kind]
