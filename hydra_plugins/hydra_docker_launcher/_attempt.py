"""Attempt: a planned job, what each of its attempts runs, and whether another one follows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ._engine import ContainerSpec, Limits
from ._masks import Masks
from ._option_values import LONGEST_BACKOFF
from ._options import LABEL_PREFIX, NO_RETRIES, Retries
from ._outcome import End, Outcome
from ._paths import JobPaths
from ._stray_rules import IGNORE, Policy
from ._units import show_size

#: Tells a job which attempt it is.
VARIABLE = "HYDRA_DOCKER_ATTEMPT"

#: Which number of ``Retries`` counts after which end. Who stops a job does not want it again.
_CAUSES = {
    End.OUT_OF_MEMORY: "oom",
    End.NOT_STARTED: "infra",
    End.LOST: "infra",
    End.ERROR: "error",
    End.EXITED: "error",
    End.TIMED_OUT: "timeout",
}
_OF_INFRA = tuple(end for end, cause in _CAUSES.items() if cause == "infra")


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
    #: The launcher before has ended ``container``, or was about to: its time was over.
    overtime: bool = False
    stray: Policy = IGNORE
    #: Bytes of its container.log; None: no limit.
    log_limit: int | None = None
    #: What is masked in texts of the job and about it.
    masks: Masks = ()
    #: The GPUs that ``container`` has, by id.
    gpus: tuple[str, ...] = ()
    #: How often ``container`` was looked for again, since the engine had stopped to answer.
    searches: int = 0


def following(job: RunnableJob, outcome: Outcome) -> RunnableJob | None:
    """Return the attempt that follows one that has ended so, or None where it was the last."""
    if _left(job, outcome) < 1:
        return None
    return replace(
        job,
        attempt=job.attempt + 1,
        earlier=(*job.earlier, outcome.end),
        container=None,
        started_at=None,
        overtime=False,
        gpus=(),
        searches=0,
    )


def searched(
    job: RunnableJob, container: str, started_at: float | None, gpus: tuple[str, ...]
) -> RunnableJob | None:
    """Return the same attempt, to be taken up when the engine answers again.

    Its container may run on, so it neither counts as an attempt nor is another one made. None: the
    engine was away as often as a job may be lost (``retries.infra``).
    """
    if sum(end in _OF_INFRA for end in job.earlier) + job.searches >= job.retries.infra:
        return None
    return replace(
        job, container=container, started_at=started_at, gpus=gpus, searches=job.searches + 1
    )


def at_most(job: RunnableJob, outcome: Outcome) -> int:
    """Return the number of the last attempt, should the job go on to end so."""
    return job.attempt + _left(job, outcome)


def delay(job: RunnableJob) -> float:
    """Return the seconds between an attempt and the one that follows it."""
    doublings = min(job.attempt - 1, 30)
    return min(job.retries.backoff * 2.0**doublings, LONGEST_BACKOFF)


def specification(job: RunnableJob, memory: int) -> ContainerSpec:
    """Return the specification of this attempt's container, on a machine of ``memory`` bytes."""
    labels = {**dict(job.spec.labels), f"{LABEL_PREFIX}attempt": str(job.attempt)}
    environment = {**dict(job.spec.environment), VARIABLE: str(job.attempt)}
    return replace(
        job.spec,
        name=job.spec.name if job.attempt == 1 else f"{job.spec.name}-{job.attempt}",
        labels=tuple(labels.items()),
        environment=tuple(environment.items()),
        limits=_with_memory(job.spec.limits, min(_wanted_memory(job), memory)),
    )


def memory_message(job: RunnableJob, memory: int) -> str | None:
    """Return what to tell the user of this attempt's memory, if anything."""
    if End.OUT_OF_MEMORY not in job.earlier[-1:] or job.retries.mem_factor == 1:
        return None
    wanted = _wanted_memory(job)
    if wanted <= memory:
        return f"attempt {job.attempt} gets mem_limit={show_size(wanted)}"
    return (
        f"attempt {job.attempt} would get mem_limit={show_size(wanted)}, which is more than the "
        f"engine's machine has: it gets all of its {show_size(memory)}"
    )


def _left(job: RunnableJob, outcome: Outcome) -> int:
    cause = _CAUSES.get(outcome.end)
    if cause is None:
        return 0
    used = sum(_CAUSES.get(end) == cause for end in job.earlier)
    budget: int = getattr(job.retries, cause)
    return max(0, budget - used)


def _wanted_memory(job: RunnableJob) -> int:
    """Return mem_limit times mem_factor for each earlier attempt that was out of memory."""
    wanted = float(job.spec.limits.memory)
    for end in job.earlier:
        if end is End.OUT_OF_MEMORY:
            wanted *= job.retries.mem_factor
    return int(min(wanted, 2.0**62))


def _with_memory(limits: Limits, memory: int) -> Limits:
    """Return limits with more memory; what is as large as the memory remains so."""
    swap, shm = limits.memory_swap, limits.shm_size
    unlimited = swap == -1
    return replace(
        limits,
        memory=memory,
        memory_swap=memory if swap == limits.memory else swap if unlimited else max(swap, memory),
        shm_size=memory if shm == limits.memory else shm,
    )
