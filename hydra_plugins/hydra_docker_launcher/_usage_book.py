"""Usage book: what the jobs of a sweep use, as they run; sent and saved now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ._engine import ContainerSpec, Sample
from ._errors import DockerLauncherError
from ._usage import MOST, NODE, NODE_VARIABLE, PREFIX, Meter, Point, Used

log = logging.getLogger("hydra_docker_launcher")

ROUND = 60.0  # seconds from one round to the next, at least
SHARE = 0.003  # of one core, that a round may take: the more jobs, the longer it lasts


@dataclass(frozen=True, slots=True)
class SavedUsage:
    """What is known of jobs that run: their meters, and points that are not sent yet."""

    meters: Mapping[int, Meter] = field(default_factory=dict)
    points: Mapping[int, tuple[Point, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class _Running:
    """A container that may be measured. ``meter`` is None until it was."""

    container: str
    attempt: int
    spec: ContainerSpec
    meter: Meter | None = None


class UsageBook:
    """Keeps a meter for each job that runs, by the jobs' numbers.

    ``send`` logs points of a job and tells whether it is done with them; ``save`` writes down what
    another process would go on with. Both are called in a thread that only lives for one round, so
    that nothing waits for them. All methods may be called from several threads.
    """

    def __init__(
        self,
        send: Callable[[int, Sequence[Point]], bool],
        save: Callable[[SavedUsage], None],
    ) -> None:
        self._send = send
        self._save = save
        self._running: dict[int, _Running] = {}
        self._points: dict[int, tuple[Point, ...]] = {}
        self._restored: Mapping[int, Meter] = {}
        #: When the next round begins, in time.monotonic's seconds.
        self._next = time.monotonic() + ROUND
        self._round: threading.Thread | None = None
        self._closed = False
        self._over = threading.Event()
        self._told = False
        self._lock = threading.Lock()

    def restore(self, saved: SavedUsage) -> None:
        """Go on with what another process has saved."""
        with self._lock:
            self._restored = saved.meters
            self._points.update(saved.points)

    def open(self, number: int, container: str, attempt: int, spec: ContainerSpec) -> None:
        """Take samples of a container from here on."""
        with self._lock:
            meter = self._restored.get(number)
            known = meter if meter is not None and meter.container == container else None
            self._running[number] = _Running(container, attempt, spec, known)

    def add(self, number: int, container: str, started: float, sample: Sample) -> None:
        """Take in a sample; one of a container that has ended is left out.

        ``started`` in seconds since the epoch.
        """
        with self._lock:
            job = self._running.get(number)
            if job is None or job.container != container or self._closed:
                return
            if job.meter is None:
                job.meter = _meter(job, started)
            self._keep(number, job.meter.add(sample))
            if time.monotonic() < self._next or self._round is not None:
                return
            self._round = threading.Thread(target=self._do_round, name="usage", daemon=True)
            self._round.start()

    def close_attempt(self, number: int) -> Used | None:
        """Return what the attempt of a job has used that has ended, None where nobody has looked.

        Its points stay for the job's next attempt.
        """
        with self._lock:
            job = self._running.pop(number, None)
            if job is None or job.meter is None:
                return None
            self._keep(number, job.meter.last())
            return job.meter.used()

    def end(self, number: int) -> tuple[Used | None, tuple[Point, ...]]:
        """Return what the last attempt of a job has used, and the points that are not sent."""
        used = self.close_attempt(number)
        with self._lock:
            return used, self._points.pop(number, ())

    def close(self) -> None:
        """Save all for the next process; nothing is taken in, sent or saved from here on."""
        with self._lock:
            if not self._closed and (self._running or self._points):
                self._write()
            self._closed = True
            self._over.set()

    def _keep(self, number: int, point: Point | None) -> None:
        if point is not None:
            points = (*self._points.get(number, ()), point)
            # Only where attempt follows on attempt, and the store is away.
            self._points[number] = points[::2] if len(points) > MOST else points

    def _do_round(self) -> None:
        begin = time.monotonic()
        try:
            with self._lock:
                waiting = [number for number, points in self._points.items() if points]
            for number in waiting:
                if self._over.is_set() or not self._at_leisure(partial(self._send_one, number)):
                    break
            self._at_leisure(self._save_all)
        finally:
            with self._lock:
                self._next = max(time.monotonic(), begin + ROUND)
                self._round = None

    def _at_leisure(self, work: Callable[[], bool]) -> bool:
        """Do a piece of work, and rest so long that all of them take no more than their share."""
        begin = time.thread_time()
        done = work()
        self._over.wait((time.thread_time() - begin) / SHARE)
        return done

    def _send_one(self, number: int) -> bool:
        with self._lock:
            points = self._points.get(number, ())
        if not points:
            return True  # the job has ended meanwhile, and has taken them with it
        if not self._send(number, points):
            return False
        with self._lock:
            now = self._points.get(number, ())
            if now[: len(points)] == points:  # else it was thinned out meanwhile
                self._points[number] = now[len(points) :]
        return True

    def _save_all(self) -> bool:
        with self._lock:
            if not self._closed:
                self._write()
        return True

    def _write(self) -> None:
        meters = {number: job.meter for number, job in self._running.items() if job.meter}
        points = {number: points for number, points in self._points.items() if points}
        try:
            self._save(SavedUsage(meters, points))
        except DockerLauncherError as error:
            if not self._told:
                log.warning("%s\nWhat jobs use is not saved for the case of a fault.", error)
            self._told = True


def _meter(job: _Running, started: float) -> Meter:
    own = dict(job.spec.environment).get(NODE_VARIABLE, "").lower() in ("true", "1")
    return Meter(
        container=job.container,
        attempt=job.attempt,
        started=started,
        cpus=job.spec.limits.cpus,
        memory=job.spec.limits.memory,
        prefix=f"{PREFIX}{NODE}" if own else PREFIX,
    )
