"""Hydra's own launcher suites, unmodified, every job in a real container."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from toy_repository import commit

from hydra_plugins.hydra_docker_launcher.docker_launcher import DockerLauncher

OPTIONS = [
    f"hydra.launcher.image={os.environ.get('HYDRA_DOCKER_TEST_IMAGE', 'hydra-docker-test')}",
    "hydra.launcher.pull_policy=never",
    "hydra.launcher.mlflow.enabled=false",
    "hydra.launcher.admission=sweep",  # several tests run at once
    "hydra.launcher.keep=none",
]


def test_discovery() -> None:
    """Hydra finds the launcher among its plugins."""
    names = [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]
    assert DockerLauncher.__name__ in names


@pytest.mark.parametrize(("launcher_name", "overrides"), [("docker", OPTIONS)])
class TestDockerLauncher(LauncherTestSuite):
    """A sweep as the launcher's caller sees it."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("docker", [*OPTIONS, "hydra/sweeper=basic", "hydra.sweeper.max_batch_size=2"])],
)
class TestDockerLauncherInBatches(BatchedSweeperTestSuite):
    """A sweeper that sends its jobs in several batches."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"), [({}, ["hydra/launcher=docker", *OPTIONS])]
)
class TestDockerLauncherIntegration(IntegrationTestSuite):
    """Toy applications, started as commands."""

    def generate_custom_cmd(self) -> Callable[..., list[str]]:
        """Commit the toy application, and share the file that it reports in."""

        def commit_and_share(cmd: list[str], filename: str) -> list[str]:
            folder = Path.cwd()
            output = folder / "output.txt"
            output.touch()
            (folder / ".gitignore").write_text("output.txt\n")
            commit(folder)
            return [*cmd, "--multirun", f"hydra.launcher.volumes=[{output}:{output}]"]

        return commit_and_share
