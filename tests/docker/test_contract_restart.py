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


def test_deaths_again_and_again(make_repository: MakeRepository) -> None:
    """Policies without a number are for outages: what dies each time has died after 3 restarts."""
    repository = make_repository("restarts", restart="always", n_jobs="2", mem_limit="96m")
    finished = repository.sweep("how=crash,use_memory", timeout=90)
    assert finished.outcomes == ["exited", "out of memory"], finished.output
    crashed, used_memory = finished.ledger["jobs"]
    assert crashed["cause"] == "died of SIGSEGV (exit code 139)"
    assert used_memory["cause"] == "used all of mem_limit=96m"
    for number in (0, 1):
        assert (finished.job(number).folder / "attempts").read_text() == "xxxx"
    assert finished.output.count("its container has died 4 times in a row") == 2


def test_exceptions_again_and_again(make_repository: MakeRepository) -> None:
    """on-failure without a number starts again what raises, and has an end as well."""
    repository = make_repository("restarts", restart="on-failure")
    finished = repository.sweep("how=raise", timeout=90)
    assert finished.outcomes == ["error"], finished.output
    assert finished.ledger["jobs"][0]["cause"] == "raised ValueError: no luck"
    assert (finished.job(0).folder / "attempts").read_text() == "xxxx"
