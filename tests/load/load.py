"""Four launchers on one engine, 100 short jobs each, one of them killed. `make load` runs this."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import crowd
import docker
import private_engine
from bench import Bench
from crowd import MIB, Machine, Share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100, help="of each launcher")
    parser.add_argument("--seconds", type=float, default=0.2, help="that each job works")
    parser.add_argument("--limit", type=float, default=3600, help="seconds that all may take")
    arguments = parser.parse_args()
    reason = private_engine.missing()
    if reason is not None:
        parser.error(reason)
    shared = docker.from_env(timeout=120).api
    with tempfile.TemporaryDirectory(prefix="hydra-docker-load-") as folder:
        bench = Bench(Path(folder).resolve(), shared, os.environ["HYDRA_DOCKER_TEST_IMAGE"])
        try:
            version = bench.api.version()["Version"]
            found = crowd.run(
                bench,
                shares=_shares(Machine.of(bench)),
                jobs=arguments.jobs,
                kill_after=max(1, arguments.jobs // 3),
                limit=arguments.limit,
                seconds=arguments.seconds,
            )
        finally:
            bench.close()
    samples, machine = found.samples, found.machine
    rivals = crowd.rivals(samples.entries.values(), machine)
    print(
        f"Engine {version}; {arguments.jobs} jobs of {arguments.seconds:g} s each, "
        f"{found.total:.0f} s; {samples.looks} looks at the engine\n"
        f"promised at most: {samples.cpus:g} of {machine.cpus} CPUs, "
        f"{samples.memory / MIB:.0f} of {machine.memory / MIB:.0f} MiB, "
        f"{samples.at_once} containers at once\n"
        f"{len(rivals)} times a job waited as one that needs the same was asked for; "
        f"overtaken: {len(crowd.overtaken(samples.entries.values(), machine))}\n\n"
        f"{crowd.table(found)}"
    )
    found.check()
    if not rivals:
        raise SystemExit("no job has waited for another launcher's: nothing was tried")


def _shares(machine: Machine) -> tuple[Share, ...]:
    """Return what the jobs of four launchers ask for.

    The last one's need all CPUs. Of those of the second and the third, which need few, memory is
    enough for one at a time.
    """
    small, large = 256 * MIB, machine.memory * 6 // 10
    return (
        Share(machine.cpus / 4, small),
        Share(machine.cpus / 4, large),
        Share(0.1, large),
        Share(machine.cpus, small),
    )


if __name__ == "__main__":
    main()
