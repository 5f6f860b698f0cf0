"""Several launchers on one engine: nothing is promised twice, nobody starves, all jobs are done."""

from __future__ import annotations

import threading

import crowd
import pytest
from bench import Bench
from crowd import MIB, Entry, Machine, Share

LIMIT = 180.0  # seconds


def test_three_launchers_at_once(clean_bench: Bench) -> None:
    """One is killed. One has jobs that need all CPUs; memory is enough for one of the others."""
    machine = Machine.of(clean_bench)
    large = machine.memory * 6 // 10
    shares = (
        Share(machine.cpus / 4, large),
        Share(0.1, large),
        Share(machine.cpus, 128 * MIB),
    )
    found = crowd.run(clean_bench, shares=shares, jobs=4, kill_after=2, limit=LIMIT)

    print(crowd.table(found))
    found.check()
    waits = [
        line
        for sweep in found.sweeps
        for line in sweep.output.splitlines()
        if " waits: " in line and "promised to others" in line
    ]
    assert waits, "nobody was told why their jobs wait"


def test_a_launcher_that_ends_early(clean_bench: Bench) -> None:
    """The crowd does not wait for jobs of a launcher that has ended."""
    share = Share(0.1, 64 * MIB)
    with pytest.raises(AssertionError, match=r"--- .*app\.py"):
        crowd.run(clean_bench, shares=(share,), jobs=1, kill_after=2, limit=LIMIT)


@pytest.mark.parametrize(
    ("share", "entered", "is_unfair"),
    [
        (Share(1, 100), 5.0, True),
        (Share(1, 100), 9.5, False),  # one is just let in as the other comes
        (Share(0.1, 100), 5.0, False),  # there is room for both
        (Share(0.1, 950), 5.0, True),
    ],
)
def test_who_is_overtaken(share: Share, entered: float, is_unfair: bool) -> None:
    """A job is overtaken by one that came later, got in earlier, and has taken what it needs."""
    first = Entry("ann", 0, Share(1.9, 100), asked=0.0, entered=10.0)
    second = Entry("bob", 3, share, asked=2.0, entered=entered)
    machine = Machine(2, 1000)
    found = crowd.overtaken([second, first], machine)
    told = "bob's job #3 (waited 3.0 s) got in before ann's #0 (waited 10.0 s)"
    assert found == ([told] if is_unfair else [])
    assert crowd.overtaken([first, Entry("ann", 1, share, 2.0, entered)], machine) == []


def test_a_look_that_fails(clean_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the engine from being looked at is no success."""
    asked = threading.Event()

    class Broken:
        def containers(self) -> None:
            asked.set()
            raise ValueError("no answer")

        def close(self) -> None:
            pass

    monkeypatch.setattr(clean_bench.engine, "api", Broken)
    with pytest.raises(AssertionError, match="no answer"), crowd.sampled(clean_bench):
        assert asked.wait(LIMIT)
