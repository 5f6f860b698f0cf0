"""Limits of a container, read back from inside it: every job has those of its own config."""

from __future__ import annotations

from typing import Any

import docker
import pytest
from sweep_command import Finished, MakeRepository

MIB = 1024**2
PAGE = 4096


BOXES = ("small", "swapping", "open", "default")


@pytest.fixture(scope="module")
def sweep(make_repository: MakeRepository) -> Finished:
    repository = make_repository("inside", n_jobs="2")
    return repository.sweep("box=" + ",".join(BOXES))


def answers_of(sweep: Finished, box: str) -> dict[str, Any]:
    return sweep.job(BOXES.index(box)).json()


def test_completed(sweep: Finished) -> None:
    """A sweep whose jobs all complete exits with 0 and says so."""
    assert sweep.status == 0, sweep.output
    assert sweep.output.rstrip().endswith("4 completed")


def test_small(sweep: Finished) -> None:
    """CPU quota, memory without swap, processes, /dev/shm and ulimits are as configured."""
    answers = answers_of(sweep, "small")
    assert answers["limits"] == {
        "cpus": 0.5,
        "memory": 96 * MIB,
        "memory_swap": 96 * MIB,
        "pids": 64,
    }
    assert answers["shm"] == 16 * MIB
    assert answers["ulimits"] == {"nofile": [100, 200], "core": [0, 0]}


def test_swap(sweep: Finished) -> None:
    """memswap_limit is memory plus swap, as in Docker; /dev/shm may take all the memory."""
    answers = answers_of(sweep, "swapping")
    assert answers["limits"] == {
        "cpus": 1.5,
        "memory": 256 * MIB,
        "memory_swap": 300 * MIB,
        "pids": 100,
    }
    assert answers["shm"] == 256 * MIB


def test_open(sweep: Finished) -> None:
    """-1 means no limit, for swap and for processes."""
    answers = answers_of(sweep, "open")
    assert answers["limits"]["memory"] == 128 * MIB
    assert answers["limits"]["memory_swap"] == -1
    assert answers["limits"]["pids"] == -1


def test_default(sweep: Finished, api: docker.APIClient) -> None:
    """By default a container gets one CPU and an equal share of the machine's memory."""
    limits = answers_of(sweep, "default")["limits"]
    share = api.info()["MemTotal"] // 2  # n_jobs=2
    assert share - PAGE < limits["memory"] <= share
    assert limits == {
        "cpus": 1.0,
        "memory": limits["memory"],
        "memory_swap": limits["memory"],
        "pids": 4096,
    }
