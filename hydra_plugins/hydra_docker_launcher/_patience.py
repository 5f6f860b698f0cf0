"""Patience: what the engine cannot do for the moment is asked for again, for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ._errors import EngineError

log = logging.getLogger("hydra_docker_launcher")

T = TypeVar("T")

SILENT_PATIENCE = 120.0  # seconds, where the engine gives no answer: it may be starting again
ANSWERED_PATIENCE = 30.0  # seconds, where it answers with an error of its own
FIRST_PAUSE = 0.25  # seconds before a request is made again; doubled each time
LONGEST_PAUSE = 8.0  # seconds


@dataclass(slots=True)
class _Outage:
    """A time in which requests fail, by the clock."""

    since: float
    latest: float
    #: The engine answers, with errors.
    answered: bool


class Patience:
    """Asks again, from any number of threads, and tells the user once of each outage.

    ``clock`` and ``sleep`` are in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._outage: _Outage | None = None
        self._waiting = 0

    def ask(self, request: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        """Return what ``request`` returns; ask again while its ``EngineError`` is transient.

        ``again`` is asked instead from the second time on: the engine may have carried out a
        request whose answer got lost. Raises the newest error when the time is over.
        """
        try:
            return self._once(request)
        except EngineError as error:
            if not error.transient:
                raise
            return self._insist(again or request, error)

    def _once(self, request: Callable[[], T]) -> T:
        asked = self._clock()
        try:
            answer = request()
        except EngineError as error:
            if not error.transient:
                self._answered(asked)
            raise
        self._answered(asked)
        return answer

    def _insist(self, request: Callable[[], T], error: EngineError) -> T:
        first = self._clock()
        pause = FIRST_PAUSE
        with self._wait():
            while True:
                rest = self._rest(error, first)
                if rest <= 0:
                    raise error
                self._sleep(min(pause, rest))
                pause = min(2 * pause, LONGEST_PAUSE)
                try:
                    return self._once(request)
                except EngineError as failure:
                    if not failure.transient:
                        raise
                    error = failure

    def _rest(self, error: EngineError, first: float) -> float:
        """Take note of a failure of a request that failed ``first`` at that time.

        Returns for how many seconds it may be asked again; 0 or less: no more.
        """
        with self._lock:
            now = self._clock()
            # Nobody may have asked since it ended.
            if self._outage is None or now - self._outage.latest > SILENT_PATIENCE:
                self._outage = _Outage(now, now, error.answered)
                limit = ANSWERED_PATIENCE if error.answered else SILENT_PATIENCE
                what = str(error).partition("\n")[0]
                log.warning("%s; trying again for up to %g s", what, limit)
            outage = self._outage
            outage.latest = now
            outage.answered = outage.answered and error.answered
            if outage.answered:
                return first + ANSWERED_PATIENCE - now
            # It gives no answer to anybody: one time for all.
            return min(first, outage.since) + SILENT_PATIENCE - now

    def _answered(self, asked: float) -> None:
        """Take note of an answer: the end of an outage in which there was none.

        Who had ``asked`` before it began may still get one.
        """
        with self._lock:
            outage = self._outage
            if outage is not None and not outage.answered and asked >= outage.since:
                self._end_outage(back=True)

    @contextmanager
    def _wait(self) -> Iterator[None]:
        """Count the requests that are asked again; with the last one an outage with errors ends."""
        with self._lock:
            self._waiting += 1
        back = False
        try:
            yield
            back = True
        except EngineError as error:
            back = not error.transient
            raise
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting and self._outage is not None and self._outage.answered:
                    self._end_outage(back=back)

    def _end_outage(self, *, back: bool) -> None:
        self._outage = None
        if back:
            log.info("The engine works again")
