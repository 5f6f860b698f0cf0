"""Running: containers are started as capacity allows, watched, timed out, stopped."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from . import _outcome
from ._capacity import Capacity
from ._engine import ContainerSpec, ContainerState, Engine
from ._errors import DockerLauncherError, EngineError
from ._evidence import is_final
from ._options import NO_RETRIES, Retries
from ._outcome import End, Outcome
from ._paths import JobPaths
from ._symptoms import LAST_LINES

log = logging.getLogger("hydra_docker_launcher")

POLL = 0.1  # seconds between two looks at a container whose output has ended
ENGINE_RETRIES = 5  # times an engine that does not answer is asked again
ENGINE_BACKOFF = 1.0  # seconds before the first of them; doubled each time
#: Seconds. A Ctrl-C that comes just before Python begins to wait is only seen after the wait.
LONGEST_WAIT = 1.0
FINAL_POLICIES = ("always", "unless-stopped")


@dataclass(frozen=True, slots=True)
class RunnableJob:
    """A planned job. ``timeout`` in seconds.

    ``spec`` is the plan's; what an attempt adds to it (its number, more memory) follows from
    ``attempt`` and ``earlier``, which is how the attempts before it have ended.
    """

    number: int
    title: str
    spec: ContainerSpec
    paths: JobPaths
    timeout: float | None
    retries: Retries = NO_RETRIES
    attempt: int = 1
    earlier: tuple[End, ...] = ()
    #: The container that exists for this attempt already: it is watched, none is created.
    container: str | None = None
    #: When this attempt was first started, in seconds since the epoch; None: its time begins now.
    started_at: float | None = None


class Recorder(Protocol):
    """Is told of every job, from the thread of that job."""

    def starting(self, job: RunnableJob, spec: ContainerSpec) -> ContainerSpec:
        """Write down that the job starts; return its final specification."""

    def started(self, job: RunnableJob, spec: ContainerSpec, container: str) -> None:
        """Write down which container runs the job."""

    def output(self, job: RunnableJob, text: str) -> None:
        """Show one line of the job's output."""

    def attempted(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
        delay: float,
    ) -> None:
        """Write down how this attempt has ended; the next one starts in ``delay`` seconds."""

    def ended(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
    ) -> None:
        """Write down how the job has ended: its last attempt."""


