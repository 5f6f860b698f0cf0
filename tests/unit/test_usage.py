"""Usage: what a job has used, from samples of its container."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from hydra_plugins.hydra_docker_launcher import _codec, _usage
from hydra_plugins.hydra_docker_launcher._engine import GpuSample, Limits, Sample
from hydra_plugins.hydra_docker_launcher._usage import Meter, Point, Reserved, Used

MB = 10**6
GIB = 1024**3
START = 1_000_000.0
DAY = 86400.0
ALL = Sample(
    time=START + 1,
    cpu=0.5,
    memory=100 * MB,
    pids=3,
    read=4 * MB,
    written=5 * MB,
    received=6 * MB,
    sent=7 * MB,
    gpus=(GpuSample(1, 500 * MB, 1000 * MB, 40.0),),
)


def meter(**fields):
    return Meter("c0", **{"attempt": 1, "started": START, "cpus": 2.0, "memory": GIB, **fields})


def after(*samples, **fields):
    it = meter(**fields)
    for sample in samples:
        it.add(sample)
    return it


def test_used():
    """Means are over the time that it ran, peaks over the time between two samples."""
    used = after(
        ALL,
        replace(
            ALL,
            time=START + 3,
            cpu=3.5,
            memory=300 * MB,
            pids=9,
            read=8 * MB,
            gpus=(GpuSample(1, 400 * MB, 1000 * MB, 80.0),),
        ),
        replace(ALL, time=START + 5, cpu=3.5, memory=100 * MB, gpus=()),
    ).used()

    assert used.as_json() == {
        "cpus": {"mean": 0.7, "peak": 1.5},
        # 1 s at 100, 2 s at 200 on average, 2 s at 200 on average
        "memory": {"mean": 180 * MB, "peak": 300 * MB},
        "pids": {"peak": 9},
        "disk": {"read": 8 * MB, "written": 5 * MB},
        "network": {"received": 6 * MB, "sent": 7 * MB},
        "gpus": {
            "1": {"memory_peak": 500 * MB, "utilization_mean": 60.0, "utilization_peak": 80.0}
        },
        "seconds": 5.0,
        "samples": 3,
    }


def test_nothing_was_seen():
    """Of a container that has ended before anybody looked, nothing is said."""
    assert meter().used() is None
    assert meter().last() is None
    assert _usage.metrics({}) == {}


def test_what_nobody_tells():
    """An engine without a counter: the rest is told, and that counter is no zero."""
    used = after(Sample(START + 1, 0.5, MB)).used()
    assert used.as_json() == {
        "cpus": {"mean": 0.5, "peak": 0.5},
        "memory": {"mean": MB, "peak": MB},
        "seconds": 1.0,
        "samples": 1,
    }


def test_restart():
    """A restart policy starts a container again: its counters begin anew, the totals go on."""
    used = after(
        replace(ALL, cpu=4.0, time=START + 4),
        replace(ALL, cpu=1.0, time=START + 6, read=MB, received=2 * MB),
    ).used()
    assert used.cpus_mean == pytest.approx(5 / 6)
    assert (used.disk, used.network) == ((5 * MB, 10 * MB), (8 * MB, 14 * MB))


@pytest.mark.parametrize("time", [START + 1, START + 0.5, START - 100])
def test_clock_that_was_set_back(time):
    """Two samples of one moment, or in the wrong order, tell no rate."""
    it = after(ALL)
    assert it.add(replace(ALL, time=time, cpu=9.0)) is None
    assert it.used().cpus_peak == 0.5


def test_no_more_than_the_limit():
    """The kernel grants CPU time in periods: seen closely, it is more than the limit at times."""
    assert after(replace(ALL, time=START + 0.2, cpu=0.5)).used().cpus_peak == 2.0


def test_point():
    """A point has MLflow's names and units; a percentage is one of what the container may use."""
    point = meter().add(replace(ALL, time=START + 2))

    assert point == Point(
        START + 2,
        0,
        {
            "system/cpu_utilization_percentage": 12.5,
            "system/system_memory_usage_megabytes": 100.0,
            "system/system_memory_usage_percentage": round(100 * 100 * MB / GIB, 3),
            "system/pids": 3,
            "system/gpu_1_memory_usage_megabytes": 500.0,
            "system/gpu_1_memory_usage_percentage": 50.0,
            "system/gpu_1_utilization_percentage": 40.0,
            "system/network_receive_megabytes": 6.0,
            "system/network_transmit_megabytes": 7.0,
            "system/disk_read_megabytes": 4.0,
            "system/disk_write_megabytes": 5.0,
        },
    )


def test_point_of_several_samples():
    """A point has the mean of the CPUs and the peak of the memory since the one before it."""
    it = after(ALL)
    assert it.add(replace(ALL, time=START + 1.5, cpu=1.5, memory=900 * MB)) is None
    values = it.add(replace(ALL, time=START + 2, cpu=1.5)).values
    assert values["system/cpu_utilization_percentage"] == 50.0
    assert values["system/system_memory_usage_megabytes"] == 900.0


def test_steps_of_a_further_attempt():
    """MLflow's last value is the one with the highest step: it must be the last attempt's."""
    first = [point.step for point in series(DAY, attempt=1)]
    (second,) = series(1.0, attempt=2)
    assert first == list(range(len(first)))
    assert second.step > first[-1]


