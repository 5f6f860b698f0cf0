"""What it costs to get the code into the containers. `make bench` runs this, beside launcher.py.

Prints Markdown tables. What is sent to the engine is counted by a proxy between it and whoever
sends: the launcher, `docker` and `mlflow run` alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from launcher import APP, run, seconds

JOBS = 20
MLFLOW_JOBS = 5  # `mlflow run` takes some seconds for each
TREE_JOBS = 16
LIMIT = 1.2  # of what a job may cost with a large tree, to that with a small one
IDENTITY = ("-c", "user.name=Bench", "-c", "user.email=bench@example.org")

DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY requirements.txt /
RUN true
"""
BY_HAND = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY requirements.txt /
RUN true
COPY . /code
WORKDIR /code
"""
PROJECT = """\
name: hydra-docker-bench
docker_env: {image: IMAGE}
entry_points:
  main:
    parameters: {x: float}
    command: "python3 app.py +x={x}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="has Python and this host's hydra-core")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hydra-docker-bench-") as folder:
        trees(Path(folder), arguments.image, arguments.rounds)
        with counted(Path(folder)) as proxy:
            # What is built and sent is the same in every round.
            one_edit(Path(folder), arguments.image, proxy, max(1, arguments.rounds // 3))


# ---- a large tree ----------------------------------------------------------------------------


def trees(folder: Path, image: str, rounds: int) -> None:
    """Compare what a job costs with a small and with a large tree."""
    apps = {
        "20 files": make_tree(folder / "small", 20, 20_000),
        "3,000 files, 50 MB": make_tree(folder / "large", 3_000, 50_000_000),
    }
    numbers = ",".join(str(number) for number in range(TREE_JOBS))
    for how in ("copy", "image"):
        per_job: dict[str, list[float]] = {name: [] for name in apps}
        first: dict[str, list[float]] = {name: [] for name in apps}
        for number in range(rounds + 1):
            for name, app in (apps.items(), reversed(apps.items()))[number % 2]:
                sweep = f"multirun/{how}-{number}"
                command = [
                    *(sys.executable, "app.py", "-m", f"+x={numbers}", "hydra/launcher=docker"),
                    *(f"hydra.launcher.image={image}", "hydra.launcher.mlflow.enabled=false"),
                    *(f"hydra.launcher.delivery={how}", f"hydra.sweep.dir={sweep}"),
                ]
                begin = time.time()
                run(command, app)
                starts, ends = times(app / sweep, TREE_JOBS)
                if number:  # the first one warms up
                    first[name].append(min(starts) - begin)
                    per_job[name].append((max(ends) - min(starts)) / TREE_JOBS)
        small, large = apps
        pairs = zip(per_job[large], per_job[small], strict=True)
        ratios = sorted(a / b for a, b in pairs)
        print(f"| delivery={how}, {TREE_JOBS} jobs | per job | to the first container |")
        print("|---|---|---|")
        for name in apps:
            cost, wait = statistics.median(per_job[name]), statistics.median(first[name])
            print(f"| {name} | {cost:.3f} s | {wait:.2f} s |")
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        ratio = statistics.median(ratios)
        print(f"| ratio (at most {LIMIT}) | {ratio:.2f} ({shown}) | |\n")
    remove_images(*apps.values())


def make_tree(folder: Path, files: int, size: int) -> Path:
    """Make a repository with the app and so many files of random bytes."""
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / ".gitignore").write_text("multirun/\noutputs/\nmlflow*\nmlruns/\n__pycache__/\n")
    noise = random.Random(0)
    for number in range(files - 2):
        file = folder / f"part{number % 30}" / f"{number}.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(noise.randbytes(size // files))
    git(folder, "init", "-q")
    commit(folder)
    return folder


# ---- an edit ---------------------------------------------------------------------------------


@dataclass
class Proxy:
    """Stands between clients and the engine, and counts."""

    address: str
    sent: int = 0
    builds: int = 0
    first_start: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        self.sent, self.builds, self.first_start = 0, 0, None

    def saw(self, data: bytes) -> None:
        with self.lock:
            self.sent += len(data)
            self.builds += len(re.findall(rb"POST (?:/v[\d.]+)?/build\?", data))
            started = re.search(rb"POST (?:/v[\d.]+)?/containers/[^/ ]+/start", data)
            if started and self.first_start is None:
                self.first_start = time.time()


@contextmanager
def counted(folder: Path) -> Iterator[Proxy]:
    """Run the proxy; DOCKER_HOST leads to it."""
    before = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    engine = urlsplit(before).path
    proxy = Proxy(f"unix://{folder}/engine.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(f"{folder}/engine.sock")
        server.listen(64)
        threading.Thread(target=_accept, args=(server, engine, proxy), daemon=True).start()
        os.environ["DOCKER_HOST"] = proxy.address
        try:
            yield proxy
        finally:
            os.environ["DOCKER_HOST"] = before


def _accept(server: socket.socket, engine: str, proxy: Proxy) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        upstream.connect(engine)
        for source, sink, saw in ((client, upstream, proxy.saw), (upstream, client, None)):
            threading.Thread(target=_pump, args=(source, sink, saw), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, saw: Callable[[bytes], None] | None) -> None:
    try:
        while data := source.recv(1 << 16):
            if saw is not None:
                saw(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@dataclass
class Way:
    """A way to run jobs from a tree: ``start`` runs so many."""

    name: str
    start: Callable[[int], None]
    jobs: int
    builds: list[int] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)

    def measure(self, proxy: Proxy) -> None:
        proxy.reset()
        begin = time.time()
        self.start(self.jobs)
        self.total.append((time.time() - begin) / self.jobs)
        self.builds.append(proxy.builds)
        self.sent.append(proxy.sent / self.jobs)
        self.wait.append((proxy.first_start or begin) - begin)

    def row(self) -> str:
        kilobytes = statistics.median(self.sent) / 1000
        return (
            f"| {self.name} | {statistics.median(self.builds):g} | {kilobytes:,.1f} kB "
            f"| {statistics.median(self.wait):.2f} s | {statistics.median(self.total):.2f} s |"
        )


def one_edit(folder: Path, image: str, proxy: Proxy, rounds: int) -> None:
    """Run jobs from a tree that is unchanged, and from one with an edit that was committed."""
    app = make_tree(folder / "edited", 300, 3_000_000)
    (app / "requirements.txt").write_text("hydra-core\n")
    (app / "Dockerfile").write_text(DOCKERFILE)
    (app / "by-hand.Dockerfile").write_text(BY_HAND)
    (app / "MLproject").write_text(PROJECT.replace("IMAGE", image))
    commit(app)
    edits = itertools.count()
    for changed in (False, True):
        ways = [*launchers(app, image), *others(app, image)]
        for way in ways:
            way.start(1)  # what is built and cached once
        for _ in range(rounds):
            for way in ways:
                if changed:
                    (app / "part0" / "0.bin").write_text(f"edit {next(edits)}")
                    commit(app)
                way.measure(proxy)
        state = "one file edited and committed before each" if changed else "unchanged"
        print(
            f"| 300 files, 3 MB, {state} | images built | sent to the engine, per job "
            "| to the first container | in all, per job |"
        )
        print("|---|---|---|---|---|")
        for way in ways:
            print(way.row())
        for way in ways[2:]:
            pairs = zip(way.total, ways[0].total, strict=True)
            ratio = statistics.median(other / own for other, own in pairs)
            print(f"| {way.name}, as a multiple of the launcher's time | | | | {ratio:.1f} |")
        print()
    remove_images(app)


def launchers(app: Path, image: str) -> list[Way]:
    def sweep(how: str) -> Callable[[int], None]:
        command = [
            *(sys.executable, "app.py", "-m", "hydra/launcher=docker"),
            *(f"+hydra.launcher.build.args.BASE_IMAGE={image}", "hydra.launcher.n_jobs=1"),
            f"hydra.launcher.delivery={how}",
        ]
        return lambda jobs: run([*command, "+x=" + ",".join(map(str, range(jobs)))], app)

    return [Way(f"launcher, delivery={how}", sweep(how), JOBS) for how in ("copy", "image")]


def others(app: Path, image: str) -> list[Way]:
    build = (
        f"docker build --quiet --build-arg BASE_IMAGE={image} --file by-hand.Dockerfile "
        "--tag hydra-docker-bench:by-hand . >/dev/null"
    )
    one = "docker run --rm --init --cpus 1 hydra-docker-bench:by-hand python3 app.py +x=$number"
    tracking = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{app}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def by_hand(jobs: int) -> None:
        loop = f"for number in $(seq {jobs}); do {build} && {one} || exit 1; done"
        run(["sh", "-c", loop], app, os.environ | {"DOCKER_BUILDKIT": "0"})

    def mlflow(jobs: int) -> None:
        for number in range(jobs):
            command = [sys.executable, "-m", "mlflow", "run", ".", "--build-image"]
            run([*command, "-P", f"x={number}"], app, os.environ | tracking)

    return [
        Way("`docker build && docker run`, in a loop", by_hand, JOBS),
        Way("`mlflow run --build-image`, in a loop", mlflow, MLFLOW_JOBS),
    ]


# ---- all of them -----------------------------------------------------------------------------


def times(folder: Path, jobs: int) -> tuple[list[float], list[float]]:
    """Return when the containers of a sweep have started, and when they have ended."""
    files = [folder / str(number) / ".docker/container.json" for number in range(jobs)]
    containers = [json.loads(file.read_text()) for file in files]
    return tuple(
        [seconds(container[name]) for container in containers]
        for name in ("started_at", "finished_at")
    )


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-qm", "A change")


def git(folder: Path, *arguments: str) -> str:
    command = ("git", "-C", str(folder), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def remove_images(*apps: Path) -> None:
    """Remove what the benchmark has left on the engine."""
    revisions = [name for app in apps for name in git(app, "rev-list", "HEAD").split()]
    filters = [f"label=org.opencontainers.image.revision={revision}" for revision in revisions]
    # An image goes only after those that were made from it: hence twice.
    for each in 2 * (*filters, "reference=hydra-docker-bench"):
        listed = ("docker", "image", "ls", "--quiet", "--filter", each)
        found = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
        for image in dict.fromkeys(found.split()):
            removal = ("docker", "image", "rm", "--force", image)
            subprocess.run(removal, check=False, capture_output=True)


if __name__ == "__main__":
    main()
