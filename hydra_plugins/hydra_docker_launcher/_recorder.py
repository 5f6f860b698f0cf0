"""Recorder: the seam to what writes a sweep down (``Recorder``), as its jobs run."""

from __future__ import annotations

from typing import Protocol

from ._attempt import RunnableJob
from ._engine import ContainerSpec, ContainerState, Sample
from ._outcome import Outcome


class Recorder(Protocol):
    """Is told of every job, from the thread of that job."""

    def starting(self, job: RunnableJob, spec: ContainerSpec) -> ContainerSpec:
        """Write down that an attempt starts; return its final specification."""

    def started(self, job: RunnableJob, spec: ContainerSpec, container: str) -> None:
        """Write down which container runs the job."""

    def timing_out(self, job: RunnableJob, container: str) -> None:
        """Write down, before it is stopped, that a container is stopped because its time is over.

        Nobody could tell afterwards, should this process be killed.
        """

    def sampled(self, job: RunnableJob, container: str, started: float, sample: Sample) -> None:
        """Take in what a job's container uses at one moment. Called from one thread for all jobs.

        ``started``: when the container was, in seconds since the epoch.
        """

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

    def settled(self, job: RunnableJob) -> None:
        """Forget the job: its end is written down, and its container removed or kept."""
