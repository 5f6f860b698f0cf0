"""Interrupts: which signals count as Ctrl-C, and what must not be torn apart by one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


class Detached(KeyboardInterrupt):
    """An interrupt has ended the launcher's watch; the containers run on."""


#: They would end this process at once, and leave its containers.
ENDING = (signal.SIGTERM, signal.SIGHUP)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return what a shell gives a process that a signal has ended: 128 + its number."""
    name = str(interrupt)
    ended = signal.Signals[name] if name in signal.Signals.__members__ else signal.SIGINT
    return 128 + ended


@contextmanager
def taken_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``KeyboardInterrupt``, with the signal's name as its text.

    Where the program handles one itself, that stays.
    """
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def noted(came: Callable[[str], None]) -> Iterator[None]:
    """Have ``came`` called at each signal that would interrupt, which does nothing else then.

    It is given what ``str`` of the ``KeyboardInterrupt`` would be, and may be called between any
    two steps of the main thread. Where the program handles a signal itself, that stays.
    """

    def note(number: int, _frame: FrameType | None) -> None:
        came("" if number == signal.SIGINT else signal.Signals(number).name)

    raising = (signal.default_int_handler, _interrupt)
    before = {number: act for number, act in _handlers().items() if act in raising}
    with _instead_of(before, note):
        yield


@contextmanager
def ignored() -> Iterator[None]:
    """Let no signal interrupt the block, which ends by itself within seconds.

    A terminal that is closed sends SIGHUP more than once: the kernel does, and so does the shell.
    """
    with noted(lambda _: None):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Let a signal that would interrupt take effect only behind the block; a second one at once.

    The engine carries out a request even where nobody waits for its answer any more: what it has
    made then could not be removed.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            before[number](number, frame)

    before = _handlers()
    try:
        with _instead_of(before, note):
            yield
    finally:
        if len(came) == 1:
            before[came[0]](came[0], None)


def _handlers() -> dict[int, Handler]:
    """Return what handles the signals that would interrupt; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    return {int(number): act for number, act in found.items() if callable(act)}


@contextmanager
def _instead_of(handlers: Mapping[int, Handler], note: Handler) -> Iterator[None]:
    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
