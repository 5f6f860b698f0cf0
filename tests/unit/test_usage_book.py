"""Usage book: samples of jobs that run, sent and saved in rounds that nobody waits for."""

from __future__ import annotations

import threading

import pytest
from fakes import GIB, PATIENCE

from hydra_plugins.hydra_docker_launcher import _codec, _usage_book
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits, Sample
from hydra_plugins.hydra_docker_launcher._errors import SweepError
from hydra_plugins.hydra_docker_launcher._usage_book import SavedUsage, UsageBook

START = 1_000_000.0


def spec(**environment):
    return ContainerSpec(
        name="x",
        image="i",
        command=(),
        working_dir="/",
        limits=Limits(1.0, GIB, GIB, GIB, -1),
        boundary=Boundary(user=None),
        environment=tuple(environment.items()),
    )


class Desk:
    """A book, what it has sent and saved, and whether the store takes it."""

    def __init__(self):
        self.answers = True
        self.sent = {}
        self.saved = []
        self.save_error = None
        self.gate = None
        self.book = UsageBook(self.send, self.save)
        self.time = START

    def send(self, number, points):
        if self.gate is not None:
            assert self.gate.wait(PATIENCE)
        if self.answers:
            self.sent[number] = (*self.sent.get(number, ()), *points)
        return self.answers

    def save(self, usage):
        if self.save_error:
            raise self.save_error
        self.saved.append(_codec.from_plain(SavedUsage, _codec.to_plain(usage)))

    def sample(self, *numbers, book=None, container="c0"):
        """Eleven more seconds, which make a point."""
        self.time += 11
        for number in numbers:
            sample = Sample(self.time, self.time - START, 1000)
            (book or self.book).add(number, container, START, sample)
        for thread in threading.enumerate():
            if thread.name == "usage" and self.gate is None:
                thread.join(PATIENCE)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def often(monkeypatch):
    """Every sample begins a round."""
    monkeypatch.setattr(_usage_book, "ROUND", 0.0)
    monkeypatch.setattr(_usage_book, "SHARE", 1e9)


def test_short_sweep(desk):
    """Jobs of less than a minute cost no request and no file: all goes with their end."""
    desk.book.open(0, "c0", 1, spec())
    desk.sample(0)
    desk.sample(0)
    used, points = desk.book.end(0)
    assert (used.seconds, len(points)) == (22.0, 2)
    assert (desk.sent, desk.saved) == ({}, [])
    assert desk.book.end(0) == (None, ())


@pytest.mark.usefixtures("often")
def test_round(desk):
    """A round sends what is new, and saves what another process would go on with."""
    desk = Desk()
    desk.book.open(0, "c0", 1, spec())
    desk.sample(0)
    desk.sample(0)
    assert [point.time - START for point in desk.sent[0]] == [11, 22]
    assert desk.saved[-1].points == {}
    assert desk.saved[-1].meters[0].time == START + 22
    assert desk.book.end(0)[1] == ()


@pytest.mark.usefixtures("often")
def test_store_that_is_away():
    """Samples go on; what could not be sent is kept, saved, and handed out in the end."""
    desk = Desk()
    desk.answers = False
    desk.book.open(0, "c0", 1, spec())
    for _ in range(3):
        desk.sample(0)
    assert len(desk.saved[-1].points[0]) == 3
    _, points = desk.book.end(0)
    assert [point.step for point in points] == [0, 1, 2]


@pytest.mark.usefixtures("often")
def test_slow_store_holds_up_nothing():
    """While a round waits for the store, samples are taken in, and no second round begins."""
    desk = Desk()
    desk.gate = threading.Event()
    desk.book.open(0, "c0", 1, spec())
    for _ in range(3):
        desk.sample(0)
    used, points = desk.book.end(0)
    assert (used.seconds, len(points)) == (33.0, 3)  # what is on its way is sent again: no harm
    assert [thread.name for thread in threading.enumerate()].count("usage") == 1
    desk.gate.set()


@pytest.mark.usefixtures("often")
def test_taken_up():
    """Another process goes on where this one has stopped: peaks, and points that are not sent."""
    desk = Desk()
    desk.answers = False
    desk.book.open(0, "c0", 1, spec())
    desk.book.open(1, "c1", 1, spec())
    desk.sample(0)
    desk.book.add(1, "c1", START, Sample(desk.time, 1.0, 5))
    desk.book.close()
    desk.sample(0)  # too late

    after = UsageBook(desk.send, desk.save)
    after.restore(desk.saved[-1])
    after.open(0, "c0", 1, spec())
    after.open(1, "another", 2, spec())
    after.add(0, "c0", START, Sample(START + 100, 11.0, 7))
    used, points = after.end(0)
    assert (used.memory_peak, used.seconds) == (1000, 100.0)
    assert [point.step for point in points] == [0, 1]
    assert after.close_attempt(1) is None


def test_sample_that_comes_late(desk):
    """One of a container that has ended, or of an attempt before, is left out."""
    desk.sample(0)
    desk.book.open(0, "c0", 1, spec())
    desk.sample(0)
    assert desk.book.close_attempt(0).seconds == 22.0
    desk.book.open(0, "second", 2, spec())
    desk.sample(0, container="c0")
    used, points = desk.book.end(0)
    assert used is None
    assert len(points) == 1  # of the first attempt


@pytest.mark.usefixtures("often")
def test_full_disk(caplog):
    """What cannot be saved is said once, and nothing ends of it."""
    desk = Desk()
    desk.save_error = SweepError("no space left")
    desk.book.open(0, "c0", 1, spec())
    desk.sample(0)
    desk.sample(0)
    assert [record.message for record in caplog.records] == [
        "no space left\nWhat jobs use is not saved for the case of a fault."
    ]
    assert desk.book.end(0)[0].seconds == 22.0


def test_mlflow_measures_too(desk):
    """Where the job's own MLflow logs system metrics, ours have another name, as of a node."""
    desk.book.open(0, "c0", 1, spec(MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING="true"))
    desk.sample(0)
    _, (point,) = desk.book.end(0)
    assert all(name.startswith("system/container/") for name in point.values)
