"""An engine that may be killed, and what the faults are injected into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import docker
import private_engine
import pytest
from bench import Bench
from docker.errors import DockerException, ImageNotFound
from faults import SEED

IMAGE = os.environ.get("HYDRA_DOCKER_TEST_IMAGE", "")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The tests' own engine, with the worker's image of the one that runs already."""
    reason = private_engine.missing()
    if reason is not None:
        pytest.skip(reason)
    try:
        shared = docker.from_env(timeout=120).api
        shared.inspect_image(IMAGE)
    except (DockerException, ImageNotFound) as error:
        pytest.fail(
            f"These tests take the image {IMAGE!r} (HYDRA_DOCKER_TEST_IMAGE) from the engine that "
            f"runs already: {error}\nRun them as `scripts/with-engine scripts/test`.",
            pytrace=False,
        )
    bench = Bench(tmp_path_factory.mktemp("faults"), shared, IMAGE)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def clean_bench(bench: Bench) -> Iterator[Bench]:
    """The bench, without what a test before this one has left as it failed."""
    yield bench
    bench.reset()


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    """Random numbers of this test alone: the same ones for the same seed, whatever runs before."""
    return Random(f"{SEED} {request.node.name}")
