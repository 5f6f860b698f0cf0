"""A container that one launcher lets go and another one takes up, on a real engine."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import docker
import pytest
from sweep_command import wait_for

from hydra_plugins.hydra_docker_launcher._admission import WAITED
from hydra_plugins.hydra_docker_launcher._capacity import Capacity
from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    ContainerState,
    Limits,
    Sample,
)
from hydra_plugins.hydra_docker_launcher._interrupt import Detached
from hydra_plugins.hydra_docker_launcher._outcome import Outcome
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._running import RunnableJob, run_jobs

MIB = 1024**2
#: First stdout and stderr at once, in bursts; then long lines among short ones.
SHORT, MIXED, LONG = 200, 40, 40_000
SCRIPT = f"""
import sys, time
for n in range({SHORT}):
    print("out", n, flush=True)
    print("err", n, file=sys.stderr, flush=True)
    if n % 20 == 0:
        time.sleep(0.1)
time.sleep(0.5)
for n in range({MIXED}):
    print("long", n, "x" * ({LONG} if n % 2 else 0), flush=True)
    time.sleep(0.02)
sys.exit(3)
"""


@dataclass
class Recorder:
    """Remembers which container runs, how many lines there were, and how it has ended."""

    container: str = ""
    lines: int = 0
    ends: list[Outcome] = field(default_factory=list)

    def starting(self, job: RunnableJob, spec: ContainerSpec) -> ContainerSpec:
        return spec

    def started(self, job: RunnableJob, spec: ContainerSpec, container: str) -> None:
        self.container = container

    def timing_out(self, job: RunnableJob, container: str) -> None:
        """No job has a time limit here."""

    def sampled(self, job: RunnableJob, container: str, started: float, sample: Sample) -> None:
        """What it uses is of no concern here."""

    def output(self, job: RunnableJob, text: str) -> None:
        self.lines += 1

    def attempted(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
        delay: float,
    ) -> None:
        raise AssertionError("there is one attempt")

    def settled(self, job: RunnableJob) -> None:
        """Nothing is kept for it."""

    def ended(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
    ) -> None:
        self.ends.append(outcome)


@pytest.fixture
def job(api: docker.APIClient, base_image: str, tmp_path: Path) -> Iterator[RunnableJob]:
    name = f"hydra-docker-test-take-up-{secrets.token_hex(4)}"
    spec = ContainerSpec(
        name=name,
        image=api.inspect_image(base_image)["Id"],
        command=("python3", "-c", SCRIPT),
        working_dir="/",
        limits=Limits(0.5, 128 * MIB, 128 * MIB, MIB, 50),
        boundary=Boundary(user=None, network_mode="none"),
    )
    yield RunnableJob(0, "job #0", spec, JobPaths(tmp_path), None)
    with contextlib.suppress(docker.errors.NotFound):
        api.remove_container(name, force=True)


def launch(engine: DockerEngine, job: RunnableJob, recorder: Recorder) -> list[Outcome]:
    return run_jobs(
        [job],
        engine=engine,
        capacity=Capacity(engine.host(), 1),
        recorder=recorder,
        keep="all",
        fail_fast=False,
        on_interrupt="detach",
    )


def test_no_line_is_lost_or_doubled(api: docker.APIClient, job: RunnableJob) -> None:
    """Launchers come and go while a container writes: its log is whole, and its end is known."""
    engine, recorder = DockerEngine(), Recorder()
    main = threading.get_ident()

    def interrupt_after(lines: int) -> None:
        wait_for(lambda: recorder.lines >= lines, f"there are {lines} lines")
        signal.pthread_kill(main, signal.SIGINT)

    for lines in (10, 150, 290, 410, 425):
        interrupter = threading.Thread(target=interrupt_after, args=(lines,))
        interrupter.start()
        with pytest.raises(Detached):
            launch(engine, job, recorder)
        interrupter.join()
        assert recorder.ends == []
        written = job.paths.log.read_bytes()
        job.paths.log.write_bytes(written[:-7])  # as a launcher that was killed might leave it
        job = replace(job, container=recorder.container)

    assert launch(engine, job, recorder)[0].exit_code == 3

    assert Counter(_texts(job.paths.log)) == Counter(
        [(f"{stream} {n}", 0) for stream in ("out", "err") for n in range(SHORT)]
        + [(f"long {n}", LONG if n % 2 else 0) for n in range(MIXED)]
    )
    assert len(recorder.ends) == 1


def _texts(log: Path) -> list[tuple[str, int]]:
    """Return the lines without their times, and without the x of long ones, which are counted."""
    texts = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    return [(text.rstrip("x").rstrip(), text.count("x")) for text in texts]


def test_admitted(api: docker.APIClient, job: RunnableJob) -> None:
    """With an eye on the whole engine, a job runs as it does without; its ticket is gone then."""
    engine, recorder = DockerEngine(), Recorder()
    labels = {"sweep": job.spec.name, "job": "0", "user": "ann"}
    named = tuple((f"hydra.docker.{name}", value) for name, value in labels.items())
    spec = replace(job.spec, labels=named, command=("python3", "-c", "print(1)"))
    # More than all that other tests run on this engine at the moment.
    huge = replace(engine.host(), cpus=10**6, memory=2**60)

    (outcome,) = run_jobs(
        [replace(job, spec=spec)],
        engine=engine,
        capacity=Capacity(huge, 1, engine_wide=True),
        recorder=recorder,
        keep="all",
        fail_fast=False,
    )

    assert outcome.exit_code == 0
    found = api.inspect_container(recorder.container)
    assert float(found["Config"]["Labels"][WAITED]) < 60
    assert engine.tickets(f"hydra.docker.sweep={job.spec.name}") == ()
