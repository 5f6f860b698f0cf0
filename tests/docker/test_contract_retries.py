"""Retries by cause on a real engine: after a timeout, a lack of memory, and an error."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_command import Finished, MakeRepository

HOWS = ("stop_with_checkpoint", "need_memory", "always_raise")


@pytest.fixture(scope="module")
def finished(make_repository: MakeRepository) -> Finished:
    repository = make_repository("retried", n_jobs="3", network_mode="none")
    return repository.sweep("how=" + ",".join(HOWS))


def row(finished: Finished, how: str) -> dict[str, Any]:
    return finished.ledger["jobs"][HOWS.index(how)]


def output(finished: Finished, how: str) -> list[str]:
    """Return the lines of a job's container.log, without their times."""
    log = finished.job(HOWS.index(how)).log
    return [line.partition(" ")[2] for line in log.splitlines()]


def test_checkpoint(finished: Finished) -> None:
    """SIGTERM lets a job write a checkpoint when its time is over; the next attempt goes on."""
    found = row(finished, "stop_with_checkpoint")
    assert found["outcome"] == "completed", finished.output
    assert {attempt["outcome"] for attempt in found["attempts"]} == {"timed out"}
    last = len(found["attempts"]) + 1
    assert output(finished, "stop_with_checkpoint")[-4:] == [
        "working",
        "saved",
        f"hydra-docker: attempt {last} (after: timed out)",
        f"this is attempt {last}",
    ]


def test_more_memory(finished: Finished) -> None:
    """A job that was out of memory completes with twice as much."""
    found = row(finished, "need_memory")
    assert found["outcome"] == "completed", finished.output
    (first,) = found["attempts"]
    assert {name: first[name] for name in ("attempt", "outcome", "cause", "exit_code")} == {
        "attempt": 1,
        "outcome": "out of memory",
        "cause": "used all of mem_limit=96m",
        "exit_code": 137,
    }
    limits = finished.job(HOWS.index("need_memory")).json(".docker/container.json")["limits"]
    assert (limits["mem_limit"], limits["shm_size"]) == ("192m", "192m")
    assert output(finished, "need_memory") == [
        "this is attempt 1",
        "hydra-docker: attempt 2 (after: out of memory)",
        "this is attempt 2",
    ]
    assert (
        "job #1 (how=need_memory) out of memory: used all of mem_limit=96m\n"
        "Attempt 2 of 2 in 0.5 s."
    ) in finished.output
    assert "job #1 (how=need_memory): attempt 2 gets mem_limit=192m" in finished.output


def test_retries_are_used_up(finished: Finished) -> None:
    """A job that fails at every attempt has failed; only its last container is left."""
    found = row(finished, "always_raise")
    assert (found["outcome"], found["cause"]) == ("error", "raised ValueError: no luck")
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["error"]
    assert found["container"] not in (None, found["attempts"][0]["container"])
    assert finished.status == 1
    assert "1 error" in finished.output
    assert "2 completed" in finished.output
