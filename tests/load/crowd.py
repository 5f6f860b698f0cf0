"""A crowd: several launchers, each of a user of its own, on one engine; one may be killed."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

from bench import Bench, Running
from docker.errors import NotFound
from marked_sweep import MarkedSweep
from sweep_command import wait_for

USERS = ("ann", "bob", "cyd", "dee", "eve", "fay")
MIB = 1024**2
SAMPLE = 0.02  # seconds between two looks at the engine
#: Seconds between the moments that are noted of a job and those that count for it: from the promise
#: to the container that is created, and from the moment a ticket names to the one it is there.
BLUR = 1.0


@dataclass(frozen=True)
class Share:
    """What each job of one launcher asks for. Memory in bytes."""

    cpus: float
    memory: int


@dataclass(frozen=True)
class Machine:
    """What an engine has to give. Memory in bytes."""

    cpus: int
    memory: int

    @staticmethod
    def of(bench: Bench) -> Machine:
        info = bench.api.info()
        return Machine(info["NCPU"], info["MemTotal"])

    def has_room(self, *shares: Share) -> bool:
        return (
            sum(share.cpus for share in shares) <= self.cpus + 1e-6
            and sum(share.memory for share in shares) <= self.memory
        )


@dataclass(frozen=True)
class Entry:
    """A job that got in: when it was asked for, and when its container was created (seconds)."""

    user: str
    job: int
    share: Share
    asked: float
    entered: float

    @property
    def waited(self) -> float:
        return self.entered - self.asked


@dataclass
class Samples:
    """What the engine had promised, whenever it was looked at. Memory in bytes."""

    cpus: float = 0.0
    memory: int = 0
    at_once: int = 0
    looks: int = 0
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)

    def waits(self, user: str) -> list[float]:
        return sorted(entry.waited for entry in self.entries.values() if entry.user == user)


@contextmanager
def sampled(bench: Bench) -> Iterator[Samples]:
    """Look at what runs on the bench's engine, again and again, until the block ends.

    Raises what went wrong with that as the block ends.
    """
    samples, over = Samples(), threading.Event()
    failures: list[BaseException] = []
    known: dict[str, Share] = {}
    api = bench.engine.api()

    def share(number: str) -> Share:
        if number not in known:
            try:
                found = api.inspect_container(number)
            except NotFound:
                return Share(0.0, 0)  # it has just ended
            host, labels = found["HostConfig"], found["Config"]["Labels"] or {}
            known[number] = Share(host["NanoCpus"] / 1e9, host["Memory"])
            if "hydra.docker.waited" in labels:
                entered = _moment(found["Created"])
                asked = entered - float(labels["hydra.docker.waited"])
                key = labels["hydra.docker.user"], int(labels["hydra.docker.job"])
                samples.entries[key] = Entry(*key, known[number], asked, entered)
        return known[number]

    def look() -> None:
        try:
            while not over.wait(SAMPLE):
                found = [share(entry["Id"]) for entry in api.containers()]
                samples.looks += 1
                samples.cpus = max(samples.cpus, sum(one.cpus for one in found))
                samples.memory = max(samples.memory, sum(one.memory for one in found))
                samples.at_once = max(samples.at_once, len(found))
        except BaseException as error:  # noqa: BLE001  (raised by the thread that waits for this one)
            failures.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        api.close()
    if failures:
        raise AssertionError(f"nobody has looked at the engine: {failures[0]!r}") from failures[0]


def _moment(text: str) -> float:
    """Return the seconds since the epoch of a time as the engine writes it."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp()
    return seconds + float(f"0.{fraction or 0}")


def rivals(entries: Iterable[Entry], machine: Machine) -> list[tuple[Entry, Entry]]:
    """Return the pairs of jobs of different launchers of which the first was asked for earlier.

    Both waited at the same time, and the machine has no room for both.
    """
    known = sorted(entries, key=lambda entry: entry.asked)
    return [
        (first, second)
        for number, first in enumerate(known)
        for second in known[number + 1 :]
        if first.user != second.user
        and first.asked + BLUR < second.asked < first.entered
        and not machine.has_room(first.share, second.share)
    ]


