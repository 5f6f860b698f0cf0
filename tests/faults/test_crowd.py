"""Several launchers on one engine: nothing is promised twice, nobody starves, all jobs are done."""

from __future__ import annotations

import crowd
from bench import Bench


def test_three_launchers_at_once(clean_bench: Bench) -> None:
    """One of them is killed; of the others, one has jobs that need all CPUs of the machine."""
    info = clean_bench.api.info()
    found = crowd.run(
        clean_bench,
        launchers=3,
        jobs=4,
        cpus=(info["NCPU"] / 4, info["NCPU"] / 2, info["NCPU"]),
        memory=128 * crowd.MIB,
        kill_after=2,
    )

    print(crowd.table(found))
    assert found.samples.looks > 0
    assert 0 < found.samples.cpus <= info["NCPU"]
    assert 0 < found.samples.memory <= info["MemTotal"]
    waits = [
        line
        for sweep in found.sweeps
        for line in sweep.output.splitlines()
        if " waits: " in line and "promised to others" in line
    ]
    assert waits, "nobody was told why their jobs wait"
