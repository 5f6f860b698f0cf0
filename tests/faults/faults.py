"""Faults by kind: what is done to a sweep on its way, and how it must end then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from bench import Bench, Running
from docker.errors import APIError, NotFound
from invariants import FOREIGN, Damage
from marked_sweep import MarkedSweep
from sweep_command import wait_for

AT_ONCE = 3  # jobs
#: The same seed gives the same faults at the same moments.
SEED = os.environ.get("HYDRA_DOCKER_FAULT_SEED") or "1"
#: Ends of a job that somebody else than the launcher has ended.
DIED = frozenset({"lost", "exited", "stopped"})
POLICIES = ("unless-stopped", "on-failure:3", "always")


@dataclass(frozen=True)
class Scene:
    """What a fault is done to. ``command`` is the user's own, which runs.

    ``foreign`` are containers that somebody else has made.
    """

    bench: Bench
    sweep: MarkedSweep
    command: Running
    random: Random
    foreign: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """One kind of fault. ``strike`` does it, and undoes what the world would undo.

    ``carry_on``: what is then called until the sweep is over, one of these
    at random; nothing: the command itself goes on, and has recorded how every job has ended.
    ``damage`` says whether containers are ended, so that a task function may run more than once.
    ``outcomes`` are the ends other than completed that jobs may have before they are resumed.
    ``held``: the first jobs wait until the fault is over. ``server``: runs are tracked by a server.
    ``proxied``: the engine is reached through a proxy. ``after`` is what is done when the command
    has ended, before the sweep is carried on.
    """

    kind: str
    strike: Callable[[Scene], None]
    overrides: tuple[str, ...] = ()
    carry_on: tuple[str, ...] = ()
    damage: Damage = Damage.NONE
    outcomes: frozenset[str] = frozenset()
    held: bool = False
    server: bool = False
    proxied: bool = False
    after: Callable[[Scene], None] | None = None


# ---- the launcher --------------------------------------------------------------------------------


def kill_launcher(scene: Scene) -> None:
    scene.bench.kill(scene.command)


def send(*numbers: signal.Signals) -> Callable[[Scene], None]:
    """Return a strike that sends the command signals."""

    def strike(scene: Scene) -> None:
        for number in numbers:
            if not scene.command.ended:
                scene.command.send(number)

    return strike


# ---- the engine ----------------------------------------------------------------------------------


def restart_engine(*, live_restore: bool) -> Callable[[Scene], None]:
    """Return a strike that stops the engine as its init system does, and starts it again."""

    def strike(scene: Scene) -> None:
        engine = scene.bench.engine
        if engine.live_restore != live_restore:
            engine.set_live_restore(live_restore)
        engine.stop()
        engine.start()

    return strike


def outlast_the_launcher(scene: Scene) -> None:
    """Let the engine be down until the launcher has given up; its containers run on."""
    engine = scene.bench.engine
    engine.set_live_restore(True)
    engine.stop()
    wait_for(lambda: scene.command.ended, "the launcher gives up", 600)
    engine.start()


def kill_engine(scene: Scene) -> None:
    """End dockerd, containerd and the shims hard, and start them again."""
    scene.bench.engine.kill()
    scene.bench.engine.start()


def cut_power(scene: Scene) -> None:
    """End all of it at the same moment, the launcher too; then the machine is on again."""
    if not scene.command.ended:
        scene.command.send(signal.SIGSTOP)
    scene.bench.engine.cut_power()
    scene.bench.kill(scene.command)
    scene.bench.engine.start()


def slow_engine(scene: Scene) -> None:
    """Let every answer come late, to the end of the sweep."""
    scene.bench.proxy.delay = scene.random.uniform(0.2, 1.0)


def engine_errors(scene: Scene) -> None:
    """Let every request fail for a while."""
    scene.bench.proxy.fail(".", 500, "something is broken", times=None)
    time.sleep(scene.random.uniform(0, 4))
    scene.bench.proxy.heal()


def refuse_connections(scene: Scene) -> None:
    """Cut all connections, and take no others for a while."""
    with scene.bench.proxy.outage():
        time.sleep(scene.random.uniform(0, 4))


def lose_answers(scene: Scene) -> None:
    """Let the engine do what it is asked to do, and the launcher not hear of it."""
    for what in ("create", "start", "stop", "wait"):
        scene.bench.proxy.lose_answer(f"POST .*/{what}", times=2)
    scene.bench.proxy.lose_answer("DELETE ", times=2)


def fill_disk(scene: Scene) -> None:
    """Let no container be made for a while, as when the disk is full."""
    words = "mkdir /var/lib/docker/overlay2: no space left on device"
    scene.bench.proxy.fail("POST .*/containers/create", 500, words, times=2)


def heal(scene: Scene) -> None:
    scene.bench.proxy.heal()


# ---- containers and images -----------------------------------------------------------------------


def _victim(scene: Scene) -> str | None:
    """Return a container of the sweep that runs, at random."""
    found = scene.bench.api.containers(
        filters={"label": f"hydra.docker.folder={scene.sweep.folder}"}
    )
    return scene.random.choice(sorted(one["Id"] for one in found)) if found else None


def kill_container(scene: Scene) -> None:
    victim = wait_for(lambda: _victim(scene), "a container runs")
    scene.bench.api.kill(victim)


def stop_container(scene: Scene) -> None:
    victim = wait_for(lambda: _victim(scene), "a container runs")
    scene.bench.api.stop(victim, timeout=1)


def remove_container(scene: Scene) -> None:
    victim = wait_for(lambda: _victim(scene), "a container runs")
    scene.bench.api.remove_container(victim, force=True)


def remove_image(scene: Scene) -> None:
    """Remove the sweep's own image, as `docker image prune --all` does."""
    for image in scene.bench.new_images():
        try:
            for tag in scene.bench.api.inspect_image(image)["RepoTags"] or [image]:
                scene.bench.api.remove_image(tag, force=True)
        except (NotFound, APIError):
            continue  # a container uses it


