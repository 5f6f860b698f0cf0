"""Watching: one attempt of a job, from its container's creation to its end, in its own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from . import _attempt, _job_folder, _outcome, _stray
from ._attempt import RunnableJob
from ._container_log import ContainerLog
from ._engine import ContainerSpec, ContainerState, Engine
from ._errors import (
    DataError,
    DockerLauncherError,
    EngineError,
    OptionError,
    SourceError,
    TaskError,
)
from ._evidence import is_final
from ._masks import Masks, masked, masked_bytes, masked_plain
from ._outcome import End, Outcome
from ._recorder import Recorder
from ._sampling import Sampler
from ._symptoms import LAST_LINES
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

POLL = 0.1  # seconds between two looks at a container whose output has ended
ENGINE_RETRIES = 5  # times an engine that does not answer is asked again
ENGINE_BACKOFF = 1.0  # seconds before the first of them; doubled each time
LONGEST_PAUSE = 60.0  # seconds between two tries to stop a container
STOP_PATIENCE = 10.0  # seconds that a stop has to return, once its container has ended
FINAL_POLICIES = ("always", "unless-stopped")
#: Policies that have no end of their own, where no number says it.
ENDLESS_POLICIES = (*FINAL_POLICIES, "on-failure")
#: How often a container that dies by itself is started again by its policy, unless that has a
#: number: policies are for outages, and those do not count.
MOST_RESTARTS = 3
#: Errors that come again, however often a job is started.
_LASTING = (OptionError, SourceError, DataError, TaskError)

NO_PLEDGE = (
    "its ticket on the engine is gone (an empty volume): somebody has removed it, or this machine "
    "was asleep"
)


class Pledge(Protocol):
    """What the engine's launchers have agreed that a job gets."""

    def holds(self) -> bool:
        """Tell whether the others know of it still. Raises ``EngineError``."""

    def release(self) -> None:
        """Say that the container speaks for itself now, or that there will be none."""


class _Released(Exception):  # noqa: N818  (no error: the launcher has let the container go)
    """Nobody watches the container any more."""


