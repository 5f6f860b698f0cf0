"""What the launcher costs, side by side with what one would do by hand. `make bench` runs this.

Prints Markdown tables; docs/benchmarks.md keeps the ones of a known machine. Every comparison runs
its two sides in turn (A B A B …) and gives the ratio of each pair: a machine that gets slower in
between slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

APP = """\
import hydra


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    return cfg.x


if __name__ == "__main__":
    main()
"""
JOBS = 32
AT_ONCE = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="has Python and this host's hydra-core")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {arguments.rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory(prefix="hydra-docker-bench-") as folder:
        app = Path(folder, "app")
        make_app(app)
        startup(app, arguments.rounds)
        sweep(app, arguments.image, arguments.rounds)
        stages(app, arguments.image)


def make_app(folder: Path) -> None:
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    (folder / ".gitignore").write_text("multirun/\nout/\nmlflow*\n__pycache__/\n")
    identity = ("-c", "user.name=Bench", "-c", "user.email=bench@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "The app")):
        subprocess.run(["git", *command], cwd=folder, check=True)


def startup(app: Path, rounds: int) -> None:
    """Compare `app.py --help` with the plugin on the path and without it."""
    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as empty:
        # A copy of the environment's path without this package's checkout.
        without = os.environ | {"PYTHONPATH": empty, "HYDRA_DOCKER_BENCH": "without"}
        command = [sys.executable, "-S", "-c", _launch(app, [])]
        hidden = lambda: run(command, app, without)  # noqa: E731
        command_with = [sys.executable, "-S", "-c", _launch(app, [str(package)])]
        shown = lambda: run(command_with, app, without)  # noqa: E731
        ratios, shown_times, hidden_times = pairs(shown, hidden, rounds * 5)
    print("| `app.py --help` | median |\n|---|---|")
    print(f"| without the plugin | {statistics.median(hidden_times):.3f} s |")
    print(f"| with the plugin | {statistics.median(shown_times):.3f} s |")
    print(f"| ratio | {statistics.median(ratios):.3f} |\n")


def _launch(app: Path, more: Sequence[str]) -> str:
    """Return a program that runs `app.py --help` with a path of its own."""
    package = str(Path(__file__).parents[1])
    path = [entry for entry in sys.path[1:] if entry and Path(entry).resolve() != Path(package)]
    return (
        f"import sys; sys.path[:] = {[str(app), *more, *path]!r}; sys.argv = ['app.py', '--help']; "
        f"import runpy; runpy.run_path({str(app / 'app.py')!r}, run_name='__main__')"
    )


def sweep(app: Path, image: str, rounds: int) -> None:
    """Compare a sweep of trivial jobs with `docker run` under `xargs`."""
    numbers = ",".join(str(number) for number in range(JOBS))

    def launcher(*options: str) -> Callable[[], None]:
        command = [
            *(sys.executable, "app.py", "-m", f"+x={numbers}", "hydra/launcher=docker"),
            *(f"hydra.launcher.image={image}", f"hydra.launcher.n_jobs={AT_ONCE}", *options),
        ]
        return lambda: run(command, app)

    def by_hand() -> None:
        shutil.rmtree(app / "out", ignore_errors=True)
        one = (
            f"docker run --rm --init --volume {app}:{app} --workdir {app} --cpus 1 {image} "
            "python3 app.py +x={} hydra.run.dir=out/{}"
        )
        script = f"seq 0 {JOBS - 1} | xargs -P{AT_ONCE} -I{{}} {one}"
        run(["sh", "-c", script], app)

    launcher()()  # the tracking store's migrations, and the preflight of the image
    print(f"| {JOBS} trivial jobs, {AT_ONCE} at once | median | ratio to xargs |\n|---|---|---|")
    off, on = launcher("hydra.launcher.mlflow.enabled=false"), launcher()
    ratios_off, times_off, times_hand = pairs(off, by_hand, rounds)
    ratios_on, times_on, more = pairs(on, by_hand, rounds)
    hand = statistics.median([*times_hand, *more])
    print(f"| `xargs -P{AT_ONCE} docker run` | {hand:.2f} s | |")
    for name, times, ratios in (
        ("launcher, MLflow off", times_off, ratios_off),
        ("launcher, MLflow on", times_on, ratios_on),
    ):
        median = statistics.median(times)
        shown = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        print(f"| {name} | {median:.2f} s | {statistics.median(ratios):.2f} ({shown}) |")
    print()


def stages(app: Path, image: str) -> None:
    """Print what the stages of one sweep cost, from the times that the sweep itself wrote down."""
    for name, options in (("off", ["hydra.launcher.mlflow.enabled=false"]), ("on", [])):
        numbers = ",".join(str(number) for number in range(JOBS))
        command = [
            *(sys.executable, "app.py", "-m", f"+x={numbers}", "hydra/launcher=docker"),
            *(f"hydra.launcher.image={image}", f"hydra.launcher.n_jobs={AT_ONCE}", *options),
            f"hydra.sweep.dir=multirun/stages-{name}",
        ]
        begin = time.time()
        run(command, app)
        end = time.time()
        folder = app / "multirun" / f"stages-{name}"
        containers = [
            json.loads((folder / str(n) / ".docker/container.json").read_text())
            for n in range(JOBS)
        ]
        started = [seconds(container["started_at"]) for container in containers]
        finished = [seconds(container["finished_at"]) for container in containers]
        inside = [b - a for a, b in zip(started, finished, strict=True)]
        print(f"| MLflow {name}: stage | seconds |\n|---|---|")
        print(f"| before the first container runs | {min(started) - begin:.2f} |")
        print(f"| all containers, first start to last end | {max(finished) - min(started):.2f} |")
        print(f"| of that, per job | {(max(finished) - min(started)) / JOBS:.3f} |")
        print(f"| a container's own time, median | {statistics.median(inside):.3f} |")
        print(f"| after the last container has ended | {end - max(finished):.2f} |\n")


def pairs(
    one: Callable[[], None], other: Callable[[], None], rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Run both in turn, after one warm-up; return the ratios of the pairs, and the times."""
    one(), other()
    times = [(timed(one), timed(other)) for _ in range(rounds)]
    return [a / b for a, b in times], [a for a, _ in times], [b for _, b in times]


def timed(action: Callable[[], None]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def run(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{finished.stdout}{finished.stderr}")


def seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text[:19] + "+00:00").timestamp() + float(
        "0." + time_text[20:].rstrip("Z")
    )


if __name__ == "__main__":
    main()
