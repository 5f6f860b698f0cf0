"""Admission: a job starts when nobody on its engine has been promised what it needs.

All launchers that use an engine, of any user and on any machine, agree through that engine alone.
Each keeps a *ticket* there for the job that is next in its sweep. It *waits* or is *admitted*.
What is promised: what runs, and every admitted ticket, until its container runs.

- To be admitted, a launcher makes its ticket an admitted one, and looks at the engine *after that*:
  only if there is room beside all that is promised, it starts. Of two that do so at the same
  moment, the one that looked last has seen the other: no lock is needed, and none can be left.
- Who waits longer comes first: what an older ticket wants counts as if it was promised. So nobody
  is overtaken by a job that takes what they wait for. Of two that hinder each other, the younger
  one steps back.
- Who cannot start beside the containers that are no sweep's holds up nobody: those may run for
  good.
- Tickets of a launcher that was killed, or is suspended, count for nothing: its process is gone, or
  it has not renewed them for STALE seconds.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from . import _capacity, _plan, _shortage
from ._capacity import Machine, Promise, Room
from ._engine import ContainerSpec, Engine, Occupant
from ._errors import EngineError
from ._interrupt import held_back
from ._option_values import NO_GPUS
from ._options import LABEL_PREFIX
from ._tickets import SAME, TICKET, Place, from_ticket, is_left, is_stale, this_process, to_ticket

log = logging.getLogger("hydra_docker_launcher")

BEAT = 20.0  # seconds after which a ticket is renewed
FIRST_PAUSE = 0.1  # seconds between two looks of whoever is the next one to get in
LONGEST_PAUSE = 0.5  # of all others
STOP_PATIENCE = 30.0  # seconds that the engine has to take tickets back
YIELD = 0.03  # seconds that a younger one gets to step back
YIELDS = 20  # times; it may be further than that, and start its container already
TOLD_AFTER = 1.0  # seconds that a job waits before its user is told why
TOLD_AGAIN = 10.0  # seconds at least between two reasons

#: How many seconds a container's job has waited for room.
WAITED = f"{LABEL_PREFIX}waited"


@dataclass(frozen=True, slots=True)
class Request:
    """A job's next attempt, as its sweep asks for it. ``key`` is nobody else's in the sweep.

    ``adjustable``: the job's options say what it asks for.
    """

    key: tuple[int, int]
    title: str
    spec: ContainerSpec
    adjustable: bool = True


# ---- what is there -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """What is promised on an engine, and who waits, as one launcher has found it."""

    machine: Machine
    running: tuple[Promise, ...]
    #: What of that is no sweep's: nobody knows when that ends.
    lasting: tuple[Promise, ...]
    unlimited: tuple[str, ...]
    #: The tickets, each once, the oldest first.
    places: tuple[Place, ...]

    def before(self, place: Place) -> tuple[Promise, ...]:
        """Return what comes before a ticket: all that is promised, and who waits longer."""
        others = [other for other in self.places if other.id != place.id]
        return (
            *self.running,
            *(other.promise for other in others if other.admitted),
            *(other.promise for other in self.ahead(place)),
        )

    def before_older(self, place: Place) -> tuple[Promise, ...]:
        """Return the same without what younger tickets are admitted to: they may step back."""
        admitted = [other for other in self.places if other.admitted and other < place]
        return (*self.running, *(other.promise for other in (*admitted, *self.ahead(place))))

    def ahead(self, place: Place) -> tuple[Place, ...]:
        """Return who waits longer than a ticket, and can start when the sweeps' jobs have ended."""
        return tuple(
            other
            for other in self.places
            if not other.admitted and other < place and not self.shut_out(other.promise)
        )

    def shut_out(self, promise: Promise) -> tuple[str, ...]:
        """Return what there is too little of beside the containers that are no sweep's alone.

        Who waits for that may wait forever.
        """
        if promise.gpus.count and not self.machine.gpus:  # how many there are nobody has told
            promise = replace(promise, gpus=NO_GPUS)
        return _capacity.room(self.machine, promise, self.lasting).short