# ---- the MLflow server ---------------------------------------------------------------------------


def interrupt_server(shortest: float, longest: float) -> Callable[[Scene], None]:
    """Return a strike that lets the server be down, for so many seconds, while the jobs go on."""

    def strike(scene: Scene) -> None:
        scene.bench.server.end()
        scene.sweep.open_gate()
        time.sleep(scene.random.uniform(shortest, longest))
        scene.bench.server.start()

    return strike


def stop_server(scene: Scene) -> None:
    scene.bench.server.end()


def start_server(scene: Scene) -> None:
    scene.bench.server.start()


# ---- names ---------------------------------------------------------------------------------------


def take_names(scene: Scene) -> None:
    """Let somebody else have containers with the names of the jobs to come."""
    for job in range(scene.sweep.jobs):
        name = f"app-{scene.sweep.folder.name}-{job}"
        with suppress(APIError):  # the job has it already
            made = scene.bench.api.create_container(
                scene.bench.image, ["true"], name=name, labels={FOREIGN: "1"}
            )
            scene.foreign.append(made["Id"])


def give_names_back(scene: Scene) -> None:
    for container in scene.foreign:
        scene.bench.api.remove_container(container)  # raises where the sweep has removed it


FAULTS = (
    Fault("launcher: kill -9", kill_launcher, carry_on=("attach", "resume")),
    Fault(
        "launcher: Ctrl-C",
        send(signal.SIGINT),
        damage=Damage.JOBS,
        outcomes=frozenset({"stopped"}),
    ),
    Fault(
        "launcher: Ctrl-C twice",
        send(signal.SIGINT, signal.SIGINT),
        damage=Damage.JOBS,
        outcomes=frozenset({"stopped"}),
    ),
    Fault(
        "launcher: SIGTERM",
        send(signal.SIGTERM),
        damage=Damage.JOBS,
        outcomes=frozenset({"stopped"}),
    ),
    Fault(
        "launcher: SIGHUP",
        send(signal.SIGHUP),
        damage=Damage.JOBS,
        outcomes=frozenset({"stopped"}),
    ),
    *(
        Fault(
            f"launcher: {number.name}, on_interrupt=detach",
            send(number),
            ("hydra.launcher.on_interrupt=detach",),
            carry_on=("attach", "resume"),
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ),
    Fault(
        "engine: restarted, live-restore",
        restart_engine(live_restore=True),
    ),
    Fault(
        "engine: down for minutes, live-restore",
        outlast_the_launcher,
        carry_on=("attach", "resume"),
        outcomes=frozenset({"could not start"}),
        held=True,
    ),
    Fault(
        "engine: restarted, restart=no",
        restart_engine(live_restore=False),
        damage=Damage.JOBS,
        outcomes=DIED,
    ),
    *(
        Fault(
            f"engine: restarted, restart={policy}",
            restart_engine(live_restore=False),
            (f"hydra.launcher.restart={policy}",),
            damage=Damage.JOBS,
        )
        for policy in POLICIES
    ),
    Fault(
        "engine: kill -9, restart=no",
        kill_engine,
        damage=Damage.OUTPUT,
        outcomes=DIED,
    ),
    *(
        Fault(
            f"engine: kill -9, restart={policy}",
            kill_engine,
            (f"hydra.launcher.restart={policy}",),
            damage=Damage.OUTPUT,
        )
        for policy in POLICIES
    ),
    Fault(
        "engine: kill -9, retries.infra=2",
        kill_engine,
        ("hydra.launcher.retries.infra=2", "hydra.launcher.retries.backoff=1s"),
        damage=Damage.OUTPUT,
    ),
    Fault(
        "power cut, restart=no",
        cut_power,
        carry_on=("attach",),
        damage=Damage.OUTPUT,
        outcomes=DIED,
    ),
    *(
        Fault(
            f"power cut, restart={policy}",
            cut_power,
            (f"hydra.launcher.restart={policy}",),
            carry_on=("attach", "resume"),
            damage=Damage.OUTPUT,
        )
        for policy in POLICIES
    ),
    Fault(
        "power cut, retries.infra=2",
        cut_power,
        ("hydra.launcher.retries.infra=2", "hydra.launcher.retries.backoff=1s"),
        carry_on=("attach", "resume"),
        damage=Damage.OUTPUT,
    ),
    Fault(
        "container: docker kill",
        kill_container,
        damage=Damage.JOBS,
        outcomes=DIED,
        held=True,
    ),
    Fault(
        "container: docker stop",
        stop_container,
        damage=Damage.JOBS,
        outcomes=DIED,
        held=True,
    ),
    Fault(
        "container: docker rm -f",
        remove_container,
        damage=Damage.JOBS,
        outcomes=DIED,
        held=True,
    ),
    Fault(
        "image: removed",
        remove_image,
        outcomes=frozenset({"could not start"}),
    ),
    Fault(
        "MLflow server: down for a while",
        interrupt_server(0, 8),
        held=True,
        server=True,
        carry_on=("sync", "attach"),
    ),
    Fault(
        "MLflow server: down for a minute",
        interrupt_server(60, 65),
        held=True,
        server=True,
        carry_on=("sync", "attach"),
    ),
    Fault(
        "MLflow server: down to the end",
        stop_server,
        held=True,
        server=True,
        after=start_server,
        carry_on=("sync", "attach"),
    ),
    Fault("engine: slow", slow_engine, proxied=True, after=heal),
    Fault("engine: errors 500 for a while", engine_errors, proxied=True),
    Fault("engine: no connections for a while", refuse_connections, proxied=True),
    Fault("engine: answers lost", lose_answers, proxied=True, after=heal),
    Fault(
        "engine: no space to create a container",
        fill_disk,
        proxied=True,
        outcomes=frozenset({"could not start"}),
        after=heal,
    ),
    Fault("container: name taken", take_names, after=give_names_back),
)
