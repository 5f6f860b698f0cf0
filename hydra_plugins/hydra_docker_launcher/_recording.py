"""Recording: what happens to a sweep goes to the ledger, to tracking, and to the user."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from . import _attempt, _job_files, _job_folder, _plan, _results, _stray, _take_up, _usage
from ._console import Console
from ._disk import DiskWatch
from ._engine import ContainerSpec, ContainerState, Sample
from ._errors import SweepError
from ._harmless import harmless
from ._job import Job
from ._ledger import Ledger
from ._masks import split_variables
from ._outcome import End, Outcome, Stray
from ._private import NO_GLOBS
from ._redaction import NOTHING
from ._relay import Relay, reachable_url
from ._running import RunnableJob
from ._runs import KNOWN, Runs
from ._saved import SavedJob, SavedRelay, SavedSweep
from ._sweep_folder import SweepFolder
from ._tracking import RunStatus, Tracker
from ._usage import Reserved, Used
from ._usage_book import SavedUsage, UsageBook

log = logging.getLogger("hydra_docker_launcher")


class SweepRecorder:
    """Writes down one sweep. Its methods are called from the threads of the jobs.

    ``folder`` holds what the next process needs, should this one be killed: a job's file goes when
    all of its end is recorded.
    """

    def __init__(
        self,
        sweep: SavedSweep,
        *,
        folder: SweepFolder,
        ledger: Ledger,
        tracker: Tracker,
        show_output: bool = True,
    ) -> None:
        self._sweep = sweep
        self._folder = folder
        self._ledger = ledger
        self._console = Console()
        self._show_output = show_output
        self._runs = Runs(tracker, sweep)
        self._usage = UsageBook(self._runs.log_series, folder.save_usage)
        self._reserved: list[Reserved] = []
        self._unused_told = False
        self._jobs: dict[int, SavedJob] = {}
        self._specs: dict[int, ContainerSpec] = {}
        self._unsent: set[int] = set()
        self._ends: list[End] = []
        self._stray_told = False
        self._addresses: dict[str, str] = {}
        self._relays: list[Relay] = []
        self._lock = threading.Lock()
        #: The parent run has its status; all that is left to do is to forget the sweep.
        self._closed = False
        self._disk = DiskWatch(sweep.folder)

    # ---- the sweep -------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the parent run. Raises ``TrackingError`` where the store cannot be used.

        Before there is a run, the files tell whose it is: this process may be killed in between.
        """
        self._ledger.write()
        self._folder.save_sweep(self._sweep)
        self._runs.open()
        self._note_run()

    def join(self, relays: Sequence[SavedRelay], *, required: bool = True) -> None:
        """Take up what another process has opened; ``relays`` are those that its containers use.

        Where its run is gone, raises ``TrackingError``; if it is not ``required``, goes on without.
        """
        self._folder.save_sweep(self._sweep)
        rows = self._ledger.rows
        self._runs.join(
            {number: row["run_id"] for number, row in rows.items() if row.get("run_id")},
            required=required,
        )
        self._note_run()
        for relay in relays:
            self._restore(relay)
        try:
            usage = self._folder.usage()
        except SweepError as error:
            log.warning("%s\nWhat jobs that run have used before is not known.", error)
        else:
            self._usage.restore(usage or SavedUsage())

    def secrets(self) -> tuple[str, ...]:
        """Return what jobs get beside their own secrets, and what is masked of theirs as well."""
        return self._runs.secrets()

    def batch(self, jobs: Sequence[SavedJob]) -> None:
        """Take in the jobs that run next: all of them, or none."""
        self._disk.start()
        data = [*self._ledger.head.get("data", ())]
        for item in (dict(item) for job in jobs for item in job.data):
            if item not in data:
                data.append(item)
        self._ledger.note(data=data)
        if self._closed:
            self._runs.reopen()
            self._closed = False
        rows = {}
        try:
            for job in jobs:
                log.info("\t#%d : %s", job.number, " ".join(job.job.overrides))
                self._jobs[job.number] = job
                self._folder.save_job(job)
                row = self._ledger.row(job.number)
                # Else a process before this one has planned it.
                if not row or row["outcome"] is not None:
                    rows[job.number] = _row(job, row, [data.index(dict(item)) for item in job.data])
            self._ledger.begin(rows)
        except BaseException:
            for job in jobs:  # what has no row would be started by whoever takes up the sweep
                if not self._ledger.row(job.number):
                    self._folder.forget(job.number)
            raise

    def take_back(self, number: int) -> None:
        """Take back the end of a job that is not lost, after all: it goes on being watched."""
        self._ledger.take_back(number)
        self._runs.take_back(number)

    def settle(self, job: SavedJob, outcome: Outcome) -> None:
        """Record the rest of an end that stands in the ledger already; forget the job then."""
        _, points = self._usage.end(job.number)
        job = self._jobs[job.number] = replace(job, series=(*job.series, *points))
        self._send(job, outcome)
        self.settled(job.runnable)

    def close(self, status: RunStatus) -> None:
        """Give the parent run its status, and tell the user how the batch has ended.

        It is FINISHED only if the jobs of all batches have completed.
        """
        self._disk.close()
        self._send_rest()
        if status is RunStatus.FINISHED and not self._all_completed():
            status = RunStatus.FAILED
        self._closed = self._runs.close(status)
        self._close_relays()
        counts = {end: self._ends.count(end) for end in dict.fromkeys(self._ends)}
        self._ends.clear()
        if counts:
            self._tell_unused()
            log.info(", ".join(f"{number} {end.value}" for end, number in counts.items()))

    def hand_over(self) -> None:
        """Leave the sweep as it stands to another process. Nothing is recorded from here on."""
        self._close_relays()
        self._usage.close()
        self._disk.close()
        self._folder.release()

    def finish(self) -> None:
        """Let go of the sweep; of one that is over and recorded no file of the launcher remains."""
        self._usage.close()
        left = self._folder.numbers()
        if self._closed and not left:
            self._folder.forget_sweep()
        elif len(self._unsent) == len(left):
            log.warning(
                "%s could not be logged. It is kept, and sent by: hydra-docker sync %s",
                f"The end of {len(left)} jobs" if left else "The end of the sweep",
                self._sweep.folder,
            )
        else:
            log.warning(
                "%d jobs are not over, or have left a container that could not be removed. "
                "Go on with them: hydra-docker attach %s",
                len(left) - len(self._unsent),
                self._sweep.folder,
            )
        self._folder.release()

    def _note_run(self) -> None:
        self._save(replace(self._sweep, run_id=self._runs.sweep_id))
        self._ledger.note(run_id=self._runs.sweep_id)

    def _save(self, sweep: SavedSweep) -> None:
        self._sweep = sweep
        self._folder.save_sweep(sweep)

    def _all_completed(self) -> bool:
        rows = self._ledger.rows.values()
        return all(row["outcome"] == End.COMPLETED.value for row in rows)

    # ---- one job ---------------------------------------------------------------------------------

    def starting(self, job: RunnableJob, spec: ContainerSpec) -> ContainerSpec:
        """Write the job's files and start its run; return its specification with the run in it."""
        saved = self._jobs[job.number]
        self._write(saved, saved.secrets)
        run_id = self._runs.start(saved, spec, job.attempt)
        self._ledger.update(job.number, run_id=run_id, attempt=job.attempt)
        access = self._runs.access(run_id)
        environment = access.environment
        if access.url is not None and access.url_variable is not None:
            address = self._reachable(access.url, spec.boundary.network_mode or "bridge")
            environment += ((access.url_variable, address),)
        public, secret = split_variables(environment, NO_GLOBS)
        if secret and run_id is not None:
            masks = saved.runnable.masks
            self._write(saved, _job_files.with_variables(saved.secrets, secret, masks))
            spec = _plan.with_secrets(spec, saved.job)
        return _plan.with_run(spec, run_id, public, access.folders)

    def _write(self, saved: SavedJob, secrets: tuple[tuple[str, bytes], ...]) -> None:
        paths = saved.job.paths
        _job_files.write(paths, saved.job.yaml, saved.content, saved.owner, secrets)

    def started(self, job: RunnableJob, spec: ContainerSpec, container: str) -> None:
        self._specs[job.number] = spec
        row = self._ledger.row(job.number)
        started = row.get("started") if row.get("container") == container else None
        self._ledger.update(
            job.number,
            container=container,
            name=spec.name,
            run_id=self._runs.id(job.number),
            attempt=job.attempt,
            started=started or _now(),
        )
        self._usage.open(job.number, container, job.attempt, spec)

    def timing_out(self, job: RunnableJob, container: str) -> None:
        self._ledger.update(job.number, overtime=container)

    def sampled(self, job: RunnableJob, container: str, started: float, sample: Sample) -> None:
        self._usage.add(job.number, container, started, sample)

    def output(self, job: RunnableJob, text: str) -> None:
        """Show a line of the job's output, without what could play tricks on a terminal."""
        if self._show_output:
            self._console.show(f"#{job.number} | {harmless(text)}")

    def attempted(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
        delay: float,
    ) -> None:
        """Write the attempt down, and tell the user why the job runs again."""
        row = self._ledger.row(job.number)
        ended = {
            **row,
            "attempt": job.attempt,
            "container": container,
            **_end(outcome, self._usage.close_attempt(job.number)),
            **({"started": state.started_at, "ended": state.finished_at} if state else {}),
        }
        attempts = [*row.get("attempts", ()), _as_attempt(ended)]
        self._ledger.update(job.number, attempts=attempts, container=None, name=None, started=None)
        log.warning(
            "%s %s: %s\nAttempt %d of %d in %g s.",
            job.title,
            outcome.end.value,
            "\n".join(map(harmless, outcome.cause.split("\n"))),
            job.attempt + 1,
            _attempt.at_most(job, outcome),
            delay,
        )

    def ended(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
    ) -> None:
        used, series = self._usage.end(job.number)
        saved = self._jobs[job.number] = replace(self._jobs[job.number], series=series)
        spec = self._specs.get(job.number, job.spec)
        self._ends.append(outcome.end)
        reserved = Reserved.of(spec.limits, used)
        if reserved is not None and outcome.end is End.COMPLETED:
            self._reserved.append(reserved)
        row = _end(outcome, used)
        with ExitStack() as rest:  # which is done, last things first, whatever fails before
            rest.callback(self._send, saved, outcome)
            if container is not None:
                rest.callback(self._write_container, job, spec, container, state, row)
            rest.callback(self._tell_end, saved.job, outcome)
            self._ledger.update(
                job.number, **({"container": container} if container else {}), **row
            )

    def _write_container(
        self,
        job: RunnableJob,
        spec: ContainerSpec,
        container: str,
        state: ContainerState | None,
        row: Mapping[str, Any],
    ) -> None:
        """Write ``container.json``, as far as the job has left a place for it."""
        content = {
            "id": container,
            "name": spec.name,
            "image": self._sweep.image,
            "started_at": state.started_at if state else None,
            "finished_at": state.finished_at if state else None,
            "run_id": self._runs.id(job.number),
            "limits": _plan.shown_limits(spec),
            **row,
        }
        try:
            _job_folder.write_container(job.paths, content)
        except OSError as error:
            log.warning("%s: cannot write %s: %s", job.title, job.paths.container, error)

    def settled(self, job: RunnableJob) -> None:
        """Forget the job, of which nothing is left to be done, but for what is still to be sent."""
        saved = self._jobs.get(job.number)
        if saved is None:
            return
        if job.number in self._unsent:
            # Nothing starts it any more: what only its container was to know goes.
            spec = replace(saved.runnable.spec, environment=())
            runnable = replace(saved.runnable, spec=spec, masks=())
            job_only = replace(saved.job, withheld=NOTHING)
            self._folder.save_job(
                replace(saved, job=job_only, runnable=runnable, content=b"", secrets=())
            )
        else:
            self._folder.forget(job.number)

    def _send(self, job: SavedJob, outcome: Outcome) -> bool:
        """Close the run of a job; tell whether that is done."""
        row = self._ledger.row(job.number)
        sent = self._runs.end(job, row, outcome)
        with self._lock:
            (self._unsent.discard if sent else self._unsent.add)(job.number)
        if sent and row.get("run_id") != self._runs.id(job.number):
            self._ledger.update(job.number, run_id=self._runs.id(job.number))
        return sent

    def _send_rest(self) -> None:
        """Send what the store has not got yet, where it answers again."""
        if not self._unsent or not self._runs.answers():
            return
        for number in sorted(self._unsent):
            job = self._jobs[number]
            row = self._ledger.row(number)
            outcome = _take_up.recorded(row, job.job.paths.result)
            if outcome is not None and self._send(job, outcome) and not _take_up.is_unseen(row):
                self._folder.forget(number)

    def _tell_end(self, job: Job, outcome: Outcome) -> None:
        self._tell(job, outcome)
        if outcome.stray is not None:
            self._tell_stray(job, outcome.stray)

    def _tell(self, job: Job, outcome: Outcome) -> None:
        if outcome.end is not End.COMPLETED:
            log.error("%s", "\n".join(map(harmless, _results.describe(job, outcome).split("\n"))))
            return
        if outcome.warning:
            log.warning("%s %s", job.title, outcome.warning)
        if outcome.not_json:
            log.warning(
                "%s returned a %s, which is no JSON value: the sweeper gets its repr. Return "
                "numbers, strings, lists or dicts, and write anything else to the output folder.",
                job.title,
                outcome.not_json,
            )

    def _tell_unused(self) -> None:
        """Tell the user once of limits that are far above what the jobs have used."""
        lines = _usage.advice(self._reserved)
        if lines and not self._unused_told:
            log.info("%s", "\n".join(lines))
            self._unused_told = True

    def _tell_stray(self, job: Job, stray: Stray) -> None:
        with self._lock:
            warning = _stray.report(job.title, stray, first=not self._stray_told)
            self._stray_told |= warning is not None and _stray.ADVICE in warning
        if warning is not None:
            log.warning("%s", warning)
        if (collected := _stray.collected(job.title, stray)) is not None:
            log.info("%s", collected)

    # ---- the way to a server on this machine -----------------------------------------------------

    def _reachable(self, url: str, network_mode: str) -> str:
        with self._lock:
            if network_mode not in self._addresses:
                address, relay = reachable_url(
                    url, network_mode=network_mode, gateway=self._sweep.host.gateway
                )
                self._addresses[network_mode] = address
                if relay is not None:
                    self._relays.append(relay)
                    saved = SavedRelay(*relay.address, *relay.target)
                    self._save(replace(self._sweep, relays=(*self._sweep.relays, saved)))
            return self._addresses[network_mode]

    def _restore(self, saved: SavedRelay) -> None:
        """Open a relay again, on the port that running containers know."""
        try:
            relay = Relay(saved.listen, (saved.host, saved.target_port), saved.port)
        except OSError as error:
            log.warning(
                "Containers of the sweep that run reach %s:%d by way of %s:%d, which cannot be "
                "opened again: %s",
                saved.host,
                saved.target_port,
                saved.listen,
                saved.port,
                error,
            )
        else:
            self._relays.append(relay)

    def _close_relays(self) -> None:
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        self._addresses.clear()