def look(engine: Engine, machine: Machine, now: float, *, mine: Callable[[str], bool]) -> View:
    """Return what is promised now, and remove tickets of launchers that are gone."""
    # In this order: a ticket goes only when its container runs.
    tickets = engine.tickets(TICKET)
    occupants = engine.occupants()
    places = []
    for place in filter(None, map(from_ticket, tickets)):
        if mine(place.id) or not is_left(place, now):
            places.append(place)
        else:
            with suppress(EngineError):  # whoever looks next can do it
                engine.drop_ticket(place.name)
    return view(machine, places, occupants)


def watch(engine: Engine, machine: Machine) -> tuple[View, float]:
    """Return what is promised now, for somebody who only watches, and the engine's time."""
    tickets = engine.tickets(TICKET)
    now = engine.now()
    places = [place for place in map(from_ticket, tickets) if place and not is_left(place, now)]
    return view(machine, places, engine.occupants()), now


def view(machine: Machine, places: Iterable[Place], occupants: Sequence[Occupant]) -> View:
    """Return what tickets, of which one may be there twice, and containers say together."""
    known: dict[str, Place] = {}
    for place in places:
        other = known.get(place.id)
        if other is None or (place.admitted, place.seen) > (other.admitted, other.seen):
            known[place.id] = place
    # A container and its ticket are one promise.
    there = {tuple(occupant.labels.get(name) for name in SAME) for occupant in occupants}
    there = {attempt for attempt in there if None not in attempt}
    waiting = [place for place in known.values() if place.attempt not in there]
    return View(
        machine=machine,
        running=tuple(map(Promise.held_by, occupants)),
        lasting=tuple(map(Promise.held_by, filter(_is_lasting, occupants))),
        unlimited=_unlimited(occupants),
        places=tuple(sorted(waiting)),
    )


def _is_lasting(occupant: Occupant) -> bool:
    """Tell whether nobody knows when a container ends: it is no job, and no look into an image."""
    is_job = f"{LABEL_PREFIX}sweep" in occupant.labels
    return not is_job and _plan.SHORT_LIVED.fullmatch(occupant.name) is None


def _unlimited(occupants: Iterable[Occupant]) -> tuple[str, ...]:
    names = (
        occupant.name for occupant in occupants if occupant.cpus is None or occupant.memory is None
    )
    return tuple(sorted(names))


