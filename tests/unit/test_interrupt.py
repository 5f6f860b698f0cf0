"""Interrupts: which signals count as Ctrl-C, and what is not torn apart by one."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hydra_plugins.hydra_docker_launcher._interrupt import (
    ENDING,
    held_back,
    noted,
    taken_as_ctrl_c,
)


@pytest.fixture(autouse=True)
def _handlers_stay():
    """The handlers are those of a plain program (coverage has its own), and stay what they are."""
    plain = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(ENDING, signal.SIG_DFL)}
    before = {number: signal.signal(number, handler) for number, handler in plain.items()}
    yield
    left = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert left == plain


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_ending_signals_count_as_ctrl_c(number: signal.Signals) -> None:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, which tells which of them it was."""
    with pytest.raises(KeyboardInterrupt, match=number.name), taken_as_ctrl_c():
        send(number)


def test_a_programs_own_handler_stays() -> None:
    """A program that handles SIGTERM itself goes on doing so."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with taken_as_ctrl_c():
            send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_held_back(number: signal.Signals) -> None:
    """What is begun comes to its end; then the signal does what it does."""
    done = []

    def work() -> None:
        send(number)
        done.append("the request")

    with pytest.raises(KeyboardInterrupt), taken_as_ctrl_c(), held_back():
        work()
    assert done == ["the request"]


def test_a_second_one_does_not_wait() -> None:
    """Who presses Ctrl-C twice gets the shell back, even where the engine hangs."""
    done = []

    def work() -> None:
        send(signal.SIGINT)
        done.append("one")
        send(signal.SIGINT)
        done.append("two")

    with pytest.raises(KeyboardInterrupt), held_back():
        work()
    assert done == ["one"]


def test_an_error_and_an_interrupt() -> None:
    """The interrupt wins over an error of the work; the error is its context."""

    def work() -> None:
        send(signal.SIGINT)
        raise ValueError("full")

    with pytest.raises(KeyboardInterrupt) as raised, held_back():
        work()
    assert isinstance(raised.value.__context__, ValueError)


def test_in_another_thread() -> None:
    """Only the main thread sees signals: elsewhere both are no hindrance."""
    done = []

    def work() -> None:
        with taken_as_ctrl_c(), held_back():
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["work"]


def test_without_a_signal() -> None:
    """Nothing came: nothing happens."""
    with taken_as_ctrl_c(), held_back():
        pass


def test_noted() -> None:
    """A signal that would interrupt is told of, by what the interrupt would say."""
    came: list[str] = []
    with taken_as_ctrl_c(), noted(came.append):
        for number in (signal.SIGINT, *ENDING):
            send(number)
    assert came == ["", "SIGTERM", "SIGHUP"]


def test_noted_but_for_a_programs_own_handler() -> None:
    """It goes on handling its signal."""
    seen: list[object] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with taken_as_ctrl_c(), noted(seen.append):
            send(signal.SIGTERM)
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM, "SIGHUP"]
