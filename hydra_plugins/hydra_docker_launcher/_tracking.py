"""Tracking: the seam to a tracking system (``Tracker``), and what a sweep tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from ._options import LABEL_PREFIX
from ._usage import Point

#: The tag of a child run that holds the number of its job.
JOB_TAG = f"{LABEL_PREFIX}job"
#: The tag of a child run that tells how its job has ended.
OUTCOME_TAG = f"{LABEL_PREFIX}outcome"
#: The tag of all runs of a sweep that holds the sweep's own id.
SWEEP_TAG = f"{LABEL_PREFIX}sweep"


class RunStatus(str, Enum):
    """Final status of a run, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Data that a job is given: ``source`` on this host, at ``target`` in its container.

    ``digest`` is a hash with its algorithm before it. ``facts`` is what else is known, as JSON.
    """

    name: str
    digest: str
    source: str
    target: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepRun:
    """What the parent run of a sweep is opened with."""

    experiment: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    #: File name in the run's artifacts -> text, or bytes.
    artifacts: Mapping[str, str | bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobRun:
    """What the child run of a job is opened with, before its container exists."""

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    #: File name in the run's artifacts -> text, or bytes.
    artifacts: Mapping[str, str | bytes] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    #: When it started, in seconds since the epoch; None: now.
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class JobRunEnd:
    """What the child run of a job is closed with, after its container has ended."""

    status: RunStatus
    #: The resolved config, flat: ``optimizer.lr`` -> value. Logged at the end, and only where the
    #: script has not logged a param of that name itself: MLflow raises when a param changes.
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    #: File name in the run's artifacts -> file on the host (one that is missing is left out).
    files: Mapping[str, Path] = field(default_factory=dict)
    #: When it ended, in seconds since the epoch; None: now. The time of the metrics as well.
    ended_at: float | None = None
    #: What is left to be logged of what was measured as it ran.
    series: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """What a container needs to reach the tracking store."""

    #: Environment variables for every container.
    environment: tuple[tuple[str, str], ...] = ()
    #: Folders of the host that hold the store, to be mounted read-write at the same path.
    folders: tuple[Path, ...] = ()
    #: The http(s) address of the store, where it is a server; ``environment`` does not hold it
    #: then, because what a container can reach depends on its network.
    url: str | None = None
    #: The name of the environment variable that takes ``url``.
    url_variable: str | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as it stands in the tracking system. ``metrics`` are the last values."""

    id: str
    name: str
    experiment: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class History(Protocol):
    """The runs of a tracking system, to be read. Every method raises ``TrackingError``."""

    def run(self, run_id: str) -> PastRun:
        """Return a run, by its id or by so many of its first digits that no other has them."""

    def children(self, run: PastRun) -> tuple[PastRun, ...]:
        """Return the child runs of the run of a sweep, in the order in which they were started."""

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run's artifacts, None where there is none of that name."""


class Tracker(Protocol):
    """One tracking system. All methods that concern a job may be called from several threads.

    Every method that asks the store, but for ``answers``, raises ``TrackingError`` when that does
    not do what it is asked for, within seconds where it does not answer. Each may then be called
    again: what a call that failed has left half done is taken up, nothing is logged twice.
    """

    def open_sweep(self, sweep: SweepRun) -> str | None:
        """Make the store usable (once, on the host), start the parent run, return its id."""

    def join_sweep(self, run_id: str, experiment: str) -> None:
        """Take up the parent run that another process has opened, and set it running again."""

    def access(self) -> StoreAccess:
        """Tell what a container needs to reach the store. Valid once a sweep is open."""

    def secrets(self) -> tuple[str, ...]:
        """Return what containers are told to reach the store and nobody else is. Asks nobody."""

    def open_job(self, job: JobRun) -> str | None:
        """Start a child run of the sweep, return its id (None: nothing is tracked).

        A child run with the same tag ``JOB_TAG`` that was started, but has no ``OUTCOME_TAG``, is
        taken up: it is what a call that failed, or a process that died, has left.
        """

    def reopen_job(self, run_id: str | None, tags: Mapping[str, str | None]) -> None:
        """Set a job's run running again, with further tags (None: without the tag).

        What it has logged stays, but for its ``OUTCOME_TAG``: it has none until it is closed again.
        """

    def job_environment(self, run_id: str | None) -> tuple[tuple[str, str], ...]:
        """Return the environment variables that lead a job's own logging into its run."""

    def log_series(self, run_id: str | None, points: Sequence[Point]) -> None:
        """Log points of metrics that are measured as a job runs. Called again, nothing twice."""

    def close_job(self, run_id: str | None, end: JobRunEnd) -> None:
        """Log what the end of a job tells, and give its run the final status.

        Called again with the same ``end`` it logs what is missing, and nothing twice.
        """

    def reopen_sweep(self) -> None:
        """Set the parent run running again: a sweeper has sent another batch."""

    def close_sweep(self, status: RunStatus) -> None:
        """Give the parent run its status."""

    def answers(self) -> bool:
        """Tell within seconds whether the store answers."""


class NoTracker:
    """Nothing is tracked (``hydra.launcher.mlflow.enabled=false``)."""

    def open_sweep(self, sweep: SweepRun) -> str | None:
        return None

    def join_sweep(self, run_id: str, experiment: str) -> None:
        return None

    def access(self) -> StoreAccess:
        return StoreAccess()

    def secrets(self) -> tuple[str, ...]:
        return ()

    def open_job(self, job: JobRun) -> str | None:
        return None

    def reopen_job(self, run_id: str | None, tags: Mapping[str, str | None]) -> None:
        return None

    def job_environment(self, run_id: str | None) -> tuple[tuple[str, str], ...]:
        return ()

    def log_series(self, run_id: str | None, points: Sequence[Point]) -> None:
        return None

    def close_job(self, run_id: str | None, end: JobRunEnd) -> None:
        return None

    def reopen_sweep(self) -> None:
        return None

    def close_sweep(self, status: RunStatus) -> None:
        return None

    def answers(self) -> bool:
        return True
