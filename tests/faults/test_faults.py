"""A short run of the faults; ``make soak`` is the long one.

Which faults, and when they come, is the same in every run: HYDRA_DOCKER_FAULT_SEED gives others.
"""

from __future__ import annotations

from random import Random

import pytest
from bench import Bench
from faults import FAULTS
from scenario import survive, survive_kills

SHORT = (
    "launcher: kill -9",
    "launcher: SIGHUP, on_interrupt=detach",
    "engine: kill -9, restart=unless-stopped",
    "power cut, restart=no",
)


@pytest.mark.parametrize("kind", SHORT)
def test_fault(clean_bench: Bench, random: Random, kind: str) -> None:
    """After a fault every job has one end that all agree on; nothing is lost or run twice."""
    (fault,) = (fault for fault in FAULTS if fault.kind == kind)
    survive(clean_bench, fault, random, jobs=4, early=False, to_the_end=False)


def test_killed_again_and_again(clean_bench: Bench, random: Random) -> None:
    """A sweep that is killed three times and taken up each time runs every job exactly once."""
    survive_kills(clean_bench, random, jobs=12, kills=3, early=False, to_the_end=False)
