"""Tickets: what launchers keep on their engine to agree who may start a container.

A ticket is an empty volume. Its labels say what a job wants, since when it waits, and whose it is.
Anybody who can use the engine can make one: what is in it is not trusted to be well formed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ._capacity import Promise
from ._engine import Engine, Ticket
from ._errors import EngineError
from ._option_values import Gpus
from ._options import LABEL_PREFIX

STALE = 90.0  # seconds without renewal after which a ticket counts no more
LARGEST = 2**62  # bytes, seconds or whatever else a ticket names

TICKET = f"{LABEL_PREFIX}ticket"
_PREFIX = f"{TICKET}."
#: Labels that tell which attempt of which job a container, or a ticket, is for.
SAME = tuple(f"{LABEL_PREFIX}{name}" for name in ("sweep", "job", "attempt"))
_USER, _FOLDER = f"{LABEL_PREFIX}user", f"{LABEL_PREFIX}folder"


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
    #: Whose sweep it is of, and where that has its outputs; empty: not told.
    user: str = ""
    folder: str = ""

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
    named = {_USER, _FOLDER, *SAME}
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
            since=_number(own("since")),
            seen=_number(own("seen")),
            admitted=own("state") == "admitted",
            process=own("process"),
            promise=Promise(
                holder=own("holder"),
                sweep=labels.get(f"{LABEL_PREFIX}sweep"),
                cpus=_number(own("cpus")),
                memory=_count(own("memory")),
                gpus=gpus_of(own("gpus")),
                shared=own("shared") == "yes",
            ),
            attempt=tuple(labels.get(name) for name in SAME),
            user=labels.get(_USER, ""),
            folder=labels.get(_FOLDER, ""),
        )
    except (KeyError, ValueError):
        return None


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number <= LARGEST:  # NaN is not either
        raise ValueError(f"{text} is no number to reckon with")
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= LARGEST:
        raise ValueError("that is no number to reckon with")
    return number


def gpus_text(gpus: Gpus) -> str:
    return "all" if gpus.all else f"ids:{','.join(gpus.ids)}" if gpus.ids else str(gpus.count)


def gpus_of(text: str) -> Gpus:
    if text.startswith("ids:"):
        return Gpus(ids=tuple(text.removeprefix("ids:").split(",")))
    return Gpus(all=True) if text == "all" else Gpus(count=_count(text))


# ---- launchers that are gone ---------------------------------------------------------------------


def left(engine: Engine) -> Iterator[Place]:
    """Yield the tickets of launchers that are gone. Raises ``EngineError``."""
    tickets = engine.tickets(TICKET)
    now = engine.now() if tickets else 0.0
    for place in filter(None, map(from_ticket, tickets)):
        if is_left(place, now):
            yield place


def drop_left(engine: Engine) -> None:
    """Remove the tickets of launchers that are gone, as far as that can be done now."""
    with suppress(EngineError):  # whoever looks next can do it
        for place in left(engine):
            engine.drop_ticket(place.name)


def is_left(place: Place, now: float) -> bool:
    """Tell whether the launcher that a ticket belongs to is gone, or does not look after it.

    That may be one that was suspended: it asks again when it goes on.
    """
    return is_stale(place, now) or is_alive(place.process) is False


def is_stale(place: Place, now: float) -> bool:
    """Tell whether a ticket was not renewed in time; none is from the future."""
    return abs(now - place.seen) > STALE


def this_process() -> str:
    """Return what tells this process from all others: the machine's start, its pid, its start."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_alive(process: str) -> bool | None:
    """Tell whether a process runs; None where that cannot be seen from here."""
    machine, _, rest = process.partition(" ")
    pid, _, started = rest.partition(" ")
    if not machine or machine != _machine() or not _is_pid(pid):
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    now = _started(int(pid))
    return None if now is None else now == started


def _is_pid(text: str) -> bool:
    """Tell whether that can be a process: 0 would be this one's whole group."""
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0


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
