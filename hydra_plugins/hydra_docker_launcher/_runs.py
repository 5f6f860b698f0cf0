"""Runs: the runs of a sweep in its tracking system, which may stop to answer.

Jobs go on without it. What it has not got stays in the sweep's folder, and is sent when it answers
again: at the end of the batch, else by ``hydra-docker sync``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from . import _compose, _job_folder, _plan, _usage
from ._engine import ContainerSpec
from ._errors import TrackingError
from ._harmless import plain
from ._options import LABEL_PREFIX
from ._outcome import Outcome
from ._saved import SavedJob, SavedSweep
from ._tracking import (
    OUTCOME_TAG,
    JobRun,
    JobRunEnd,
    NoTracker,
    RunStatus,
    StoreAccess,
    Tracker,
)
from ._units import show_size
from ._usage import Point

log = logging.getLogger("hydra_docker_launcher")

#: What a row of the ledger says of an end beside its cause, where it is known.
KNOWN = ("advice", "warning", "memory_peak")
MOST_METRICS = 10_000  # of what a job returns
MORE_LOG = 64 * 1024**2  # bytes beyond log_limit: the last lines of launchers and attempts
PATIENCE = 60.0  # seconds that jobs wait to be started for a store that has ceased to answer
PAUSE = 2.0  # seconds between two questions whether it answers again


class Runs:
    """The parent run of a sweep and the runs of its jobs, by the jobs' numbers.

    The methods of jobs may be called from several threads at once.
    """

    def __init__(self, tracker: Tracker, sweep: SavedSweep) -> None:
        self._tracker = tracker
        self._sweep = sweep
        self._sweep_id = sweep.run_id
        self._ids: dict[int, str] = {}
        self._joined = False
        #: Since when the store does not answer (``time.monotonic``).
        self._down_since: float | None = None
        self._told = False
        #: Why the store does not let the sweep be taken up: another process may have it mended.
        self._refused: TrackingError | None = None
        #: The store takes no system metrics.
        self._no_series = False
        self._lock = threading.Lock()

    @property
    def sweep_id(self) -> str | None:
        """The id of the parent run."""
        return self._sweep_id

    def open(self) -> None:
        """Start the parent run, or take up one that was begun. Raises ``TrackingError``."""
        self._sweep_id = self._tracker.open_sweep(self._sweep.run)
        self._joined = True

    def join(self, known: Mapping[int, str], *, required: bool = True) -> None:
        """Take up the parent run that another process has opened, where the store answers.

        ``known`` are the runs of jobs, as the ledger has them. Where the run is not to be had,
        raises ``TrackingError``; if it is not ``required``, the sweep goes on without.
        """
        self._ids.update(known)
        try:
            self._join()
        except TrackingError as error:
            if error.transient:
                self._failed(error)
            elif required:
                raise
            else:
                self._do_without(error)

    def _do_without(self, error: TrackingError) -> None:
        if error.gone:
            self._tracker, self._joined = NoTracker(), True
            log.warning(
                "%s\nThe sweep goes on without it. What becomes of its jobs is in sweep.json only.",
                error,
            )
            return
        self._refused = error
        log.warning(
            "%s\nThe sweep goes on. What cannot be logged is kept; once that is mended, it is sent "
            "by: hydra-docker sync %s",
            error,
            self._sweep.folder,
        )

    def _join(self) -> None:
        if self._joined:
            return
        if self._refused is not None:
            raise TrackingError(str(self._refused), transient=True)  # for another process
        if self._sweep_id is None:
            self.open()
        else:
            self._tracker.join_sweep(self._sweep_id, self._sweep.run.experiment)
            self._joined = True

    def id(self, number: int) -> str | None:
        return self._ids.get(number)

    def access(self, run_id: str | None) -> StoreAccess:
        """Return what a container needs to log into a run; nothing where the store is away."""
        if not self._joined:
            return StoreAccess()
        access = self._tracker.access()
        environment = access.environment + self._tracker.job_environment(run_id)
        return StoreAccess(environment, access.folders, access.url, access.url_variable)

    def secrets(self) -> tuple[str, ...]:
        """Return what containers are told to reach the store, and nobody else is."""
        return self._tracker.secrets()

    def start(self, job: SavedJob, spec: ContainerSpec, attempt: int) -> str | None:
        """Start the run of a job, or set it running again, and return its id.

        None: nothing is tracked, or the store does not do it, also after a while. Raises
        ``TrackingError`` where it refuses.
        """
        deadline: float | None = None
        while True:
            try:
                run_id = self._start(job, spec, attempt)
            except TrackingError as error:
                if not error.transient:
                    raise
                self._failed(error)
            else:
                self._down_since = None
                return run_id
            # Of this job alone: what others log meanwhile does not help it.
            deadline = time.monotonic() + PATIENCE if deadline is None else deadline
            if not self._wait(deadline):
                return self._ids.get(job.number)

    def _start(self, job: SavedJob, spec: ContainerSpec, attempt: int) -> str | None:
        self._join()
        number = job.number
        tags = {**_limit_tags(spec), f"{LABEL_PREFIX}attempt": str(attempt)}
        known = self._ids.get(number)
        if known is not None:
            self._tracker.reopen_job(known, {**tags, f"{LABEL_PREFIX}exit_code": None})
            return known
        run_id = self._tracker.open_job(self._job_run(job, tags, None))
        if run_id is not None:
            self._ids[number] = run_id
        return run_id

    def take_back(self, number: int) -> None:
        """Set the run of a job running again whose end was none, where the store answers."""
        try:
            self._join()
            self._tracker.reopen_job(self._ids.get(number), {f"{LABEL_PREFIX}advice": None})
        except TrackingError as error:
            self._failed(error)

    def end(self, job: SavedJob, row: Mapping[str, Any], outcome: Outcome) -> bool:
        """Log the end of a job, as its ``row`` of the ledger tells it; tell whether it was logged.

        Called again for the same end, it changes nothing.
        """
        if self._down_since is not None and not self.answers():
            return False
        try:
            self._join()
            number = job.number
            run_id = self._ids.get(number)
            if run_id is None:  # the store was away when it started
                started = _seconds(row.get("started") or row.get("ended"))
                tags = _limit_tags(job.runnable.spec)
                run_id = self._tracker.open_job(self._job_run(job, tags, started))
                if run_id is not None:
                    self._ids[number] = run_id
            self._tracker.close_job(run_id, _job_run_end(job, row, outcome))
        except TrackingError as error:
            self._failed(error)
            return not error.transient  # what was refused will be refused again
        self._down_since = None
        return True

    def log_series(self, number: int, points: Sequence[Point]) -> bool:
        """Log what was measured as a job runs; tell whether that is done, or will never be."""
        if self._no_series or not self._sweep.mlflow.enabled:
            return True
        if number not in self._ids or (self._down_since is not None and not self.answers()):
            return False
        try:
            self._join()
            self._tracker.log_series(self._ids[number], points)
        except TrackingError as error:
            self._no_series = self._no_series or not error.transient
            self._failed(error)
            return self._no_series
        self._down_since = None
        return True

    def reopen(self) -> None:
        """Set the parent run running again: a sweeper has sent another batch."""
        try:
            self._tracker.reopen_sweep()
        except TrackingError as error:
            if not error.transient:
                raise
            self._failed(error)

    def close(self, status: RunStatus) -> bool:
        """Give the parent run its status; tell whether it has got it."""
        try:
            self._join()
            self._tracker.close_sweep(status)
        except TrackingError as error:
            self._failed(error)
            return not error.transient
        return True

    def answers(self) -> bool:
        """Tell whether the store answers: whether what is still to be sent can be."""
        return self._refused is None and self._tracker.answers()

    def _job_run(self, job: SavedJob, tags: Mapping[str, str], started: float | None) -> JobRun:
        shared = {
            name: content
            for name, content in self._sweep.run.artifacts.items()
            if name not in job.run.artifacts
        }
        return JobRun(
            name=job.run.name,
            tags={**job.run.tags, **tags},
            artifacts={**job.run.artifacts, **shared} if self._sweep.mlflow.enabled else {},
            datasets=job.run.datasets,
            started_at=started,
        )

    def _failed(self, error: TrackingError) -> None:
        """Tell the user, of a store that does not answer only once."""
        with self._lock:
            told = self._told or self._refused is not None
            self._told = self._told or error.transient
            if error.transient:
                self._down_since = self._down_since or time.monotonic()
        if not error.transient:
            log.warning("%s", error)
        elif not told:
            log.warning(
                "%s\nThe jobs go on. What could not be logged is kept, and sent when the store "
                "answers again; after the sweep: hydra-docker sync %s",
                error,
                self._sweep.folder,
            )

    def _wait(self, deadline: float) -> bool:
        """Wait until the store answers again; tell whether it did in time."""
        while True:
            since, now = self._down_since, time.monotonic()
            if now > deadline or (since is not None and now - since > PATIENCE) or self._refused:
                return False
            time.sleep(PAUSE)
            if self.answers():
                return True


def _limit_tags(spec: ContainerSpec) -> dict[str, str]:
    return {f"{LABEL_PREFIX}{name}": text for name, text in _plan.shown_limits(spec).items()}


def _job_run_end(job: SavedJob, row: Mapping[str, Any], outcome: Outcome) -> JobRunEnd:
    tags = {
        OUTCOME_TAG: outcome.end.value,
        f"{LABEL_PREFIX}cause": outcome.cause,
        f"{LABEL_PREFIX}container": row.get("container"),
        f"{LABEL_PREFIX}exit_code": outcome.exit_code,
        **{f"{LABEL_PREFIX}{name}": row.get(name) for name in KNOWN},
        f"{LABEL_PREFIX}stray": (row.get("stray") or {}).get("total") or None,
    }
    return JobRunEnd(
        status=outcome.end.run_status,
        params=_compose.flatten(job.job.plain),
        metrics={
            **_usage.metrics(row.get("used") or {}),
            **_metrics(outcome),
        },
        tags={name: str(value) for name, value in tags.items() if value is not None},
        files={"container.log": job.job.paths.log} if _is_log(job) else {},
        ended_at=_seconds(row.get("ended")),
        series=job.series,
    )


def _is_log(job: SavedJob) -> bool:
    """Tell whether container.log may be uploaded: the job could make a huge file of it."""
    size = _job_folder.log_size(job.job.paths)
    limit = job.runnable.log_limit
    if size is None or limit is None or size <= limit + MORE_LOG:
        return size is not None
    log.warning(
        "%s: container.log is not uploaded: it has %s, which is more than was written to it",
        job.job.title,
        show_size(size),
    )
    return False


def _metrics(outcome: Outcome) -> dict[str, float]:
    """Return a returned number as ``return_value``, a dict's numbers by their keys."""
    value = outcome.value
    items = value.items() if isinstance(value, dict) else [("return_value", value)]
    numbers = {
        plain(name): float(number)
        for name, number in items
        if isinstance(number, (int, float)) and not isinstance(number, bool)
        if isinstance(number, float) or abs(number) <= sys.float_info.max
    }
    return dict(islice(numbers.items(), MOST_METRICS))


def _seconds(moment: object) -> float | None:
    """Return the seconds since the epoch of a time of the ledger."""
    return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
