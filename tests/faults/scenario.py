"""One scenario: a sweep begins, a fault comes at a random moment, the sweep is carried on, and what
must hold is checked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random

import invariants
from bench import PATIENCE, Bench, Running
from faults import AT_ONCE, Fault, Scene
from invariants import Damage
from marked_sweep import MarkedSweep, Snapshot
from sweep_command import wait_for

PREPARING = 4.0  # seconds from a command's start to its first job, about
SPREAD = 0.6  # seconds after a job has begun, in which a fault may come


@dataclass(frozen=True)
class Moment:
    """When a fault comes: ``delay`` seconds after so many jobs have begun (0: after the start)."""

    begun: int
    delay: float

    def __str__(self) -> str:
        after = f"{self.begun} jobs have begun" if self.begun else "the start"
        return f"{self.delay:.2f} s after {after}"


def moment(random: Random, jobs: int, *, early: bool) -> Moment:
    """Return a moment in a sweep's life; ``early``: it may come before the first job."""
    if early and random.random() < 0.3:
        return Moment(0, random.uniform(0, PREPARING))
    return Moment(random.randint(1, jobs), random.uniform(0, SPREAD))


def survive(
    bench: Bench,
    fault: Fault,
    random: Random,
    *,
    jobs: int = 6,
    early: bool = True,
    to_the_end: bool = True,
) -> None:
    """Let a sweep go through a fault; raise ``AssertionError`` where it does not survive.

    ``early``: the fault may come before the first job has begun. ``to_the_end``: the sweep is
    started once more, even where every job has completed, to see that nothing is run again then.
    """
    bench.engine.set_live_restore(False)
    sweep = MarkedSweep(
        bench,
        jobs,
        *fault.overrides,
        f"hydra.launcher.n_jobs={AT_ONCE}",
        held=fault.held,
        server=fault.server,
        proxied=fault.proxied,
    )
    when = moment(random, AT_ONCE if fault.held else jobs, early=early and not fault.held)
    print(f"{fault.kind}: {when}", flush=True)
    command = sweep.start()
    _wait_for_jobs(sweep, command, when.begun)
    time.sleep(when.delay)
    before = sweep.snapshot()
    scene = Scene(bench, sweep, command, random)
    fault.strike(scene)
    sweep.open_gate()
    command.finish()
    if fault.after is not None:
        fault.after(scene)
    if fault.carry_on and sweep.is_saved():
        _carry_on(sweep, random.choice(fault.carry_on))
    wait_for(lambda: not bench.in_background(), "the launcher in the background ends", PATIENCE)
    if sweep.rows():
        invariants.check_ended(sweep, before, fault.damage)
        invariants.check_outcomes(sweep, fault.outcomes)
    if to_the_end or sweep.completed() < jobs:
        complete(sweep, before, fault.damage)


def _wait_for_jobs(sweep: MarkedSweep, command: Running, number: int) -> None:
    """Wait until so many jobs have begun, or the command has ended."""
    wait_for(lambda: command.ended or sweep.begun() >= number, f"{number} jobs begin", 2 * PATIENCE)


def _carry_on(sweep: MarkedSweep, how: str) -> None:
    command = {"attach": sweep.attach, "resume": sweep.resume, "sync": sweep.sync}[how]()
    status = command.finish()
    expected = 0 if how == "sync" or sweep.completed() == sweep.jobs else 1
    assert status == expected, f"{how} ended with {status}\n{sweep.output}"


def complete(sweep: MarkedSweep, before: Snapshot, damage: Damage = Damage.NONE) -> None:
    """Run what is missing of a sweep, and see that all is there."""
    status = sweep.resume().finish()
    assert status == 0, f"resume=true ended with {status}\n{sweep.output}"
    invariants.check_ended(sweep, before, damage)
    invariants.check_outcomes(sweep)
    invariants.check_returned(sweep)


def survive_kills(
    bench: Bench,
    random: Random,
    *,
    jobs: int,
    kills: int,
    early: bool = True,
    to_the_end: bool = True,
) -> None:
    """Kill a sweep so many times, and take it up again each time: every job runs exactly once.

    ``early``: it may be killed before it has run a job. ``to_the_end``: it is started once more, to
    see that nothing is run again then, and that the sweeper gets the values of all.
    """
    sweep = MarkedSweep(bench, jobs, f"hydra.launcher.n_jobs={AT_ONCE + 1}", seconds=0.1)
    command = sweep.start()
    for number in range(1, kills + 1):
        when = moment(random, max(1, jobs // (kills + 1)), early=early)
        _wait_for_jobs(sweep, command, sweep.begun() + when.begun)
        time.sleep(when.delay)
        before = sweep.snapshot()
        print(f"kill {number}: {sweep.begun()} of {jobs} jobs have begun", flush=True)
        bench.kill(command)
        command = sweep.attach() if sweep.is_saved() and random.random() < 0.3 else sweep.resume()
    status = command.finish(5 * PATIENCE)
    assert status == 0, f"ended with {status}\n{sweep.output}"
    invariants.check_ended(sweep, before)
    invariants.check_outcomes(sweep)
    if to_the_end:
        complete(sweep, before)