def test_last_point():
    """What was measured since the last point is a point too, in the end."""
    it = after(ALL)
    it.add(replace(ALL, time=START + 1.5, memory=200 * MB))
    assert it.last().values["system/system_memory_usage_megabytes"] == 200.0
    assert it.last() is None


def series(seconds, **fields):
    it, age, points = meter(**fields), 0.0, []
    while (age := age + max(_usage.pause(age), age / 1000)) <= seconds:
        point = it.add(replace(ALL, time=START + age, cpu=age, memory=int(age)))
        points += [point] if point else []
    last = it.last()
    return points + ([last] if last else [])


@pytest.mark.parametrize(
    ("seconds", "few", "many"),
    [(1, 1, 2), (10, 6, 12), (60, 10, 16), (3600, 150, 200), (DAY, 300, 400), (60 * DAY, 400, 500)],
)
def test_series_is_short(seconds, few, many):
    """A short job has a few points, one that runs for months has 500: over all of its time."""
    points = series(seconds)
    assert few <= len(points) <= many
    gaps = [b.time - a.time for a, b in itertools.pairwise(points)]
    assert max(gaps, default=0) <= max(20, seconds / 9)
    # The highest values are in there, whatever was left out.
    assert points[-1].values["system/system_memory_usage_megabytes"] == pytest.approx(
        (points[-1].time - START) / MB, abs=1e-3
    )


def test_pauses():
    """Dense at first, then every ten seconds."""
    ages = [0.0]
    while ages[-1] < 60:
        ages.append(ages[-1] + _usage.pause(ages[-1]))
    assert sum(age <= 1 for age in ages[1:]) == 5
    assert sum(age <= 50 for age in ages[1:]) == 26
    assert ages[-1] - ages[-2] == pytest.approx(10)


def test_saved():
    """Another process goes on with a meter where this one has stopped."""
    it = after(ALL, replace(ALL, time=START + 1.2))
    again = _codec.from_plain(Meter, _codec.to_plain(it))
    sample = replace(ALL, time=START + 20, cpu=9.0, memory=7 * MB)
    assert again == it
    assert (again.add(sample), again.used()) == (it.add(sample), it.used())


def test_metrics():
    """Means and peaks as metrics. They are those of the series that is beside them."""
    row = after(ALL).used().as_json()
    expected = {
        "system/used/cpus_mean": 0.5,
        "system/used/cpus_peak": 0.5,
        "system/used/memory_mean_megabytes": 100.0,
        "system/used/memory_peak_megabytes": 100.0,
        "system/used/pids_peak": 3.0,
        "system/used/gpu_1_memory_peak_megabytes": 500.0,
        "system/used/gpu_1_utilization_mean_percentage": 40.0,
        "system/used/gpu_1_utilization_peak_percentage": 40.0,
    }
    assert _usage.metrics(row) == expected


# ---- what is said in the end ---------------------------------------------------------------------


def reserved(cpus=8.0, memory=16 * GIB, *, seconds=60.0, peak=4.0, used=8 * GIB, samples=20):
    limits = Limits(cpus, memory, memory, memory, -1)
    return Reserved.of(limits, Used(seconds, 0.1, peak, used, used, samples=samples))


def test_advice():
    """Jobs that used far less than was reserved for them are told so, once for all of them."""
    jobs = [reserved(peak=0.31 + 0.001 * n, used=GIB + n * 1024**2) for n in range(100)]
    assert _usage.advice(jobs) == (
        "100 jobs used far less than their memory: peak 1.1g of 16g (hydra.launcher.mem_limit)",
        "100 jobs used far less than their CPUs: peak 0.5 of 8 (hydra.launcher.cpus)",
    )
    assert _usage.advice([reserved(used=GIB)]) == (
        "1 job used far less than its memory: peak 1g of 16g (hydra.launcher.mem_limit)",
    )


@pytest.mark.parametrize(
    "jobs",
    [
        [],
        [reserved()],
        # One of them needs it.
        [reserved(used=GIB, peak=0.1), reserved(used=15 * GIB, peak=8.0)],
        # Little to be gained.
        [reserved(cpus=1.0, memory=GIB // 4, peak=0.1, used=1024**2)],
    ],
)
def test_nothing_to_say(jobs):
    """What is used by half, by one of them, or for a moment, is not too much."""
    assert _usage.advice(jobs) == ()


@pytest.mark.parametrize(
    ("seconds", "samples", "says"),
    [(5.0, 20, False), (3600.0, 1, False), (3600.0, 4, False), (10.0, 5, True)],
)
def test_who_says_nothing(seconds, samples, says):
    """What a job uses that is over in seconds is its start; a few samples may have missed it."""
    assert (reserved(seconds=seconds, samples=samples) is not None) is says
    assert Reserved.of(Limits(1, GIB, GIB, GIB, -1), None) is None


def test_advice_by_limit():
    """Jobs with limits of their own have lines of their own, up to five."""
    jobs = [reserved(memory=n * 16 * GIB, used=GIB) for n in range(1, 9)]
    lines = _usage.advice(jobs)
    assert lines[0].startswith("1 job used far less than its memory: peak 1g of 16g")
    assert lines[5:] == ("3 more limits are far above",)
