"""Faults by kind: what is done to a sweep on its way, and how it must end then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from bench import Bench, Running
from docker.errors import APIError, NotFound
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
    """What a fault is done to. ``command`` is the user's own, which runs."""

    bench: Bench
    sweep: MarkedSweep
    command: Running
    random: Random


@dataclass(frozen=True)
class Fault:
    """One kind of fault. ``strike`` does it, and undoes what the world would undo.

    ``carry_on``: what is then called until the sweep is over, one of these
    at random; nothing: the command itself goes on, and has recorded how every job has ended.
    ``ends_jobs``: containers are ended, so a task function may run more than once. ``outcomes`` are
    the ends other than completed that jobs may have before they are resumed.
    ``held``: the first jobs wait until the fault is over. ``server``: runs are tracked by a server.
    ``after``: what is done when the command has ended, before the sweep is carried on.
    """

    kind: str
    strike: Callable[[Scene], None]
    overrides: tuple[str, ...] = ()
    carry_on: tuple[str, ...] = ()
    ends_jobs: bool = False
    outcomes: frozenset[str] = frozenset()
    held: bool = False
    server: bool = False
    after: Callable[[Scene], None] | None = None


# ---- the launcher --------------------------------------------------------------------------------


def kill_launcher(scene: Scene) -> None:
    scene.command.kill()


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


def kill_engine(scene: Scene) -> None:
    """End dockerd, containerd and the shims hard, and start them again."""
    scene.bench.engine.kill()
    scene.bench.engine.start()


def cut_power(scene: Scene) -> None:
    """End all of it at the same moment, the launcher too; then the machine is on again."""
    if not scene.command.ended:
        scene.command.send(signal.SIGSTOP)
    scene.bench.engine.cut_power()
    scene.command.kill()
    scene.bench.engine.start()


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


def interrupt_server(scene: Scene) -> None:
    """Let the server be down while the jobs go on, for a while."""
    scene.bench.server.stop()
    scene.sweep.open_gate()
    time.sleep(scene.random.uniform(0, 8))
    scene.bench.server.start()


def stop_server(scene: Scene) -> None:
    scene.bench.server.stop()


def start_server(scene: Scene) -> None:
    scene.bench.server.start()


FAULTS = (
    Fault("launcher: kill -9", kill_launcher, carry_on=("attach", "resume")),
    Fault(
        "launcher: Ctrl-C",
        send(signal.SIGINT),
        ends_jobs=True,
        outcomes=frozenset({"stopped"}),
    ),
    Fault(
        "launcher: Ctrl-C twice",
        send(signal.SIGINT, signal.SIGINT),
        ends_jobs=True,
        outcomes=frozenset({"stopped"}),
    ),
    Fault(
        "launcher: SIGTERM",
        send(signal.SIGTERM),
        ends_jobs=True,
        outcomes=frozenset({"stopped"}),
    ),
    Fault(
        "launcher: SIGHUP",
        send(signal.SIGHUP),
        ends_jobs=True,
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
        "engine: restarted, restart=no",
        restart_engine(live_restore=False),
        ends_jobs=True,
        outcomes=DIED,
    ),
    *(
        Fault(
            f"engine: restarted, restart={policy}",
            restart_engine(live_restore=False),
            (f"hydra.launcher.restart={policy}",),
            ends_jobs=True,
        )
        for policy in POLICIES
    ),
    Fault(
        "engine: kill -9, restart=no",
        kill_engine,
        ends_jobs=True,
        outcomes=DIED,
    ),
    *(
        Fault(
            f"engine: kill -9, restart={policy}",
            kill_engine,
            (f"hydra.launcher.restart={policy}",),
            ends_jobs=True,
        )
        for policy in POLICIES
    ),
    Fault(
        "power cut, restart=no",
        cut_power,
        carry_on=("attach",),
        ends_jobs=True,
        outcomes=DIED,
    ),
    *(
        Fault(
            f"power cut, restart={policy}",
            cut_power,
            (f"hydra.launcher.restart={policy}",),
            carry_on=("attach", "resume"),
            ends_jobs=True,
        )
        for policy in POLICIES
    ),
    Fault(
        "container: docker kill",
        kill_container,
        ends_jobs=True,
        outcomes=DIED,
        held=True,
    ),
    Fault(
        "container: docker stop",
        stop_container,
        ends_jobs=True,
        outcomes=DIED,
        held=True,
    ),
    Fault(
        "container: docker rm -f",
        remove_container,
        ends_jobs=True,
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
        interrupt_server,
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
)
