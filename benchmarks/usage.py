"""What it costs to measure what containers use. `make bench` runs this.

Prints Markdown tables: one measuring of all containers by the kernel's own files and by the
engine's statistics, side by side (A B A B …), and what all of it costs a launcher and the engine by
the minute, with the series logged to an MLflow store, beside a minute in which nothing is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hydra_plugins.hydra_docker_launcher._attempt import RunnableJob
from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits
from hydra_plugins.hydra_docker_launcher._mlflow_tracker import MlflowTracker
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._sampling import Sampler
from hydra_plugins.hydra_docker_launcher._tracking import JobRun, SweepRun
from hydra_plugins.hydra_docker_launcher._usage_book import UsageBook

MIB = 1024**2
ASKED = 10  # containers: an engine may take a second for each answer
TICKS = 100  # a second, of the times in /proc
MINUTE = 60.0  # seconds
REST = 20.0  # seconds in which what was begun comes to its end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="has sleep")
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=4.0)
    arguments = parser.parse_args()
    engine = DockerEngine()
    specs = [spec(arguments.image, number) for number in range(arguments.containers)]
    made: dict[str, ContainerSpec] = {}
    try:
        for one in specs:
            container = engine.create(one)
            made[container] = one
            engine.start(container)
        side_by_side(engine, made, arguments.rounds)
        by_the_minute(engine, made, arguments.minutes)
    finally:
        for container in made:
            engine.remove(container)


def spec(image: str, number: int) -> ContainerSpec:
    return ContainerSpec(
        name=f"hydra-docker-bench-usage-{number}",
        image=image,
        command=("sleep", "3600"),
        working_dir="/",
        limits=Limits(0.1, 64 * MIB, 64 * MIB, MIB, 64),
        boundary=Boundary(user=None, network_mode="none"),
    )


def side_by_side(engine: DockerEngine, made: dict[str, ContainerSpec], rounds: int) -> None:
    def files() -> None:
        for container, one in made.items():
            if engine.measure(container, one) is None:
                raise SystemExit("the containers' cgroups cannot be read: is the engine here?")

    def asked() -> None:
        for container in some:
            engine._statistics(container)  # noqa: SLF001

    some = list(made)[:ASKED]
    files()  # finds where they are
    daemons = engine_processes()
    by_files, by_asking = [], []
    for _ in range(rounds):
        by_files.append([part / len(made) for part in cost(files, daemons)])
        own, daemon, wall = cost(asked, daemons)
        # What the engine does anyway, for the same time.
        _, idle, _ = cost(partial(time.sleep, wall), daemons)
        by_asking.append([part / len(some) for part in (own, max(0.0, daemon - idle), wall)])
    print("| measuring one container | launcher | engine | elapsed |")
    print("|---|---|---|---|")
    for name, costs in (("the kernel's files", by_files), ("the engine's API", by_asking)):
        own, daemon, wall = (1000 * statistics.median(part) for part in zip(*costs, strict=True))
        print(f"| {name} | {own:.2f} ms | {daemon:.1f} ms | {wall:.1f} ms |")
    pairs = [(a[0], r[0], sum(a[:2])) for r, a in zip(by_files, by_asking, strict=True)]
    alone = statistics.median(asking / reading for asking, reading, _ in pairs)
    both = statistics.median(asking / reading for _, reading, asking in pairs)
    print(f"| ratio of CPU time | {alone:.1f} | with the engine's: {both:.1f} | |\n", flush=True)


def cost(work: Callable[[], None], daemons: list[Path]) -> tuple[float, float, float]:
    """Return the CPU time of this process, that of the engine, and what the clock says."""
    own, daemon, wall = time.process_time(), spent(daemons), time.monotonic()
    work()
    return time.process_time() - own, spent(daemons) - daemon, time.monotonic() - wall


def engine_processes() -> list[Path]:
    """Return the processes of the engine; of several, those that name the folder of its socket."""
    found = [
        process
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
        and content(process / "comm").strip() in (b"dockerd", b"containerd")
    ]
    address = os.environ.get("DOCKER_HOST", "")
    folder = bytes(Path(address.removeprefix("unix://")).parent)
    named = [one for one in found if address and folder in content(one / "cmdline")]
    return named or found


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has just ended
        return b""


def spent(processes: list[Path]) -> float:
    """Return the CPU time of processes, in seconds."""
    ticks = 0
    for process in processes:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def by_the_minute(engine: DockerEngine, made: dict[str, ContainerSpec], minutes: float) -> None:
    """Sample, add up, log and save, as a launcher does, from the containers' start on."""
    with tempfile.TemporaryDirectory(prefix="hydra-docker-bench-") as folder:
        tracker = MlflowTracker(None, Path(folder), "bench")
        tracker.open_sweep(SweepRun("usage", "bench"))
        runs = [tracker.open_job(JobRun(str(number))) for number in range(len(made))]
        points = 0

        def send(number: int, series: object) -> bool:
            nonlocal points
            tracker.log_series(runs[number], series)  # type: ignore[arg-type]
            points += len(series)  # type: ignore[arg-type]
            return True

        daemons = engine_processes()
        title = f"{len(made)} containers, of one core"
        print(f"| {title} | launcher | engine | points logged |\n|---|---|---|---|")
        own, daemon, wall = cost(partial(time.sleep, MINUTE), daemons)
        print(f"| nothing is measured | {own / wall:.2%} | {daemon / wall:.2%} | |", flush=True)
        book = UsageBook(send, lambda _: None)
        sampler = Sampler(
            engine, lambda job, container, since, it: book.add(job.number, container, since, it)
        )
        for number, (container, one) in enumerate(made.items()):
            job = RunnableJob(number, "", one, JobPaths(Path(folder, str(number))), None)
            book.open(number, container, 1, one)
            sampler.add(job, container, one, None)
        for minute in range(1, int(minutes) + 1):
            logged = points
            own, daemon, wall = cost(partial(time.sleep, MINUTE), daemons)
            shares = f"{own / wall:.2%} | {daemon / wall:.2%}"
            print(f"| minute {minute} | {shares} | {points - logged} |", flush=True)
        sampler.close()
        book.close()
        time.sleep(REST)  # until what it was about to log is logged


if __name__ == "__main__":
    main()
