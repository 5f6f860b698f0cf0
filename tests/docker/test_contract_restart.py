"""Docker's restart policies: a container is started again by the engine, and ends for good."""

from __future__ import annotations

import pytest
from sweep_command import MakeRepository


@pytest.mark.parametrize("restart", ["on-failure:2", "always", "unless-stopped"])
def test_second_attempt(make_repository: MakeRepository, restart: str) -> None:
    """A job that dies at its first attempt completes at the second; the log has both."""
    repository = make_repository("restarts", restart=restart)
    finished = repository.sweep("how=fail_once", timeout=60)
    assert finished.outcomes == ["completed"], finished.output
    assert (finished.job(0).folder / "attempts").read_text() == "xx"
    assert "#0 | attempt 1\n" in finished.output
    assert "#0 | attempt 2\n" in finished.output
    lines = [line.partition(" ")[2] for line in finished.job(0).log.splitlines()]
    assert lines == ["attempt 1", "attempt 2"]


def test_end_for_good(make_repository: MakeRepository) -> None:
    """With restart=always a job that has returned, raised or exited is not run again.

    Nor is one that has called os._exit after its task function returned: that is no completion.
    """
    repository = make_repository("restarts", restart="always", n_jobs="4")
    finished = repository.sweep("how=succeed,raise,exit,die", "number=1,2,3,4", timeout=60)
    expected = ["completed"] * 4 + ["error"] * 4 + ["exited"] * 8
    assert finished.outcomes == expected, finished.output
    for number in range(16):
        assert (finished.job(number).folder / "attempts").read_text() == "x"
    rows = finished.ledger["jobs"]
    assert [row["exit_code"] for row in rows] == [0] * 4 + [1] * 4 + [4] * 4 + [7] * 4
    cause = "its task function returned, but the script then ended with exit code 7"
    assert {row["cause"] for row in rows[12:]} == {cause}


def test_attempts_are_used_up(make_repository: MakeRepository) -> None:
    """A job that fails at every attempt has failed."""
    repository = make_repository("restarts", restart="on-failure:1")
    finished = repository.sweep("how=raise", timeout=60)
    assert finished.outcomes == ["error"]
    assert (finished.job(0).folder / "attempts").read_text() == "xx"
