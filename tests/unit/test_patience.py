"""What the engine cannot do for the moment is asked for again; the user is told once."""

from __future__ import annotations

import logging
import threading

import pytest

from hydra_plugins.hydra_docker_launcher._errors import EngineError
from hydra_plugins.hydra_docker_launcher._patience import (
    ANSWERED_PATIENCE,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SILENT_PATIENCE,
    Patience,
)

SILENT = EngineError("no engine answers\nStart it.", transient=True, answered=False)
BROKEN = EngineError("it could not do it", transient=True)
REFUSED = EngineError("there is no such image")


class Clock:
    """A time that only passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


class Script:
    """A request that fails as it is told, then returns "done"."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = [*errors]
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def fails_with(error: EngineError) -> Script:
    """Return a request that never comes to an end of its failures."""
    return Script(*[error] * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock, caplog: pytest.LogCaptureFixture) -> Patience:
    caplog.set_level(logging.INFO)
    return Patience(clock, clock.sleep)


def test_no_outage(patience, clock, caplog):
    """What works, and what is refused, is asked once; nobody is told anything."""
    assert patience.ask(Script()) == "done"
    refused = Script(REFUSED)
    with pytest.raises(EngineError, match="no such image"):
        patience.ask(refused)
    assert (refused.asked, clock.sleeps, caplog.messages) == (1, [], [])


def test_outage(patience, clock, caplog):
    """The pauses grow; the user is told of the outage and of its end."""
    assert patience.ask(Script(*[SILENT] * 8)) == "done"
    assert clock.sleeps == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
    assert (clock.sleeps[0], clock.sleeps[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)
    assert caplog.messages == [
        "no engine answers; trying again for up to 120 s",
        "The engine works again",
    ]


@pytest.mark.parametrize(
    ("error", "limit"), [(SILENT, SILENT_PATIENCE), (BROKEN, ANSWERED_PATIENCE)]
)
def test_end_of_patience(patience, clock, caplog, error, limit):
    """When the time is over, the error comes through; that it works again is not said."""
    with pytest.raises(EngineError) as raised:
        patience.ask(fails_with(error))
    assert raised.value is error
    assert sum(clock.sleeps) == limit
    assert len(caplog.messages) == 1


def test_refused_after_an_outage(patience, clock):
    """A refusal ends it at once."""
    with pytest.raises(EngineError, match="no such image"):
        patience.ask(Script(SILENT, BROKEN, REFUSED))
    assert len(clock.sleeps) == 2
    assert patience.ask(Script()) == "done"


def test_asked_in_another_way_again(patience):
    """From the second time on it is ``again`` that is asked."""
    first, second = Script(SILENT), Script(SILENT, SILENT)
    assert patience.ask(first, again=second) == "done"
    assert (first.asked, second.asked) == (1, 3)


def test_one_time_for_all(patience, clock):
    """While the engine gives no answer, nobody waits longer than the first who has asked."""
    for _ in range(3):
        with pytest.raises(EngineError):
            patience.ask(fails_with(SILENT))
    assert sum(clock.sleeps) == SILENT_PATIENCE
    assert patience.ask(Script()) == "done"
    assert patience.ask(Script(SILENT, SILENT)) == "done"


def test_own_time_where_it_answers(patience, clock):
    """Where it answers with errors, each request has its own time: others may fare better."""
    for _ in range(2):
        with pytest.raises(EngineError):
            patience.ask(fails_with(BROKEN))
    assert sum(clock.sleeps) == 2 * ANSWERED_PATIENCE


def test_starting_engine(patience, clock):
    """An engine that is silent, then answers with errors, is one that starts: it has the time."""
    assert patience.ask(Script(*[SILENT] * 9, *[BROKEN] * 5)) == "done"
    assert ANSWERED_PATIENCE < sum(clock.sleeps) < SILENT_PATIENCE


def test_answer_from_before(patience, clock, caplog):
    """Who had asked before the outage and is answered in it does not end it."""

    def answered_late() -> str:
        clock.now += 1
        with pytest.raises(KeyboardInterrupt):  # the outage begins, and goes on
            patience.ask(Script(SILENT), again=Script(KeyboardInterrupt()))
        return "done"

    assert patience.ask(answered_late) == "done"
    assert patience.ask(Script(SILENT)) == "done"
    assert caplog.messages == [
        "no engine answers; trying again for up to 120 s",
        "The engine works again",
    ]


def test_long_after_an_outage(patience, clock, caplog):
    """Who asks long after somebody gave up has the whole time again."""
    with pytest.raises(EngineError):
        patience.ask(fails_with(SILENT))
    clock.now += SILENT_PATIENCE + 1
    assert patience.ask(Script(SILENT)) == "done"
    assert len(caplog.messages) == 3


@pytest.mark.parametrize("error", [SILENT, BROKEN])
def test_told_once(caplog, error):
    """Eight threads in one outage: one word of it, one of its end."""
    caplog.set_level(logging.INFO)
    everybody = threading.Barrier(8)
    patience = Patience(sleep=lambda _: None)

    def request() -> str:
        if not failed.get(threading.get_ident()):
            failed[threading.get_ident()] = True
            raise error
        everybody.wait(10)  # each has failed before any goes on
        return "done"

    failed: dict[int, bool] = {}
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(patience.ask(request))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == ["done"] * 8
    assert [message.partition(";")[0] for message in caplog.messages] == [
        str(error).partition("\n")[0],
        "The engine works again",
    ]


def test_interrupted(clock, caplog):
    """Ctrl-C ends the waiting, and the outage with it where nobody else waits."""
    caplog.set_level(logging.INFO)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    patience = Patience(clock, interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            patience.ask(fails_with(BROKEN))
    assert caplog.messages == ["it could not do it; trying again for up to 30 s"] * 2