def overtaken(entries: Iterable[Entry], machine: Machine) -> list[str]:
    """Return, in words, which jobs got in before one that waited longer for what they took."""
    return [
        f"{second.user}'s job #{second.job} (waited {second.waited:.1f} s) got in before "
        f"{first.user}'s #{first.job} (waited {first.waited:.1f} s)"
        for first, second in rivals(entries, machine)
        if second.entered < first.entered - BLUR
    ]


@dataclass
class Crowd:
    """What has become of all. Times in seconds."""

    machine: Machine
    samples: Samples
    sweeps: tuple[MarkedSweep, ...]
    total: float
    #: How long each launcher has taken, by its user; the killed one's is not in there.
    took: dict[str, float]

    def check(self) -> None:
        """Raise ``AssertionError`` where too much was promised, or a job was passed over."""
        samples, machine = self.samples, self.machine
        assert samples.looks > 0
        assert 0 < samples.cpus <= machine.cpus
        # What is far below the limit would be so whatever the launchers do.
        assert machine.memory / 2 < samples.memory <= machine.memory
        assert overtaken(samples.entries.values(), machine) == []


def run(
    bench: Bench,
    *,
    shares: Sequence[Share],
    jobs: int,
    kill_after: int,
    limit: float,
    seconds: float = 0.2,
) -> Crowd:
    """Let launchers run at once, each ``jobs`` jobs; the first is killed after so many of its own.

    Its sweep is taken up when all others are over. There is a launcher for each of ``shares``, and
    each job works for ``seconds``. Raises ``AssertionError`` where a job is not done exactly once,
    and as soon as all of it has taken ``limit`` seconds.
    """
    sweeps = tuple(
        MarkedSweep(
            bench,
            jobs,
            "hydra.launcher.mlflow.enabled=false",
            f"hydra.launcher.cpus={share.cpus:g}",
            f"hydra.launcher.mem_limit={share.memory}",
            seconds=seconds,
            user=user,
        )
        for user, share in zip(USERS, shares, strict=False)
    )
    began = time.monotonic()
    deadline = began + limit
    warm = MarkedSweep(bench, 1, "hydra.launcher.mlflow.enabled=false", user="warm")
    _finish(warm.start(), deadline)  # now it is known what the image has
    took: dict[str, float] = {}
    with sampled(bench) as samples:
        start = time.monotonic()
        commands = [sweep.start() for sweep in sweeps]
        victim = sweeps[0]

        def is_to_be_killed() -> bool:
            assert not commands[0].ended, victim.output
            return victim.begun() >= kill_after

        left = deadline - time.monotonic()
        wait_for(is_to_be_killed, f"{kill_after} jobs of the first begin", left)
        commands[0].kill()
        for user, command in list(zip(USERS, commands, strict=False))[1:]:
            _finish(command, deadline)
            took[user] = time.monotonic() - start
        _finish(victim.attach(), deadline)
        total = time.monotonic() - start
    for sweep in sweeps:
        done = [sweep.marks(job) for job in range(jobs)]
        assert all(len(marks.ended) == len(marks.begun) == 1 for marks in done), sweep.output
        assert {row["outcome"] for row in sweep.rows()} == {"completed"}, sweep.output
    left_over = bench.api.volumes(filters={"label": "hydra.docker.ticket"})["Volumes"] or []
    assert left_over == [], left_over
    return Crowd(Machine.of(bench), samples, sweeps, total, took)


def _finish(command: Running, deadline: float) -> None:
    assert command.finish(max(1.0, deadline - time.monotonic())) == 0, command.output


def table(crowd: Crowd) -> str:
    """Return the waits of each launcher's jobs as a Markdown table. Times in seconds."""
    lines = [
        "| launcher | cpus | mem_limit | jobs seen | median wait | 95 % | longest | took |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for user in [USERS[number] for number in range(len(crowd.sweeps))]:
        waits = crowd.samples.waits(user)
        if not waits:
            lines.append(f"| {user} | | | 0 | | | | |")
            continue
        share = next(one.share for one in crowd.samples.entries.values() if one.user == user)
        late = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
        took = f"{crowd.took[user]:.0f}" if user in crowd.took else "killed, taken up"
        lines.append(
            f"| {user} | {share.cpus:g} | {share.memory / MIB:.0f} MiB | {len(waits)} | "
            f"{statistics.median(waits):.1f} | {late:.1f} | {waits[-1]:.1f} | {took} |"
        )
    return "\n".join(lines)
