"""Usage: what a job has used, from samples of its container: means, peaks, a short series. Pure.

The series goes to tracking under the names and in the units of MLflow's own system metrics, where
it has the thing: a percentage is one of what the container may use, not of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ._engine import GpuSample, Limits, Sample
from ._units import show_size

#: What MLflow shows as system metrics.
PREFIX = "system/"
#: Means and peaks of a whole attempt.
USED = f"{PREFIX}used/"
#: MLflow's own measuring, inside the container, uses the same names: then ours have this one of a
#: node before them, as MLflow's have with MLFLOW_SYSTEM_METRICS_NODE_ID.
NODE = "container/"
NODE_VARIABLE = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
MB = 1e6

# The series: a point for every second, after the first ten for every ten, and later for every
# sixtieth of the container's age. From the 400th on, after some days, they become fewer still.
WIDTH = 10.0  # seconds
RESOLUTION = 60
MANY = 400
RESOLUTION_OF_MANY = 10
MOST = 500
#: Seconds between two samples, below which they tell no rate.
SHORTEST = 0.05

# What is said of at the end: less than this part of a limit, and so much less.
FAR_LESS = 0.5
LESS_MEMORY = 256 * 1024**2
LESS_CPUS = 1.0
LONG_ENOUGH = 10.0  # seconds; what a shorter job uses is its start, and nobody waits for it
#: Samples; where fewer could be taken (of hundreds of jobs, by an engine that is far away), its
#: peak may have been between them.
ENOUGH = 5
MOST_LINES = 5


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of the series. ``time`` in seconds since the epoch; values by metrics' names."""

    time: float
    step: int
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuUsed:
    """Of one GPU. ``memory`` in bytes, ``utilization`` in percent."""

    memory_peak: int
    utilization_mean: float | None = None
    utilization_peak: float | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What an attempt has used, as far as was seen: in ``samples`` of ``seconds``.

    Sizes in bytes; memory is without the page cache that the kernel takes back as it likes. Of
    ``disk`` and ``network`` all in all: (read, written), (received, sent).
    """

    seconds: float
    cpus_mean: float
    cpus_peak: float
    memory_mean: int
    memory_peak: int
    pids_peak: int | None = None
    disk: tuple[int, int] | None = None
    network: tuple[int, int] | None = None
    gpus: Mapping[int, GpuUsed] = field(default_factory=dict)
    samples: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as ``sweep.json`` has it."""
        found: dict[str, Any] = {
            "cpus": {"mean": round(self.cpus_mean, 3), "peak": round(self.cpus_peak, 3)},
            "memory": {"mean": self.memory_mean, "peak": self.memory_peak},
        }
        if self.pids_peak is not None:
            found["pids"] = {"peak": self.pids_peak}
        if self.disk is not None:
            found["disk"] = {"read": self.disk[0], "written": self.disk[1]}
        if self.network is not None:
            found["network"] = {"received": self.network[0], "sent": self.network[1]}
        if self.gpus:
            found["gpus"] = {
                str(index): {n: value for n, value in asdict(gpu).items() if value is not None}
                for index, gpu in self.gpus.items()
            }
        return {**found, "seconds": round(self.seconds, 1), "samples": self.samples}


def metrics(used: Mapping[str, Any]) -> dict[str, float]:
    """Return means and peaks, from a row of the ledger, as metrics: those of the series."""
    if not used:
        return {}
    found = {
        "cpus_mean": used["cpus"]["mean"],
        "cpus_peak": used["cpus"]["peak"],
        "memory_mean_megabytes": used["memory"]["mean"] / MB,
        "memory_peak_megabytes": used["memory"]["peak"] / MB,
    }
    if "pids" in used:
        found["pids_peak"] = used["pids"]["peak"]
    for index, gpu in used.get("gpus", {}).items():
        found[f"gpu_{index}_memory_peak_megabytes"] = gpu["memory_peak"] / MB
        for name in ("utilization_mean", "utilization_peak"):
            if name in gpu:
                found[f"gpu_{index}_{name}_percentage"] = gpu[name]
    return {f"{USED}{name}": float(value) for name, value in found.items()}


@dataclass(slots=True)
class _OfGpu:
    memory_peak: int = 0
    utilization: float = 0.0
    samples: int = 0
    utilization_peak: float | None = None


