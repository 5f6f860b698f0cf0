"""Sampling: one thread measures all containers of a launcher, now and then, for next to nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import _usage
from ._attempt import RunnableJob
from ._engine import ContainerSpec, Engine, Sample
from ._errors import EngineError

log = logging.getLogger("hydra_docker_launcher")

SHARE = 0.005  # of one core, that measuring all containers may take
#: An engine that is asked works as well, and more than who asks it (benchmarks/usage.py).
BOTH = 4
LONGEST_PAUSE = 60.0  # seconds between two samples, also where samples are dear
#: A container is measured before its time, where others are measured anyway: by this part of it.
EARLY = 0.1
SMOOTHING = 0.2  # weight of the newest of the costs

#: Takes a sample of a job: its container, and when that was started (in seconds since the epoch).
Take = Callable[[RunnableJob, str, float, Sample], None]


@dataclass(slots=True)
class _Measured:
    job: RunnableJob
    container: str
    spec: ContainerSpec
    #: In seconds since the epoch.
    started: float
    #: When it is next measured, in ``time.monotonic``'s seconds.
    due: float
    pause: float


class Sampler:
    """Measures the containers of jobs, and hands the samples to ``take``.

    The thread is there as long as there is a container. All methods return at once.
    """

    def __init__(self, engine: Engine, take: Take) -> None:
        self._engine = engine
        self._take = take
        self._jobs: dict[int, _Measured] = {}
        #: Seconds of CPU time that a sample takes.
        self._cost = 0.0
        self._running = False
        self._closed = False
        self._told = False
        # Of a lock that Ctrl-C cannot leave taken, unlike a Condition's own.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def add(
        self, job: RunnableJob, container: str, spec: ContainerSpec, started: float | None
    ) -> None:
        """Begin to measure; ``started`` in seconds since the epoch, None: now."""
        now = time.time()
        started = now if started is None else min(started, now)
        with self._lock:
            if self._closed:
                return
            pause = self._pause(now - started)
            due = time.monotonic() + min(pause, _usage.pause(0))
            self._jobs[job.number] = _Measured(job, container, spec, started, due, pause)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="sampler", daemon=True).start()
            self._changed.notify_all()

    def remove(self, number: int) -> None:
        """Measure the container of a job no more; once more is no error."""
        with self._lock:
            self._jobs.pop(number, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Measure nothing any more."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        awake = False
        while True:
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
                first = min(self._jobs.values(), key=lambda measured: measured.due)
                wait = first.due - time.monotonic()
                if wait > (EARLY * first.pause if awake else 0.0):
                    awake = False
                    self._changed.wait(wait)
                    continue
            awake = True
            self._measure(first)

    def _measure(self, it: _Measured) -> None:
        begin = time.thread_time()
        try:
            sample = self._engine.measure(it.container, it.spec)
            with self._lock:
                still = self._jobs.get(it.job.number) is it
            if sample is not None and still:
                self._take(it.job, it.container, it.started, sample)
        except EngineError:
            pass  # it is away; who watches the job says so
        except Exception as error:  # noqa: BLE001  (an engine with words of its own; jobs go on)
            if not self._told:
                log.warning("What jobs use cannot be measured: %r", error)
            self._told = True
        cost = BOTH * (time.thread_time() - begin)
        with self._lock:
            self._cost = self._cost + SMOOTHING * (cost - self._cost) if self._cost else cost
            it.pause = self._pause(time.time() - it.started)
            it.due = time.monotonic() + it.pause

    def _pause(self, age: float) -> float:
        """Return the seconds to the next sample: longer where samples are dear, or many."""
        affordable = self._cost * max(1, len(self._jobs)) / SHARE
        return min(LONGEST_PAUSE, max(_usage.pause(age), affordable))
