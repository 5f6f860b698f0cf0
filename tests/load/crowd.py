"""A crowd: several launchers, each of a user of its own, on one engine; one may be killed."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import Bench, Running
from docker.errors import APIError, NotFound
from marked_sweep import MarkedSweep
from sweep_command import wait_for

USERS = ("ann", "bob", "cyd", "dee", "eve", "fay")
MIB = 1024**2
SAMPLE = 0.02  # seconds between two looks at the engine
LONG = 3600.0  # seconds, of all


@dataclass
class Samples:
    """What the engine had promised, whenever it was looked at. Memory in bytes."""

    cpus: float = 0.0
    memory: int = 0
    at_once: int = 0
    looks: int = 0
    #: How long each job has waited for room, in seconds, by its user and its number.
    waits: dict[tuple[str, int], float] = field(default_factory=dict)

    def of(self, user: str) -> list[float]:
        return sorted(wait for (name, _), wait in self.waits.items() if name == user)


@contextmanager
def sampled(bench: Bench) -> Iterator[Samples]:
    """Look at what runs on the bench's engine, again and again, until the block ends."""
    samples, over = Samples(), threading.Event()
    known: dict[str, tuple[float, int]] = {}
    api = bench.engine.api()

    def limits(number: str) -> tuple[float, int]:
        if number not in known:
            try:
                found = api.inspect_container(number)
            except (NotFound, APIError):
                return 0.0, 0  # it has just ended
            host, labels = found["HostConfig"], found["Config"]["Labels"] or {}
            known[number] = host["NanoCpus"] / 1e9, host["Memory"]
            if "hydra.docker.waited" in labels:
                key = labels["hydra.docker.user"], int(labels["hydra.docker.job"])
                samples.waits[key] = float(labels["hydra.docker.waited"])
        return known[number]

    def look() -> None:
        while not over.wait(SAMPLE):
            found = [limits(entry["Id"]) for entry in api.containers()]
            samples.looks += 1
            samples.cpus = max(samples.cpus, sum(cpus for cpus, _ in found))
            samples.memory = max(samples.memory, sum(memory for _, memory in found))
            samples.at_once = max(samples.at_once, len(found))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        api.close()


@dataclass
class Crowd:
    """What has become of all. Times in seconds."""

    samples: Samples
    sweeps: tuple[MarkedSweep, ...]
    total: float
    #: How long each launcher has taken, by its user; the killed one's is not in there.
    took: dict[str, float]


def run(
    bench: Bench,
    *,
    launchers: int,
    jobs: int,
    cpus: Sequence[float],
    memory: int,
    kill_after: int,
    seconds: float = 0.2,
) -> Crowd:
    """Let launchers run at once, each ``jobs`` jobs; the first is killed after so many of its own.

    Its sweep is taken up when all others are over. ``cpus`` are those of each launcher's jobs,
    ``memory`` (bytes) of every job. Raises ``AssertionError`` where a job is not done exactly once.
    """
    sweeps = tuple(
        MarkedSweep(
            bench,
            jobs,
            "hydra.launcher.mlflow.enabled=false",
            f"hydra.launcher.cpus={cpus[number % len(cpus)]:g}",
            f"hydra.launcher.mem_limit={memory}",
            seconds=seconds,
            user=USERS[number],
        )
        for number in range(launchers)
    )
    warm = MarkedSweep(bench, 1, "hydra.launcher.mlflow.enabled=false", user="warm")
    assert warm.start().finish() == 0, warm.output  # now it is known what the image has
    began = time.monotonic()
    took: dict[str, float] = {}
    with sampled(bench) as samples:
        commands = [sweep.start() for sweep in sweeps]
        victim = sweeps[0]
        wait_for(lambda: victim.begun() >= kill_after, f"{kill_after} jobs of the first", LONG)
        commands[0].kill()
        others = list(zip(USERS[1:], commands[1:], strict=False))
        for user, command in others:
            took[user] = _finish(command, began)
        attached = victim.attach()
        _finish(attached, began)
    total = time.monotonic() - began
    for sweep in sweeps:
        done = [sweep.marks(job) for job in range(jobs)]
        assert all(len(marks.ended) == len(marks.begun) == 1 for marks in done), sweep.output
        assert {row["outcome"] for row in sweep.rows()} == {"completed"}, sweep.output
    assert bench.api.volumes(filters={"label": "hydra.docker.ticket"})["Volumes"] in (None, [])
    return Crowd(samples, sweeps, total, took)


def _finish(command: Running, began: float) -> float:
    assert command.finish(LONG) == 0, command.output
    return time.monotonic() - began


def table(crowd: Crowd) -> str:
    """Return the waits of each launcher's jobs as a Markdown table. Times in seconds."""
    lines = [
        "| launcher | jobs seen | median wait | 95 % | longest | took |",
        "|---|---|---|---|---|---|",
    ]
    for user in [USERS[number] for number in range(len(crowd.sweeps))]:
        waits = crowd.samples.of(user) or [0.0]
        late = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
        took = f"{crowd.took[user]:.0f}" if user in crowd.took else "killed, taken up"
        lines.append(
            f"| {user} | {len(waits)} | {statistics.median(waits):.1f} | {late:.1f} | "
            f"{waits[-1]:.1f} | {took} |"
        )
    return "\n".join(lines)