class _Running:
    """One job that runs in a thread of its own."""

    def __init__(
        self,
        job: RunnableJob,
        spec: ContainerSpec,
        engine: Engine,
        recorder: Recorder,
        keep: str,
        done: Callable[[int], None],
    ) -> None:
        self.job = job
        self.deadline: float | None = None
        self.outcome = _outcome.not_started("it was never started")
        self._spec = spec
        self._engine = engine
        self._recorder = recorder
        self._keep = keep
        self._done = done
        self._container: str | None = None
        self._started = False
        self._told_to_stop = False
        self._gave_up = False
        self._timed_out: str | None = None
        self._stopped_by: str | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"job-{job.number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def time_out(self) -> None:
        """End the container because its time is over."""
        self.deadline = None
        minutes = (self.job.timeout or 0) / 60
        self._end(timed_out=f"ran longer than timeout_min={minutes:g}")

    def stop(self, reason: str, *, now: bool = False) -> None:
        """End the container: SIGTERM, and SIGKILL after its grace period (``now``: at once)."""
        self._end(stopped_by=reason, now=now)

    def _end(
        self, timed_out: str | None = None, stopped_by: str | None = None, now: bool = False
    ) -> None:
        with self._lock:
            self._timed_out = self._timed_out or timed_out
            self._stopped_by = self._stopped_by or stopped_by
            container = self._container
        if container is not None and (now or not self._told_to_stop):
            self._stop_later(container, 0 if now else self._spec.stop_grace_period)

    def _stop_later(self, container: str, grace: float) -> None:
        threading.Thread(target=self._stop_container, args=(container, grace)).start()
        self._told_to_stop = True

    def _stop_container(self, container: str, grace: float) -> None:
        try:
            self._engine.stop(container, grace)
        except EngineError:
            return  # the thread that watches it will see what has become of it

    def _run(self) -> None:
        state: ContainerState | None = None
        try:
            state = self._to_its_end()
        except DockerLauncherError as error:
            self._give_up(str(error))
        except Exception as error:  # noqa: BLE001  (nothing of a job may be lost with its thread)
            self._give_up(f"{type(error).__name__}: {error}")
        try:
            _record_end(self._recorder, self.job, self.outcome, self._container, state)
            self._remove_secrets()
            self._clean_up()
        except Exception as error:  # noqa: BLE001  (the job has ended; the others go on)
            log.warning("%s: cannot clean up: %s", self.job.title, error)
        finally:
            self._done(self.job.number)

    def _give_up(self, reason: str) -> None:
        self._gave_up = True
        if self._started:
            self.outcome = _outcome.stopped(f"the launcher could not go on watching it: {reason}")
        else:
            self.outcome = _outcome.not_started(reason)
        if self._container is not None:
            self._stop_container(self._container, self._spec.stop_grace_period)

    def _to_its_end(self) -> ContainerState | None:
        spec = self._spec = self._recorder.starting(self.job, self._spec)
        with _new_file(self.job.paths.log) as log:
            return self._run_container(spec, log)

    def _run_container(self, spec: ContainerSpec, log: BinaryIO) -> ContainerState | None:
        container = self._engine.create(spec)
        with self._lock:
            self._container = container
            called_off = self._stopped_by
        if called_off:
            self.outcome = _outcome.stopped(called_off)
            return None
        self._recorder.started(self.job, spec, container)
        try:
            self._engine.start(container)
        except EngineError as error:
            self.outcome = _outcome.not_started(str(error))
            return None
        with self._lock:
            self._started = True
            called_off = self._stopped_by
        if called_off:  # while it was being started; to stop it then was too early
            self._stop_later(container, self._spec.stop_grace_period)
        if self.job.timeout is not None:
            self.deadline = time.monotonic() + self.job.timeout
            self._done(-1)  # wakes the scheduler, which has a new deadline
        try:
            state = self._watch(container, log)
        except EngineError as error:
            lost = _outcome.lost(f"the engine has stopped to answer: {error}")
            self.outcome = _outcome.stopped(self._stopped_by) if self._stopped_by else lost
            return None
        self.outcome = _outcome.decide(
            state,
            _outcome.read_result(self.job.paths.result),
            spec=spec,
            lines=_outcome.last_lines(self.job.paths.log, LAST_LINES),
            timed_out=self._timed_out,
            stopped_by=self._stopped_by,
        )
        return state

    def _watch(self, container: str, log: BinaryIO) -> ContainerState | None:
        """Copy the container's output until it has ended for good, through restarts.

        Raises ``EngineError`` where the engine does not answer for too long.
        """
        since: str | None = None
        failures = 0
        while True:
            try:
                for line in self._engine.log_lines(container, since):
                    failures = 0
                    log.write(line + b"\n")
                    log.flush()
                    stamp, _, text = line.partition(b" ")
                    since = max(since or "", stamp.decode("ascii", "replace"))
                    self._recorder.output(self.job, text.decode("utf-8", "replace"))
                state = self._engine.state(container)
                if state is None or not state.running:
                    return state
                if self._spec.restart.name in FINAL_POLICIES and self._has_ended():
                    return self._stop_restarting(container)
            except EngineError:
                failures += 1
                if failures > ENGINE_RETRIES:
                    raise
                time.sleep(ENGINE_BACKOFF * 2 ** (failures - 1))
            else:
                time.sleep(POLL)

    def _has_ended(self) -> bool:
        return is_final(_outcome.read_result(self.job.paths.result))

    def _stop_restarting(self, container: str) -> ContainerState | None:
        """End a container whose job has come to its end, but whose policy starts it again."""
        self._engine.stop(container, self._spec.stop_grace_period)
        state = self._engine.state(container)
        result = _outcome.read_result(self.job.paths.result)
        return None if state is None else _outcome.before_restart(state, result)

    def _clean_up(self) -> None:
        # Who stops a job knows why it ended, and has no use for its container.
        stopped = self.outcome.end is End.STOPPED and not self._gave_up
        failed = self.outcome.end is not End.COMPLETED and not stopped
        kept = self._keep == "all" or (self._keep == "failed" and failed)
        if self._container is not None and not kept:
            self._engine.remove(self._container)
        if self._container is None or not kept:
            self.job.paths.job.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self.job.paths.secrets.rmdir()

    def _remove_secrets(self) -> None:
        """Remove the files; a container that is kept has the folder mounted still."""
        folder = self.job.paths.secrets
        for file in folder.iterdir() if folder.is_dir() else ():
            file.unlink()