class Watch:
    """One attempt that runs in a thread of its own.

    ``spec`` is the attempt's; ``wake`` is called when there is something for the scheduler: the
    attempt is over or released, or has a deadline (in ``time.monotonic``'s seconds).
    ``remains`` is a container of an earlier attempt that could not be removed so far. ``sampler``
    measures the container as long as it runs. ``refused`` is why it cannot be started at all,
    ``pledge`` what it was promised until its container runs.
    """

    def __init__(
        self,
        job: RunnableJob,
        spec: ContainerSpec,
        engine: Engine,
        recorder: Recorder,
        keep: str,
        wake: Callable[[], None],
        remains: str | None = None,
        sampler: Sampler | None = None,
        refused: EngineError | None = None,
        pledge: Pledge | None = None,
    ) -> None:
        self.job = job
        self.deadline: float | None = None
        self.outcome = _outcome.not_started("it was never started")
        #: The attempt that follows, and when: in ``time.monotonic``'s seconds.
        self.following: RunnableJob | None = None
        self.not_before = 0.0
        self.remains = remains
        #: Over: its end is recorded. Released: it runs on, and nobody watches it.
        self.over = False
        self.released = False
        self._spec = spec
        self._engine = engine
        self._recorder = recorder
        self._keep = keep
        self._wake = wake
        self._sampler = sampler
        self._refused = refused
        self._pledge = pledge
        self._lost_pledge = False
        #: What the task function returned, with the secrets that may be in it.
        self._returned: Any = None
        self._container: str | None = None
        self._log: ContainerLog | None = None
        self._started = False
        self._settled = False
        self._detached = False
        self._may_repeat = True
        #: When it was first started, in seconds since the epoch, where its time is limited.
        self._began = job.started_at
        self._told_to_stop = False
        self._stoppers: list[threading.Thread] = []
        #: Nobody needs the container to be stopped any more.
        self._unwatched = threading.Event()
        self._gave_up = False
        #: How often in a row its output could not be read or written.
        self._failures = 0
        self._told_unwritten = False
        self._told_unstopped = False
        self._timed_out = self._overtime() if job.overtime else None
        self._stopped_by: str | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"job-{job.number}", daemon=True)

    @property
    def begun(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    # ---- what the scheduler tells it -------------------------------------------------------------

    def time_out(self) -> None:
        """End the container because its time is over."""
        self.deadline = None
        with self._lock:
            container = None if self._settled else self._container
        if container is not None:
            try:
                self._recorder.timing_out(self.job, container)
            except (OSError, DockerLauncherError) as error:
                log.warning(
                    "%s: its time is over, but that could not be written down: %s",
                    self.job.title,
                    error,
                )
        self._end(timed_out=self._overtime())

    def _overtime(self) -> str:
        return f"ran longer than timeout_min={(self.job.timeout or 0) / 60:g}"

    def stop(self, reason: str, *, now: bool = False) -> None:
        """End the container: SIGTERM, and SIGKILL after its grace period (``now``: at once)."""
        self._end(stopped_by=reason, now=now)

    def detach(self, *, now: bool = False) -> None:
        """Let the container run on, unwatched, as soon as it is started; ``now``: at once.

        From then on its log is not written. A job that has just ended or is being stopped is not
        let go but comes to its end, unless ``now``.
        """
        with self._lock:
            if not now and (self._timed_out or self._stopped_by):
                return
            self._detached = True
            if not self._settled and (now or self._started):
                self._release()

    def _end(
        self, timed_out: str | None = None, stopped_by: str | None = None, now: bool = False
    ) -> None:
        with self._lock:
            if self._settled and not now:
                return
            self._timed_out = self._timed_out or timed_out
            self._stopped_by = self._stopped_by or stopped_by
            container = self._container
        if container is not None and (now or not self._told_to_stop):
            self._stop_later(container, 0 if now else self._spec.stop_grace_period)

    def _stop_later(self, container: str, grace: float) -> None:
        # A daemon: an engine that hangs must not keep the launcher from ending.
        stopper = threading.Thread(
            target=self._stop_container, args=(container, grace), daemon=True
        )
        stopper.start()
        self._stoppers.append(stopper)
        self._told_to_stop = True

    def _stop_container(self, container: str, grace: float) -> None:
        """Stop the container, and try that again as long as it is watched."""
        failures = 0
        while not self._unwatched.is_set():
            try:
                self._engine.stop(container, grace)
            except EngineError as error:
                # Who watches it sees what has become of it; an engine that is away may come back.
                failures += 1
                if failures > ENGINE_RETRIES and not self._unwatched.is_set():
                    self._tell_unstopped(error)
                pause = ENGINE_BACKOFF * 2 ** min(failures - 1, ENGINE_RETRIES)
                self._unwatched.wait(min(pause, LONGEST_PAUSE))
            else:
                return

    def _tell_unstopped(self, error: EngineError) -> None:
        if not self._told_unstopped:
            log.warning(
                "%s is to be stopped, but the engine does not stop its container: %s\n"
                "It is tried again as long as the job runs. Ctrl-C twice leaves it as it is.",
                self.job.title,
                error,
            )
        self._told_unstopped = True

    # ---- its own thread --------------------------------------------------------------------------

    def _run(self) -> None:
        state: ContainerState | None = None
        trouble: Exception | None = None
        try:
            state = self._to_its_end()
        except Exception as error:  # noqa: BLE001  (nothing of a job may be lost with its thread)
            trouble = error
        if self._sampler is not None:
            self._sampler.remove(self.job.number)
        with self._lock:
            self._settled = not self.released
        if not self._settled:
            return
        try:
            if trouble is not None:
                self._give_up(trouble)
            self._unwatched.set()
            for stopper in tuple(self._stoppers):
                stopper.join(STOP_PATIENCE)
            self._close_log()
            self._finish(state)
        except Exception as error:  # noqa: BLE001  (the attempt is over; the others go on)
            log.warning("%s: cannot clean up: %s", self.job.title, error)
        finally:
            self._release_pledge()
            self.over = True
            self._wake()

    def _release_pledge(self) -> None:
        if self._pledge is not None:
            self._pledge.release()

    def _let_go(self) -> None:
        """Go no further, where the launcher wants to watch no longer. Called with the lock."""
        if self._detached:
            if not self.released:
                self._release()
            raise _Released

    def _release(self) -> None:
        self.released = True
        self._unwatched.set()
        self._close_log()
        self._wake()

    def _close_log(self) -> None:
        if self._log is not None:
            try:
                self._log.close()
            except OSError as error:
                self._tell_unwritten(error)

    def _give_up(self, error: Exception) -> None:
        self._gave_up = True
        known = isinstance(error, DockerLauncherError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        if self._started:
            self.outcome = _outcome.stopped(f"the launcher could not go on watching it: {reason}")
        else:
            self._could_not_start(reason, error)
        if self._container is not None:
            grace = self._spec.stop_grace_period
            self._stop_later(self._container, grace)
            self._stoppers[-1].join(grace + STOP_PATIENCE)

    def _could_not_start(self, reason: str, error: Exception) -> None:
        self.outcome = _outcome.not_started(reason)
        self._may_repeat = getattr(error, "transient", True) and not isinstance(error, _LASTING)

    def _to_its_end(self) -> ContainerState | None:
        with self._lock:
            self._let_go()
        if self._refused is not None:
            raise self._refused
        if self.job.container is None:
            container = self._start_container()
        else:
            container = self._take_up(self.job.container)
        if container is None or self._log is None:
            return None
        try:
            state = self._watch(container, self._log)
        except EngineError as error:
            lost = _outcome.out_of_sight(str(error))
            self.outcome = _outcome.stopped(self._stopped_by) if self._stopped_by else lost
            return None
        result = _outcome.read_result(self.job.paths.result)
        self._returned = _outcome.read_returned(self.job.paths, result)
        self.outcome = _outcome.decide(
            state,
            _masked_result(result, self.job.masks),
            spec=self._spec,
            lines=_outcome.last_lines(self.job.paths.log, LAST_LINES),
            timed_out=self._timed_out,
            stopped_by=self._stopped_by,
        )
        return state

    def _start_container(self) -> str | None:
        """Create and start a container and return its id, None where that came to nothing."""
        job = self.job
        spec = self._spec = self._recorder.starting(job, self._spec)
        with self._lock:
            self._let_go()
            if job.attempt == 1:
                self._log = ContainerLog.first(job.paths.log, job.log_limit)
            else:
                after = job.earlier[-1].value if job.earlier else "an earlier one"
                self._log = ContainerLog.further(job.paths.log, job.attempt, after, job.log_limit)
        self._remove_remains()  # never two containers in one output folder
        container = self._engine.create(spec)
        with self._lock:
            self._container = container
            called_off = self._stopped_by
        if called_off:
            self.outcome = _outcome.stopped(called_off)
            return None
        if self._pledge is not None and not self._pledge.holds():
            log.warning("%s waits again: %s", job.title, NO_PLEDGE)
            self._lost_pledge = True
            return None
        # Not before: of a job that waits again, nobody may think that it has run.
        self._recorder.started(job, spec, container)
        try:
            self._engine.start(container)
        except EngineError as error:
            runs = self._runs(container)
            if runs is None and self._stopped_by is None:  # the engine may have done it
                self.outcome = _outcome.out_of_sight(str(error))
                return None
            if not runs:
                self._could_not_start(str(error), error)
                return None
        self._release_pledge()
        self._goes_on(container)
        self._measure(container)
        self._begin_time()
        return container

    def _take_up(self, container: str) -> str:
        """Go on with a container that another launcher has started."""
        with self._lock:
            self._container = container
            self._started = True
            job = self.job
            self._log = ContainerLog.taken_up(job.paths.log, job.attempt, job.log_limit)
        _stray.tidy(job.stray, job.paths.output)
        try:
            self._recorder.started(self.job, self._spec, container)
        except (OSError, DockerLauncherError) as error:  # no reason to stop what runs
            log.warning("%s is taken up, but that could not be written down: %s", job.title, error)
        self._goes_on(container)
        self._measure(container)
        if self._runs(container) is not False:
            self._begin_time()
        return container

    def _runs(self, container: str) -> bool | None:
        """Tell whether a container runs; None: nobody knows."""
        try:
            state = self._engine.state(container)
        except EngineError:
            return None
        return state is not None and state.running

    def _goes_on(self, container: str) -> None:
        with self._lock:
            self._started = True
            self._let_go()
            called_off = self._stopped_by
        if called_off:  # while it was being started; to stop it then was too early
            self._stop_later(container, self._spec.stop_grace_period)

    def _measure(self, container: str) -> None:
        if self._sampler is not None:
            self._sampler.add(self.job, container, self._spec, self.job.started_at)

    def _begin_time(self) -> None:
        if self.job.timeout is None:
            return
        self._began = time.time() if self.job.started_at is None else self.job.started_at
        spent = time.time() - self._began
        self.deadline = time.monotonic() + self.job.timeout - spent
        self._wake()

    def _watch(self, container: str, file: ContainerLog) -> ContainerState | None:
        """Copy the container's output until it has ended for good, through restarts.

        Raises ``EngineError`` where the engine does not answer for too long.
        """
        state: ContainerState | None = None
        over = False
        while True:
            try:
                written = self._copied(container, file)
                if over and (written or self._failures >= ENGINE_RETRIES):
                    return state  # and all that it has printed was read since, if it could be
                state = self._engine.state(container)
                over = state is None or not state.running
                if state is not None and state.running and self._is_final(state):
                    return self._stop_restarting(container, state)
            except EngineError:
                written = False
                if over:
                    if self._failures >= ENGINE_RETRIES:
                        return state  # though some of its output may be missing
                else:  # an engine that is away is waited for
                    state = self._engine.state(container)
                    over = state is None or not state.running
            if written:
                time.sleep(POLL)
            else:
                self._failures = min(self._failures + 1, ENGINE_RETRIES)
                time.sleep(ENGINE_BACKOFF * 2 ** (self._failures - 1))
            if self.released:
                raise _Released

    def _copied(self, container: str, file: ContainerLog) -> bool:
        """Write and show what the container prints, until it pauses or ends.

        False where it cannot be written: the engine keeps it, and is asked for it again.
        """
        try:
            for line in self._engine.log_lines(container, file.resume()):
                if self._take_line(line, file):
                    self._failures = 0
        except OSError as error:
            self._tell_unwritten(error)
            return False
        return True

    def _tell_unwritten(self, error: OSError) -> None:
        if not self._told_unwritten:
            log.warning(
                "%s: container.log cannot be written to (%s). The job goes on; what the log lacks "
                "is asked for again until its container has ended, while the engine keeps it.",
                self.job.title,
                error.strerror or error,
            )
        self._told_unwritten = True

    def _take_line(self, line: bytes, file: ContainerLog) -> bool:
        """Write and show a line; tell whether it is new."""
        moment, space, text = line.partition(b" ")
        line = moment + space + masked_bytes(text, self.job.masks)
        was_full = file.full
        new = file.write(line)
        if self.released:
            raise _Released
        if file.full and not was_full:
            log.warning(
                "%s: container.log has reached hydra.launcher.log_limit=%s. What it prints is left "
                "out from here on, but for its last lines.",
                self.job.title,
                show_size(self.job.log_limit or 0),
            )
        if new and not file.full:
            self._recorder.output(self.job, line.partition(b" ")[2].decode("utf-8", "replace"))
        return new

    def _is_final(self, state: ContainerState) -> bool:
        """Tell whether a container that its policy goes on with is not to run again."""
        return self._has_ended() or self._dies_again(state)

    def _has_ended(self) -> bool:
        final = self._spec.restart.name in FINAL_POLICIES
        return final and is_final(_outcome.read_result(self.job.paths.result))

    def _dies_again(self, state: ContainerState) -> bool:
        """Tell whether it has just died once more, and would do so without end."""
        policy = self._spec.restart
        endless = policy.name in ENDLESS_POLICIES and policy.retries == 0
        return endless and state.restarting and state.restarts > MOST_RESTARTS

    def _stop_restarting(self, container: str, seen: ContainerState) -> ContainerState | None:
        """End a container that its policy starts again, and return how it has ended by itself.

        ``seen`` is how it stood before.
        """
        ended = self._has_ended()
        self._engine.stop(container, self._spec.stop_grace_period)
        state = self._engine.state(container)
        if state is None:
            return None
        if ended:
            result = _outcome.read_result(self.job.paths.result)
            return _outcome.before_restart(state, result)
        log.warning(
            "%s: its container has died %d times in a row, and is not started again "
            "(hydra.launcher.restart=%s is for outages)",
            self.job.title,
            seen.restarts,
            self._spec.restart.name,
        )
        return replace(
            seen, running=False, restarting=False, oom_killed=seen.oom_killed or state.oom_killed
        )

    # ---- at its end ------------------------------------------------------------------------------

    def _finish(self, state: ContainerState | None) -> None:
        if self._lost_pledge and self._stopped_by is None:
            self.following = self.job
            self.remains = self._container
            self._remove_remains()
            return
        self.outcome = _masked_outcome(self.outcome, self.job.masks)
        if self.outcome.unseen and self._stopped_by is not None:
            self.outcome = _outcome.stopped(self._stopped_by)
        if self.outcome.unseen and self._container is not None:
            self._leave(self._container)
            return
        may_repeat = self._may_repeat and self._stopped_by is None
        following = _attempt.following(self.job, self.outcome) if may_repeat else None
        if following is None:
            self.outcome = _stray.after(
                self.outcome,
                self.job.stray,
                self._spec,
                self.job.paths.output,
                self._engine,
                self._container,
            )
            recorded = record_end(self._recorder, self.job, self.outcome, self._container, state)
            if self.outcome.end is End.COMPLETED:  # for the sweeper, which writes nothing down
                self.outcome = replace(self.outcome, value=self._returned)
            _job_folder.remove_secrets(self.job.paths)
            if recorded:  # else its container and its file stay for whoever takes it up
                self._clean_up()
                self._recorder.settled(self.job)
            return
        delay = _attempt.delay(self.job)
        self.not_before = time.monotonic() + delay
        self.following = following
        self.remains = self._container or self.remains
        try:
            self._recorder.attempted(self.job, self.outcome, self._container, state, delay)
        except Exception as error:  # noqa: BLE001  (a full disk; the job goes on)
            _tell_unrecorded(self.job, self.outcome, error, "")
        _job_folder.remove_secrets(self.job.paths)
        _job_folder.remove_job_file(self.job.paths)
        self._remove_remains()

    def _leave(self, container: str) -> None:
        """Leave a container of which nobody knows how it stands: it may run on.

        Neither it nor what it needs is removed, and the job is not forgotten.
        """
        gpus = self._spec.gpus.ids
        following = _attempt.searched(self.job, container, self._began, gpus)
        if following is None:
            record_end(self._recorder, self.job, self.outcome, container, None)
            return
        delay = _attempt.delay(self.job)
        self.not_before = time.monotonic() + delay
        self.following = following
        log.warning(
            "%s: %s\nIts container is looked for again in %g s.",
            self.job.title,
            self.outcome.cause,
            delay,
        )

    def _clean_up(self) -> None:
        self._remove_remains()
        # Who stops a job knows why it ended, and has no use for its container.
        stopped = self.outcome.end is End.STOPPED and not self._gave_up
        failed = self.outcome.end is not End.COMPLETED and not stopped
        kept = self._keep == "all" or (self._keep == "failed" and failed)
        if self._container is not None and not kept:
            self._engine.remove(self._container)
        if self._container is None or not kept:
            _job_folder.remove_job_file(self.job.paths)

    def _remove_remains(self) -> None:
        if self.remains is not None:
            self._engine.remove(self.remains)
            self.remains = None


def _masked_result(result: dict[str, Any] | None, masks: Masks) -> dict[str, Any] | None:
    """Return what the worker wrote. It has masked its secrets, but nobody trusts it."""
    return None if result is None else masked_plain(result, masks)


def _masked_outcome(outcome: Outcome, masks: Masks) -> Outcome:
    """Return an outcome in which the engine's words are masked as well."""
    return replace(
        outcome,
        cause=masked(outcome.cause, masks),
        advice=masked_plain(outcome.advice, masks),
        warning=masked_plain(outcome.warning, masks),
    )


def record_end(
    recorder: Recorder,
    job: RunnableJob,
    outcome: Outcome,
    container: str | None,
    state: ContainerState | None,
) -> bool:
    """Write down how a job has ended; tell whether that is done. It has ended all the same."""
    try:
        recorder.ended(job, outcome, container, state)
    except Exception as error:  # noqa: BLE001  (a full disk; the others go on)
        _tell_unrecorded(job, outcome, error, "\nhydra-docker attach will do that.")
        return False
    return True


def _tell_unrecorded(job: RunnableJob, outcome: Outcome, error: Exception, then: str) -> None:
    log.error(
        "%s %s, but that could not be recorded: %s: %s%s",
        job.title,
        outcome.end.value,
        type(error).__name__,
        error,
        then,
    )
