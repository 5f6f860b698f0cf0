"""Running: jobs are started as capacity allows, in attempts, and stopped together."""

from __future__ import annotations

import bisect
import logging
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from . import _attempt, _capacity, _job_folder, _outcome, _watching
from ._admission import Admission, Request
from ._attempt import RunnableJob
from ._capacity import Capacity
from ._engine import ContainerSpec, Engine
from ._errors import EngineError
from ._interrupt import Detached, held_back, noted
from ._option_values import Gpus
from ._outcome import End, Outcome
from ._recorder import Recorder
from ._sampling import Sampler
from ._watching import FINAL_POLICIES, Watch

__all__ = ["FINAL_POLICIES", "Recorder", "RunnableJob", "run_jobs"]

log = logging.getLogger("hydra_docker_launcher")

#: Seconds. A Ctrl-C that comes just before Python begins to wait is only seen after the wait.
LONGEST_WAIT = 1.0
KILL_PATIENCE = 30.0  # seconds that containers have to end after Ctrl-C has come twice


def run_jobs(
    jobs: Sequence[RunnableJob],
    *,
    engine: Engine,
    capacity: Capacity,
    recorder: Recorder,
    keep: str,
    fail_fast: bool,
    on_interrupt: str = "stop",
    stop: str | None = None,
    system_metrics: bool = True,
    begin: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Run every job to its end; return the outcomes in the order of ``jobs``.

    Jobs start in order, each as soon as it fits (``capacity`` says beside which containers); those
    with a container are taken up before. ``begin`` writes them down before that: all or, where it
    raises, none. On Ctrl-C all containers are stopped (at once, if it comes twice) and recorded
    before ``KeyboardInterrupt`` goes on; what does not end even then has no outcome. With
    ``on_interrupt`` "detach" (instead of "stop") they run on, their ends are not recorded, and
    ``Detached`` is raised. With ``stop``, a reason, nothing is started, and what runs is stopped.
    With ``system_metrics``, containers are measured.
    """
    sampler = Sampler(engine, recorder.sampled) if system_metrics else None
    scheduler = _Scheduler(engine, capacity, recorder, keep, fail_fast, on_interrupt, sampler)
    try:
        return scheduler.run(jobs, stop, begin)
    finally:
        if sampler is not None:
            sampler.close()


@dataclass(frozen=True, slots=True)
class _Turn:
    """An attempt that waits: for its place in the order of jobs, and for its time."""

    place: int
    job: RunnableJob
    spec: ContainerSpec
    #: In ``time.monotonic``'s seconds.
    not_before: float = 0.0
    #: A container of the attempt before that could not be removed so far.
    remains: str | None = None


class _Scheduler:
    """Only the main thread calls it. Ctrl-C is noted, and obeyed between two steps.

    Where the program handles it in its own way, it may come at any moment: so what changes hands
    is in its new place before it leaves the old one.
    """

    def __init__(
        self,
        engine: Engine,
        capacity: Capacity,
        recorder: Recorder,
        keep: str,
        fail_fast: bool,
        on_interrupt: str,
        sampler: Sampler | None,
    ) -> None:
        self._engine = engine
        self._capacity = capacity
        self._recorder = recorder
        self._keep = keep
        self._fail_fast = fail_fast
        self._on_interrupt = on_interrupt
        self._sampler = sampler
        #: Only wakes the scheduler, which then looks for itself.
        self._events: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._jobs: Sequence[RunnableJob] = ()
        self._lined_up = False
        self._places: dict[int, int] = {}
        self._waiting: list[_Turn] = []
        self._running: dict[int, Watch] = {}
        self._outcomes: dict[int, Outcome] = {}
        #: Containers that do not end were left as they are.
        self._left = False
        #: What has interrupted so far, and how many of that have been obeyed.
        self._signals: list[str] = []
        self._obeyed = 0
        #: Until when containers are waited for that were to be killed.
        self._patient_until: float | None = None
        #: Why nothing is started any more.
        self._called_off: str | None = None
        self._admission: Admission | None = None
        if capacity.engine_wide:
            self._admission = Admission(engine, capacity.machine, lambda: self._events.put(None))

    def run(
        self, jobs: Sequence[RunnableJob], stop: str | None, begin: Callable[[], None]
    ) -> list[Outcome]:
        self._jobs = jobs
        try:
            with noted(self._note):
                outcomes = self._run(stop, begin)
            self._obey()  # one that came when there was nothing left to stop
        finally:
            if self._admission is not None:
                with held_back():
                    self._admission.stop()
        return outcomes

    def _note(self, signal: str) -> None:
        self._signals.append(signal)
        self._events.put(None)

    def _obey(self) -> None:
        if self._is_interrupted():
            raise KeyboardInterrupt(self._signals[self._obeyed - 1])

    def _is_interrupted(self) -> bool:
        """Tell whether there is an interrupt that was not obeyed; it is, from now on."""
        if len(self._signals) == self._obeyed:
            return False
        self._obeyed += 1
        return True

    def _run(self, stop: str | None, begin: Callable[[], None]) -> list[Outcome]:
        begun = False
        try:
            begin()
            begun = True
            self._line_up()
            self._take_up_containers()
            if stop is not None:
                self._abort(stop)
            while self._waiting or self._running:
                self._obey()
                self._start_what_fits()
                self._wait()
                self._take_out_what_is_over()
        except BaseException as error:
            if not begun:
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            reason = (str(error) or "Ctrl-C") if interrupted else f"{error!r}"
            if interrupted and self._on_interrupt == "detach":
                self._detach()
                raise Detached(reason) from error
            self._abort(reason)
            raise
        if self._left:
            raise KeyboardInterrupt
        return [self._outcomes[job.number] for job in self._jobs]

    def _line_up(self) -> None:
        """Let the jobs wait for their turn; once more changes nothing."""
        if not self._lined_up:
            self._places = {job.number: place for place, job in enumerate(self._jobs)}
            self._waiting = [self._turn(job) for job in self._jobs]
            self._lined_up = True

    def _turn(self, job: RunnableJob) -> _Turn:
        spec = _attempt.specification(job, self._capacity.host.memory)
        if job.gpus:
            spec = _capacity.leased(spec, Gpus(ids=job.gpus))
        return _Turn(self._places[job.number], job, spec)

    def _take_up_containers(self) -> None:
        for turn in [turn for turn in self._waiting if turn.job.container is not None]:
            self._start(turn)

    def _start_what_fits(self) -> None:
        """Start jobs in their order; the first that does not fit holds up those behind it.

        A container that may run on has its room already.
        """
        while True:
            now = time.monotonic()
            for there in [turn for turn in self._waiting if turn.job.container is not None]:
                if there.not_before <= now:
                    self._start(there)
            turn = next((turn for turn in self._waiting if turn.not_before <= now), None)
            if turn is None or not self._capacity.fits(turn.spec):
                return
            if self._admission is None:
                self._start(turn)
            elif not self._start_admitted(turn, self._admission):
                return

    def _start_admitted(self, turn: _Turn, admission: Admission) -> bool:
        """Start the job that the engine has room for; ask for ``turn`` where none is asked for."""
        admission.ask(Request(_key(turn.job), turn.job.title, turn.spec))
        answer = admission.answer()
        if answer is None:
            return False
        request, found = answer
        asked = next((turn for turn in self._waiting if _key(turn.job) == request.key), None)
        if asked is None:
            admission.withdraw()
        elif isinstance(found, EngineError):
            self._start(asked, refused=found)
        else:
            self._start(replace(asked, spec=found))
        return True

    def _start(self, turn: _Turn, refused: EngineError | None = None) -> None:
        job, admission = turn.job, self._admission
        with held_back():
            if job.container is None:
                spec = self._capacity.take(job.number, turn.spec)
            else:
                spec = self._capacity.hold(job.number, turn.spec)
            watch = Watch(
                job,
                spec,
                self._engine,
                self._recorder,
                self._keep,
                wake=lambda: self._events.put(None),
                remains=turn.remains,
                sampler=self._sampler,
                refused=refused,
                pledge=_Pledge(admission, _key(job)) if admission and not job.container else None,
            )
            self._running[job.number] = watch
            watch.start()
            self._waiting = [other for other in self._waiting if other.job is not job]
            if admission is not None and job.container is None:
                admission.taken()

    def _wait(self) -> None:
        """Wait until an attempt is over or a moment has come; end what has run too long."""
        now = time.monotonic()
        moments = [watch.deadline for watch in self._running.values()]
        moments += [turn.not_before for turn in self._waiting if turn.not_before > now]
        wait = min([LONGEST_WAIT, *(moment - now for moment in moments if moment is not None)])
        with suppress(queue.Empty):
            self._events.get(timeout=max(0.0, wait))
        for watch in self._running.values():
            deadline = watch.deadline
            if deadline is not None and deadline <= time.monotonic():
                watch.time_out()

    def _take_out_what_is_over(self) -> None:
        for watch in [watch for watch in self._running.values() if watch.over]:
            self._take_out(watch)
            if watch.following is None and watch.outcome.end is not End.COMPLETED:
                self._has_failed(watch.job)
        if self._called_off is not None:
            self._call_off(self._called_off)

    def _take_out(self, watch: Watch) -> None:
        number = watch.job.number
        watch.join()
        if watch.following is None:
            self._outcomes[number] = watch.outcome
        elif all(turn.job is not watch.following for turn in self._waiting):
            self._queue_again(watch, watch.following)
        self._capacity.give_back(number)
        if self._admission is not None:
            self._admission.poke()
        del self._running[number]

    def _queue_again(self, watch: Watch, job: RunnableJob) -> None:
        turn = replace(self._turn(job), not_before=watch.not_before, remains=watch.remains)
        message = _attempt.memory_message(job, self._capacity.host.memory)
        if message is not None:
            log.warning("%s: %s", job.title, message)
        bisect.insort(self._waiting, turn, key=lambda turn: turn.place)

    def _has_failed(self, job: RunnableJob) -> None:
        if self._fail_fast and self._called_off is None:
            self._called_off = f"fail_fast: {job.title} did not complete"
            self._take_up_containers()  # those that may run on are to end, too
            self._stop_all(self._called_off)

    def _stop_all(self, reason: str, *, now: bool = False) -> None:
        for watch in self._running.values():
            watch.stop(reason, now=now)

    def _call_off(self, reason: str) -> None:
        while self._waiting:
            job = self._waiting[0].job
            if job.number not in self._outcomes:
                outcome = _outcome.stopped(_not_started(job, reason))
                recorded = _watching.record_end(self._recorder, job, outcome, None, None)
                _job_folder.remove_secrets(job.paths)
                if recorded:  # else the job's file stays for whoever takes it up
                    _job_folder.remove_job_file(job.paths)  # no container has it mounted
                    self._recorder.settled(job)
                self._outcomes[job.number] = outcome
            del self._waiting[0]
        if self._admission is not None:
            self._admission.withdraw()

    def _abort(self, reason: str) -> None:
        """Stop every container and wait for all; Ctrl-C at any moment of that kills them.

        What does not end even then is left, without an outcome, to whoever takes up the sweep.
        """
        while True:
            try:
                return self._end_all(reason)
            except KeyboardInterrupt:  # out of a handler of the program's own
                self._note("")

    def _end_all(self, reason: str) -> None:
        self._line_up()
        self._forget_what_has_not_begun()
        self._take_up_containers()
        self._stop_all(reason)
        while self._running:
            if self._is_interrupted():
                self._stop_all(reason, now=True)
                if self._patient_until is None:
                    self._patient_until = time.monotonic() + KILL_PATIENCE
            with suppress(queue.Empty):
                self._events.get(timeout=LONGEST_WAIT)
            for watch in [watch for watch in self._running.values() if watch.over]:
                self._take_out(watch)
            if self._patient_until is not None and time.monotonic() > self._patient_until:
                self._leave_what_runs()
        self._call_off(reason)

    def _leave_what_runs(self) -> None:
        """Watch no longer what does not end. It has no outcome: it can be taken up."""
        for number, watch in list(self._running.items()):
            watch.detach(now=True)
            log.error(
                "%s has not come to its end, though its container was to be killed %g s ago. It is "
                "left as it is, and its end is not known: hydra-docker attach takes it up.",
                watch.job.title,
                KILL_PATIENCE,
            )
            self._left = True
            del self._running[number]

    def _forget_what_has_not_begun(self) -> None:
        """Ctrl-C has come twice just before a thread was to start; its job waits still."""
        self._running = {number: watch for number, watch in self._running.items() if watch.begun}

    def _detach(self) -> None:
        """Let every container run on; wait until none is just being started, stopped or recorded.

        Ctrl-C ends the wait.
        """
        try:
            self._forget_what_has_not_begun()
            for watch in self._running.values():
                watch.detach()
            while not all(watch.over or watch.released for watch in self._running.values()):
                self._obey()
                with suppress(queue.Empty):
                    self._events.get(timeout=LONGEST_WAIT)
        except KeyboardInterrupt:
            for watch in self._running.values():
                watch.detach(now=True)


@dataclass(frozen=True, slots=True)
class _Pledge:
    """What a job was promised on the engine until its container runs."""

    admission: Admission
    key: tuple[int, int]

    def holds(self) -> bool:
        return self.admission.holds(self.key)

    def release(self) -> None:
        self.admission.over(self.key)


def _key(job: RunnableJob) -> tuple[int, int]:
    return job.number, job.attempt


def _not_started(job: RunnableJob, reason: str) -> str:
    if not job.earlier:
        return f"not started: {reason}"
    return f"attempt {job.attempt} was not started (after: {job.earlier[-1].value}): {reason}"