def run_jobs(
    jobs: Sequence[RunnableJob],
    *,
    engine: Engine,
    capacity: Capacity,
    recorder: Recorder,
    keep: str,
    fail_fast: bool,
    on_interrupt: str = "stop",
) -> list[Outcome]:
    """Run every job to its end; return the outcomes in the order of ``jobs``.

    Jobs start in order, each as soon as it fits. On Ctrl-C all containers are stopped (at once, if
    it comes twice) and recorded before ``KeyboardInterrupt`` goes on. With ``on_interrupt``
    "detach" (instead of "stop") they run on, their ends are not recorded, and ``Detached`` is
    raised.
    """
    return _Scheduler(engine, capacity, recorder, keep, fail_fast, on_interrupt).run(jobs)


class _Scheduler:
    def __init__(
        self,
        engine: Engine,
        capacity: Capacity,
        recorder: Recorder,
        keep: str,
        fail_fast: bool,
        on_interrupt: str,
    ) -> None:
        self._engine = engine
        self._capacity = capacity
        self._recorder = recorder
        self._keep = keep
        self._fail_fast = fail_fast
        self._on_interrupt = on_interrupt
        self._events: queue.Queue[int] = queue.Queue()
        self._running: dict[int, _Running] = {}
        self._outcomes: dict[int, Outcome] = {}

    def run(self, jobs: Sequence[RunnableJob]) -> list[Outcome]:
        pending = deque(jobs)
        try:
            while pending or self._running:
                while pending and self._capacity.fits(pending[0].spec):
                    self._start(pending.popleft())
                ended = self._next_ended()
                failed = ended is not None and ended.outcome.end is not End.COMPLETED
                if ended is not None and failed and self._fail_fast:
                    self._stop_all(f"fail_fast: {ended.job.title} did not complete")
                    self._call_off(pending, f"fail_fast: {ended.job.title} did not complete")
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            reason = (str(error) or "Ctrl-C") if interrupted else f"{error!r}"
            self._abort(reason)
            self._call_off(pending, reason)
            raise
        return [self._outcomes[job.number] for job in jobs]

    def _start(self, job: RunnableJob) -> None:
        spec = self._capacity.take(job.number, job.spec)
        running = _Running(job, spec, self._engine, self._recorder, self._keep, self._events.put)
        self._running[job.number] = running
        running.start()

    def _next_ended(self) -> _Running | None:
        """Wait until a job has ended or a deadline is near; return the job that has ended."""
        deadlines = [job.deadline for job in self._running.values() if job.deadline is not None]
        wait = min([LONGEST_WAIT, *(deadline - time.monotonic() for deadline in deadlines)])
        try:
            number = self._events.get(timeout=max(0.0, wait))
        except queue.Empty:
            for job in self._running.values():
                if job.deadline is not None and job.deadline <= time.monotonic():
                    job.time_out()
            return None
        return self._take_out(number)

    def _take_out(self, number: int) -> _Running | None:
        running = self._running.pop(number, None)
        if running is not None:
            running.join()
            self._capacity.give_back(number)
            self._outcomes[number] = running.outcome
        return running

    def _stop_all(self, reason: str, *, now: bool = False) -> None:
        for running in self._running.values():
            running.stop(reason, now=now)

    def _call_off(self, pending: deque[RunnableJob], reason: str) -> None:
        for job in pending:
            outcome = _outcome.stopped(f"not started: {reason}")
            self._outcomes[job.number] = outcome
            _record_end(self._recorder, job, outcome, None, None)
        pending.clear()

    def _abort(self, reason: str) -> None:
        """Stop every container and wait for all; Ctrl-C at any moment of that kills them."""
        now = False
        while self._running:
            try:
                self._stop_all(reason, now=now)
                while self._running:
                    with suppress(queue.Empty):
                        self._take_out(self._events.get(timeout=LONGEST_WAIT))
            except KeyboardInterrupt:
                now = True


def _record_end(
    recorder: Recorder,
    job: RunnableJob,
    outcome: Outcome,
    container: str | None,
    state: ContainerState | None,
) -> None:
    """Write down how a job has ended; where that fails, the job has ended all the same."""
    try:
        recorder.ended(job, outcome, container, state)
    except Exception as error:  # noqa: BLE001  (a full disk, a closed terminal)
        log.error(  # noqa: TRY400  (for the user, without a stack)
            "%s %s, but that could not be recorded: %s: %s",
            job.title,
            outcome.end.value,
            type(error).__name__,
            error,
        )


def _new_file(path: os.PathLike[str]) -> BinaryIO:
    """Open a new, empty file in a folder that a container can write to: links are not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o644), "wb")
