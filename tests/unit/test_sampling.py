"""Sampling: one thread measures all containers, as often as that costs next to nothing."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import GIB, PATIENCE

from hydra_plugins.hydra_docker_launcher import _sampling, _usage
from hydra_plugins.hydra_docker_launcher._attempt import RunnableJob
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits, Sample
from hydra_plugins.hydra_docker_launcher._errors import EngineError
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._sampling import Sampler

SPEC = ContainerSpec(
    name="x",
    image="i",
    command=(),
    working_dir="/",
    limits=Limits(1.0, GIB, GIB, GIB, -1),
    boundary=Boundary(user=None),
)


class Meters:
    """An engine that can only measure, and who takes the samples."""

    def __init__(self, cost=0.0):
        self.cost = cost
        self.error = None
        self.asked = []
        self.taken = []
        self.threads = set()
        self.changed = threading.Condition()
        self.sampler = Sampler(self, self.take)

    def measure(self, container, spec):
        with self.changed:
            self.threads.add(threading.current_thread())
            self.asked.append(container)
            self.changed.notify_all()
        time.sleep(self.cost)
        if self.error:
            raise self.error
        return None if container == "ended" else Sample(time.time(), 1.0, 5)

    def take(self, job, container, started, sample):
        with self.changed:
            self.taken.append((job.number, container, started))
            self.changed.notify_all()

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)

    def add(self, number, container, tmp_path, started=None):
        job = RunnableJob(number, "", SPEC, JobPaths(tmp_path), None)
        self.sampler.add(job, container, SPEC, started)


@pytest.fixture
def meters(monkeypatch):
    monkeypatch.setattr(_usage, "pause", lambda _: 0.01)
    monkeypatch.setattr(_sampling, "SHARE", 1e9)
    made = Meters()
    yield made
    made.sampler.close()
    for thread in made.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_one_thread(meters, tmp_path):
    """All containers are measured again and again by one thread."""
    for number in range(10):
        meters.add(number, f"c{number}", tmp_path)
    meters.wait_for(lambda: all(meters.asked.count(f"c{n}") > 2 for n in range(10)))
    assert len(meters.threads) == 1


def test_since_when(meters, tmp_path):
    """Of a container that another launcher has started, its age counts, not when it was found."""
    meters.add(0, "c0", tmp_path, started=1000.0)
    meters.wait_for(lambda: meters.taken)
    assert meters.taken[0] == (0, "c0", 1000.0)


def test_thread_goes_with_the_last_container(meters, tmp_path):
    """Where nothing runs, no thread waits; the next container has one again."""
    for _ in range(2):
        meters.asked.clear()
        meters.add(0, "c0", tmp_path)
        meters.wait_for(lambda: "c0" in meters.asked)
        meters.sampler.remove(0)
        meters.sampler.remove(0)
        for thread in meters.threads:
            thread.join(PATIENCE)
    assert len(meters.threads) == 2


def test_engine_that_is_away(meters, tmp_path):
    """It is asked again; the other jobs are measured as before."""
    meters.error = EngineError("connection refused", transient=True)
    meters.add(0, "c0", tmp_path)
    meters.add(1, "ended", tmp_path)
    meters.wait_for(lambda: len(meters.asked) > 5)
    assert meters.taken == []
    meters.error = None
    meters.wait_for(lambda: meters.taken)
    assert {number for number, *_ in meters.taken} == {0}


def test_engine_with_words_of_its_own(meters, tmp_path, caplog):
    """What it says is not understood: that is said once, and the thread goes on."""
    meters.error = KeyError("cpu_stats")
    meters.add(0, "c0", tmp_path)
    meters.wait_for(lambda: len(meters.asked) > 3)
    assert caplog.messages == ["What jobs use cannot be measured: KeyError('cpu_stats')"]
    meters.error = None
    meters.wait_for(lambda: meters.taken)


def test_closed(meters, tmp_path):
    """Nothing is measured after the end."""
    meters.sampler.close()
    meters.add(0, "c0", tmp_path)
    assert meters.threads == set()


def test_dear_samples(monkeypatch, tmp_path):
    """Where a sample takes long, or containers are many, they are measured less often."""
    meters = Meters()
    sampler = meters.sampler
    assert sampler._pause(0) == 0.2
    sampler._cost = 0.0002  # a file or two
    assert sampler._pause(0) == 0.2
    sampler._cost = 0.005  # an engine far away
    assert sampler._pause(0) == 1.0
    monkeypatch.setattr(sampler, "_jobs", dict.fromkeys(range(50)))
    assert sampler._pause(0) == 50.0
    sampler._cost = 1.0
    assert sampler._pause(0) == _sampling.LONGEST_PAUSE