def _end(outcome: Outcome, used: Used | None) -> dict[str, Any]:
    """Return what the ledger says of an end. ``memory_peak`` in bytes."""
    known = {
        "advice": outcome.advice,
        "warning": outcome.warning,
        "memory_peak": outcome.memory_peak,
    }
    return {
        "outcome": outcome.end.value,
        "cause": outcome.cause,
        "exit_code": outcome.exit_code,
        **{name: value for name, value in known.items() if value is not None},
        "ended": _now(),
        **({"used": used.as_json()} if used else {}),
        **({"stray": outcome.stray.as_json()} if outcome.stray else {}),
        **({"unseen": True} if outcome.unseen else {}),
    }


def _row(job: SavedJob, before: Mapping[str, Any], data: list[int]) -> dict[str, Any]:
    """Return the row of a job that is planned. ``before`` is how it has ended, if it has."""
    last = [_as_attempt(before)] if before.get("attempt") else []
    attempts = [*before.get("attempts", ()), *last]
    return {
        "overrides": list(job.job.overrides),
        "output_dir": str(job.job.paths.output),
        "identity": job.identity.as_json(),
        **({"data": data} if data else {}),
        "outcome": None,
        **({"options": dict(job.options)} if job.options else {}),
        **({"run_id": before["run_id"]} if before.get("run_id") else {}),
        **({"attempts": attempts} if attempts else {}),
    }


def _as_attempt(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of an attempt, when another one follows it."""
    names = ("attempt", "outcome", "cause", "exit_code", "container", "started", "ended")
    known = {name: row[name] for name in (*KNOWN, "used") if name in row}
    return {**{name: row.get(name) for name in names}, **known}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