def _clock() -> float:
    """Return seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def reason(view: View, place: Place) -> str:
    """Return in words why a ticket waits, for somebody who only watches; empty: it may not."""
    wanted = place.promise
    if not view.machine.gpus:  # how many there are is not known here
        wanted = replace(wanted, gpus=NO_GPUS)
    lacking = view.shut_out(wanted)
    others = view.lasting if lacking else view.before(place)
    short = lacking or _capacity.room(view.machine, wanted, others).short
    if not short and place.promise.gpus:
        short = ("GPUs",)
    text = _shortage.describe(view.machine, others, short)
    return f"cannot start as it is: {text}" if lacking else text


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
        # Ctrl-C may come at any step of the main thread. To take a Lock, and to be bound to give it
        # back, is one step; with a Condition's own lock it is several, and the lock might stay.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
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
        with self._lock:
            if self._wish is None:
                self._wish = request
                self._changed.notify_all()
        if self._thread is None:
            with held_back():
                self._thread = threading.Thread(target=self._run, name="admission", daemon=True)
                self._thread.start()

    def answer(self) -> tuple[Request, ContainerSpec | EngineError] | None:
        """Return what came of the request: the container to start, or why that cannot be known."""
        with self._lock:
            return self._answer

    def taken(self) -> None:
        """Say that the answer was taken; the next job can be asked for."""
        with self._lock:
            self._wish = self._answer = None

    def over(self, key: tuple[int, int]) -> None:
        """Say that a job's container runs, or never will: its ticket has done its work."""
        with self._lock:
            self._over.append(key)
            self._changed.notify_all()

    def poke(self) -> None:
        """Say that something has ended: there may be room now."""
        with self._lock:
            self._poked = True
            self._changed.notify_all()

    def withdraw(self) -> None:
        """Ask for nothing any more; what was admitted and not taken is given back."""
        with self._lock:
            wish, self._wish, self._answer = self._wish, None, None
            if wish is not None:
                self._over.append(wish.key)
                self._changed.notify_all()

    def stop(self) -> None:
        """Take back all tickets, and end.

        An engine that hangs is not waited for: nobody counts tickets of a process that is over.
        """
        self.withdraw()
        with self._lock:
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
        return ticket is not None and self._is_there(ticket)

    def _is_there(self, ticket: _Ticket) -> bool:
        """Tell whether the others know of a ticket; one that is stale is nothing to them."""
        if is_stale(ticket.place, self._now()):
            return False
        return bool(self._engine.tickets(f"{TICKET}={ticket.place.id}"))

    # ---- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._lock:
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
        with self._lock:
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
        return look(self._engine, self._machine, self._now(), mine=lambda number: number in own)

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
        is_next = not view.ahead(place) and not view.shut_out(place.promise)
        return FIRST_PAUSE if is_next else LONGEST_PAUSE

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
            attempt=tuple(labels.get(name) for name in SAME),
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
            # Once lost, it may be promised to somebody else: ``holds`` says so to the job.
            if not ticket.place.admitted or self._is_there(ticket):
                self._post(ticket, ticket.place)

    def _drop_useless(self) -> None:
        """Remove tickets that have done their work; what cannot be removed now is later."""
        for name in list(self._useless):
            with suppress(EngineError):
                self._engine.drop_ticket(name)
                self._useless.remove(name)

    def _tell(self, wish: Request, place: Place, view: View, found: Room) -> None:
        """Tell the user once why a job waits, and again when that is another reason."""
        if self._now() - place.since < TOLD_AFTER:
            return
        wanted = place.promise
        lacking = view.shut_out(wanted)
        if lacking:
            text = _shortage.for_good(
                self._machine, wanted, view.lasting, lacking, adjustable=wish.adjustable
            )
            reason = ("for good", *_reason(lacking, view.lasting))
            self._say(logging.WARNING, reason, f"{wish.title} {text}")
            return
        before = view.before(place)
        own = [p for p in before if p.sweep is not None and p.sweep == wanted.sweep]
        others = [p for p in before if p.sweep is None or p.sweep != wanted.sweep]
        if not others or not _capacity.room(self._machine, wanted, own):
            return  # it waits for its own sweep's jobs, at least
        short = found.short or _capacity.room(self._machine, wanted, others).short
        if short:
            text = _shortage.describe(self._machine, others, short, view.unlimited)
            self._say(logging.INFO, _reason(short, others), f"{wish.title} waits: {text}")

    def _say(self, level: int, reason: tuple[str, ...], text: str) -> None:
        now = _clock()
        known, told_at = self._told
        if reason != known and now - told_at >= TOLD_AGAIN:
            self._told = reason, now
            log.log(level, "%s", text)


def _reason(short: Iterable[str], others: Iterable[Promise]) -> tuple[str, ...]:
    """Return what tells one reason to wait from another."""
    return (*short, *sorted({p.holder for p in others if _shortage.has(p, short)}))


@contextmanager
def held(
    engine: Engine,
    machine: Machine,
    spec: ContainerSpec,
    labels: tuple[tuple[str, str], ...] = (),
) -> Iterator[None]:
    """Wait until there is room for a container that is no job's, and hold that for the block.

    While the container runs, it is counted twice. ``labels`` tell which sweep waits. Raises
    ``EngineError``.
    """
    spec = replace(spec, labels=labels)
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()
    admission = Admission(engine, machine, lambda: woken.put(None))
    try:
        admission.ask(Request((-1, 1), "The look into the image", spec, adjustable=False))
        while (answer := admission.answer()) is None:
            with suppress(queue.Empty):
                woken.get(timeout=LONGEST_PAUSE)
        if isinstance(answer[1], EngineError):
            raise answer[1]
        yield
    finally:
        admission.stop()