@dataclass(slots=True)
class Meter:
    """Adds up the samples of one container. ``started`` in seconds since the epoch.

    All of it can be saved and read back: another process goes on with it.
    """

    container: str
    attempt: int
    started: float
    #: What it may use; percentages are of that.
    cpus: float
    memory: int
    prefix: str = PREFIX
    samples: int = 0
    #: When the last sample was taken.
    time: float = 0.0
    #: What was counted by then. ``totals`` goes on where the counters begin anew with a restart.
    counters: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
    cpus_peak: float = 0.0
    #: Byte seconds, and the seconds in which they were looked at.
    memory_sum: float = 0.0
    memory_seconds: float = 0.0
    memory_last: int = 0
    memory_peak: int = 0
    pids_peak: int | None = None
    gpus: Mapping[int, _OfGpu] = field(default_factory=dict)
    #: The point that is being made: since when, from how much CPU time, with which highest values.
    since: float = 0.0
    cpu_since: float = 0.0
    highest: Mapping[str, float] = field(default_factory=dict)
    #: How many points there are already.
    points: int = 0

    def add(self, sample: Sample) -> Point | None:
        """Take in a sample; return the point of the series that it has completed, if any."""
        before = self.time if self.samples else self.started
        counted = self._count(sample)
        seconds = sample.time - before
        if seconds < SHORTEST and self.samples:  # also where somebody has set the clock back
            return None
        if not self.samples:
            self.since = self.started
        # The kernel's own periods are no shorter, and make it look like more.
        self.cpus_peak = max(self.cpus_peak, min(counted / max(seconds, SHORTEST), self.cpus))
        self._add_memory(sample.memory, max(seconds, 0.0))
        if sample.pids is not None:
            self.pids_peak = max(self.pids_peak or 0, sample.pids)
        for gpu in sample.gpus:
            self._add_gpu(gpu)
        self._raise(sample)
        self.samples += 1
        self.time = sample.time
        return self._point() if self._is_due() else None

    def used(self) -> Used | None:
        """Return what was used so far, None where nobody has looked."""
        if not self.samples:
            return None
        seconds = max(self.time - self.started, SHORTEST)
        totals = {name: int(total) for name, total in self.totals.items()}
        return Used(
            seconds=seconds,
            cpus_mean=min(self.totals["cpu"] / seconds, self.cpus_peak),
            cpus_peak=self.cpus_peak,
            memory_mean=int(self.memory_sum / self.memory_seconds)
            if self.memory_seconds
            else self.memory_peak,
            memory_peak=self.memory_peak,
            pids_peak=self.pids_peak,
            disk=(totals["read"], totals["written"]) if "read" in totals else None,
            network=(totals["received"], totals["sent"]) if "received" in totals else None,
            gpus={
                index: GpuUsed(
                    gpu.memory_peak,
                    round(gpu.utilization / gpu.samples, 1) if gpu.samples else None,
                    gpu.utilization_peak,
                )
                for index, gpu in sorted(self.gpus.items())
            },
            samples=self.samples,
        )

    def last(self) -> Point | None:
        """Return the point that is being made, as far as it has come; None where nothing is new."""
        return self._point() if self.highest else None

    def _count(self, sample: Sample) -> float:
        """Go on with the totals; return the seconds of CPU time since the sample before."""
        now = {
            name: float(value)
            for name in ("cpu", "read", "written", "received", "sent")
            if (value := getattr(sample, name)) is not None
        }
        totals = dict(self.totals)
        restarted = now["cpu"] < self.counters.get("cpu", 0.0)
        for name, value in now.items():
            before = 0.0 if restarted else self.counters.get(name, 0.0)
            totals[name] = totals.get(name, 0.0) + max(0.0, value - before)
        counted = totals["cpu"] - self.totals.get("cpu", 0.0)
        self.counters, self.totals = {**self.counters, **now}, totals
        return counted

    def _add_memory(self, memory: int, seconds: float) -> None:
        # Between two samples it was, as far as anybody knows, between the two.
        level = (memory + self.memory_last) / 2 if self.samples else memory
        self.memory_sum += level * seconds
        self.memory_seconds += seconds
        self.memory_last = memory
        self.memory_peak = max(self.memory_peak, memory)

    def _add_gpu(self, sample: GpuSample) -> None:
        gpu = self.gpus.get(sample.index, _OfGpu())
        self.gpus = {**self.gpus, sample.index: gpu}
        gpu.memory_peak = max(gpu.memory_peak, sample.memory)
        if sample.utilization is not None:
            gpu.utilization += sample.utilization
            gpu.samples += 1
            gpu.utilization_peak = max(gpu.utilization_peak or 0.0, sample.utilization)

    def _raise(self, sample: Sample) -> None:
        """Keep the highest values of the point that is being made."""
        now: dict[str, float] = {"system_memory_usage_megabytes": sample.memory / MB}
        if self.memory > 0:
            now["system_memory_usage_percentage"] = 100 * sample.memory / self.memory
        if sample.pids is not None:
            now["pids"] = sample.pids
        for gpu in sample.gpus:
            name = f"gpu_{gpu.index}"
            now[f"{name}_memory_usage_megabytes"] = gpu.memory / MB
            if gpu.memory_total:
                now[f"{name}_memory_usage_percentage"] = 100 * gpu.memory / gpu.memory_total
            if gpu.utilization is not None:
                now[f"{name}_utilization_percentage"] = gpu.utilization
        old = self.highest
        self.highest = {**old, **{n: max(value, old.get(n, value)) for n, value in now.items()}}

    def _is_due(self) -> bool:
        if self.points >= MOST - 1:  # one is left for the end
            return False
        age = self.time - self.started
        return self.time - self.since >= width(age, self.points) - 1e-6

    def _point(self) -> Point:
        seconds = max(self.time - self.since, SHORTEST)
        cpus = (self.totals["cpu"] - self.cpu_since) / seconds
        totals = {
            name: self.totals[key] / MB
            for name, key in (
                ("network_receive_megabytes", "received"),
                ("network_transmit_megabytes", "sent"),
                ("disk_read_megabytes", "read"),
                ("disk_write_megabytes", "written"),
            )
            if key in self.totals
        }
        values = {"cpu_utilization_percentage": 100 * cpus / self.cpus, **self.highest, **totals}
        # Further attempts go on in the same run, and MLflow's last value is that of the last step.
        point = Point(
            self.time,
            (self.attempt - 1) * 2 * MOST + self.points,
            {f"{self.prefix}{name}": round(value, 3) for name, value in values.items()},
        )
        self.since, self.cpu_since, self.highest = self.time, self.totals["cpu"], {}
        self.points += 1
        return point


