"""Shortage: why a job waits, in words for its user. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ._capacity import Machine, Promise
from ._harmless import one_line
from ._units import show_size

NAMED = 4  # holders that a message names at most
#: What a job asks for of each kind.
OPTIONS = {"CPUs": "cpus", "memory": "mem_limit", "GPUs": "gpus"}


def has(promise: Promise, kinds: Iterable[str]) -> bool:
    """Tell whether somebody has some of what there is too little of."""
    there = {"CPUs": promise.cpus > 0, "memory": promise.memory > 0, "GPUs": bool(promise.gpus)}
    return any(there[kind] for kind in kinds)


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
        names = [f"{one_line(name)} ({_shown(kind, amounts[name])})" for name in largest[:NAMED]]
        more = len(largest) - len(names)
        total, whole = sum(amounts.values()), _whole(machine, kind)
        of = (
            f" of {_shown(kind, whole)}" if whole else ""
        )  # nobody may know how many GPUs there are
        held = "promised to others" + (" or asked for before" if whole and total > whole else "")
        parts.append(
            f"{_shown(kind, total)}{of}{_unit(kind)} {held}"
            f"{': ' if names else ''}{', '.join(names)}{f' and {more} more' if more > 0 else ''}"
        )
    free = list(unlimited)
    if free:
        parts.append(f"without limits, and not counted: {', '.join(map(one_line, free[:NAMED]))}")
    return "; ".join(parts)


def for_good(
    machine: Machine,
    wanted: Promise,
    lasting: Iterable[Promise],
    short: tuple[str, ...],
    *,
    adjustable: bool,
) -> str:
    """Return in words why a container cannot start as long as others run, and what to do.

    ``lasting`` are containers that nobody knows the end of. ``adjustable``: options of the job say
    what ``wanted`` is.
    """
    holders = sorted({other.holder for other in lasting if has(other, short)})
    named = " and ".join(map(one_line, holders[:NAMED]))
    rest = len(holders) - NAMED
    named += f" and {rest} more" if rest > 0 else ""
    one = len(holders) == 1
    stop = f"stop {'it' if one else 'them'}"
    if adjustable:
        lower = " and ".join(f"hydra.launcher.{OPTIONS[kind]}" for kind in short)
        remedy = f"Lower {lower}, or {stop}"
    else:
        remedy = f"{stop.capitalize()}, or set hydra.launcher.admission=sweep"
    return (
        f"cannot start while {named} {'runs' if one else 'run'}: it asks for "
        f"{wish(machine, wanted, short)}, but {describe(machine, lasting, short)}. {remedy}. "
        "Others do not wait for it meanwhile"
    )


def wish(machine: Machine, wanted: Promise, kinds: Iterable[str] = tuple(OPTIONS)) -> str:
    """Return in words what a container asks for, such as ``2 CPUs, 8g of memory``."""
    parts = []
    for kind in kinds:
        amount = _amount(machine, wanted, kind)
        if kind == "GPUs" and wanted.gpus.all:
            parts.append("all GPUs")
        elif amount:
            unit = "of memory" if kind == "memory" else kind if amount != 1 else kind[:-1]
            parts.append(f"{_shown(kind, amount)} {unit}")
    return ", ".join(parts)


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
