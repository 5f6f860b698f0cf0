"""Admission on a real engine: what launchers see of each other there, and that they agree.

Whole sweeps that wait for each other need an engine of their own: tests/faults/test_crowd.py.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import docker
from containers import MakeSpec
from docker.errors import APIError

from hydra_plugins.hydra_docker_launcher._admission import Admission, Request
from hydra_plugins.hydra_docker_launcher._capacity import Machine
from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import ContainerSpec, Occupant, Ticket
from hydra_plugins.hydra_docker_launcher._option_values import Gpus

PATIENCE = 60.0  # seconds
#: More than all that the other tests run on this engine, but for GPUs, which nothing else has.
HUGE = Machine(cpus=1e6, memory=2**60, gpus=("GPU-test-1", "GPU-test-2"))


def occupants(engine: DockerEngine, name: str) -> list[Occupant]:
    return [found for found in engine.occupants() if found.name == name]


def test_tickets(mark: str) -> None:
    """A ticket is there for everybody until it is dropped; its label, or its value, finds it."""
    one, other = DockerEngine(), DockerEngine()
    ticket = Ticket(mark, {"hydra.docker.test": mark, "empty": ""})
    one.post_ticket(ticket)
    try:
        assert ticket in other.tickets("hydra.docker.test")
        assert other.tickets(f"hydra.docker.test={mark}") == (ticket,)
        assert other.tickets("hydra.docker.test=another") == ()
    finally:
        other.drop_ticket(mark)
    assert one.tickets(f"hydra.docker.test={mark}") == ()
    one.drop_ticket(mark)


def test_clock() -> None:
    """The engine tells its time; here it has the clock of these tests."""
    assert abs(DockerEngine().now() - time.time()) < 30


def pause(api: docker.APIClient, container: str) -> None:
    """Pause what is up. With cgroup v1 a freeze fails at times (runc's pull request 2791)."""
    assert b"up" in next(api.logs(container, stream=True, follow=True))
    for left in reversed(range(10)):
        try:
            api.pause(container)
        except APIError as error:
            if not left or "unable to freeze" not in str(error):
                raise
            time.sleep(0.5)
        else:
            return


def test_what_runs(api: docker.APIClient, make_spec: MakeSpec) -> None:
    """What runs is seen with its limits, by whoever it was started; what only exists is not."""
    engine = DockerEngine()
    spec = make_spec("echo up; exec sleep 60")
    spec = replace(spec, limits=replace(spec.limits, cpus=0.25))
    container = engine.create(spec)
    assert occupants(engine, spec.name) == []

    engine.start(container)
    (found,) = occupants(engine, spec.name)
    assert (found.id, found.cpus, found.memory) == (container, 0.25, spec.limits.memory)
    pause(api, container)
    assert occupants(engine, spec.name) == [found]
    api.unpause(container)
    engine.stop(container, 0)
    assert occupants(engine, spec.name) == []


def test_without_limits(api: docker.APIClient, make_spec: MakeSpec, base_image: str) -> None:
    """A container without limits is seen as such."""
    spec = make_spec("")
    made = api.create_container(base_image, ["sleep", "60"], name=spec.name, labels=[spec.name])
    api.start(made["Id"])
    (found,) = occupants(DockerEngine(), spec.name)
    assert (found.cpus, found.memory, found.gpus) == (None, None, Gpus())


def of_sweep(spec: ContainerSpec, sweep: str, job: int) -> ContainerSpec:
    labels = {"sweep": sweep, "job": str(job), "attempt": "1", "user": "ann"}
    named = tuple((f"hydra.docker.{name}", value) for name, value in labels.items())
    return replace(spec, labels=(*spec.labels, *named))


@contextmanager
def admission(woken: threading.Event, machine: Machine = HUGE) -> Iterator[Admission]:
    made = Admission(DockerEngine(), machine, woken.set)
    try:
        yield made
    finally:
        made.stop()


def test_gpus_are_leased_to_one_at_a_time(make_spec: MakeSpec) -> None:
    """Launchers that ask at once get different GPUs, and all get theirs in the end."""
    had: list[str] = []
    most: list[int] = []
    failures: list[BaseException] = []
    lock, both = threading.Lock(), threading.Event()
    spec = replace(make_spec("true"), gpus=Gpus(count=1))

    def launch() -> None:
        sweep, woken = secrets.token_hex(4), threading.Event()
        with admission(woken) as asked:
            for job in range(3):
                asked.ask(Request((job, 1), f"job #{job}", of_sweep(spec, sweep, job)))
                assert woken.wait(PATIENCE)
                woken.clear()
                answer = asked.answer()
                assert answer is not None
                assert isinstance(answer[1], ContainerSpec), answer[1]
                asked.taken()
                (gpu,) = answer[1].gpus.ids
                with lock:
                    assert gpu not in had
                    had.append(gpu)
                    most.append(len(had))
                    if len(had) == 2:
                        both.set()
                assert both.wait(PATIENCE)  # the first one, until another has the other GPU
                assert asked.holds((job, 1))
                with lock:
                    had.remove(gpu)
                asked.over((job, 1))

    def guarded() -> None:
        try:
            launch()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert failures == []
    assert len(most) == 9
    assert max(most) == 2
