"""Capacity: which job may start next beside those that run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydra_plugins.hydra_docker_launcher._capacity import Capacity
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Host, Limits
from hydra_plugins.hydra_docker_launcher._option_values import NO_GPUS, Gpus

HOST = Host(name="box", engine="Docker 27", cpus=4, memory=1000)
ALL = Gpus(all=True)


def spec(cpus=1.0, memory=1, gpus=NO_GPUS):
    limits = Limits(cpus=cpus, memory=memory, memory_swap=memory, shm_size=memory, pids=-1)
    boundary = Boundary(user=None)
    return ContainerSpec("job", "sha256:a", ("python3",), "/", limits, boundary, gpus)


def packed(capacity, *specs):
    """Start each that fits; return which ones did, and with which GPUs."""
    started = {}
    for number, one in enumerate(specs):
        if capacity.fits(one):
            started[number] = capacity.take(number, one).gpus
    return started


def test_as_many_as_have_cpus():
    """-1: the CPUs are never promised twice."""
    assert list(packed(Capacity(HOST, -1), *[spec(cpus=1.5)] * 5)) == [0, 1]


def test_fractions_add_up():
    """Ten tenths are one CPU, whatever binary fractions say."""
    host = replace(HOST, cpus=1)
    assert len(packed(Capacity(host, -1), *[spec(cpus=0.1)] * 20)) == 10


def test_as_many_as_have_memory():
    """-1: the memory is never promised twice."""
    assert list(packed(Capacity(HOST, -1), *[spec(cpus=0.1, memory=400)] * 5)) == [0, 1]


def test_a_smaller_one_fits_beside():
    """Each job counts with its own limits."""
    specs = [spec(cpus=3), spec(cpus=2), spec(cpus=1)]
    assert list(packed(Capacity(HOST, -1), *specs)) == [0, 2]


def test_the_first_always_fits():
    """Where nothing runs, any job may start: nothing waits forever."""
    assert Capacity(HOST, -1).fits(spec(cpus=100, memory=10**6, gpus=Gpus(count=9)))


def test_n_jobs():
    """A number is that many, whatever they use: who sets it knows better."""
    assert list(packed(Capacity(HOST, 3), *[spec(cpus=4, memory=900)] * 5)) == [0, 1, 2]


def test_room_is_given_back():
    """When a job has ended, the next one fits."""
    capacity = Capacity(HOST, 1)
    capacity.take(0, spec())
    assert not capacity.fits(spec())

    capacity.give_back(0)

    assert capacity.fits(spec())


@pytest.mark.parametrize("n_jobs", [-1, 8])
def test_gpus_by_id(n_jobs):
    """Each container gets GPUs of its own, by id, also where n_jobs says how many run."""
    capacity = Capacity(HOST, n_jobs, ("A", "B", "C"))
    one, two = spec(cpus=0.5, gpus=Gpus(count=1)), spec(cpus=0.5, gpus=Gpus(count=2))

    assert packed(capacity, one, two, one) == {0: Gpus(ids=("A",)), 1: Gpus(ids=("B", "C"))}

    capacity.give_back(0)
    assert capacity.take(3, one).gpus == Gpus(ids=("A",))


def test_named_gpus():
    """GPUs that the user named are not shared either."""
    first, same, other = (spec(gpus=Gpus(ids=ids)) for ids in [("A", "B"), ("B",), ("C",)])
    assert packed(Capacity(HOST, -1, ("A", "B", "C")), first, same, other) == {
        0: Gpus(ids=("A", "B")),
        2: Gpus(ids=("C",)),
    }


def test_parts_of_gpus():
    """Parts of a GPU are had side by side; the whole and a part of it are not."""
    part, other, whole, one = (
        spec(cpus=0.1, gpus=gpus)
        for gpus in (
            Gpus(ids=("MIG-a",)),
            Gpus(ids=("MIG-b",)),
            Gpus(ids=("A",)),
            Gpus(count=1),
        )
    )
    parts = (("MIG-a", "A"), ("MIG-b", "A"))
    assert packed(Capacity(HOST, -1, ("A",), gpu_parts=parts), part, other, part, whole, one) == {
        0: Gpus(ids=("MIG-a",)),
        1: Gpus(ids=("MIG-b",)),
    }
    assert packed(Capacity(HOST, -1, ("A",), gpu_parts=parts), whole, part, one) == {
        0: Gpus(ids=("A",))
    }
    assert packed(Capacity(HOST, -1, ("A", "B"), gpu_parts=parts), part, one, one) == {
        0: Gpus(ids=("MIG-a",)),
        1: Gpus(ids=("B",)),
    }


def test_all_gpus():
    """A job with all GPUs runs beside none that has any."""
    capacity = Capacity(HOST, -1, ("A", "B"))
    assert packed(capacity, spec(gpus=ALL), spec(gpus=Gpus(count=1)), spec()) == {
        0: Gpus(ids=("A", "B")),
        2: NO_GPUS,
    }
    assert packed(Capacity(HOST, -1, ("A", "B")), spec(gpus=Gpus(count=1)), spec(gpus=ALL)) == {
        0: Gpus(ids=("A",))
    }


def test_unknown_gpus():
    """Where the machine's GPUs are not known by id, one job with GPUs runs at a time."""
    one = spec(gpus=Gpus(count=1))
    assert packed(Capacity(HOST, -1), one, one, spec()) == {0: Gpus(count=1), 2: NO_GPUS}


def test_more_gpus_than_there_are():
    """The first job may ask for more than is known; it gets what is there."""
    capacity = Capacity(HOST, -1, ("A",))
    assert packed(capacity, spec(gpus=Gpus(count=2))) == {0: Gpus(ids=("A",))}


def test_what_runs_already():
    """Its room is taken, whatever it is; its GPUs are those that it has."""
    capacity = Capacity(HOST, -1, ("A", "B"))
    found = spec(cpus=3, gpus=Gpus(ids=("A",)))
    assert capacity.hold(0, found) == found
    assert capacity.hold(1, spec(cpus=3)) == spec(cpus=3)
    assert not capacity.fits(spec(cpus=0.1))
    capacity.give_back(1)
    capacity.give_back(1)
    assert capacity.take(2, spec(gpus=Gpus(count=1))).gpus == Gpus(ids=("B",))
    assert not capacity.fits(spec(cpus=0, gpus=Gpus(count=1)))


def test_gpus_that_run_already_by_number():
    """A container that was given a number of GPUs has the engine's first ones."""
    capacity = Capacity(HOST, -1, ("A", "B"))
    capacity.hold(0, spec(gpus=Gpus(count=1)))
    assert capacity.take(1, spec(gpus=Gpus(count=1))).gpus == Gpus(ids=("B",))
    assert not capacity.fits(spec(gpus=Gpus(count=1)))
    assert capacity.fits(spec())