def width(age: float, points: int) -> float:
    """Return the seconds that a point of the series stands for, at that age of the container."""
    if age < WIDTH:
        return 1.0
    return max(WIDTH, age / (RESOLUTION if points < MANY else RESOLUTION_OF_MANY))


def pause(age: float) -> float:
    """Return the seconds between two samples of a container of that age: a short job has peaks too.

    That makes 5 in the first second, 26 in the first fifty, and then one every ten seconds.
    """
    return min(WIDTH, max(0.2, age / 5))


# ---- in words ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a job was given and what it has used of it at most. Memory in bytes."""

    limits: Limits
    cpus: float
    memory: int

    @staticmethod
    def of(limits: Limits, used: Used | None) -> Reserved | None:
        """Return it, or None where not enough is known of the job.

        The peak that the kernel has told the container's own process does not count: it has the
        page cache in it, so that a job that reads much seems to need all that it may have.
        """
        if used is None or used.seconds < LONG_ENOUGH or used.samples < ENOUGH:
            return None
        return Reserved(limits, used.cpus_peak, used.memory_peak)


def advice(jobs: Iterable[Reserved]) -> tuple[str, ...]:
    """Return what to say of jobs that have used far less than was reserved for them.

    Of all with the same limit, the one that has used most counts: they have the option together.
    """
    memory: dict[int, list[int]] = {}
    cpus: dict[float, list[float]] = {}
    for job in jobs:
        memory.setdefault(job.limits.memory, []).append(job.memory)
        cpus.setdefault(job.limits.cpus, []).append(job.cpus)
    lines = [
        f"{_jobs(peaks)} used far less than {'its' if len(peaks) == 1 else 'their'} memory: peak "
        f"{show_size(max(peaks))} of {show_size(limit)} (hydra.launcher.mem_limit)"
        for limit, peaks in memory.items()
        if limit - max(peaks) >= LESS_MEMORY and max(peaks) < FAR_LESS * limit
    ]
    lines += [
        f"{_jobs(peaks)} used far less than {'its' if len(peaks) == 1 else 'their'} CPUs: peak "
        f"{_shown(max(peaks))} of {limit:g} (hydra.launcher.cpus)"
        for limit, peaks in cpus.items()
        if limit - max(peaks) >= LESS_CPUS and max(peaks) < FAR_LESS * limit
    ]
    more = len(lines) - MOST_LINES
    return (*lines[:MOST_LINES], *((f"{more} more limits are far above",) if more > 0 else ()))


def _jobs(peaks: list[Any]) -> str:
    return f"{len(peaks)} jobs" if len(peaks) > 1 else "1 job"


def _shown(cpus: float) -> str:
    """Return a number of CPUs, rounded up: ``0.4``."""
    return f"{math.ceil(cpus * 10) / 10:g}"
