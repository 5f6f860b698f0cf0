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

MEMORY = 256 * crowd.MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launchers", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--cpus", type=float, nargs="+", default=[0.5, 0.5, 1.0, 2.0])
    arguments = parser.parse_args()
    reason = private_engine.missing()
    if reason is not None:
        parser.error(reason)
    shared = docker.from_env(timeout=120).api
    with tempfile.TemporaryDirectory(prefix="hydra-docker-load-") as folder:
        bench = Bench(Path(folder).resolve(), shared, os.environ["HYDRA_DOCKER_TEST_IMAGE"])
        try:
            info = bench.api.info()
            found = crowd.run(
                bench,
                launchers=arguments.launchers,
                jobs=arguments.jobs,
                cpus=arguments.cpus,
                memory=MEMORY,
                kill_after=arguments.jobs // 3,
            )
        finally:
            bench.close()
    samples = found.samples
    print(
        f"{arguments.launchers} launchers, {arguments.jobs} jobs each (cpus: {arguments.cpus}), "
        f"{found.total:.0f} s; {samples.looks} looks at the engine\n"
        f"promised at most: {samples.cpus:g} of {info['NCPU']} CPUs, "
        f"{samples.memory / crowd.MIB:.0f} of {info['MemTotal'] / crowd.MIB:.0f} MiB, "
        f"{samples.at_once} containers at once\n\n{crowd.table(found)}"
    )
    if samples.cpus > info["NCPU"] or samples.memory > info["MemTotal"]:
        raise SystemExit("more was promised than the machine has")


if __name__ == "__main__":
    main()
