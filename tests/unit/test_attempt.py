"""Attempt: what each attempt of a job runs, and whether another one follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _attempt
from hydra_plugins.hydra_docker_launcher._attempt import RunnableJob
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits
from hydra_plugins.hydra_docker_launcher._options import Retries
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._paths import JobPaths

GIB = 1024**3
SPEC = ContainerSpec(
    name="train-0",
    image="sha256:a",
    command=("python3",),
    working_dir="/",
    limits=Limits(cpus=1, memory=GIB, memory_swap=GIB, shm_size=GIB, pids=-1),
    boundary=Boundary(user=None),
    environment=(("A", "1"), ("HYDRA_DOCKER_ATTEMPT", "the user's")),
    labels=(("hydra.docker.job", "0"),),
)
OOM = End.OUT_OF_MEMORY


def a_job(*earlier, limits=SPEC.limits, **retries):
    return RunnableJob(
        number=0,
        title="job #0",
        spec=replace(SPEC, limits=limits),
        paths=JobPaths(Path("/sweep/0")),
        timeout=None,
        retries=Retries(**retries),
        attempt=len(earlier) + 1,
        earlier=earlier,
        container="abc",
        started_at=1.0,
    )


def ends(job, end):
    return _attempt.following(job, Outcome(end, "why"))


@pytest.mark.parametrize(
    ("cause", "followed"),
    [
        ("oom", {End.OUT_OF_MEMORY}),
        ("infra", {End.NOT_STARTED, End.LOST}),
        ("error", {End.ERROR, End.EXITED}),
        ("timeout", {End.TIMED_OUT}),
    ],
)
def test_causes(cause, followed):
    """Each number counts for its own ends; a job that completed or was stopped has none."""
    job = a_job(**{cause: 1})
    assert {end for end in End if ends(job, end)} == followed


def test_following():
    """The next attempt has a container of its own, and its own time."""
    job = a_job(OOM, error=1)
    assert ends(job, End.ERROR) == replace(
        job, attempt=3, earlier=(OOM, End.ERROR), container=None, started_at=None
    )


def test_budgets():
    """What one cause has used up is no loss to another."""
    assert ends(a_job(End.ERROR, OOM, oom=1, error=2), End.EXITED)
    assert not ends(a_job(End.ERROR, OOM, End.EXITED, oom=1, error=2), End.ERROR)
    assert not ends(a_job(End.ERROR, OOM, oom=1, error=2), OOM)


def test_at_most():
    """The last attempt that there can be, should it end so again and again."""
    job = a_job(End.ERROR, OOM, oom=1, error=4)
    assert _attempt.at_most(job, Outcome(End.ERROR, "")) == 6
    assert _attempt.at_most(job, Outcome(OOM, "")) == 3
    assert _attempt.at_most(job, Outcome(End.STOPPED, "")) == 3


def test_delay():
    """Doubled with each attempt, up to five minutes."""
    job = a_job(backoff=5.0)
    assert [_attempt.delay(replace(job, attempt=n)) for n in range(1, 9)] == [
        5.0,
        10.0,
        20.0,
        40.0,
        80.0,
        160.0,
        300.0,
        300.0,
    ]
    assert _attempt.delay(replace(job, attempt=100_000)) == 300.0
    assert _attempt.delay(replace(a_job(backoff=0.0), attempt=5)) == 0.0


def test_specification():
    """The attempt's number is in the environment, in the labels and, from 2 on, in the name."""
    expected = replace(
        SPEC,
        environment=(("A", "1"), ("HYDRA_DOCKER_ATTEMPT", "1")),
        labels=(("hydra.docker.job", "0"), ("hydra.docker.attempt", "1")),
    )
    assert _attempt.specification(a_job(), 8 * GIB) == expected
    assert _attempt.specification(a_job(End.ERROR, mem_factor=2), 8 * GIB) == replace(
        expected,
        name="train-0-2",
        environment=(("A", "1"), ("HYDRA_DOCKER_ATTEMPT", "2")),
        labels=(("hydra.docker.job", "0"), ("hydra.docker.attempt", "2")),
    )


@pytest.mark.parametrize(
    ("limits", "factor", "earlier", "expected"),
    [
        # memory, memory_swap, shm_size: as it is without mem_factor
        ((1, 1, 1), 1, (OOM,), (1, 1, 1)),
        # for each attempt that was out of memory; swap and shm follow
        ((1, 1, 1), 2, (OOM,), (2, 2, 2)),
        ((1, 1, 1), 2, (OOM, End.LOST, OOM), (4, 4, 4)),
        ((1, 1, 1), 1.5, (OOM, OOM), (2.25, 2.25, 2.25)),
        # what has a value of its own keeps it, but swap counts the memory in
        ((1, -1, 0.5), 2, (OOM,), (2, -1, 0.5)),
        ((1, 3, 0.5), 2, (OOM,), (2, 3, 0.5)),
        ((1, 3, 0.5), 4, (OOM,), (4, 4, 0.5)),
        # never more than the machine has
        ((3, 3, 3), 2, (OOM, OOM), (8, 8, 8)),
        ((1, 1, 1), 1e9, (OOM,) * 50, (8, 8, 8)),
    ],
)
def test_memory(limits, factor, earlier, expected):
    """mem_limit is multiplied by mem_factor after each attempt that was out of memory."""
    memory, swap, shm = (int(size * GIB) if size > 0 else -1 for size in limits)
    job = a_job(*earlier, limits=Limits(1, memory, swap, shm, -1), mem_factor=factor)

    found = _attempt.specification(job, 8 * GIB).limits

    wanted = tuple(int(size * GIB) if size > 0 else -1 for size in expected)
    assert (found.memory, found.memory_swap, found.shm_size) == wanted


def test_memory_message():
    """The user is told of more memory, and where it is less than mem_factor asks for."""
    job = a_job(OOM, OOM, mem_factor=2)
    assert _attempt.memory_message(job, 8 * GIB) == "attempt 3 gets mem_limit=4g"
    assert _attempt.memory_message(job, 3 * GIB) == (
        "attempt 3 would get mem_limit=4g, which is more than the engine's machine has: it gets "
        "all of its 3g"
    )
    assert _attempt.memory_message(a_job(OOM, End.LOST, mem_factor=2), 8 * GIB) is None
    assert _attempt.memory_message(a_job(OOM), 8 * GIB) is None
    assert _attempt.memory_message(a_job(mem_factor=2), 8 * GIB) is None
